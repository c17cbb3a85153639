"""The contract of an objective: what is learned, on which network, from which batches.

An objective owns its network. It says how many places a piece takes in a row, makes batches from rows (on the CPU, in
workers, knowing token ids only), and turns a batch into losses that are sums with counts: the trainer divides once, by
the counts of the whole step over all ranks.
Letters: N places that have a target, D width, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from yanmo.batch import Batch, Row
from yanmo.models.network import Network


@dataclass(frozen=True)
class Loss:
    """A sum over targets, in nats, and how many targets there were.

    weight scales the mean in the trained total; a Loss of weight 0 (an accuracy) is measured and not learned.
    """

    total: Tensor
    count: int
    weight: float = 1.0


class Objective(nn.Module, ABC):
    """What is learned. `turns` names the players of a game, for objectives that train more than one network in turn."""

    turns: tuple[str, ...] = ("model",)

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def room(self, length: int) -> int:
        """The most tokens of text that a piece may have, to fit into a row of `length` places."""
        return length - self.places(0)

    @abstractmethod
    def places(self, tokens: int) -> int:
        """How many places of a row a piece of so many tokens takes, special tokens included."""

    @abstractmethod
    def collate(self, rows: Sequence[Row], length: int) -> Any:
        """A batch (see yanmo.batch.Batch) of `len(rows)` rows with `length` places each."""

    @abstractmethod
    def forward(self, batch: Any, turn: str = "model") -> dict[str, Loss]:
        """The losses of one batch, by name. The names and counts are those of `batch.counts`."""


__all__ = ["Batch", "Loss", "Objective"]
