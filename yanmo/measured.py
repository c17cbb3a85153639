"""What a step or a validation found: sums and counts of losses, added up over micro-batches, ranks and turns, divided
once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from yanmo.objectives.objective import Loss


@dataclass(frozen=True)
class Measured:
    """Over all ranks: mean losses by name, and `loss`, their weighted sum.

    targets: whether there was anything to learn. stop: whether a rank was asked to stop. without: losses that are learned and had
    no targets.
    """

    means: dict[str, float]
    loss: float
    tokens: int
    targets: bool
    stop: bool = False
    without: tuple[str, ...] = ()

    def with_(self, turn: Measured) -> Measured:
        """This and what another player's turn on the same batches found."""
        ends = self.targets or turn.targets, self.stop or turn.stop
        return Measured(self.means | turn.means, self.loss + turn.loss, turn.tokens, *ends)


def totals_of(losses: Mapping[str, Loss], names: Sequence[str]) -> Tensor:
    """Each name's sum and count, (2, names), 0 for those that are not of this turn."""
    nothing = next(iter(losses.values())).total.new_zeros((), dtype=torch.float32)
    sums = [losses[name].total.detach().float() if name in losses else nothing for name in names]
    counts = [nothing + losses[name].count if name in losses else nothing for name in names]
    return torch.stack((torch.stack(sums), torch.stack(counts)))


def measured(
    names: Sequence[str], found: Sequence[float], weights: Mapping[str, float], tokens: int, stop: bool = False
) -> Measured:
    """Means of losses, from all sums and then all counts; one without targets has none."""
    totals = zip(names, found[: len(names)], found[len(names) :], strict=True)
    means = {name: total / count for name, total, count in totals if name in weights and count}
    loss = sum(weights[name] * mean for name, mean in means.items() if weights[name])
    without = tuple(name for name in names if weights.get(name) and name not in means)
    return Measured(means, loss, tokens, any(weights[name] for name in means), stop, without)
