"""What every network must do, proved by definition: documents apart, caches that change nothing, finite numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from yanmo import recipe
from yanmo.batch import Packed
from yanmo.errors import UserError
from yanmo.layers import Attention, AttentionConfig, View
from yanmo.layers.attention import attend_fused, attend_plain
from yanmo.models import FAMILIES, Decoder, Network, Special, Stack, build

torch.set_num_threads(1)
DECODERS = [name for name in FAMILIES if name in recipe.families_of("decoder")]
SPECIAL = Special(pad=0, bos=1, eos=2, cls=1, sep=2)
STACKS = [name for name, family in FAMILIES.items() if issubclass(family.network, Stack)]


def tiny(family: str, **model: Any) -> Network:
    """Two blocks (ModernBERT: four, of which two see only nearby tokens), every weight large enough to matter."""
    torch.manual_seed(1)
    layers = 4 if family == "modernbert" else 2
    given = {"layers": layers, "width": 48, "heads": 4, "feedforward": 80, **model}
    network = build(recipe.Model(family=family, size="tiny", **given), vocabulary=120, length=64, special=SPECIAL)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network.eval()


def packed(lengths: list[list[int]], length: int, seed: int = 0) -> Packed:
    """Rows of documents of the given lengths, padded to `length`."""
    shape = (len(lengths), length)
    tokens = torch.randint(4, 120, shape, generator=torch.Generator().manual_seed(seed))
    documents, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    for row, sizes in enumerate(lengths):
        start = 0
        for number, size in enumerate(sizes, 1):
            documents[row, start : start + size] = number
            positions[row, start : start + size] = torch.arange(size)
            start += size
    return Packed(torch.where(documents > 0, tokens, 0), documents, positions)


def alone(batch: Packed, row: int, document: int) -> tuple[torch.Tensor, Packed]:
    """Where a document stands in a row, and the document by itself."""
    places = (batch.documents[row] == document).nonzero()[:, 0]
    tokens = batch.tokens[row, places][None]
    return places, Packed(tokens, torch.ones_like(tokens), torch.arange(len(places))[None], whole=True)


@pytest.mark.parametrize("family", STACKS)
@torch.no_grad()
def test_a_packed_document_is_the_document_alone(family: str) -> None:
    network = tiny(family)
    batch = packed([[40, 7, 13], [1, 30, 20], [64]], 64)
    hidden = network(batch)
    assert hidden.isfinite().all()
    for row, documents in enumerate((3, 3, 1)):
        for document in range(1, documents + 1):
            places, single = alone(batch, row, document)
            torch.testing.assert_close(hidden[row, places], network(single)[0], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", STACKS)
def test_no_gradient_crosses_a_border(family: str) -> None:
    network = tiny(family)
    batch = packed([[10, 9, 8]], 30)
    seen: list[torch.Tensor] = []
    network.embed.register_forward_hook(lambda module, args, output: seen.append(output.requires_grad_()))
    hidden = network(batch)
    (gradient,) = torch.autograd.grad(hidden[0, 14].square().sum(), seen[0])
    reached = gradient[0].abs().sum(-1) > 0
    inside = batch.documents[0] == 2
    expected = inside & (torch.arange(30) <= 14) if network.continues else inside
    assert torch.equal(reached, expected)


@pytest.mark.parametrize("family", ["modernbert", "qwen3"])
def test_a_window_reaches_as_far_as_it_says(family: str) -> None:
    attention = Attention(16, AttentionConfig(2, 1, 8))
    batch = packed([[20]], 20)
    view = View.of(batch, family == "qwen3", torch.float32, window=3)
    x = torch.randn(1, 20, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(attention(x, view)[0, 10].square().sum(), x)
    last = 10 if family == "qwen3" else 13
    assert (gradient[0].abs().sum(-1) > 0).nonzero()[:, 0].tolist() == list(range(7, last + 1))


@pytest.mark.parametrize("family", DECODERS)
@torch.no_grad()
def test_cached_is_uncached(family: str) -> None:
    network = tiny(family, kv_heads=2 if family != "gpt2" else None)
    assert isinstance(network, Decoder)
    prompts, counts = packed([[9], [3], [6]], 9).tokens, torch.tensor([9, 3, 6])
    new = torch.randint(4, 120, (3, 12), generator=torch.Generator().manual_seed(5))
    cache = network.cache(3, 24)
    pieces = [network(cache.take(prompts, counts), cache)]
    for steps in (new[:, :1], new[:, 1:2], new[:, 2:7], new[:, 7:]):  # one by one and several at once
        pieces.append(network(cache.take(steps), cache))
    for row, count in enumerate(counts.tolist()):
        tokens = torch.cat((prompts[row, :count], new[row]))[None]
        expected = network(Packed(tokens, torch.ones_like(tokens), torch.arange(len(tokens[0]))[None], whole=True))[0]
        found = torch.cat((pieces[0][row, :count], *(piece[row] for piece in pieces[1:])))
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    assert cache.lengths.tolist() == [21, 15, 18]


def test_a_cache_that_is_too_small_or_too_long_says_so() -> None:
    network = tiny("llama", positions=64)
    assert isinstance(network, Decoder)
    with pytest.raises(UserError, match="65 tokens are longer than the 64 positions"):
        network.cache(1, 65)
    cache = network.cache(1, 4)
    with pytest.raises(UserError, match="holds 4 tokens a row and 5 are needed"):
        network(cache.take(torch.ones(1, 5, dtype=torch.long)), cache)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_plain_kernel_is_the_fused_kernel(kv_heads: int, causal: bool, whole: bool) -> None:
    torch.manual_seed(0)
    batch = packed([[20], [20]] if whole else [[5, 9], [20]], 20)
    if whole:
        batch = Packed(batch.tokens, batch.documents, batch.positions, whole=True)
    view = View.of(batch, causal, torch.float32)
    inputs = [torch.randn(2, 20, heads, 8).transpose(1, 2).requires_grad_() for heads in (4, kv_heads, kv_heads)]
    results = []
    for kernel in (attend_plain, attend_fused):
        mixed = kernel(*inputs, view)
        results.append((mixed, *torch.autograd.grad(mixed.square().sum(), inputs)))
    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(plain, fused, atol=1e-5, rtol=1e-5)
    assert (view.mask is None) == (whole and not causal), "a mask is built only where something is hidden"


@pytest.mark.parametrize("kernel", [attend_plain, attend_fused])
def test_attention_dropout_keeps_the_mean(kernel: Any) -> None:
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 1, 4).expand(400, 1, 8, 4), torch.randn(1, 1, 16, 4).expand(400, 1, 16, 4)
    value = torch.ones(400, 1, 16, 4)
    dropped = kernel(query, key, value, View(), 0.5)
    assert dropped.std() > 0.1
    torch.testing.assert_close(dropped.mean(), torch.tensor(1.0), atol=0.03, rtol=0)


@pytest.mark.parametrize("family", STACKS)
def test_dropout_acts_in_training_only(family: str) -> None:
    network = tiny(family, dropout=0.3)
    batch = packed([[20]], 20)
    assert torch.equal(network(batch), network(batch))
    network.train()
    assert not torch.allclose(network(batch), network(batch))
    still = tiny(family).train()
    assert torch.equal(still(batch), still(batch)), "none unless asked for"


@pytest.mark.parametrize("family", STACKS)
@pytest.mark.parametrize("how", ["parameters", "autocast"])
def test_bf16_runs_and_is_near(family: str, how: str) -> None:
    network = tiny(family)
    batch = packed([[20, 5], [12]], 32)
    expected = network.logits(network(batch))
    if how == "parameters":
        network = network.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        found = network.logits(network(batch))
    assert found.isfinite().all()
    found.float().square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())
    real = batch.documents > 0
    assert torch.cosine_similarity(found[real][..., :120].float(), expected[real][..., :120], dim=-1).min() > 0.99


@pytest.mark.parametrize("family", STACKS)
def test_every_parameter_learns(family: str) -> None:
    network = tiny(family, **({"experts": recipe.Experts(number=2)} if family == "mixtral" else {}))  # so that each is met
    network.logits(network(packed([[20, 11]], 32))).logsumexp(-1).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of dynamo's own making
@pytest.mark.parametrize("family", STACKS)
def test_blocks_are_one_graph(family: str) -> None:
    network = tiny(family)
    batch = packed([[20, 5], [12]], 32)
    expected = network(batch)
    for block in network.blocks:
        block.compile(fullgraph=family != "mixtral", backend="eager")  # how much an expert has to do is known late
    torch.testing.assert_close(network(batch), expected)


@pytest.mark.parametrize("family", STACKS)
def test_a_document_longer_than_the_positions_is_named(family: str) -> None:
    network = tiny(family, positions=64)
    with pytest.raises(UserError, match="70 tokens is longer than the 64 positions"):
        network(packed([[70]], 80))
    assert network(packed([[50, 20]], 80)).isfinite().all()


def test_positions_are_counted_after_the_padding_id() -> None:
    network = tiny("roberta")
    batch = packed([[6]], 6)
    rows = network.embed.positions
    assert rows is not None
    rows.weight.requires_grad_()
    network(batch).sum().backward()
    assert rows.weight.grad is not None
    assert (rows.weight.grad.abs().sum(-1) > 0).nonzero()[:, 0].tolist() == list(range(1, 7))


def test_a_token_that_is_everywhere_keeps_its_gradient_in_bf16() -> None:
    from yanmo.layers.embedding import look_up

    torch.manual_seed(0)
    ids = torch.where(torch.rand(8192) < 0.12, 4, torch.randint(5, 300, (8192,)))
    seed = torch.randn(8192, 64).bfloat16()
    table = torch.randn(300, 64).bfloat16().requires_grad_()
    exact = table.detach().double().requires_grad_()
    look_up(table, ids, 7).backward(seed)
    F.embedding(ids, exact, padding_idx=7).backward(seed.double())
    assert table.grad is not None
    assert exact.grad is not None
    assert (table.grad[4].double() - exact.grad[4]).norm() < 0.005 * exact.grad[4].norm()
    assert not table.grad[7].any()
