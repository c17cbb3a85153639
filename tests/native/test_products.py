"""The weight gradient in C against the same product in float64 of the same bf16 numbers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from yanmo.layers import Linear, weight_gradient
from yanmo.native import library, state

pytestmark = pytest.mark.skipif(library("products") is None, reason=f"kernels {state()}")
SHAPES = ((2048, 512, 512), (512, 96, 640), (307, 768, 160), (300, 1100, 64), (33, 31, 65), (1, 1, 1), (257, 515, 33))


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def threads(count: int, work):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return work()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_product_is_as_near_as_torchs(shape):
    rows, outputs, inputs = shape
    gradient, input = numbers(rows, outputs), numbers(rows, inputs, seed=1)
    exact = gradient.double().t() @ input.double()
    sums = torch.empty(outputs)
    ours, torchs = weight_gradient(gradient, input, sums=sums), gradient.t() @ input
    assert (ours - exact).abs().max() <= (torchs - exact).abs().max() * 1.01 + 1e-6
    assert (ours - exact).abs().mean() <= (torchs - exact).abs().mean() * 1.001 + 1e-6
    torch.testing.assert_close(sums.double(), gradient.double().sum(0), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_product_is_added_to_what_is_there(shape):
    rows, outputs, inputs = shape
    gradient, input = numbers(rows, outputs), numbers(rows, inputs, seed=1)
    exact = gradient.double().t() @ input.double()
    before = torch.randn(outputs, inputs)
    wide = weight_gradient(gradient, input, into=before.clone())
    torch.testing.assert_close(wide.double(), before.double() + exact, rtol=1e-5, atol=1e-4)
    narrow = before.bfloat16()
    added = weight_gradient(gradient, input, into=narrow)
    assert added is narrow
    torch.testing.assert_close(added.double(), before.bfloat16().double() + exact, rtol=2**-8, atol=1e-4)


def test_without_rows_there_is_nothing():
    empty = weight_gradient(numbers(0, 40), numbers(0, 70), sums=(sums := torch.ones(40)))
    assert empty.shape == (40, 70)
    assert not empty.any()
    assert not sums.any()
    assert weight_gradient(numbers(5, 0), numbers(5, 8)).shape == (0, 8)


def test_rows_may_lie_apart_and_columns_too():
    wide, input = numbers(65, 300), numbers(65, 200, seed=1)
    expected = weight_gradient(wide[:, 100:200].contiguous(), input[:, ::2].contiguous())
    assert torch.equal(weight_gradient(wide[:, 100:200], input[:, ::2]), expected)
    into = torch.zeros(100, 250)
    torch.testing.assert_close(weight_gradient(wide[:, 100:200], input[:, ::2], into=into[:, 50:150]).bfloat16(), expected)
    assert not into[:, :50].any()
    assert not into[:, 150:].any()


@pytest.mark.parametrize("shape", SHAPES)
def test_one_thread_and_two_agree_bitwise(shape):
    rows, outputs, inputs = shape
    gradient, input = numbers(rows, outputs), numbers(rows, inputs, seed=1)
    sums = torch.empty(2, outputs)
    one = threads(1, lambda: weight_gradient(gradient, input, sums=sums[0]))
    two = threads(2, lambda: weight_gradient(gradient, input, sums=sums[1]))
    assert torch.equal(one, two)
    assert torch.equal(sums[0], sums[1])


def test_torchs_products_in_between_change_nothing():
    gradient, input = numbers(320, 96), numbers(320, 128, seed=1)
    ours, torchs = weight_gradient(gradient, input), input @ input.t()
    for _ in range(5):
        assert torch.equal(weight_gradient(gradient, input), ours)
        assert torch.equal(input @ input.t(), torchs)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_stays_visible_where_it_belongs(wrong):
    gradient, input = numbers(70, 40), numbers(70, 50, seed=1)
    gradient[69, 39] = wrong
    sums = torch.empty(40)
    product = weight_gradient(gradient, input, sums=sums)
    assert not product[39].isfinite().any()
    assert product[:39].isfinite().all()
    assert sums.isfinite().tolist() == [True] * 39 + [False]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("learns", ["input", "weight", "bias", "all"])
def test_the_layer_is_torchs_layer(bias, learns):
    ours = Linear(96, 70, bias=bias).bfloat16()
    torchs = nn.Linear(96, 70, bias=bias).bfloat16()
    torchs.load_state_dict(ours.state_dict())
    input, gradient = numbers(3, 33, 96), numbers(3, 33, 70, seed=1)
    found = []
    for layer in (ours, torchs):
        x = input.clone().requires_grad_(learns in ("input", "all"))
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(learns in (name, "all"))
        out = layer(x)
        if out.requires_grad:
            out.backward(gradient)
        found.append([out.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())])
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)


def test_the_layer_uses_the_kernel_only_where_it_may():
    layer = Linear(32, 32)
    x = torch.randn(4, 32)
    assert "_Linear" not in type(layer(x).grad_fn).__name__
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    layer = layer.bfloat16()
    assert "_Linear" in type(layer(x.bfloat16()).grad_fn).__name__
    with torch.no_grad():
        assert layer(x.bfloat16()).grad_fn is None
    with torch.autocast("cpu", torch.bfloat16):
        assert "_Linear" not in type(layer(x).grad_fn).__name__
