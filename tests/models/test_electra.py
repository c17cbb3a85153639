"""ELECTRA's two networks against transformers' own, in both directions, and what they share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_parity import reread, write

from yanmo.batch import Packed
from yanmo.errors import UserError
from yanmo.models import Encoder, Network, build, load, save
from yanmo.models.electra import generator_for, share_tables
from yanmo.models.encoder import Discriminator
from yanmo.recipe import Model

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

SIZES: dict[str, Any] = dict(
    vocab_size=101, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=80, max_position_embeddings=40
)
NARROW = {"embedding_size": 20}
CASES = [
    pytest.param(name, changes, id=f"{name[10:]}-{label}")
    for name in ("ElectraForPreTraining", "ElectraForMaskedLM")
    for label, changes in {
        "narrow": NARROW,
        "equal": {"embedding_size": 48},
        "odd": {**NARROW, "hidden_act": "relu", "type_vocab_size": 3, "layer_norm_eps": 1e-3},
        "untied": {**NARROW, "tie_word_embeddings": False},
    }.items()
]


def theirs_of(name: str, changes: dict[str, Any]) -> Any:
    kind = getattr(transformers, name)
    torch.manual_seed(7)
    model = kind(kind.config_class(**{**SIZES, **changes})).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 and parameter_name.endswith("weight") else 0.0, 0.1)
    return model


def scores(network: Network, packed: Packed) -> torch.Tensor:
    return network.logits(network(packed))


@pytest.mark.parametrize(("name", "changes"), CASES)
@torch.no_grad()
def test_logits_are_transformers_logits_both_ways(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = theirs_of(name, changes)
    tokens = torch.randint(6, 101, (3, 30), generator=torch.Generator().manual_seed(3))
    positions = torch.arange(30).expand(3, 30)
    types = (positions > 12).long()
    expected, typed = model(input_ids=tokens).logits, model(input_ids=tokens, token_type_ids=types).logits
    write(model, tmp_path / "theirs")
    network = load(tmp_path / "theirs").eval()
    assert type(network) is (Discriminator if name == "ElectraForPreTraining" else Encoder)
    ones = torch.ones_like(tokens)
    for whole in (True, False):
        torch.testing.assert_close(scores(network, Packed(tokens, ones, positions, whole=whole)), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores(network, Packed(tokens, ones, positions, types)), typed, atol=1e-5, rtol=1e-5)

    save(network, tmp_path / "ours")
    again = reread(name, tmp_path / "ours")
    torch.testing.assert_close(again(input_ids=tokens, token_type_ids=types).logits, typed, atol=1e-6, rtol=1e-6)
    theirs, ours = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "ours"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["architectures"] == [name]


@pytest.mark.parametrize("name", ["ElectraForPreTraining", "ElectraForMaskedLM"])
@torch.no_grad()
def test_packed_rows_are_documents_by_themselves(name: str, tmp_path: Path) -> None:
    write(theirs_of(name, NARROW), tmp_path)
    network = load(tmp_path).eval()
    tokens = torch.randint(6, 101, (1, 24), generator=torch.Generator().manual_seed(3))
    lengths = (7, 11, 4)
    documents = torch.tensor([[1] * 7 + [2] * 11 + [3] * 4 + [0] * 2])
    positions = torch.cat([*(torch.arange(length) for length in lengths), torch.zeros(2, dtype=torch.int64)])[None]
    together = scores(network, Packed(tokens, documents, positions))
    start = 0
    for length in lengths:
        part = tokens[:, start : start + length]
        alone = scores(network, Packed(part, torch.ones_like(part), torch.arange(length)[None], whole=True))
        torch.testing.assert_close(together[:, start : start + length], alone, atol=1e-5, rtol=1e-5)
        start += length


def discriminator(**changes: Any) -> Discriminator:
    model = Model(family="electra", layers=2, width=64, heads=4, embedding=16, feedforward=128, **changes)
    network = build(model, vocabulary=60, length=32)
    assert isinstance(network, Discriminator)
    return network


def test_a_generator_is_a_share_of_its_discriminator_and_has_its_tables() -> None:
    torch.manual_seed(1)
    network = discriminator()
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    generator = generator_for(network, 0.25)
    assert (generator.config.width, generator.config.layers) == (16, 2)
    block = generator.config.blocks[0]
    assert (block.attention.heads, block.attention.head_width, block.feedforward.width) == (1, 16, 32)
    for table in ("tokens", "positions", "types"):
        assert getattr(generator.embed, table).weight is getattr(network.embed, table).weight
    assert generator.head.weight is network.embed.tokens.weight
    assert generator.embed.norm.weight is not network.embed.norm.weight
    assert all(torch.equal(parameter, before[name]) for name, parameter in network.named_parameters())
    assert (generator.logits(torch.randn(5, 16)).softmax(-1)[:, 60:] == 0).all(), "ids that only pad are never drawn"
    assert generator_for(network, 0.5).config.width == 32


def test_tables_of_other_sizes_are_not_shared() -> None:
    with pytest.raises(UserError, match=r"table of tokens is \[64, 16\] and the discriminator's \[128, 16\]"):
        share_tables(generator_for(discriminator(), 0.5), build_with_vocabulary(100))


def build_with_vocabulary(vocabulary: int) -> Discriminator:
    network = build(Model(family="electra", layers=1, width=64, heads=4, embedding=16), vocabulary=vocabulary, length=32)
    assert isinstance(network, Discriminator)
    return network


def test_an_embedding_of_its_own_width_is_for_electra() -> None:
    with pytest.raises(ValueError, match="bert has an embedding as wide as itself"):
        Model(family="bert", embedding=16)
