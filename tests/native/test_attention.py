"""Attention in C against the same formula in float64 on the same bf16 numbers, and inside whole networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from yanmo import recipe
from yanmo.batch import Packed
from yanmo.layers import RotaryConfig, View, attend, rotate
from yanmo.layers import attention as chosen
from yanmo.layers.attention import attend_plain
from yanmo.layers.attention_native import attend_native, attend_packed, takes
from yanmo.layers.buckets import spread
from yanmo.layers.view import Seen
from yanmo.models import Special, build
from yanmo.native import library, state

torch.set_num_threads(1)
pytestmark = pytest.mark.skipif(library("attention") is None, reason=f"kernels {state()}")


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def documents(lengths: list[list[int]], length: int) -> Tensor:
    """(R, T), each row's documents of the given lengths, then padding."""
    rows = [torch.repeat_interleave(torch.arange(1, len(row) + 1), torch.tensor(row)) for row in lengths]
    return torch.stack([torch.nn.functional.pad(row, (0, length - len(row))) for row in rows])


def results(attention: Any, inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The mixed values and the gradients of queries, keys and values."""
    inputs = [x.to(dtype).requires_grad_() for x in inputs]
    mixed = attention(*inputs)
    return [mixed.detach(), *torch.autograd.grad(mixed, inputs, numbers(*mixed.shape, seed=9).to(dtype))]


def by_torch(seen: Seen, scale: float | None = None) -> Any:
    def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        view = View(seen=seen)
        if bias is not None:
            view = view.biased(spread(bias, query.shape[1], key.shape[1]))
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        return attend_plain(query, key, value, view, scale=scale).transpose(1, 2)

    return attention


def by_us(seen: Seen, scale: float | None = None) -> Any:
    def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        return attend_native(query, key, value, seen, None, scale, bias)

    return attention


SHORT = documents([[40, 3, 50], [100], [1, 31, 33]], 100)
LONG = documents([[300, 270]], 600)
CASES = {  # R, T, S, H, K, W and what is seen
    "whole": ((2, 256, 256, 2, 2, 64), Seen()),
    "one": ((2, 1, 1, 2, 1, 32), Seen()),
    "odd": ((2, 77, 77, 4, 2, 96), Seen(causal=True)),
    "causal": ((2, 256, 256, 4, 1, 64), Seen(causal=True)),
    "window": ((1, 300, 300, 2, 2, 32), Seen(window=9)),
    "causal window": ((1, 300, 300, 2, 2, 32), Seen(causal=True, window=70)),
    "packed": ((3, 100, 100, 2, 1, 128), Seen(SHORT, SHORT)),
    "packed causal": ((3, 100, 100, 2, 2, 64), Seen(SHORT, SHORT, causal=True)),
    "packed window": ((3, 100, 100, 2, 2, 64), Seen(SHORT, SHORT, window=5)),
    "long": ((1, 600, 600, 2, 1, 64), Seen(LONG, LONG)),
    "long causal": ((1, 600, 600, 2, 2, 64), Seen(causal=True)),
    "across": ((2, 50, 333, 2, 1, 64), Seen()),
    "across documents": ((1, 70, 600, 2, 2, 32), Seen(documents([[30, 40]], 70), LONG)),
}


@pytest.mark.parametrize("case", CASES)
def test_forward_and_gradients_are_nearer_than_torchs(case: str) -> None:
    (rows, queries, keys, heads, kv_heads, width), seen = CASES[case]
    inputs = [numbers(rows, queries, heads, width), *(numbers(rows, keys, kv_heads, width, seed=seed) for seed in (1, 2))]
    exact = results(by_torch(seen), inputs, torch.float64)
    torchs, ours = results(by_torch(seen), inputs, torch.bfloat16), results(by_us(seen), inputs, torch.bfloat16)
    for true, other, own in zip(exact, torchs, ours, strict=True):
        assert (own - true).abs().mean() <= (other - true).abs().mean() * 1.01 + 1e-12
        assert (own - true).abs().max() <= (other - true).abs().max() * 1.3 + 1e-12


@pytest.mark.parametrize("case", ["packed causal", "long", "odd"])
def test_threads_change_nothing(case: str) -> None:
    (rows, queries, keys, heads, kv_heads, width), seen = CASES[case]
    inputs = [numbers(rows, queries, heads, width), *(numbers(rows, keys, kv_heads, width, seed=seed) for seed in (1, 2))]
    inputs.append(numbers(heads, queries + keys - 1, seed=3))
    one = results(by_us(seen), inputs, torch.bfloat16)
    torch.set_num_threads(2)
    try:
        square = numbers(128, 128)
        for _ in range(3):
            product = square @ square  # torch's own kernels use the tiles too
            assert all(map(torch.equal, one, results(by_us(seen), inputs, torch.bfloat16)))
            assert torch.equal(product, square @ square)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scale", [None, 1.0])
def test_a_bias_for_each_distance(case: str, scale: float | None) -> None:
    """Ours is added in float32: torch's is rounded to bf16 with the scores. Its gradient is summed over rows, in float32."""
    (rows, queries, keys, heads, kv_heads, width), seen = CASES[case]
    inputs = [numbers(rows, queries, heads, width), *(numbers(rows, keys, kv_heads, width, seed=seed) for seed in (1, 2))]
    inputs = [inputs[0] / 4, *inputs[1:], numbers(heads, queries + keys - 1, seed=3) * 2]
    exact = results(by_torch(seen, scale), inputs, torch.float64)
    torchs, ours = results(by_torch(seen, scale), inputs, torch.bfloat16), results(by_us(seen, scale), inputs, torch.bfloat16)
    for true, other, own in zip(exact, torchs, ours, strict=True):
        assert (own - true).abs().mean() <= (other - true).abs().mean() * 1.01 + 1e-12
        assert (own - true).abs().max() <= (other - true).abs().max() * 1.3 + 1e-12
    bias = inputs[3].float().requires_grad_()
    mixed = by_us(seen, scale)(*inputs[:3], bias)
    (to_bias,) = torch.autograd.grad(mixed, bias, numbers(*mixed.shape, seed=9))
    assert torch.equal(mixed, ours[0])
    assert (to_bias - exact[4]).norm() <= 0.02 * exact[4].norm() + 1e-12


def test_a_bias_of_noughts_and_one_that_rules() -> None:
    """Zeros change not a bit; far more than any score, for one distance, gives the value there, whatever the padding has."""
    query, key, value = (numbers(2, 70, 2, 32, seed=seed) for seed in range(3))
    plain = attend_native(query, key, value, Seen(causal=True))
    assert torch.equal(plain, attend_native(query, key, value, Seen(causal=True), bias=torch.zeros(2, 139)))
    bias = torch.zeros(2, 139).index_fill_(1, torch.tensor([69 - 3]), 1000.0).requires_grad_()
    mixed = attend_native(query, key, value, Seen(), bias=bias)
    assert torch.equal(mixed[:, 3:], value[:, :-3])
    (to_bias,) = torch.autograd.grad(mixed.float().sum(), bias)
    assert to_bias.isfinite().all()


@pytest.mark.parametrize("biased", [False, True])
def test_one_tensor_gives_what_three_give(biased: bool) -> None:
    qkv = numbers(2, 90, 8, 64).requires_grad_()
    bias = [numbers(4, 179, seed=3)] if biased else []
    mixed = attend_packed(qkv, 4, 2, Seen(causal=True), None, None, *bias)
    (together,) = torch.autograd.grad(mixed, qkv, numbers(*mixed.shape, seed=9))
    parts = [part.detach() for part in qkv.split((4, 2, 2), dim=2)]
    apart, *gradients = results(by_us(Seen(causal=True)), [*parts, *bias], torch.bfloat16)
    assert torch.equal(mixed, apart)
    assert torch.equal(together, torch.cat(gradients[:3], dim=2))


@pytest.mark.parametrize("width", [32, 64, 96])
@pytest.mark.parametrize("shared", [True, False])
def test_rotary_positions(width: int, shared: bool) -> None:
    qkv, seen = numbers(2, 300, 6, width), Seen(causal=True)
    positions = torch.arange(300).repeat(2, 1) if shared else torch.stack([torch.arange(300), torch.arange(300) % 70])
    cos, sin = RotaryConfig(width).angles(positions[:1] if shared else positions, torch.bfloat16)

    def by_torch(qkv: Tensor) -> Tensor:
        query, key, value = (x.transpose(1, 2) for x in qkv.split((2, 2, 2), dim=2))
        query, key = (rotate(x, cos.to(x.dtype), sin.to(x.dtype)) for x in (query, key))
        return attend_plain(query, key, value, View(seen=seen)).transpose(1, 2)

    exact, torchs = results(by_torch, [qkv], torch.float64), results(by_torch, [qkv], torch.bfloat16)
    ours = results(lambda qkv: attend_packed(qkv, 2, 2, seen, (cos, sin)), [qkv], torch.bfloat16)
    query, key, value = qkv.split((2, 2, 2), dim=2)
    assert torch.equal(ours[0], attend_native(query, key, value, seen, (cos, sin)))
    for true, other, own in zip(exact, torchs, ours, strict=True):
        assert (own - true).abs().mean() <= (other - true).abs().mean()
        assert (own - true).abs().max() <= (other - true).abs().max() * 1.3


def test_any_order_of_memory() -> None:
    inputs = [numbers(2, 4, 70, 32, seed=seed).transpose(1, 2) for seed in range(3)]
    turned = results(by_us(Seen()), inputs, torch.bfloat16)
    straight = results(by_us(Seen()), [x.contiguous() for x in inputs], torch.bfloat16)
    assert all(map(torch.equal, turned, straight))


def test_a_document_in_a_row_is_the_document_alone() -> None:
    query, key, value = (numbers(3, 100, 2, 64, seed=seed) for seed in range(3))
    for bias in (None, numbers(2, 199, seed=3)):          # places of a row are as far apart as places of a document
        row = attend_native(query, key, value, Seen(SHORT, SHORT, causal=True), bias=bias)
        near = None if bias is None else bias[:, 50:-50]
        alone = attend_native(query[:1, 43:93], key[:1, 43:93], value[:1, 43:93], Seen(causal=True), bias=near)
        torch.testing.assert_close(row[:1, 43:93], alone, rtol=1e-2, atol=1e-2)


def test_large_scores_and_what_is_no_number() -> None:
    inputs = [numbers(1, 300, 1, 32, seed=seed) * 60 for seed in range(2)] + [numbers(1, 300, 1, 32, seed=2)]
    exact, ours = results(by_torch(Seen()), inputs, torch.float64), results(by_us(Seen()), inputs, torch.bfloat16)
    torch.testing.assert_close(ours[0].double(), exact[0], rtol=1e-2, atol=1e-2)
    for broken in range(3):
        for wrong in (float("nan"), float("inf")):
            spoilt = [x.clone() for x in inputs]
            spoilt[broken][0, 200, 0, 5] = wrong
            found = results(by_us(Seen()), spoilt, torch.bfloat16)
            assert not found[0][0, 200 if broken == 0 else slice(None)].isfinite().all()
            assert not all(gradient.isfinite().all() for gradient in found[1:])


def test_nothing_in_gives_nothing_out() -> None:
    empty = attend_native(numbers(0, 8, 2, 32), numbers(0, 8, 2, 32), numbers(0, 8, 2, 32), Seen())
    assert empty.shape == (0, 8, 2, 32)
    apart = Seen(torch.ones(1, 3).long(), torch.full((1, 5), 2))
    unseen = attend_native(numbers(1, 3, 1, 32), numbers(1, 5, 1, 32), numbers(1, 5, 1, 32), apart)
    assert torch.equal(unseen, torch.zeros_like(unseen))


def test_what_the_kernel_does_not_take() -> None:
    good = numbers(1, 8, 2, 32)
    assert takes(good, good, good)
    assert not takes(good, good, good, dropout=0.1)
    assert not takes(good.float(), good.float(), good.float())
    narrow = numbers(1, 8, 2, 16)
    assert not takes(narrow, narrow, narrow)
    view = View.of(Packed(torch.ones(1, 8).long(), torch.ones(1, 8).long(), torch.arange(8)[None]), True, torch.bfloat16)
    assert view.mask is None
    torch.manual_seed(0)
    turned = narrow.transpose(1, 2)
    expected = attend_plain(turned, turned, turned, View(view.mask_for(turned, 8, 8)))
    assert torch.equal(attend(turned, turned, turned, view), expected), "the mask is made where it is needed"


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "qwen3", "modernbert"])
def test_networks_learn_the_same(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def loss_and_gradients(dtype: torch.dtype) -> list[Tensor]:
        torch.manual_seed(1)
        shape: Any = {"layers": 2, "width": 128, "heads": 4, "feedforward": 128}
        model = recipe.Model(family=family, size="tiny", **shape)  # type: ignore[arg-type]
        network: Any = build(model, vocabulary=120, length=96, special=Special(pad=0, bos=1, eos=2, cls=1, sep=2))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        network = network.to(dtype)
        lengths = documents([[40, 3, 50], [90]], 96)
        positions = torch.cat([torch.arange(40), torch.arange(3), torch.arange(50), torch.zeros(3).long()])
        tokens = torch.randint(4, 120, (2, 96), generator=torch.Generator().manual_seed(2))
        loss = network(Packed(tokens, lengths, torch.stack([positions, torch.arange(96)])))[lengths > 0].float().square().mean()
        return [loss.detach(), *torch.autograd.grad(loss, [p for p in network.blocks.parameters()])]

    exact, ours = loss_and_gradients(torch.float32), loss_and_gradients(torch.bfloat16)
    monkeypatch.setattr(chosen, "takes", lambda *_, **__: False)
    torchs = loss_and_gradients(torch.bfloat16)
    assert not all(map(torch.equal, ours, torchs)), "the kernel was not used"

    def error(found: list[Tensor]) -> float:
        return sum(float((x - true).norm() / (true.norm() + 1e-3)) for x, true in zip(found, exact, strict=True))

    assert abs(ours[0] - exact[0]) <= max(abs(torchs[0] - exact[0]), 2e-3 * abs(exact[0]))
    assert error(ours) <= 1.05 * error(torchs)
