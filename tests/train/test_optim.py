"""Optimizers against torch's, schedules against transformers' and closed forms, master weights against the definition."""

import math

import pytest
import torch
from torch import nn
from toy_training import ToyNetwork, objective, training
from transformers import optimization

from yanmo.optim import Optimizer, Weights, choose_precision, default_learning_rate, orthogonal, roles, schedule

CPU = torch.device("cpu")


def lambdas():
    with_warmup = {"num_warmup_steps": 10, "num_training_steps": 100}
    linear = optimization._get_linear_schedule_with_warmup_lr_lambda
    cosine = optimization._get_cosine_schedule_with_warmup_lr_lambda
    inverse = optimization._get_inverse_sqrt_schedule_lr_lambda
    stable = optimization._get_wsd_scheduler_lambda
    return {
        "linear": lambda at: linear(at, **with_warmup),
        "cosine": lambda at: cosine(at, **with_warmup, num_cycles=0.5),
        "inverse-sqrt": lambda at: inverse(at, num_warmup_steps=10, timescale=10),
        "constant-decay": lambda at: stable(at, num_warmup_steps=10, num_stable_steps=60, num_decay_steps=30, num_cycles=0.5,
                                            min_lr_ratio=0.0, warmup_type="linear", decay_type="linear"),
    }


@pytest.mark.parametrize("kind", ["linear", "cosine", "inverse-sqrt", "constant-decay"])
def test_schedules_are_those_of_transformers_at_the_middle_of_each_step(kind):
    theirs = lambdas()[kind]
    for step in range(100):
        assert schedule(kind, step, 100, warmup=0.1, decay=0.3) == pytest.approx(theirs(step + 0.5), abs=1e-12)


@pytest.mark.parametrize("kind", ["linear", "cosine", "inverse-sqrt", "constant-decay"])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.99])
def test_no_step_is_lost_to_a_rate_of_zero(kind, warmup):
    for steps in (1, 2, 3, 50):
        shares = [schedule(kind, step, steps, warmup, decay=1.0) for step in range(steps)]
        assert min(shares) > 0
        assert max(shares) <= 1


def test_inverse_sqrt_without_warmup_is_that_of_t5():
    assert schedule("inverse-sqrt", 9_999, 20_000, 0.0, 0.3) == pytest.approx(1 / math.sqrt(1.99995))


def test_the_default_rate_falls_with_the_root_of_the_width():
    assert default_learning_rate("adamw", 256) == 1e-3
    assert default_learning_rate("adamw", 1024) == 5e-4
    assert Optimizer(objective(), training(learning_rate=None, optimizer="muon"), 1024, torch.float32).rate == 1.5e-3
    given = Optimizer(objective(), training(learning_rate=3e-4, matrix_learning_rate=2e-2), 1024, torch.float32)
    assert given.rates(2, 5) == pytest.approx((3e-4 * (0.5 / 0.95), 2e-2 * (0.5 / 0.95)))


def test_precision():
    assert choose_precision("fp32", CPU) == torch.float32
    assert choose_precision("bf16", CPU) == torch.bfloat16
    has = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    assert choose_precision("auto", CPU) == (torch.bfloat16 if has else torch.float32)
    assert choose_precision("auto", torch.device("mps")) == torch.float32


def test_roles():
    found = roles(objective())
    assert set(found.matrices) == {f"network.blocks.{i}.{side}.weight" for i in (0, 1) for side in ("rise", "fall")}
    assert set(found.others) == {"network.pair.weight"}
    assert "network.tokens.weight" in found.plain  # tied to the head, and there once
    assert not any("head" in name for name in found.plain)
    assert {"network.blocks.0.norm.weight", "network.blocks.0.rise.bias", "network.pair.bias"} <= set(found.plain)


