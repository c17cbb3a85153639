"""A pretrained network of which only the top is learned, or which learns the slower the further from the head.

Frozen layers: Howard & Ruder 2018, arXiv:1801.06146, section 3.3. Rates that fall from layer to layer: section 3.2 there, and
Clark et al. 2020, arXiv:2003.10555, appendix B.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from yanmo.errors import UserError
from yanmo.layers import Embedding, RelativeBias
from yanmo.models.network import Network


@dataclass(frozen=True)
class Touched:
    """What an adaptation has touched: names of parameters (or of modules) in the network, and how many numbers are learned."""

    names: tuple[str, ...]
    learned: int


def freeze(network: Network, top: int | None = None) -> Touched:
    """Let nothing of the network be learned, or only its top blocks and the norm after them. Returns what still is.

    Blocks count from the last that is computed: of an encoder-decoder first those of the decoder. What stands below the lowest
    trained block is computed without gradients. Raises UserError where there are not so many blocks.
    """
    network.requires_grad_(False)
    if top is None:
        return Touched((), 0)
    stacks = stacks_of(network)
    blocks = [block for stack in stacks for block in stack.blocks]  # pyright: ignore[reportGeneralTypeIssues]
    if not 1 <= top <= len(blocks):
        allowed = f"1 to {len(blocks)}" if blocks else "none: it has no blocks"
        raise UserError(f"{top} blocks cannot be trained: of this {network.config.family} there are {allowed}")
    trained = blocks[-top:]
    for stack in stacks:
        free = [block for block in stack.blocks if block in trained]  # pyright: ignore[reportGeneralTypeIssues]
        for part in (*free, *([getattr(stack, "norm", None)] if free else [])):
            if part is not None:
                part.requires_grad_(True)
    learned = {name: parameter.numel() for name, parameter in network.named_parameters() if parameter.requires_grad}
    return Touched(tuple(learned), sum(learned.values()))


def thaw(network: Network) -> None:
    """Let everything be learned again."""
    network.requires_grad_(True)


def layerwise(network: Network, decay: float) -> dict[str, float]:
    """What the learning rate of each parameter is multiplied by, by its name in the network: `decay` to the power of how many
    blocks stand above it, itself included, one more for what stands below all blocks (embeddings), and 1 for what stands above.

    The stacks of an encoder-decoder count each by itself: every block of the decoder reads what the encoder's last has made.
    Raises UserError for a decay that is not above 0 and at most 1.
    """
    if not 0 < decay <= 1:
        raise UserError(
            f"a layer-wise decay of {decay:g}: it multiplies the learning rate from block to block; give one above 0, "
            "at most 1 (ELECTRA: 0.8 and 0.9)"
        )
    exponents: dict[int, int] = {}
    deepest = 0
    for stack in stacks_of(network):
        count = len(stack.blocks)  # pyright: ignore[reportArgumentType]
        deepest = max(deepest, count)
        for index, block in enumerate(stack.blocks):  # pyright: ignore[reportArgumentType]
            exponents |= {id(parameter): count - index for parameter in block.parameters()}
    below = [part for part in network.modules() if isinstance(part, Embedding | RelativeBias)]
    first = [*network.parameters(recurse=False), *(parameter for part in below for parameter in part.parameters())]
    exponents |= {id(parameter): deepest + 1 for parameter in first}
    return {name: decay ** exponents.get(id(parameter), 0) for name, parameter in network.named_parameters()}


def stacks_of(network: nn.Module) -> list[nn.Module]:
    """The parts of a network that have blocks, in the order in which they are computed."""
    return [part for part in network.modules() if isinstance(getattr(part, "blocks", None), nn.ModuleList)]
