"""What may be seen, as data: built once per forward, used by every block of the same kind.

Padding sees padding and nothing else, so that no row of the softmax is ever empty (an empty one gives NaN).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from yanmo.batch import Packed
from yanmo.layers.rotary import RotaryConfig


@dataclass(frozen=True)
class View:
    """What each place may see, and where it stands.

    mask: (R or 1, 1, T, S), 0 where seen and -inf elsewhere, or None where everything is seen. triangle: the mask is
    just "not the future", for kernels that know this without a mask. cos, sin: (R or 1, 1, T, W / 2) of rotary
    positions. slots: (R, T), where in a memory of keys and values the new ones are written.
    """

    mask: Tensor | None = None
    triangle: bool = False
    cos: Tensor | None = None
    sin: Tensor | None = None
    slots: Tensor | None = None

    @staticmethod
    def of(
        packed: Packed, causal: bool, dtype: torch.dtype, window: int | None = None, rotary: RotaryConfig | None = None
    ) -> View:
        """The view of whole rows. `window` is the largest distance seen, to either side."""
        length = packed.tokens.shape[1]
        if window is not None and window >= length - 1:
            window = None
        seen = None if packed.whole else packed.documents[:, :, None] == packed.documents[:, None, :]
        if causal or window is not None:
            place = torch.arange(length, device=packed.tokens.device)
            near = _near(place[None, :, None], place[None, None, :], causal, window)
            seen = near if seen is None else seen & near
        cos, sin = _angles(packed.positions[:1] if packed.whole else packed.positions, rotary, dtype)
        return View(_additive(seen, dtype), causal and packed.whole and window is None, cos, sin)

    @staticmethod
    def of_memory(
        packed: Packed, used: int, dtype: torch.dtype, window: int | None = None, rotary: RotaryConfig | None = None
    ) -> View:
        """The causal view of new places on a memory of which the first `used` may be filled; a row is one document, and
        its positions are the places in the memory."""
        slots = packed.positions
        stored = torch.arange(used, device=slots.device)
        seen = _near(slots[:, :, None], stored[None, None, :], True, window)
        cos, sin = _angles(packed.positions, rotary, dtype)
        return View(_additive(seen, dtype), False, cos, sin, slots)


def _near(query: Tensor, key: Tensor, causal: bool, window: int | None) -> Tensor:
    distance = query - key
    near = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    return near if window is None else near & (distance.abs() <= window)


def _additive(seen: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if seen is None:
        return None
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, float("-inf"))[:, None]


def _angles(positions: Tensor, rotary: RotaryConfig | None, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if rotary is None else rotary.angles(positions, dtype)