def one_step(optimizer, module, dtype=torch.float32):
    """A step on gradients that are functions of the parameter's place."""
    optimizer.weights.begin()
    generator = torch.Generator().manual_seed(5)
    for parameter in module.parameters():
        (parameter * torch.randn(parameter.shape, generator=generator).to(dtype)).sum().backward()
    return optimizer.step(0, 1, float(optimizer.norm()))


def reference(module, build, steps=3):
    """The same gradients given to torch's own optimizer."""
    optimizers = build(dict(module.named_parameters()))
    for _ in range(steps):
        generator = torch.Generator().manual_seed(5)
        for parameter in module.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()
    return dict(module.named_parameters())


def settings(**changes):
    return training(schedule="constant-decay", warmup=0.0, decay=1e-9, clip=None, **changes)


@pytest.mark.parametrize("beta2", [0.95, 0.999])
def test_adamw_is_torchs_with_decay_on_matrices_only(beta2):
    def build(named):
        matrices = [p for name, p in named.items() if p.ndim == 2 and "tokens" not in name]
        rest = [p for name, p in named.items() if p.ndim != 2 or "tokens" in name]
        groups = [{"params": matrices, "weight_decay": 0.3}, {"params": rest, "weight_decay": 0.0}]
        return [torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, beta2))]

    torch.manual_seed(0)
    expected = reference(ToyNetwork(), build)
    torch.manual_seed(0)
    module = ToyNetwork()
    optimizer = Optimizer(module, settings(optimizer="adamw", weight_decay=0.3, beta2=beta2), 16, torch.float32)
    for _ in range(3):
        one_step(optimizer, module)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter, expected[name], atol=1e-6, rtol=1e-5)


def test_muon_is_torchs_but_for_the_type_of_its_products():
    def build(named):
        inside = [p for name, p in named.items() if "fall.weight" in name]
        return [torch.optim.Muon(inside, lr=1e-2, weight_decay=0.3, adjust_lr_fn="match_rms_adamw")]

    torch.manual_seed(0)
    expected = reference(ToyNetwork(), build)
    for dtype in (torch.bfloat16, torch.float32):
        torch.manual_seed(0)
        module = ToyNetwork()
        start = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
        optimizer = Optimizer(module, settings(optimizer="muon", weight_decay=0.3), 16, dtype)
        for _ in range(3):
            one_step(optimizer, module, dtype)
        masters = optimizer.weights.named(optimizer.weights.masters)
        for name in ("blocks.0.fall.weight", "blocks.1.fall.weight"):
            moved = (expected[name] - start[name]).norm()
            assert (masters[name] - expected[name]).norm() < 0.05 * moved


