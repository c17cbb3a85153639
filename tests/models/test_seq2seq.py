"""Encoder-decoders by definition: documents apart on both sides, caches that change nothing, weights that start as published."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_networks import SPECIAL, packed

from yanmo import recipe
from yanmo.batch import Packed
from yanmo.errors import UserError
from yanmo.layers import AttentionConfig, CrossAttention, RelativeBias, RelativeConfig, View, attend
from yanmo.layers.attention import attend_fused, attend_plain
from yanmo.layers.buckets import spread
from yanmo.models import FAMILIES, Seq2Seq, build, load, save
from yanmo.native import library
from yanmo.optim import roles
from yanmo.speed import work_per_token

torch.set_num_threads(1)
KINDS = [("t5", "1.0"), ("t5", "1.1"), ("bart", None)]
LENGTHS = [[20, 7, 13], [1, 30, 9], [40]], [[9, 15, 1], [12, 3, 12], [30]]


def tiny(family: str, version: str | None = None, **model: Any) -> Seq2Seq:
    """Two blocks in each half, every weight large enough to matter."""
    torch.manual_seed(1)
    given = {"layers": 2, "width": 48, "heads": 4, "feedforward": 80, "version": version, **model}
    made = recipe.Model(family=family, size="tiny", **given)  # type: ignore[arg-type]
    network = build(made, vocabulary=120, length=64, special=SPECIAL)
    assert isinstance(network, Seq2Seq)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network.eval()


def pairs() -> tuple[Packed, Packed]:
    """Sources and targets of which several share a row, with padding on either side."""
    return packed(LENGTHS[0], 44, seed=1), packed(LENGTHS[1], 33, seed=2)


def alone(batch: Packed, row: int, document: int) -> Packed:
    tokens = batch.tokens[row, batch.documents[row] == document][None]
    return Packed(tokens, torch.ones_like(tokens), torch.arange(tokens.shape[1])[None], whole=True)


def loss_of(network: Seq2Seq, source: Packed, target: Packed) -> torch.Tensor:
    """A sum over all real places of the target, of something that depends on every number."""
    logits = network.logits(network(source, target))[target.documents > 0]
    return F.cross_entropy(logits, (target.tokens[target.documents > 0] * 7 + 3) % 120, reduction="sum")


@pytest.mark.parametrize(("family", "version"), KINDS)
def test_packed_texts_have_the_loss_and_the_gradients_of_each_alone(family: str, version: str | None) -> None:
    network = tiny(family, version)
    source, target = pairs()
    loss = loss_of(network, source, target)
    found = torch.autograd.grad(loss, list(network.parameters()))
    each = [
        loss_of(network, alone(source, row, document), alone(target, row, document))
        for row, documents in enumerate((3, 3, 1))
        for document in range(1, documents + 1)
    ]
    apart = torch.stack(each).sum()
    expected = torch.autograd.grad(apart, list(network.parameters()))
    torch.testing.assert_close(loss, apart, rtol=1e-5, atol=1e-4)
    for (name, _), one, other in zip(network.named_parameters(), found, expected, strict=True):
        assert other.abs().sum() > 0, f"{name} does not learn"
        near = 2e-5 * float(other.abs().max()) + 1e-6
        torch.testing.assert_close(one, other, rtol=1e-3, atol=near, msg=lambda said, name=name: f"{name}: {said}")


@pytest.mark.parametrize(("family", "version"), KINDS)
def test_a_token_reaches_its_own_target_and_nothing_earlier(family: str, version: str | None) -> None:
    network = tiny(family, version)
    source, target = pairs()
    read, written = [], []
    network.encoder.embed.register_forward_hook(lambda module, args, output: read.append(output.requires_grad_()))
    network.decoder.embed.register_forward_hook(lambda module, args, output: written.append(output.requires_grad_()))
    hidden = network(source, target)
    to_source, to_target = torch.autograd.grad(hidden[0, 14].square().sum(), (read[0], written[0]))
    assert torch.equal(to_source[0].abs().sum(-1) > 0, source.documents[0] == 2)
    inside = (target.documents[0] == 2) & (torch.arange(33) <= 14)
    assert torch.equal(to_target[0].abs().sum(-1) > 0, inside)
    assert not to_source[1:].any()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_padding_and_rows_without_any_are_finite(version: str) -> None:
    network = tiny("t5", version)
    source, target = packed([[30], [12, 18]], 30), packed([[4], [2, 3]], 20)  # no padding here, much there
    assert network(source, target).isfinite().all()
    assert network(packed([[5], []], 30), packed([[5], []], 20)).isfinite().all()


@pytest.mark.parametrize(("family", "version"), KINDS)
@torch.no_grad()
def test_cached_is_uncached(family: str, version: str | None) -> None:
    network = tiny(family, version)
    source = packed([[25], [3], [14]], 25, seed=4)
    new = torch.randint(4, 120, (3, 21), generator=torch.Generator().manual_seed(5))
    counts = torch.tensor([9, 3, 6])
    cache = network.cache(source, 30)
    pieces = [network.write(cache.take(new[:, :9], counts), cache)]
    for steps in (new[:, 9:10], new[:, 10:11], new[:, 11:16], new[:, 16:]):  # one by one and several at once
        pieces.append(network.write(cache.take(steps), cache))
    for row, count in enumerate(counts.tolist()):
        tokens = torch.cat((new[row, :count], new[row, 9:]))[None]
        target = Packed(tokens, torch.ones_like(tokens), torch.arange(tokens.shape[1])[None], whole=True)
        found = torch.cat((pieces[0][row, :count], *(piece[row] for piece in pieces[1:])))
        torch.testing.assert_close(found, network(alone(source, row, 1), target)[0], atol=2e-5, rtol=1e-4)
    kept = torch.tensor([2, 0])
    cache.keep(kept)
    once_more = network.write(cache.take(new[kept, :1]), cache)
    assert once_more.shape == (2, 1, 48)
    assert cache.lengths.tolist() == [19, 22]


def test_a_cache_says_when_it_is_full() -> None:
    network = tiny("t5", positions=64)
    source = packed([[5]], 5)
    with pytest.raises(UserError, match="65 tokens are longer than the 64 positions"):
        network.cache(source, 65)
    cache = network.cache(source, 4)
    with pytest.raises(UserError, match="holds 4 tokens a row and 5 are needed"):
        network.write(cache.take(torch.ones(1, 5, dtype=torch.long)), cache)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_text_longer_than_the_positions_is_named_on_either_side(family: str) -> None:
    network = tiny(family, positions=64)
    long, short = packed([[70]], 80), packed([[50, 20]], 80)
    for source, target in ((long, short), (short, long)):
        with pytest.raises(UserError, match="70 tokens is longer than the 64 positions"):
            network(source, target)
    assert network(short, short).isfinite().all()


@pytest.mark.parametrize("buckets", [8, 32])
@pytest.mark.parametrize("both_ways", [True, False])
def test_a_bias_of_whole_rows_is_that_of_each_distance_and_learns_in_bf16(buckets: int, both_ways: bool) -> None:
    torch.manual_seed(0)
    brick = RelativeBias(RelativeConfig(3, buckets, 40, both_ways))
    places = torch.arange(50)
    distances = places[None, None, :] - places[None, :, None]
    bias = spread(brick(50), 50, 50)
    torch.testing.assert_close(bias, brick.at(distances, torch.float32))
    values = brick.table.weight[brick.config.bucket(distances)].permute(0, 3, 1, 2)
    assert torch.equal(bias, values)
    seed = torch.randn(1, 3, 50, 50).bfloat16()
    (exact,) = torch.autograd.grad(values, brick.table.weight, seed.float())
    brick.bfloat16()
    (found,) = torch.autograd.grad(spread(brick(50), 50, 50).bfloat16(), brick.table.weight, seed)
    assert (found.float() - exact).norm() < 0.005 * exact.norm()


@pytest.mark.parametrize("kernel", [attend_plain, attend_fused, attend])
@pytest.mark.parametrize("scale", [None, 1.0, 0.3])
def test_scale_and_bias_are_those_of_the_formula(kernel: Any, scale: float | None) -> None:
    torch.manual_seed(0)
    batch = packed([[5, 9], [20]], 20)
    bias = torch.randn(1, 4, 20, 20, requires_grad=True)
    view = View.of(batch, True, torch.float32).biased(bias)
    inputs = [torch.randn(2, heads, 20, 8, requires_grad=True) for heads in (4, 2, 2)]
    query, key, value = (x if x.shape[1] == 4 else x.repeat_interleave(2, 1) for x in inputs)
    scores = query @ key.transpose(-2, -1) * (8**-0.5 if scale is None else scale) + bias
    seen = (batch.documents[:, :, None] == batch.documents[:, None, :]) & torch.ones(20, 20).tril().bool()
    expected = scores.masked_fill(~seen[:, None], float("-inf")).softmax(-1) @ value
    found = kernel(*inputs, view, scale=scale)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    seed = torch.randn_like(expected)
    learned = [*inputs, bias]
    for one, other in zip(torch.autograd.grad(found, learned, seed), torch.autograd.grad(expected, learned, seed), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("family", "version"), KINDS)
@pytest.mark.parametrize("how", ["parameters", "autocast"])
def test_bf16_runs_and_is_near(family: str, version: str | None, how: str) -> None:
    network = tiny(family, version)
    source, target = pairs()
    expected = network.logits(network(source, target))
    if how == "parameters":
        network = network.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        found = network.logits(network(source, target))
    found.float().square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())
    real = target.documents > 0
    assert torch.cosine_similarity(found[real][:, :120].float(), expected[real][:, :120], dim=-1).min() > 0.99


@pytest.mark.parametrize("scale", [None, 1.0])
def test_our_kernel_reads_across_as_torch_does(scale: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    source, target = pairs()
    brick = CrossAttention(64, AttentionConfig(2, 2, 32, scale=scale)).bfloat16()
    read, written = (torch.randn(3, length, 64) * 2 for length in (44, 33))
    real = target.documents > 0

    def results(dtype: torch.dtype) -> list[torch.Tensor]:
        brick.to(dtype)
        mixed = brick(written.to(dtype), brick.read(read.to(dtype)), View.across(target, source, dtype))[real]
        return [mixed.detach(), *torch.autograd.grad(mixed.float().square().sum(), [*brick.parameters()])]

    ours = results(torch.bfloat16)
    monkeypatch.setattr("yanmo.layers.attention.takes", lambda *_, **__: False)
    by_torch = results(torch.bfloat16)
    assert library("attention") is None or not all(map(torch.equal, ours, by_torch)), "the kernel was not used"
    for one, torchs, exact in zip(ours, by_torch, results(torch.float32), strict=True):
        assert (one - exact).norm() <= 1.5 * (torchs - exact).norm() + 1e-3 * exact.norm()


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_dropout_acts_in_training_only(family: str) -> None:
    network = tiny(family, dropout=0.3)
    source, target = pairs()
    assert torch.equal(network(source, target), network(source, target))
    network.train()
    assert not torch.allclose(network(source, target), network(source, target))
    still = tiny(family).train()
    assert torch.equal(still(source, target), still(source, target)), "none unless asked for"


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of dynamo's own making
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_blocks_are_one_graph(family: str) -> None:
    torch.compiler.reset()                                # other families have compiled the same lines
    network = tiny(family)
    expected = network(*pairs())
    for block in (*network.encoder.blocks, *network.decoder.blocks):
        block.compile(fullgraph=True, backend="eager")
    torch.testing.assert_close(network(*pairs()), expected)


def test_muon_finds_every_matrix_of_both_halves_and_how_it_comes_apart() -> None:
    network = tiny("t5")
    found = roles(network)
    inside = [name for name, parameter in network.named_parameters() if ".blocks." in name and parameter.ndim == 2]
    assert sorted(found.matrices) == sorted(inside)
    assert {name.split(".")[0] for name in inside} == {"encoder", "decoder"}
    assert {"encoder.relative.table.weight", "encoder.embed.tokens.weight"} <= found.plain.keys()
    assert found.matrices["decoder.blocks.1.cross.key_value.weight"].parts == (48, 48)  # type: ignore[attr-defined]


def test_one_table_for_both_texts_and_in_1_0_for_the_scores() -> None:
    first, second = tiny("t5", "1.0"), tiny("t5", "1.1")
    for network in (first, second, tiny("bart")):
        assert network.decoder.embed.tokens is network.encoder.embed.tokens
        assert "decoder.embed.tokens.weight" not in dict(network.named_parameters())
    assert first.head.weight is first.encoder.embed.tokens.weight
    assert first.head.scale == 48**-0.5
    assert second.head.weight is not second.encoder.embed.tokens.weight
    assert second.head.scale == 1
    hidden = torch.randn(5, 48)
    torch.testing.assert_close(first.logits(hidden), hidden / 48**0.5 @ first.head.weight.t())


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_t5_starts_as_mesh_tensorflow_did(version: str) -> None:
    torch.manual_seed(0)
    network = build(recipe.Model(family="t5", size="mini", version=version), vocabulary=4001, length=64, special=SPECIAL)  # type: ignore[arg-type]
    assert isinstance(network, Seq2Seq)
    width, inner = 256, {"1.0": 1024, "1.1": 640}[version]
    expected = {"encoder.embed.tokens": 1.0, "relative.table": width**-0.5, "head": width**-0.5}
    expected |= {"out": width**-0.5, "cross.query": (width * 64) ** -0.5, "key_value": width**-0.5}
    expected |= {"feedforward.inner": width**-0.5, "feedforward.out": inner**-0.5}
    for name, weight in network.named_parameters():
        if weight.ndim == 1:
            assert (weight == 1).all(), name
            continue
        used = weight[:4001] if len(weight) == 4032 else weight
        parts = {name: used}
        if name.endswith("qkv.weight"):
            parts = {"cross.query.weight": weight[:256], "key_value.weight": weight[256:]}
        for part, numbers in parts.items():
            std = max((len(end), std) for end, std in expected.items() if part.removesuffix(".weight").endswith(end))[1]
            assert numbers.std().item() == pytest.approx(std, rel=0.02 if numbers.numel() > 1000 else 0.15), name
    assert not network.head.weight[4001:].any()


def test_bart_starts_as_an_uncut_normal() -> None:
    torch.manual_seed(0)
    network = build(recipe.Model(family="bart", size="mini"), vocabulary=4000, length=64, special=SPECIAL)
    for name, weight in network.named_parameters():
        if weight.ndim == 2:
            assert weight.std().item() == pytest.approx(0.02, rel=0.02), name
            assert weight.abs().max() > 0.07
        elif name.endswith("bias"):
            assert not weight.any()
    assert not network.encoder.embed.tokens.weight[0].any()  # type: ignore[union-attr]


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_every_size_fits_together(family: str) -> None:
    for size in ("tiny", "mini", "small", "medium", "base", "large"):
        with torch.device("meta"):
            network = build(recipe.Model(family=family, size=size), vocabulary=100, length=64, special=SPECIAL)  # type: ignore[arg-type]
        assert isinstance(network, Seq2Seq)
        layers, width, inner = FAMILIES[family].presets[size]
        for half in (network.config.encoder, network.config.decoder):
            assert (len(half.blocks), half.blocks[0].width, half.blocks[0].feedforward.width) == (layers, width, inner)
            assert half.blocks[0].attention.head_width == 64


@pytest.mark.parametrize(("family", "length"), [("t5", 512), ("bart", 1024)])
def test_the_recipe_wins_over_the_preset(family: str, length: int) -> None:
    network = tiny(family, layers=3, width=96, heads=6, feedforward=100, positions=77, dropout=0.1)
    config = network.config
    assert (config.layers, len(config.decoder.blocks), config.width, config.length) == (3, 3, 96, 77)
    block = config.decoder.blocks[0]
    assert (block.attention.heads, block.attention.out_dropout, block.feedforward.width) == (6, 0.1, 100)
    assert tiny(family).config.length == length
    assert network.config.decoder_start == {"t5": SPECIAL.pad, "bart": SPECIAL.eos}[family]


@pytest.mark.parametrize(("family", "version"), KINDS)
def test_saved_and_loaded_is_the_same(family: str, version: str | None, tmp_path: Path) -> None:
    network = tiny(family, version)
    save(network, tmp_path)
    again = load(tmp_path)
    assert again.config == network.config
    assert isinstance(again, Seq2Seq)
    for (name, ours), (_, theirs) in zip(network.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    again.decoder.blocks[0].compile(backend="eager")
    save(again, tmp_path / "twice")
    for file in ("model.safetensors", "config.json", "generation_config.json"):
        assert (tmp_path / "twice" / file).read_bytes() == (tmp_path / file).read_bytes()


def test_versions_are_of_t5() -> None:
    with pytest.raises(ValueError, match=r"version 1\.0 is none of bart"):
        recipe.Model(family="bart", version="1.0")
    assert replace(tiny("t5").config, settings={}) == replace(tiny("t5", "1.1").config, settings={})


def test_work_is_counted_where_a_token_goes() -> None:
    network = tiny("t5")
    width, inner, length = 48, 80, 10
    bricks = 4 * width * width + 3 * width * inner        # of one attention and one gated feed-forward brick
    read = 2 * (bricks + 2 * length * width) + 2 * 2 * width * width
    written = 2 * (bricks + 2 * width * width + 4 * length * width) + 128 * width
    for targets in (0.0, 0.25, 1.0):
        assert work_per_token(network, length, targets) == 6 * ((1 - targets) * read + targets * written)
