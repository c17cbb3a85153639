"""Bottleneck adapters: the identity at first, the formula afterwards, and nothing once they are removed."""

import copy

import pytest
import torch
from tiny_networks import ALL, run, tiny

from yanmo.adapt import add_bottlenecks, freeze, remove_bottlenecks
from yanmo.adapt.bottleneck import Bottleneck, bottlenecks_of, set_bottlenecks
from yanmo.errors import UserError
from yanmo.optim import blocks_of

ADAPTED = [family for family in ALL if family != "lstm"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["parallel", "houlsby", "pfeiffer"])
@pytest.mark.parametrize("family", ADAPTED)
@torch.no_grad()
def test_added_learned_and_removed(family, kind, dtype):
    network = tiny(family).to(dtype)
    names, before = set(dict(network.named_parameters())), run(network)
    touched = add_bottlenecks(network, kind, 8)
    each = 1 if kind == "pfeiffer" else 3 if family in ("t5", "bart") else 2
    halves = [2, 3] if each == 3 else [each] * len(blocks_of(network))
    assert len(touched.names) == (sum(halves) * 2 if len(halves) == 2 and halves[0] != halves[1] else sum(halves))
    assert touched.learned == sum(parameter.numel() for parameter in bottlenecks_of(network).values())
    network.to(dtype)
    assert torch.equal(run(network), before)                 # the identity, to the bit
    for parameter in bottlenecks_of(network).values():
        parameter.normal_(0, 0.3)
    assert not torch.allclose(run(network), before, atol=1e-3)
    assert remove_bottlenecks(network).names == touched.names
    assert set(dict(network.named_parameters())) == names
    assert torch.equal(run(network), before)


@pytest.mark.parametrize("kind", ["houlsby", "parallel"])
@torch.no_grad()
def test_they_stand_before_the_sums(kind):
    """A post-norm block by its definition: norm(x + a + A(a)) of a = attention(x), and feed-forward in the same way; beside the
    bricks norm(x + a + A(x))."""
    network = tiny("bert", layers=1)
    add_bottlenecks(network, kind, 8)
    for parameter in bottlenecks_of(network).values():
        parameter.normal_(0, 0.3)
    plain, block = copy.deepcopy(network), network.blocks[0]
    seen = {}
    block.register_forward_pre_hook(lambda module, given: seen.update(x=given[0], view=given[1]))
    made = run(network)
    remove_bottlenecks(plain)
    bare, first, second = plain.blocks[0], block.attention.adapter, block.feedforward.adapter

    def changed(adapter, read, brick):
        x = read if kind == "parallel" else brick
        inner = torch.nn.functional.gelu(x @ adapter.down.weight.T + adapter.down.bias)
        return brick + inner @ adapter.up.weight.T + adapter.up.bias

    y = bare.attention_norm(seen["x"] + changed(first, seen["x"], bare.attention(seen["x"], seen["view"], None)))
    torch.testing.assert_close(bare.feedforward_norm(y + changed(second, y, bare.feedforward(y))), made)


def test_only_adapters_learn_and_all_of_them_do():
    network = tiny("xlnet")
    freeze(network)
    add_bottlenecks(network, "houlsby", 8)
    for parameter in bottlenecks_of(network).values():
        torch.nn.init.normal_(parameter, std=0.1)
    run(network).square().sum().backward()
    learned = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert learned == bottlenecks_of(network).keys()


def test_a_copy_has_adapters_of_its_own():
    network = tiny("gpt2")
    add_bottlenecks(network, "pfeiffer", 8)
    other, before = copy.deepcopy(network), run(network)
    torch.nn.init.ones_(other.blocks[0].feedforward.adapter.up.bias)
    assert torch.equal(run(network), before)
    assert not torch.equal(run(other), before)


def test_weights_go_there_and_back():
    one, other = tiny("llama"), tiny("llama")
    for network in (one, other):
        add_bottlenecks(network, "houlsby", 8)
    for parameter in bottlenecks_of(one).values():
        torch.nn.init.normal_(parameter, std=0.1)
    set_bottlenecks(other, bottlenecks_of(one), "here")
    assert torch.equal(run(one), run(other))
    narrow = tiny("llama")
    add_bottlenecks(narrow, "houlsby", 4)
    with pytest.raises(UserError, match="here: these adapters are for another network"):
        set_bottlenecks(narrow, bottlenecks_of(one), "here")


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="a lstm has none of them"):
        add_bottlenecks(tiny("lstm"))
    network = tiny("bert")
    with pytest.raises(UserError, match="no adapters to remove"):
        remove_bottlenecks(network)
    with pytest.raises(UserError, match="width 0"):
        add_bottlenecks(network, width=0)
    add_bottlenecks(network)
    with pytest.raises(UserError, match="has adapters already"):
        add_bottlenecks(network)
    assert isinstance(network.blocks[0].feedforward.adapter, Bottleneck)
