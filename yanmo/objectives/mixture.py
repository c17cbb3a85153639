"""Several objectives on one network: every row is dealt to one of them, by weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from yanmo.batch import Piece, Row
from yanmo.errors import UserError
from yanmo.models.network import Network
from yanmo.objectives.objective import Loss, Objective, Phase
from yanmo.objectives.several import Several, SeveralBatch, rehearsed
from yanmo.tokenizer import Tokens


@dataclass(frozen=True)
class Part:
    """An objective of a mixture. name: of its first loss, and before the names of the others. weight: rows are dealt in
    proportion."""

    name: str
    weight: float
    objective: Objective


class Mixture(Several):
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
        self.objectives = tuple(part.objective for part in parts)
        self.weights = [_rehearsed(part.objective, tokens) for part in parts]
        self.names = [
            {name: part.name if number == 0 else f"{part.name}_{name}" for number, name in enumerate(losses)}
            for part, losses in zip(parts, self.weights, strict=True)
        ]

    def places(self, tokens: int) -> int:
        return max(part.objective.places(tokens) for part in self.parts)

    def room(self, length: int) -> int:
        return min(part.objective.room(length) for part in self.parts)

    def weighed(self, number: int, loss: Loss) -> Loss:
        return replace(loss, weight=loss.weight * float(self.shares[number]))

    def collate(self, rows: Sequence[Row], length: int) -> SeveralBatch:
        borders = np.cumsum(self.shares)[:-1]
        dealt: list[list[Row]] = [[] for _ in self.parts]
        for row in rows:
            dealt[int(np.searchsorted(borders, row.rng.random(), side="right"))].append(row)
        return self.collate_dealt(dealt, length)


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


def _rehearsed(objective: Objective, tokens: Tokens) -> dict[str, float]:
    """The names of an objective's losses and their weights, from a short made-up row."""
    length = 2 * objective.places(8)
    plain = np.setdiff1d(np.arange(tokens.size), list(tokens.special))
    text = np.resize(plain, 8)
    starts = np.array([0, 4])
    pieces = [Piece(document, part, starts, starts) for document, part in enumerate((text, text[::-1]))]
    row = Row((pieces[0],), np.random.default_rng(0), lambda rng: pieces[1])
    return rehearsed(objective, [row], length, lambda one, batch: one.losses(batch, "model"))