def test_parts_are_made_orthogonal_each_by_itself():
    module = ToyNetwork()
    before = module.blocks[0].rise.weight.detach().clone()
    optimizer = Optimizer(module, settings(optimizer="muon", weight_decay=0.0), 16, torch.float32)
    one_step(optimizer, module)
    moved = (before - module.blocks[0].rise.weight.detach()) / (1e-2 * 0.2 * math.sqrt(16))
    for part in moved.split(module.blocks[0].rise.weight.parts):
        values = torch.linalg.svdvals(part)
        assert values.min() > 0.5
        assert values.max() < 1.3
    whole = torch.linalg.svdvals(moved)
    assert whole.max() > 1.3  # three orthogonal parts on top of each other are not orthogonal


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 64, 16), (1, 16, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_come_near_one_and_directions_stay(shape, dtype):
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    made = orthogonal(matrices.to(dtype)).float()
    values = torch.linalg.svdvals(made)
    assert values[..., :-1].min() > 0.6
    assert values.max() < 1.25
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    agreement = (made * (u @ vh)).sum((1, 2)) / (made.norm(dim=(1, 2)) * (u @ vh).norm(dim=(1, 2)))
    assert agreement.min() > 0.95


def test_a_matrix_without_gradient_is_no_nan():
    assert torch.equal(orthogonal(torch.zeros(1, 4, 4)), torch.zeros(1, 4, 4))


def test_parts_that_are_not_the_rows_are_refused():
    module = ToyNetwork()
    module.blocks[0].rise.weight.parts = (16, 16)
    with pytest.raises(AssertionError, match="parts of"):
        Optimizer(module, training(optimizer="muon"), 16, torch.float32)


def test_clipping_is_on_the_norm_of_everything():
    def moved(clip, scale):
        torch.manual_seed(0)
        module = ToyNetwork()
        optimizer = Optimizer(module, settings(optimizer="adamw", weight_decay=0.0).model_copy(update={"clip": clip}), 16,
                              torch.float32)
        optimizer.weights.begin()
        for parameter in module.parameters():
            (parameter.sum() * scale).backward()
        norm = float(optimizer.norm())
        numbers = sum(parameter.numel() for parameter in module.parameters())
        assert norm == pytest.approx(scale * math.sqrt(numbers), rel=1e-5)
        optimizer.step(0, 1, norm)
        return optimizer.weights.gradient.norm().item()

    assert moved(1.0, 0.5) == pytest.approx(1.0, rel=1e-5)
    assert moved(1e9, 0.5) > 1.0
    assert moved(None, 0.5) > 1.0


def test_bf16_gradients_are_added_in_fp32():
    """1 + 256 times 2^-9: in bf16 every addend would be lost to rounding."""
    weights = Weights([{"x": (parameter := nn.Parameter(torch.ones(3)))}], torch.bfloat16)
    assert parameter.dtype == torch.bfloat16
    weights.begin()
    parameter.sum().backward()
    for _ in range(256):
        (parameter * 2**-9).sum().backward()
        assert parameter.grad is None
    assert weights.view(weights.finish(), "x").tolist() == [1.5] * 3


def test_masters_keep_what_bf16_parameters_cannot():
    parameter = nn.Parameter(torch.ones(3))
    weights = Weights([{"x": parameter}], torch.bfloat16)
    for _ in range(8):
        weights.masters += 2**-10
        weights.refresh()
    assert weights.view(weights.masters, "x").tolist() == [1 + 2**-7] * 3
    assert parameter.tolist() == [1 + 2**-7] * 3
    weights.release()
    assert parameter.dtype == torch.float32
    assert parameter.data_ptr() != weights.masters.data_ptr()


def test_a_parameter_without_gradient_has_none_of_the_step_before():
    left, right = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    weights = Weights([{"left": left, "right": right}], torch.float32)
    weights.begin()
    (left.sum() + right.sum()).backward()
    weights.finish()
    weights.begin()
    left.sum().backward()
    assert weights.view(weights.finish(), "left").tolist() == [1, 1]
    assert weights.view(weights.finish(), "right").tolist() == [0, 0]


def test_a_frozen_parameter_stays():
    module = ToyNetwork()
    module.pair.weight.requires_grad_(False)
    before = module.pair.weight.clone()
    optimizer = Optimizer(module, settings(optimizer="muon"), 16, torch.float32)
    optimizer.weights.begin()
    module.pair(module.tokens.weight).sum().backward()
    optimizer.step(0, 1, float(optimizer.norm()))
    assert torch.equal(module.pair.weight, before)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_state_goes_there_and_back(name):
    torch.manual_seed(0)
    one, other = ToyNetwork(), ToyNetwork()
    left = Optimizer(one, training(optimizer=name), 16, torch.float32)
    right = Optimizer(other, training(optimizer=name), 16, torch.float32)
    one_step(left, one)
    masters = {key: tensor.clone() for key, tensor in left.weights.named(left.weights.masters).items()}
    right.load(masters, {key: tensor.clone() for key, tensor in left.state().items()})
    one_step(left, one)
    one_step(right, other)
    assert torch.equal(left.weights.masters, right.weights.masters)
    kinds = {key.split(".")[0] for key in left.state()}
    assert kinds == {"first", "second", "steps"} | ({"momentum"} if name == "muon" else set())
