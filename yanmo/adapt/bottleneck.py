"""Bottleneck adapters: small networks between the bricks of a network that stays as it is.

Houlsby et al. 2019, arXiv:1902.00751, section 2: after every attention and every feed-forward brick, before the sum with what
went into it. Pfeiffer et al. 2020, arXiv:2005.00247: after the feed-forward brick only; here before the sum as well. He et al.
2022, arXiv:2110.04366, section 4: beside the bricks, here beside all of them; such an adapter reads what a brick reads, and so
still sees what the brick has thrown away. The norms of the network stay as they are; Houlsby et al. let them learn.
Letters: R rows, T tokens of a row, D width, B width of the bottleneck.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from yanmo.adapt.freezing import Touched
from yanmo.errors import UserError
from yanmo.layers import ACTIVATIONS, Linear
from yanmo.models.network import Network
from yanmo.optim import blocks_of

Kind = Literal["parallel", "houlsby", "pfeiffer"]
ALL = ("attention", "cross", "feedforward")
BRICKS: dict[Kind, tuple[str, ...]] = {"parallel": ALL, "houlsby": ALL, "pfeiffer": ("feedforward",)}
"""What each kind gives an adapter to, as blocks call it."""
PART = "adapter"
"""What an adapter is called in its brick."""
WIDTH = 256
"""By default, or the network's width where that is less. Networks that have read for minutes change more in a task than those
that have read for weeks: an eighth of the width stays points behind learning all."""


class Bottleneck(nn.Module):
    """up(gelu(down(x))), which is added to what a brick makes. It begins with nothing, to the bit: `up` is zero.

    x is what the brick reads where kind is parallel, and otherwise what it makes.
    """

    def __init__(self, width: int, inner: int, kind: Kind):
        super().__init__()
        self.kind: Kind = kind
        self.down, self.up = Linear(width, inner), Linear(inner, width)
        self.activation = ACTIVATIONS["gelu"]
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x_RTD: Tensor) -> Tensor:  # (R, T, D)
        return self.up(self.activation(self.down(x_RTD)))


def usual_width(network: Network) -> int:
    """Of an adapter inside, where nothing is said."""
    return min(WIDTH, network.config.width)


def add_bottlenecks(network: Network, kind: Kind = "parallel", width: int | None = None) -> Touched:
    """Give a new adapter to bricks of every block, drawn from torch's random state, and freeze all else; returns what they are
    called. Raises UserError where nothing is found to adapt, where adapters are already there, and for a width below 1."""
    width = usual_width(network) if width is None else width
    if width < 1:
        raise UserError(f"an adapter of width {width}: give a whole number of at least 1, by default {usual_width(network)}")
    if kind not in BRICKS:
        raise UserError(f"an adapter of kind {kind!r} is not known; known: {', '.join(BRICKS)}")
    if next(_adapted(network), None) is not None:
        raise UserError("this network has adapters already: remove them first")
    names, learned = [], 0
    network.requires_grad_(False)
    for name, brick in _bricks(network, BRICKS[kind]):
        adapter = Bottleneck(network.config.width, width, kind).to(network.device)
        brick.add_module(PART, adapter)
        brick.register_forward_hook(_with_adapter)
        names.append(f"{name}.{PART}")
        learned += sum(parameter.numel() for parameter in adapter.parameters())
    if not names:
        raise UserError(f"adapters belong to attention and feed-forward bricks; a {network.config.family} has none of them")
    return Touched(tuple(names), learned)


def remove_bottlenecks(network: Network) -> Touched:
    """The inverse: the network computes what it did without them, still frozen. Raises UserError where there are none."""
    found = list(_adapted(network))
    if not found:
        raise UserError("this network has no adapters to remove")
    learned = 0
    for _, brick in found:
        learned += sum(parameter.numel() for parameter in getattr(brick, PART).parameters())
        delattr(brick, PART)
        for number, hook in list(brick._forward_hooks.items()):
            if hook is _with_adapter:
                del brick._forward_hooks[number]
    return Touched(tuple(f"{name}.{PART}" for name, _ in found), learned)


def bottlenecks_of(network: Network) -> dict[str, Tensor]:
    """The parameters of all adapters, by their names in the network."""
    found = ((name, getattr(brick, PART)) for name, brick in _adapted(network))
    return {f"{name}.{PART}.{part}": tensor for name, adapter in found for part, tensor in adapter.named_parameters()}


def kind_of(network: Network) -> tuple[Kind, int]:
    """The kind and the width of a network's adapters, all of which are alike."""
    found = list(_adapted(network))
    assert found, "asked of a network with adapters"
    adapter: Bottleneck = getattr(found[0][1], PART)
    return adapter.kind, adapter.down.out_features


@torch.no_grad()
def set_bottlenecks(network: Network, weights: dict[str, Tensor], where: str) -> None:
    """Give the adapters of a network the weights that `bottlenecks_of` gave. Raises UserError where names or shapes differ."""
    own = bottlenecks_of(network)
    wrong = sorted(own.keys() ^ weights.keys())
    wrong += [name for name in sorted(own.keys() & weights.keys()) if own[name].shape != weights[name].shape]
    if wrong:
        raise UserError(f"{where}: these adapters are for another network: {', '.join(wrong[:4])} do not fit")
    for name, parameter in own.items():
        parameter.copy_(weights[name])


def _bricks(network: Network, which: tuple[str, ...]) -> Iterator[tuple[str, nn.Module]]:
    blocks = {id(block) for block in blocks_of(network)}
    for name, module in list(network.named_modules()):
        if id(module) in blocks:
            for part in which:
                brick = getattr(module, part, None)
                if isinstance(brick, nn.Module):
                    yield f"{name}.{part}", brick


def _adapted(network: Network) -> Iterator[tuple[str, nn.Module]]:
    return ((name, brick) for name, brick in _bricks(network, ALL) if hasattr(brick, PART))


def _with_adapter(brick: nn.Module, given: tuple[Any, ...], made: Tensor) -> Tensor:
    adapter: Bottleneck = getattr(brick, PART)
    return made + adapter(given[0] if adapter.kind == "parallel" else made)
