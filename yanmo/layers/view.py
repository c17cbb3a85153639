"""What may be seen, as data: built once per forward, used by every block of the same kind.

Padding sees padding and nothing else, so that no row of the softmax is ever empty (an empty one gives NaN).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from yanmo.batch import Packed
from yanmo.layers.buckets import spread
from yanmo.layers.rotary import RotaryConfig
from yanmo.native import library


@dataclass(frozen=True)
class Seen:
    """What may be seen, in words: queries (R, T) and keys (R, S) int64 are documents, and a query sees the keys of its own
    (None: all are of one); causal: and no later ones; window: and none further off, to either side."""

    queries: Tensor | None = None
    keys: Tensor | None = None
    causal: bool = False
    window: int | None = None

    def mask(self, queries: int, keys: int, like: Tensor, prefix: Tensor | None = None) -> Tensor | None:
        """(R or 1, 1, T, S), 0 where seen and -inf elsewhere, of the type and on the device of `like`; None where all is seen.
        prefix: (R, S) bool, keys that earlier queries see as well."""
        seen = None
        if self.queries is not None and self.keys is not None:
            seen = self.queries[:, :, None] == self.keys[:, None, :]
        if self.causal or self.window is not None:
            query, key = torch.arange(queries, device=like.device), torch.arange(keys, device=like.device)
            near = _near(query[None, :, None], key[None, None, :], self.causal, self.window, prefix)
            seen = near if seen is None else seen & near
        return _additive(seen, like.dtype)


@dataclass(frozen=True)
class View:
    """What each place may see, and where it stands.

    mask: (R or 1, 1, T, S), 0 where seen and -inf elsewhere, or None where everything is seen or `seen` alone says what is;
    (R or 1, H, T, S) with what each head adds to its scores, and its gradient.
    seen: the same in words, for kernels that need no mask. bias: (H, T + S - 1), what each head adds to the scores of a distance,
    key - query, the least first; None where the mask has it. triangle: it is just "not the future". cos, sin:
    (R or 1, 1, T, W / 2) of rotary positions. slots: (R, T), where in a memory of keys and values the new ones are written.
    documents: (R, T) as in Packed, or None where every row is one without padding; causal: some later place is hidden. These two
    are for bricks that do more than look.
    """

    mask: Tensor | None = None
    triangle: bool = False
    cos: Tensor | None = None
    sin: Tensor | None = None
    slots: Tensor | None = None
    seen: Seen | None = None
    bias: Tensor | None = None
    documents: Tensor | None = None
    causal: bool = False

    @property
    def angles(self) -> tuple[Tensor, Tensor] | None:
        """Cosine and sine, or None where nothing is rotated."""
        return None if self.cos is None or self.sin is None else (self.cos, self.sin)

    def mask_for(self, like: Tensor, queries: int, keys: int) -> Tensor | None:
        """The mask for so many queries and keys, made now where `seen` stands for it."""
        if self.mask is not None or self.seen is None:
            return self.mask
        mask = self.seen.mask(queries, keys, like)
        return mask if self.bias is None else _sum(mask, spread(self.bias, queries, keys).to(like.dtype))

    @staticmethod
    def of(
        packed: Packed, causal: bool, dtype: torch.dtype, window: int | None = None, rotary: RotaryConfig | None = None
    ) -> View:
        """The view of whole rows. `window` is the largest distance seen, to either side."""
        length = packed.tokens.shape[1]
        if window is not None and window >= length - 1:
            window = None
        prefix = packed.prefix if causal else None
        if prefix is not None and prefix.device.type == "cpu" and bool(prefix.all()):
            causal, prefix = False, None                  # nothing is hidden: kernels need no mask for that
        documents = None if packed.whole else packed.documents.contiguous()
        seen = Seen(documents, documents, causal, window)
        like = torch.empty(0, dtype=dtype, device=packed.tokens.device)
        cos, sin = _angles(packed.positions[:1] if packed.whole else packed.positions, rotary, dtype)
        if prefix is not None:                            # `seen` has no words for it: the mask alone says it
            return View(seen.mask(length, length, like, prefix), False, cos, sin, documents=documents, causal=True)
        mask = None if _without_mask(like) else seen.mask(length, length, like)
        triangle = causal and packed.whole and window is None
        return View(mask, triangle, cos, sin, seen=seen, documents=documents, causal=causal)

    def biased(self, bias: Tensor) -> View:
        """The same view with (R or 1, H, T, S) numbers added to the scores, which no kernel of ours takes."""
        return replace(self, mask=_sum(self.mask_for(bias, *bias.shape[2:]), bias), triangle=False, seen=None)

    def biased_by_distance(self, bias: Tensor, dtype: torch.dtype) -> View:
        """The same view of whole rows with the numbers (H, 2T - 1) of their distances added to the scores."""
        if self.mask is None and _without_mask(bias.new_empty(0, dtype=dtype)):
            return replace(self, bias=bias, triangle=False)
        length = (bias.shape[1] + 1) // 2
        return self.biased(spread(bias, length, length).to(dtype))

    @staticmethod
    def across(target: Packed, source: Packed, dtype: torch.dtype) -> View:
        """From the places of a target to those of a source: document n of a row looks at document n of the same row. Padding
        looks where the row's first document does, so that it sees something. Several target rows, side by side, may read one
        source row: their places are then those of one row."""
        if target.whole and source.whole:
            return View(seen=Seen())
        first, documents = source.documents[:, :1], target.documents.reshape(len(source.documents), -1)
        seen = Seen(torch.where(documents > 0, documents, first), source.documents.contiguous())
        like = torch.empty(0, dtype=dtype, device=source.tokens.device)
        return View(None if _without_mask(like) else seen.mask(documents.shape[1], source.tokens.shape[1], like), seen=seen)

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
        return View(_additive(seen, dtype), False, cos, sin, slots, causal=True)


def _without_mask(like: Tensor) -> bool:
    """Whether attention will most likely be our own kernel's; if not, it makes the mask itself."""
    return like.device.type == "cpu" and like.dtype == torch.bfloat16 and library("attention") is not None


def _sum(mask: Tensor | None, bias: Tensor) -> Tensor:
    return bias if mask is None else mask + bias


def _near(query: Tensor, key: Tensor, causal: bool, window: int | None, prefix: Tensor | None = None) -> Tensor:
    distance = query - key
    near = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    near = near if prefix is None else near | prefix[:, None, :]
    return near if window is None else near & (distance.abs() <= window)


def _additive(seen: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if seen is None:
        return None
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, float("-inf"))[:, None]


def _angles(positions: Tensor, rotary: RotaryConfig | None, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if rotary is None else rotary.angles(positions, dtype)
