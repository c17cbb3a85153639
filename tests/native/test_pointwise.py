"""Activations, gates and norms in C against torch in float64, on the same numbers in bf16."""

import pytest
import torch
import torch.nn.functional as F

from yanmo.layers import activation as activations
from yanmo.layers import norm as norms
from yanmo.layers.activation import activation, gate
from yanmo.layers.norm import NormConfig, build_norm
from yanmo.native import library, state
from yanmo.optim import add_to

pytestmark = pytest.mark.skipif(library("pointwise") is None or library("norm") is None, reason=f"kernels {state()}")

SHAPES = [(3, 5, 7), (1, 16), (130, 33), (0, 8), (2, 64, 512)]
KINDS = range(len(activations.TORCH))


@pytest.fixture
def torch_only(monkeypatch):
    def switch():
        monkeypatch.setattr(activations, "ready", lambda *_: None)
        monkeypatch.setattr(norms, "ready", lambda *_: None)

    return switch


def way_and_back(function, inputs, gradient):
    """The result and the gradients of all inputs."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    y = function(*inputs)
    return y.detach(), *torch.autograd.grad(y, inputs, gradient.to(y.dtype))


def is_as_near(ours, torchs, exact):
    """No worse than torch in bf16, neither at worst nor on average."""
    for one, other, wanted in zip(ours, torchs, exact, strict=True):
        assert one.dtype == torch.bfloat16
        if one.numel():
            error, allowed = (one.double() - wanted).abs(), (other.double() - wanted).abs()
            assert error.max() <= 1.01 * allowed.max() + 1e-6
            assert error.mean() <= 1.01 * allowed.mean() + 1e-6


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_activations(kind, gated, shape, torch_only):
    torch.manual_seed(0)
    brick = gate if gated else activation
    x = (3 * torch.randn(*shape[:-1], shape[-1] * (1 + gated))).bfloat16()
    gradient = torch.randn(shape).bfloat16()
    ours = way_and_back(lambda x: brick(kind, x), [x], gradient)
    torch_only()
    torchs = way_and_back(lambda x: brick(kind, x), [x], gradient)
    exact = way_and_back(lambda x: brick(kind, x), [x.double()], gradient)
    is_as_near(ours, torchs, exact)


def test_activations_at_every_number():
    """One rounding (0.4%), also far out where 1 + erf is nothing but roundings; nan and inf stay visible."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16)
    for kind in KINDS:
        y = activation(kind, every)
        finite = every.isfinite()
        assert not y[~finite & (every != -torch.inf)].isfinite().any()
        assert y[finite].isfinite().all()
    usual = every[every.isfinite() & (every.abs() < 10) & (every.abs() > 1e-30)]
    exact = usual.double() * torch.special.erfc(-usual.double() / 2**0.5) / 2
    torch.testing.assert_close(activation(activations.GELU, usual).double(), exact, rtol=0.004, atol=0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("kind", "bias"), [("layer", True), ("layer", False), ("rms", False)])
def test_norms(kind, bias, shape, torch_only):
    torch.manual_seed(0)
    width = shape[-1]
    module = build_norm(width, NormConfig(kind, 1e-5, bias))
    parameters = {name: (torch.randn(width) / 5 + 1).bfloat16() for name, _ in module.named_parameters()}
    x, gradient = (torch.randn(shape) * 2 + 0.5).bfloat16(), torch.randn(shape).bfloat16()

    def normed(x, *parameters_):
        return torch.func.functional_call(module, dict(zip(parameters, parameters_, strict=True)), (x,))

    ours = way_and_back(normed, [x, *parameters.values()], gradient)
    torch_only()
    torchs = way_and_back(normed, [x, *parameters.values()], gradient)
    exact = way_and_back(normed, [x.double(), *(p.double() for p in parameters.values())], gradient)
    is_as_near(ours, torchs, exact)


def test_gradients_of_a_norms_weight_are_summed_in_float32():
    torch.manual_seed(0)
    x, gradient = torch.randn(4096, 64).bfloat16(), (torch.randn(4096, 64) + 1).bfloat16()
    module = build_norm(64, NormConfig()).bfloat16()
    module(x).backward(gradient)
    wanted = (F.layer_norm(x.double(), (64,)) * gradient.double()).sum(0), gradient.double().sum(0)
    for parameter, exact in zip(module.parameters(), wanted, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad.double(), exact, rtol=0.004, atol=1e-3)


def test_a_norm_shows_what_is_no_number():
    for kind in ("layer", "rms"):
        module = build_norm(40, NormConfig(kind, bias=kind == "layer")).bfloat16()
        for bad in (torch.nan, torch.inf):
            x = torch.randn(3, 40).bfloat16()
            x[1, 37] = bad
            assert (~module(x).isfinite()).any(1).tolist() == [False, True, False]


def test_threads_change_nothing_and_torchs_products_stay_right():
    x = torch.randn(300, 96).bfloat16()
    module, before = build_norm(96, NormConfig()).bfloat16(), torch.get_num_threads()
    weight = torch.randn(96, 192).bfloat16()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            inputs = [x, *module.parameters()]
            results.append(way_and_back(lambda x, *_: gate(0, module(x) @ weight), inputs[:1], x))
            module.zero_grad()
            module(x).backward(x)
            results[-1] += (module.weight.grad, module.bias.grad)
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_strided_inputs_and_gradients():
    torch.manual_seed(0)
    base = torch.randn(8, 6, 48).bfloat16()
    module = build_norm(48, NormConfig("rms")).bfloat16()
    x = base.transpose(0, 1).requires_grad_()
    copy = x.detach().contiguous().requires_grad_()
    gradient = torch.randn(1, 1, 48).bfloat16().expand(6, 8, 48)
    module(x).backward(gradient)
    module(copy).backward(gradient.contiguous())
    torch.testing.assert_close(x.grad, copy.grad, rtol=0, atol=0)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 70_001])
def test_gradients_are_added_as_torch_adds_them(count):
    wide, x = torch.randn(count), torch.randn(count).bfloat16()
    wanted = wide + x
    add_to(wide, x)
    assert torch.equal(wide, wanted)


def test_a_gradient_with_gaps_is_added_too():
    wide, x = torch.zeros(6, 5), torch.randn(5, 6).bfloat16().t()
    add_to(wide, x)
    assert torch.equal(wide, x.float())
