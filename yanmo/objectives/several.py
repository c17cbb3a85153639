"""Several objectives on one network: each row is dealt to one of them, and their losses go by one set of names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from yanmo.batch import Row, to_device
from yanmo.models.network import Network
from yanmo.objectives.objective import Loss, Objective

Learn = Callable[[Objective, Any], dict[str, Loss]]


@dataclass(frozen=True)
class SeveralBatch:
    """A batch for each objective; None where no row was dealt to it."""

    batches: tuple[Any, ...]
    counts: dict[str, float]

    @property
    def tokens(self) -> int:
        return sum(batch.tokens for batch in self.batches if batch is not None)


class Several(Objective):
    """objectives: in order. names: of each, what its own losses are called here. weights: of each, by their own names, for
    batches in which it has no row: names and weights are the same on every rank, whatever rows there are."""

    def __init__(self, network: Network):
        super().__init__(network)
        self.objectives: Sequence[Objective] = ()
        self.names: Sequence[Mapping[str, str]] = ()
        self.weights: Sequence[Mapping[str, float]] = ()

    @property
    def mixes_rows(self) -> bool:
        return any(one.mixes_rows for one in self.objectives)

    def begin(self, step: int, steps: int) -> None:
        for one in self.objectives:
            one.begin(step, steps)

    def weighed(self, number: int, loss: Loss) -> Loss:
        """A loss of an objective as it counts among those of the others."""
        return loss

    def collate_dealt(self, dealt: Sequence[Sequence[Row]], length: int) -> SeveralBatch:
        """The batch of rows that were dealt, some to each objective."""
        pairs = zip(self.objectives, dealt, strict=True)
        batches = tuple(one.collate(own, length) if own else None for one, own in pairs)
        counts: dict[str, float] = {}
        for one, names, batch in zip(self.objectives, self.names, batches, strict=True):
            own = {} if batch is None else one.counts(batch)
            counts |= {full: own.get(name, 0) for name, full in names.items()}
        return SeveralBatch(batches, counts)

    def losses(self, batch: SeveralBatch, turn: str) -> dict[str, Loss]:
        return self.together(batch, lambda objective, own: objective.losses(own, turn))

    def forward(self, batch: SeveralBatch, turn: str = "model") -> dict[str, Loss]:
        return self.together(batch, lambda objective, own: objective(own, turn))

    def measure(self, batch: SeveralBatch) -> dict[str, Loss]:
        return self.together(batch, lambda objective, own: objective.measure(own))

    def together(self, batch: SeveralBatch, learn: Learn) -> dict[str, Loss]:
        """The losses of all, those without a row 0 of 0; what has no name here is the network's own, and added up over all."""
        found: dict[str, Loss] = {}
        nothing = Loss(torch.zeros((), device=self.network.device), 0)
        parts = zip(self.objectives, self.names, self.weights, batch.batches, strict=True)
        for number, (objective, names, weights, own) in enumerate(parts):
            made = {} if own is None else learn(objective, own)
            for name, full in names.items():
                found[full] = self.weighed(number, made.pop(name, replace(nothing, weight=weights[name])))
            for name, loss in made.items():
                before = found.get(name, nothing)
                found[name] = Loss(before.total + loss.total, before.count + loss.count, loss.weight)
        return found


@torch.no_grad()
def rehearsed(objective: Objective, rows: Sequence[Row], length: int, learn: Learn) -> dict[str, float]:
    """The names of what an objective learns and their weights, from a few rows: they must be the same for every batch, on every
    rank, also where there is no row for it."""
    batch = objective.collate(rows, length)
    with torch.random.fork_rng(devices=[]):
        losses = learn(objective, to_device(batch, objective.network.device))
    return {name: losses[name].weight for name in objective.counts(batch) if name in losses}
