"""The order of rows of several tasks: each has its share of every stretch of them, as even as whole rows go.

By size, evenly, or in between: Raffel et al. 2020, arXiv:1910.10683, section 3.5.2 ("temperature-scaled mixing").
Letters: K parts, B rows of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yanmo.batch import Row
from yanmo.feed import Rows

LARGEST_BLOCK = 4096
"""Rows after which the shares are exact, or an epoch where that is shorter."""


@dataclass(frozen=True)
class PartRow(Row):
    """A row, and the number of the part whose it is."""

    part: int = 0


class MixedOrder:
    """Row n is a function of (seed, n): blocks of rows in which each part has its exact share (by the largest remainders, and at
    least one row), spread evenly from a random start. So which row of which part it is needs nothing but n."""

    def __init__(self, orders: Sequence[Rows], shares: Sequence[float], rows_per_epoch: int, seed: int):
        """shares: of the rows, adding up to 1. rows_per_epoch: what is called an epoch; each part has its own besides."""
        assert len(orders) == len(shares), "each part has a share"
        self.orders, self.seed = tuple(orders), seed
        self.rows_per_epoch = max(rows_per_epoch, len(orders))
        self.counts = apportioned(shares, min(self.rows_per_epoch, LARGEST_BLOCK))
        self.block = int(self.counts.sum())
        places = [order.places_per_epoch / order.rows_per_epoch for order in orders]
        self.places_per_epoch = round(float(self.counts @ np.array(places)) / self.block * self.rows_per_epoch)
        self._dealt: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def row(self, number: int) -> PartRow:
        """Row `number` of the endless sequence of blocks."""
        part, own = self.place(number)
        row = self.orders[part].row(own)
        return PartRow(row.pieces, row.rng, row.other, part)

    def place(self, number: int) -> tuple[int, int]:
        """Whose a row is, and which of its part's."""
        block, index = divmod(number, self.block)
        parts, ranks = self._deal(block)
        part = int(parts[index])
        return part, int(block * self.counts[part] + ranks[index])

    def _deal(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """The part of each row of a block, (B,), and how many of the part's there are before it in the block."""
        if block not in self._dealt:
            rng = np.random.Generator(np.random.Philox(key=[self.seed % 2**64, block % 2**64]))
            starts = rng.random(len(self.counts))
            when = [(np.arange(count) + start) / count for count, start in zip(self.counts, starts, strict=True)]
            parts = np.repeat(np.arange(len(self.counts)), self.counts)
            ranks = np.concatenate([np.arange(count) for count in self.counts])
            order = np.argsort(np.concatenate(when), kind="stable")
            while len(self._dealt) > 1:
                del self._dealt[next(iter(self._dealt))]
            self._dealt[block] = parts[order], ranks[order]
        return self._dealt[block]


def apportioned(shares: Sequence[float], seats: int) -> np.ndarray:
    """So many seats by shares, (K,) whole numbers: the largest remainders are rounded up, and nobody has none."""
    assert seats >= len(shares), "there is a seat for everybody"
    wanted = np.asarray(shares, dtype=np.float64) / float(np.sum(shares)) * seats
    counts = np.floor(wanted).astype(np.int64)
    last = np.argsort(counts - wanted, kind="stable")
    counts[last[: seats - int(counts.sum())]] += 1
    while (counts == 0).any():
        counts[counts.argmax()] -= 1
        counts[counts.argmin()] += 1
    return counts


def shares_of(sizes: Sequence[int], sampling: str, temperature: float) -> list[float]:
    """Each part's share of the rows, from how many rows its examples fill: by `size`, `even`, or by size**(1/temperature)."""
    power = {"size": 1.0, "even": 0.0, "temperature": 1 / temperature}[sampling]
    found = np.asarray(sizes, dtype=np.float64) ** power
    return (found / found.sum()).tolist()
