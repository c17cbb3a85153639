"""Several objectives on one network: every row is dealt to one of them, by weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from yanmo.batch import Piece, Row, to_device
from yanmo.errors import UserError
from yanmo.models.network import Network
from yanmo.objectives.objective import Loss, Objective, Phase
from yanmo.tokenizer import Tokens


@dataclass(frozen=True)
class Part:
    """An objective of a mixture. name: of its first loss, and before the names of the others. weight: rows are dealt in
    proportion."""

    name: str
    weight: float
    objective: Objective


@dataclass(frozen=True)
class MixtureBatch:
    """A batch for each part; None where no row was dealt to it."""

    batches: tuple[Any, ...]
    counts: dict[str, int]

    @property
    def tokens(self) -> int:
        return sum(batch.tokens for batch in self.batches if batch is not None)


class Mixture(Objective):
    """A row goes to one part, by its own randomness; a part may get none of a batch. A part's losses are weighed by its share
    of all rows, whatever share of a batch it got. As the packer does not know to which part a text will go, it takes the
    places of the worst.

    Raises UserError for a part that is a game or has weights outside the network: it needs a run of its own.
    """

    def __init__(self, network: Network, tokens: Tokens, parts: Sequence[Part]):
        super().__init__(network)
        for part in parts:
            _check(part, network)
        self.parts = tuple(parts)                         # no submodules: what they learn is the network's
        weights = np.array([part.weight for part in parts])
        self.shares = weights / weights.sum()
        self.losses_of = [_rehearsed(part.objective, tokens) for part in parts]
        self.names = [
            {name: part.name if number == 0 else f"{part.name}_{name}" for number, name in enumerate(losses)}
            for part, losses in zip(parts, self.losses_of, strict=True)
        ]

    @property
    def mixes_rows(self) -> bool:
        return any(part.objective.mixes_rows for part in self.parts)

    def places(self, tokens: int) -> int:
        return max(part.objective.places(tokens) for part in self.parts)

    def room(self, length: int) -> int:
        return min(part.objective.room(length) for part in self.parts)

    def begin(self, step: int, steps: int) -> None:
        for part in self.parts:
            part.objective.begin(step, steps)

    def collate(self, rows: Sequence[Row], length: int) -> MixtureBatch:
        borders = np.cumsum(self.shares)[:-1]
        dealt: list[list[Row]] = [[] for _ in self.parts]
        for row in rows:
            dealt[int(np.searchsorted(borders, row.rng.random(), side="right"))].append(row)
        batches = tuple(
            part.objective.collate(own, length) if own else None for part, own in zip(self.parts, dealt, strict=True)
        )
        counts = {}
        for names, batch in zip(self.names, batches, strict=True):
            counts |= {full: 0 if batch is None else batch.counts[name] for name, full in names.items()}
        return MixtureBatch(batches, counts)

    def losses(self, batch: MixtureBatch, turn: str) -> dict[str, Loss]:
        return self._together(batch, lambda objective, own: objective.losses(own, turn))

    def forward(self, batch: MixtureBatch, turn: str = "model") -> dict[str, Loss]:
        return self._together(batch, lambda objective, own: objective(own, turn))

    def measure(self, batch: MixtureBatch) -> dict[str, Loss]:
        return self._together(batch, lambda objective, own: objective.measure(own))

    def _together(self, batch: MixtureBatch, learn: Callable[[Objective, Any], dict[str, Loss]]) -> dict[str, Loss]:
        """The losses of all parts, those without a row 0 of 0, and what the network adds by itself over all of them."""
        found: dict[str, Loss] = {}
        nothing = Loss(torch.zeros((), device=self.network.device), 0)
        shares = self.shares.tolist()
        for part, share, weights, names, own in zip(self.parts, shares, self.losses_of, self.names, batch.batches, strict=True):
            made = {} if own is None else learn(part.objective, own)
            for name, weight in weights.items():
                loss = made.pop(name, nothing)
                found[names[name]] = Loss(loss.total, loss.count, weight * share)
            for name, loss in made.items():
                before = found.get(name, nothing)
                found[name] = Loss(before.total + loss.total, before.count + loss.count, loss.weight)
        return found


def named_apart(kinds: Sequence[str]) -> list[str]:
    """A name for each part: its kind, with a number where there are several of a kind."""
    seen = [kinds[:number].count(kind) + 1 for number, kind in enumerate(kinds)]
    return [kind if number == 1 else f"{kind}-{number}" for kind, number in zip(kinds, seen, strict=True)]


def _check(part: Part, network: Network) -> None:
    objective = part.objective
    foreign = {id(own) for own in objective.parameters()} - {id(own) for own in network.parameters()}
    if tuple(objective.phases) != (Phase(),) or foreign or objective.companions():
        raise UserError(
            f"objective.parts: {part.name} trains more than the one network of a mixture, or in turns; "
            "give it a run of its own, or leave it out"
        )


@torch.no_grad()
def _rehearsed(objective: Objective, tokens: Tokens) -> Mapping[str, float]:
    """The names of an objective's losses and their weights, from a short made-up row: they must be the same for every batch,
    on every rank, also where there is no row for it."""
    length = 2 * objective.places(8)
    plain = np.setdiff1d(np.arange(tokens.size), list(tokens.special))
    text = np.resize(plain, 8)
    starts = np.array([0, 4])
    pieces = [Piece(document, part, starts, starts) for document, part in enumerate((text, text[::-1]))]
    batch = objective.collate([Row((pieces[0],), np.random.default_rng(0), lambda rng: pieces[1])], length)
    with torch.random.fork_rng(devices=[]):
        losses = objective.losses(to_device(batch, objective.network.device), "model")
    return {name: losses[name].weight for name in batch.counts if name in losses}
