"""What a network that continues text remembers of it, so that every token is read once.

Letters: R rows, T new tokens of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from yanmo.batch import Packed


class Cache:
    """`rows` rows of one document each, read from the left, each at its own pace.

    Make the next input with `take`: it knows where every row stands. lengths: (R,), tokens read so far.
    """

    beams: int = 1
    """How many rows, side by side, go on from the same beginning."""

    def __init__(self, rows: int, device: torch.device):
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=device)

    def take(self, tokens: Tensor, counts: Tensor | None = None) -> Packed:
        """(R, T) new tokens as Packed. counts: (R,), how many of a row's tokens are real, from the left; default all."""
        length = tokens.shape[1]
        place = torch.arange(length, device=tokens.device)[None]
        real = torch.ones_like(tokens) if counts is None else (place < counts[:, None]).long()
        return Packed(tokens, real, self.lengths[:, None] + place)

    def advance(self, packed: Packed) -> None:
        """Count the real tokens of `packed`, which have been read."""
        self.lengths = self.lengths + (packed.documents > 0).sum(1)

    def keep(self, rows: Tensor) -> None:
        """Take all but some rows (numbers) out. A copy of the cache that was made before stays as it is."""
        self.take_rows(rows)

    def fork(self, beams: int) -> None:
        """Let so many rows, side by side, go on from each row's beginning."""
        assert self.beams == 1, "a beginning is forked once"
        self.take_rows(torch.arange(len(self.lengths), device=self.lengths.device).repeat_interleave(beams))
        self.beams = beams

    def reorder(self, origins: Tensor) -> None:
        """Let every row be what row origins[row] was until now; there may be fewer than before. After `fork`, the rows of a
        beginning stay side by side. Works in place where that is faster, so that most rows should stay where they are."""
        self.take_rows(origins)

    def take_rows(self, rows: Tensor) -> None:
        """Be copies of the rows of these numbers; what belongs to a beginning and not to a row stays as it is."""
        self.lengths = self.lengths[rows]
