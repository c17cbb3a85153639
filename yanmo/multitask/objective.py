"""Several tasks at once: one network, a head for each task, beside them what a network is pretrained by.

Caruana 1997, "Multitask Learning". Losses and figures have the name of their part before them: `ner/labelling`, `ner/f1`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from yanmo.batch import Row, to_device
from yanmo.errors import UserError
from yanmo.models.network import Network
from yanmo.multitask.order import PartRow
from yanmo.multitask.weighting import PACE, Losses, Uncertainty, Weighting
from yanmo.objectives.objective import Loss, Objective, Phase
from yanmo.objectives.several import Several, SeveralBatch, rehearsed
from yanmo.optim import Apart, blocks_of
from yanmo.tasks import Task

WEIGHT, PENALTY = "weight", "uncertainty"
"""After a part's name: what its loss counts just now, and what is learned of its variance besides."""


class MultiTask(Several):
    """A row goes to the part that it was drawn for. A part's loss is the mean over its own targets of the step, whatever share of
    the rows it has; the weighting says what it counts."""

    steady = False                                        # as its tasks

    def __init__(
        self,
        network: Network,
        parts: Mapping[str, Objective],
        rows: Mapping[str, Sequence[Row]],
        length: int,
        weighting: Weighting,
        weights: Mapping[str, float] | None = None,
        main: str | None = None,
    ):
        """rows: a few of each part. weights: what a part counts besides, whatever the weighting makes of it; 1 if not said. main:
        the task that decides which weights are kept, or all alike. Raises UserError for a part that is a game, or that has
        networks of its own.
        """
        super().__init__(network)
        for name, part in parts.items():
            if tuple(part.phases) != (Phase(),) or part.companions():
                raise UserError(f"together: {name} trains more than one network, or in turns; give it a run of its own")
        self.parts, self.main = tuple(parts), main
        self.objectives = nn.ModuleList(parts.values())  # pyright: ignore[reportAttributeAccessIssue]
        self.weighting = weighting
        given = weights or {}
        self.own = tuple(given.get(name, 1.0) for name in self.parts)
        learn = [(part, rows[name]) for name, part in parts.items()]
        self.weights = [rehearsed(part, some, length, lambda one, batch: one(batch)) for part, some in learn]
        self.names = [{own: f"{name}/{own}" for own in found} for name, found in zip(parts, self.weights, strict=True)]
        reached = Counter(key for part, some in learn for key in _reached(part, some, length))
        named = {id(one): f"network.{name}" for name, one in network.named_parameters() if reached[id(one)] > 1}
        blocks = [{id(parameter) for parameter in block.parameters()} for block in blocks_of(network)]
        self.shared = [frozenset(named.values()), *(frozenset(named[key] for key in block & named.keys()) for block in blocks)]

    @property
    def tasks(self) -> dict[str, Task]:
        """The parts that are tasks, by name."""
        return {name: part for name, part in zip(self.parts, self.objectives, strict=True) if isinstance(part, Task)}

    def places(self, tokens: int) -> int:
        raise AssertionError("every part packs its own rows")

    def narrowest(self, length: int) -> int:
        return min(one.narrowest(length) for one in self.objectives)

    def paces(self) -> Mapping[str, float]:
        return {"weighting.log_variances": PACE} if isinstance(self.weighting, Uncertainty) else {}

    def begin(self, step: int, steps: int) -> None:
        super().begin(step, steps)
        self.weighting.begin(step, steps)

    def collate(self, rows: Sequence[Row], length: int) -> SeveralBatch:
        dealt: list[list[Row]] = [[] for _ in self.parts]
        for row in rows:
            assert isinstance(row, PartRow), "rows of several parts say whose they are"
            dealt[row.part].append(row)
        batch = self.collate_dealt(dealt, length)
        counts = batch.counts | {f"{name}/{WEIGHT}": 1.0 for name in self.parts}
        if isinstance(self.weighting, Uncertainty):
            counts |= {f"{name}/{PENALTY}": batch.counts[self._learned(number)[0]] for number, name in enumerate(self.parts)}
        return replace(batch, counts=counts)

    def counts(self, batch: SeveralBatch) -> dict[str, float]:
        return batch.counts

    def forward(self, batch: SeveralBatch, turn: str = "model") -> dict[str, Loss]:
        found = super().forward(batch, turn)
        for number, (name, weight) in enumerate(zip(self.parts, self.weighting.now(), strict=True)):
            found[f"{name}/{WEIGHT}"] = Loss(torch.tensor(weight * self.own[number], device=self.network.device), 1.0, 0)
            penalty = self.weighting.penalty(number)
            if penalty is not None:
                share = batch.counts[f"{name}/{PENALTY}"]
                found[f"{name}/{PENALTY}"] = Loss(penalty * share, share, self.own[number])
        return found

    def weighed(self, number: int, loss: Loss) -> Loss:
        """Held-out losses count what the recipe says, at all times alike."""
        weighed = self.weighting.weigh(number, loss) if self.training else loss
        return replace(weighed, weight=weighed.weight * self.own[number])

    # Gradients apart, and what is remembered

    def apart(self, turn: str) -> Sequence[Sequence[str]]:
        return [self._learned(number) for number in range(len(self.parts))] if self.weighting.apart else ()

    def join(self, gradients: Apart, means: Mapping[str, float]) -> None:
        gradients.join(self.weighting.factors(gradients, self._losses(means), self.shared, self.own), self.shared[0])

    def took(self, turn: str, means: Mapping[str, float]) -> None:
        self.weighting.took(self._losses(means))

    def _learned(self, number: int) -> list[str]:
        """The names of a part's losses that have a weight."""
        return [self.names[number][own] for own, weight in self.weights[number].items() if weight]

    def _losses(self, means: Mapping[str, float]) -> Losses:
        """Each part's loss by what its parts count in it, None where nothing of it was in the step."""
        found: list[float | None] = []
        for names, weights in zip(self.names, self.weights, strict=True):
            present = [weights[name] * means[full] for name, full in names.items() if weights[name] and full in means]
            found.append(sum(present) if present else None)
        return found

    # Held-out examples

    def check(self, examples: Mapping[str, Sequence[Any]]) -> dict[str, float]:
        """The figures of every task on its own examples, as weights are chosen by them."""
        return {f"{name}/{key}": value for name, task in self.tasks.items() for key, value in task.check(examples[name]).items()}

    def merit(self, found: Mapping[str, float]) -> float:
        """The mean over all tasks, or that of the main one; figures that go up to 100 count as others do."""
        asked = [self.main] if self.main else list(self.tasks)
        return sum(self.merit_of(name, found) for name in asked) / len(asked)

    def merit_of(self, name: str, found: Mapping[str, float]) -> float:
        """A task's own, from figures with its name before them."""
        task = self.tasks[name]
        merit = task.merit({key.removeprefix(f"{name}/"): value for key, value in found.items() if key.startswith(f"{name}/")})
        return merit / 100 if task.deciding in task.hundredths and task.deciding not in task.lower else merit


def _reached(part: Objective, rows: Sequence[Row], length: int) -> set[int]:
    """The ids of the parameters that what a part learns depends on: the leaves of its graph for these rows."""
    with torch.random.fork_rng(devices=[]):
        losses = part(to_device(part.collate(rows, length), part.network.device))
    nodes = [loss.total.grad_fn for loss in losses.values() if loss.weight and loss.total.grad_fn is not None]
    seen, found = set(nodes), set[int]()
    while nodes:
        node = nodes.pop()
        if (leaf := getattr(node, "variable", None)) is not None:
            found.add(id(leaf))
        fresh = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= fresh
        nodes.extend(fresh)
    return found
