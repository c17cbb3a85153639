"""Freezing: nothing below the lowest trained block has gradients, and what is frozen is given back as it was."""

import statistics
import time

import pytest
from tiny_networks import ALL, packed, run, tiny

from yanmo.adapt import freeze, layerwise, thaw
from yanmo.errors import UserError
from yanmo.optim import blocks_of

STACKED = [family for family in ALL if family != "lstm"]


@pytest.mark.parametrize("family", STACKED)
def test_only_the_top_block_and_its_norm_are_learned(family):
    network = tiny(family)
    touched = freeze(network, 1)
    top = blocks_of(network)[-1]
    allowed = {id(parameter) for parameter in top.parameters()}
    norm = (network.decoder if hasattr(network, "decoder") else network).__dict__["_modules"].get("norm")
    allowed |= {id(parameter) for parameter in norm.parameters()} if norm is not None else set()
    learned = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert {id(parameter) for parameter in learned.values()} == allowed
    assert touched.names == tuple(learned)
    assert touched.learned == sum(parameter.numel() for parameter in learned.values())


@pytest.mark.parametrize("family", STACKED)
def test_there_is_no_graph_below_the_lowest_trained_block(family):
    network = tiny(family)
    freeze(network, 1)
    graphs = []
    for block in blocks_of(network):
        block.register_forward_hook(lambda module, given, made: graphs.append(made.requires_grad))
    run(network).sum().backward()
    assert graphs == [False] * (len(graphs) - 1) + [True]
    assert all((parameter.grad is None) or parameter.requires_grad for parameter in network.parameters())


def test_frozen_and_thawed():
    network = tiny("bert")
    assert freeze(network).learned == 0
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not run(network).requires_grad
    thaw(network)
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(("family", "top"), [("bert", 3), ("bert", 0), ("text-cnn", 1)])
def test_more_blocks_than_there_are_are_refused(family, top):
    from yanmo.models.textcnn import judge_for

    network = tiny("bert") if family == "bert" else judge_for(tiny("bert"), 16)
    with pytest.raises(UserError, match=r"blocks cannot be trained: .* there are (1 to 2|none)"):
        freeze(network, top)


def test_a_step_with_a_frozen_bottom_is_shorter():
    """The backward pass of two of eight blocks; what is measured goes into no promise."""
    network = tiny("bert", layers=8, width=128, feedforward=512).train()
    batch = packed(8, 64)

    def seconds():
        took = []
        for _ in range(5):
            start = time.process_time()
            run(network, batch).square().mean().backward()
            took.append(time.process_time() - start)
        return statistics.median(took)

    full = seconds()
    freeze(network, 2)
    assert seconds() < 0.75 * full


def test_rates_fall_from_the_head_to_the_embedding():
    network = tiny("bert", layers=3)
    paces = layerwise(network, 0.5)
    assert paces.keys() == dict(network.named_parameters()).keys()
    assert paces["head.dense.weight"] == 1
    assert [paces[f"blocks.{number}.attention.qkv.weight"] for number in range(3)] == [0.5**3, 0.5**2, 0.5]
    assert paces["embed.tokens.weight"] == paces["embed.norm.weight"] == 0.5**4
    with pytest.raises(UserError, match=r"layer-wise decay of 1\.5"):
        layerwise(network, 1.5)


def test_both_halves_count_by_themselves():
    paces = layerwise(tiny("t5"), 0.5)
    assert paces["encoder.blocks.1.attention.out.weight"] == paces["decoder.blocks.1.cross.out.weight"] == 0.5
    assert paces["encoder.relative.table.weight"] == paces["encoder.embed.tokens.weight"] == 0.5**3
    assert paces["encoder.norm.weight"] == 1
    xlnet = layerwise(tiny("xlnet"), 0.5)
    assert xlnet["asking"] == xlnet["embed.tokens.weight"] == 0.5**3
