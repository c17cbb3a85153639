"""Learning rates of their own for parts of a network, and parameters that nobody moves."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.append(str(Path(__file__).parent.parent / "train"))
from tiny_runs import tiny
from toy_training import LENGTH, ToyNetwork, ToyObjective, ToyRows, training

from yanmo.adapt import add_bottlenecks, freeze, layerwise
from yanmo.batch import Order
from yanmo.optim import Optimizer
from yanmo.players import Players
from yanmo.train import Trainer

PACES = {
    "tokens.weight": 0.1,
    "blocks.0.norm.weight": 0.3,
    "blocks.0.rise.weight": 0.3,
    "blocks.0.fall.weight": 0.3,
    "blocks.0.fall.bias": 0.3,
    "blocks.1.fall.weight": 0.6,
}


def constant(**changes):
    return training(schedule="constant-decay", warmup=0.0, decay=1e-9, clip=None, **changes)


def new():
    torch.manual_seed(0)
    return ToyNetwork()


def give_gradients(module, step):
    generator = torch.Generator().manual_seed(step)
    return {name: torch.randn(parameter.shape, generator=generator) for name, parameter in module.named_parameters()}


def stepped(module, optimizer, steps=4, begin=0):
    for step in range(begin, begin + steps):
        given = give_gradients(module, step)
        optimizer.weights.begin()
        sum((parameter * given[name]).sum() for name, parameter in module.named_parameters()).backward()
        optimizer.step(step, 100, float(optimizer.norm()))


def test_adamw_is_torchs_with_a_group_for_each_parameter():
    expected, module = new(), new()
    groups = []
    for name, parameter in expected.named_parameters():
        decay = 0.3 if parameter.ndim == 2 and "tokens" not in name else 0.0
        groups.append({"params": [parameter], "weight_decay": decay, "lr": 1e-2 * PACES.get(name, 1.0)})
    theirs = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    for step in range(4):
        given = give_gradients(expected, step)
        for name, parameter in expected.named_parameters():
            parameter.grad = given[name]
        theirs.step()
    optimizer = Optimizer(module, constant(optimizer="adamw", weight_decay=0.3), 16, torch.float32, None, PACES)
    stepped(module, optimizer)
    assert len(optimizer.adamw.param_groups) == 6  # with decay 0.3, 0.6 and 1; without 0.1, 0.3 and 1
    start = dict(new().named_parameters())
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter, dict(expected.named_parameters())[name], atol=1e-7, rtol=1e-6)
        assert not torch.equal(parameter, start[name])


def test_muon_moves_each_matrix_at_its_own_pace():
    """One step: what a matrix moves by, its decay included, is its pace times what it moves by at pace 1."""
    def moved(paces):
        module, start = new(), dict(new().named_parameters())
        optimizer = Optimizer(module, constant(optimizer="muon", weight_decay=0.3), 16, torch.float32, None, paces)
        stepped(module, optimizer, steps=1)
        return {name: parameter - start[name] for name, parameter in module.named_parameters() if "weight" in name}

    whole, paced = moved({}), moved(PACES)
    for name in ("blocks.0.rise.weight", "blocks.0.fall.weight", "blocks.1.rise.weight", "blocks.1.fall.weight"):
        torch.testing.assert_close(paced[name], PACES.get(name, 1.0) * whole[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_state_goes_there_and_back_with_paces(name):
    one, other = new(), new()
    left, right = (Optimizer(module, constant(optimizer=name), 16, torch.float32, None, PACES) for module in (one, other))
    stepped(one, left)
    masters = {key: tensor.clone() for key, tensor in left.weights.named(left.weights.masters).items()}
    right.load(masters, {key: tensor.clone() for key, tensor in left.state().items()})
    stepped(one, left, 2, begin=4)
    stepped(other, right, 2, begin=4)
    for key, parameter in one.named_parameters():
        assert torch.equal(parameter, dict(other.named_parameters())[key])


def test_one_pace_for_all_is_another_rate():
    one, other = new(), new()
    paced = Optimizer(one, constant(optimizer="adamw"), 16, torch.float32, None, dict.fromkeys(dict(one.named_parameters()), 0.5))
    halved = Optimizer(other, constant(optimizer="adamw", learning_rate=5e-3), 16, torch.float32)
    stepped(one, paced)
    stepped(other, halved)
    assert torch.equal(paced.weights.masters, halved.weights.masters)
    assert len(paced.adamw.param_groups) == len(halved.adamw.param_groups) == 2


def test_a_pace_of_nothing_is_refused():
    objective = ToyObjective(new())
    objective.paces = lambda: {"network.nothing": 0.5}
    with pytest.raises(AssertionError, match=r"not of network\.nothing"):
        Players(objective, training(), torch.float32)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_frozen_base_is_what_it_was_after_training(tmp_path, precision):
    trainer = tiny("bert masked", tmp_path, precision=precision, steps=3)
    network = trainer.objective.network
    freeze(network)
    add_bottlenecks(network, "houlsby", 8)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    types = []
    network.embed.register_forward_hook(lambda module, given, made: types.append(made.dtype))
    trainer.fit()
    assert set(types) == {torch.bfloat16 if precision == "bf16" else torch.float32}
    for name, parameter in network.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, before[name]) == (".adapter." not in name), name


def test_layerwise_rates_in_a_run_that_goes_on(tmp_path):
    """Six steps are three, a checkpoint, and three more."""
    def run(folder, steps_first=None):
        torch.manual_seed(1)
        objective = ToyObjective(ToyNetwork(0.1))
        objective.paces = lambda: {f"network.{name}": pace for name, pace in PACES.items()}
        trainer = Trainer(objective, ToyRows(), ToyRows(seed=9, per_epoch=8), training(save_every=3, steps=6, length=LENGTH),
                          folder, seed=3, say=lambda sentence: None)
        if steps_first is not None:
            whole = trainer._save
            def save_and_stop():
                whole()
                if trainer.state.step == steps_first:
                    trainer._interrupt.set()
            trainer._save = save_and_stop
        trainer.fit()
        return nn.utils.parameters_to_vector(objective.parameters())

    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", 3)
    assert torch.equal(run(tmp_path / "parts"), whole)


def test_layerwise_names_are_the_objectives(tmp_path):
    trainer = tiny("t5 span corruption", tmp_path, steps=2)
    paces = layerwise(trainer.objective.network, 0.8)
    trainer.objective.paces = lambda: {f"network.{name}": pace for name, pace in paces.items()}
    assert trainer.fit().step == 2
    assert isinstance(trainer.order, Order)
