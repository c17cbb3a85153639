"""Networks from recipes: sizes, errors, and the weights before the first step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from yanmo import recipe
from yanmo.batch import Packed
from yanmo.errors import UserError
from yanmo.models import FAMILIES, Network, Special, Stack, build

torch.set_num_threads(1)
SPECIAL = Special(pad=0, bos=1, eos=2, cls=1, sep=2)
STACKS = [name for name, family in FAMILIES.items() if issubclass(family.network, Stack)]


def make(family: str, vocabulary: int = 1000, length: int = 64, pair: bool = False, **model: Any) -> Network:
    torch.manual_seed(0)
    model.setdefault("size", "tiny")
    return build(recipe.Model(family=family, **model), vocabulary=vocabulary, length=length, pair=pair, special=SPECIAL)  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "layers", "width"), [("tiny", 2, 128), ("mini", 4, 256), ("small", 4, 512), ("medium", 8, 512)])
def test_bert_sizes_are_those_of_turc(size: str, layers: int, width: int) -> None:
    with torch.device("meta"):
        config = make("bert", size=size).config
    assert (config.layers, config.width, config.blocks[0].attention.heads) == (layers, width, width // 64)
    assert config.blocks[0].feedforward.width == 4 * width


@pytest.mark.parametrize("family", STACKS)
def test_every_size_of_every_family_fits_together(family: str) -> None:
    for size in ("tiny", "mini", "small", "medium", "base", "large"):
        with torch.device("meta"):
            network = make(family, size=size)
        assert network.config.blocks[0].attention.head_width == 64


def test_the_recipe_wins_over_the_preset() -> None:
    network = make("qwen3", layers=3, width=96, heads=6, kv_heads=3, feedforward=100, positions=77, dropout=0.1, length=50)
    attention = network.config.blocks[0].attention
    assert (network.config.layers, network.config.width, network.config.length) == (3, 96, 77)
    assert (attention.heads, attention.kv_heads, attention.head_width, attention.dropout) == (6, 3, 16, 0.1)
    assert network.config.blocks[0].feedforward.width == 100


@pytest.mark.parametrize("family", STACKS)
def test_positions_hold_the_row(family: str) -> None:
    assert make(family, length=5_000).config.length == 5_000
    assert make(family, length=16).config.length == FAMILIES[family].positions


@pytest.mark.parametrize(
    ("family", "model", "words"),
    [
        ("bert", {"heads": 3}, "model.width 128 is not divisible by 3 heads"),
        ("bert", {"width": 193}, "model.width 193 is not divisible by 3 heads; set model.heads to a divisor"),
        ("gpt2", {"kv_heads": 1}, "gpt2 has no grouped key-value heads"),
        ("llama", {"kv_heads": 4}, "model.heads 2 is not divisible by model.kv_heads 4"),
        ("llama", {"width": 66, "heads": 6}, "even width of a head, not 11"),
    ],
)
def test_sizes_that_do_not_fit(family: str, model: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make(family, **model)


def test_only_bert_has_a_pair_head() -> None:
    network = make("bert", pair=True)
    assert network.pair_logits(torch.zeros(3, 128)).shape == (3, 2)  # type: ignore[operator]
    with pytest.raises(UserError, match="roberta has no head for sentence prediction"):
        make("roberta", pair=True)


@pytest.mark.parametrize("family", STACKS)
def test_the_vocabulary_is_padded_and_padding_does_not_win(family: str) -> None:
    network = make(family, vocabulary=1001)
    assert (network.config.vocabulary, network.config.tokens) == (1024, 1001)
    assert network.config.settings["vocab_size"] == 1024
    tokens = torch.randint(4, 1001, (2, 16))
    with torch.no_grad():
        logits = network.logits(network(Packed(tokens, torch.ones_like(tokens), torch.arange(16).expand(2, 16), whole=True)))
    unused = logits.softmax(-1)[..., 1001:]
    if network.head.bias is not None:
        assert unused.sum() == 0
    else:
        assert (logits[..., 1001:] == 0).all()
        assert (unused < logits.softmax(-1)[..., :1001].amax(-1, keepdim=True)).all()


@pytest.mark.parametrize("family", STACKS)
def test_weights_start_as_the_papers_say(family: str) -> None:
    network = make(family, size="mini", vocabulary=4000)
    cut = 2.0 if family in ("bert", "modernbert", "electra", "electra-generator") else None
    # a normal cut at two standard deviations is narrower: sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)), Johnson and Kotz
    narrower = 0.02 * (math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2))) if cut else 1.0)
    small = narrower / math.sqrt(2 * 4) if family in ("gpt2", "modernbert") else narrower
    block = network.blocks[1]
    feedforward = block.feedforward.experts[0] if family == "mixtral" else block.feedforward
    wide = [network.embed.tokens.weight[4:4000], block.attention.qkv.weight, feedforward.inner.weight]  # type: ignore[union-attr]
    for weight in wide:
        assert weight.std().item() == pytest.approx(narrower, rel=0.02)
        assert abs(weight.mean().item()) < 3e-4
    for weight in (block.attention.out.weight, feedforward.out.weight):  # type: ignore[union-attr]
        assert weight.std().item() == pytest.approx(small, rel=0.02)
    largest = max(weight.abs().max().item() for weight in wide)
    assert largest <= 0.04 if cut else largest > 0.07
    for name, parameter in network.named_parameters():
        if name.endswith("bias") and name != "head.bias":
            assert (parameter == 0).all(), name
        elif parameter.dim() == 1 and name != "head.bias":
            assert (parameter == 1).all(), name


@pytest.mark.parametrize(("family", "row"), [("bert", 0.0), ("roberta", 0.0), ("modernbert", 0.0), ("llama", 0.0)])
def test_the_padding_row_starts_at_zero(family: str, row: float) -> None:
    assert (make(family).embed.tokens.weight[0] == row).all()


def test_a_padding_id_with_a_meaning_is_learned() -> None:
    special = Special(pad=2, bos=1, eos=2)
    network = build(recipe.Model(family="llama", size="tiny"), vocabulary=100, length=16, special=special)
    assert network.embed.tokens.padding_idx is None
    assert network.embed.tokens.weight[2].abs().sum() > 0


def test_tied_is_one_parameter_and_stays_one() -> None:
    network = make("gpt2")
    assert network.head.weight is network.embed.tokens.weight
    assert network.to(torch.bfloat16).head.weight is network.embed.tokens.weight
    assert "head.weight" not in dict(network.named_parameters())
