"""The contract of an objective: what is learned, on which network, from which batches.

An objective owns its network. It says how many places a piece takes in a row, makes batches from rows (on the CPU, in
workers, knowing token ids only), and turns a batch into losses that are sums with counts: the trainer divides once, by
the counts of the whole step over all ranks.
Letters: N places that have a target, D width, V vocabulary.
"""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from yanmo.batch import Batch, Row
from yanmo.layers import experts_of
from yanmo.models.network import Network
from yanmo.optim import Apart


@dataclass(frozen=True)
class Loss:
    """A sum over targets, in nats, and how many targets there were (or what they weigh together).

    weight scales the mean in the trained total; a Loss of weight 0 (an accuracy) is measured and not learned. What is only
    measured may find its count on the way: a scalar tensor, which then stands for that of the batch.
    """

    total: Tensor
    count: float | Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Phase:
    """A part of a run. begins: at which share of the steps. turns: who moves in each step, in this order; a player may move
    several times, or not at all. pace: what the learning rate is multiplied by; its schedule runs once over every phase."""

    begins: float = 0.0
    turns: Sequence[str] = ("model",)
    pace: float = 1.0


@dataclass(frozen=True)
class Moment:
    """Where a step stands: in which phase, the number of that, at which step of how many in it."""

    phase: Phase
    number: int
    step: int
    steps: int


class Objective(nn.Module, ABC):
    """What is learned. Most objectives have one phase and one player, "model"; in a game several take turns, each with its own
    losses."""

    phases: Sequence[Phase] = (Phase(),)
    """What a run is made of, in order; the first begins at 0."""
    keeps: Literal["best", "last"] = "best"
    """Which weights are kept: those with the lowest `merit`, or, where no figure says how good they are, the last."""
    squares: bool = False
    """Whether its loss is the square of a difference, and no log-probability."""
    steady: bool = True
    """Whether its steps are alike, so that one whose loss or gradient is far from the usual must be a fault."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    @property
    def mixes_rows(self) -> bool:
        """Whether what is learned from a row depends on the others of its micro-batch; then their number changes more than the
        rounding. Experts that are chosen within a text do not."""
        return any(part.config.router != "expert-choice" for part in experts_of(self.network))

    def moment(self, step: int, steps: int) -> Moment:
        """Where a step of a run of `steps` stands. A phase for which there are too few steps has none."""
        begins = [round(phase.begins * steps) for phase in self.phases]
        number = max(bisect.bisect_right(begins, step) - 1, 0)
        end = next((begin for begin in begins if begin > step), steps)
        return Moment(self.phases[number], number, step - begins[number], end - begins[number])

    def players(self) -> dict[str, nn.Module]:
        """The parts that are moved in turn, by name; together they have every parameter, and none has another's."""
        return {"model": self}

    def paces(self) -> Mapping[str, float]:
        """What the learning rate of a parameter is multiplied by, by its name here; 1 where nothing is said."""
        return {}

    def begin(self, step: int, steps: int) -> None:
        """Told before every step: what changes on the way (a weight that rises) is a function of these two, the step's place in
        the schedule: where a budget in minutes is decided again, places come twice or are left out."""

    def apart(self, turn: str) -> Sequence[Sequence[str]]:
        """Groups of losses whose gradients are made one by one and given to `join`; together they have all that are learned, and
        losses of two groups come from forward passes of their own. Mostly none: all losses have one gradient."""
        return ()

    def join(self, gradients: Apart, means: Mapping[str, float]) -> None:
        """Make one gradient of those of the groups of `apart`: a function of them, of the mean losses and of buffers. These stay
        as they are, since the step may be refused."""
        raise AssertionError("what wants gradients apart joins them")

    def took(self, turn: str, means: Mapping[str, float]) -> None:
        """Told after every step that was taken: its mean losses, the same on every rank. What is remembered of them is in
        buffers, which checkpoints keep."""

    def room(self, length: int) -> int:
        """The most tokens of text that a piece may have, to fit into a row of `length` places; below 0 where none fits."""
        return bisect.bisect_right(range(2 * length), length, key=self.places) - 1

    @abstractmethod
    def places(self, tokens: int) -> int:
        """How many places of a row a piece of so many tokens takes, special tokens included: never fewer for more tokens,
        and more than half as many as tokens. What varies is bounded; where one text becomes two, it is the longer."""

    def narrowest(self, length: int) -> int:
        """Tokens of the shortest text that is read by itself in a row of `length` places: all, or one side of two."""
        return length

    @abstractmethod
    def collate(self, rows: Sequence[Row], length: int) -> Any:
        """A batch (see yanmo.batch.Batch) of `len(rows)` rows with `length` places each."""

    def companions(self) -> dict[str, Network]:
        """Networks that were trained along and are kept in folders of these names inside the model's."""
        return {}

    def adopt(self, name: str, network: Network) -> None:
        """Go on with a companion that was kept, in place of a new one. Raises UserError where it does not fit."""
        raise AssertionError(f"{name}: an objective that names companions adopts them")

    @abstractmethod
    def losses(self, batch: Any, turn: str) -> dict[str, Loss]:
        """A turn's losses of one batch, by name: names and counts are among those of `batch.counts`."""

    def forward(self, batch: Any, turn: str = "model") -> dict[str, Loss]:
        """The losses, and those that the network adds by itself; names and counts are among those of `counts`."""
        found, tokens = self.losses(batch, turn), batch.tokens
        own = self.network.regularise() if self.network.regularisers else {}
        return found | {name: Loss(mean * tokens, tokens, self.network.regularisers[name]) for name, mean in own.items()}

    def counts(self, batch: Any) -> dict[str, float]:
        """How many targets each loss has in a batch."""
        return batch.counts | dict.fromkeys(self.network.regularisers, batch.tokens)

    def observe(self, batch: Any) -> tuple[dict[str, Loss], Tensor | None]:
        """What `measure` finds in a held-out batch, and what figures that are no sums are made of, for each of its texts: (texts,
        numbers); most have none."""
        return self.measure(batch), None

    def summarise(self, observed: Tensor, means: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
        """Figures of all texts that were observed, whose mean losses are `means`, and sentences for the user."""
        raise AssertionError("what observes also summarises")

    def merit(self, found: Mapping[str, float]) -> float:
        """How bad the weights are by the figures of a validation: those for which it is lowest are kept."""
        return found["loss"]

    def measure(self, batch: Any) -> dict[str, Loss]:
        """The losses of a held-out batch; the sum of those that have a weight decides which weights are kept."""
        return self(batch, self.phases[-1].turns[-1])


__all__ = ["Batch", "Loss", "Moment", "Objective", "Phase"]
