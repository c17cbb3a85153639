"""A budget in minutes as steps, by what steps take: measured before training, and again on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

from yanmo import recipe
from yanmo.checkpoint import State
from yanmo.objectives.objective import Phase

MEASURED_STEPS, MEASURED_SHARE = 8, 0.05
"""A budget is turned into steps by measuring this many of each phase, or what fits into this share of it, but four."""
AGAIN, TAKEN = (0.1, 0.4, 0.8), 4096
"""Shares of a budget after which the steps are decided again, by the mean of so many at most since the last time."""
VALIDATING_SHARE = 0.2
"""Of a budget, the most that validations and their checkpoints may take, unless the recipe says how often they are."""


class Budget:
    """How many steps there is time for. pause: the seconds that a validation and its checkpoint took last; None after a run has
    gone on, until there has been one."""

    def __init__(self, training: recipe.Training, phases: Sequence[Phase]):
        self.training, self.phases = training, phases
        self.pause: float | None = None
        self._taken, self._number = deque[float](maxlen=TAKEN), 0

    @property
    def seconds(self) -> float:
        assert self.training.minutes is not None, "only minutes are measured"
        return 60 * self.training.minutes

    def took(self, seconds: float, number: int) -> None:
        """Told of every step, and in which phase it was."""
        if number != self._number:
            self._taken.clear()
        self._taken.append(seconds)
        self._number = number

    def steps(self, left: float, state: State, step: float, pause: float) -> int:
        """How many steps fit into `left` seconds, beside their share of all the run's validations, but one at least."""
        if self.training.validate_every is not None:
            return max(1, int(left / (step + pause / self.training.validate_every)))
        pauses = state.validations * pause * left / self.seconds
        return max(1, int((left - min(pauses, VALIDATING_SHARE * left)) / step))

    def again(self, state: State, gone: float) -> int | None:
        """How many steps there are in all, by what they have taken lately; None where it is not time to decide that, or not
        known. gone: seconds since the run began."""
        times = len(state.plan) - 2
        if self.training.minutes is None or times == len(AGAIN) or state.step == state.steps:
            return None
        place, planned = state.place()
        if max(gone / self.seconds, place / planned) < AGAIN[times]:
            return None
        if len(self._taken) < MEASURED_STEPS or self.pause is None:
            return None
        slower = fmean(self._taken) / state.costs[self._number]
        step = slower * mean_cost(self.phases, state.costs, place / planned)
        self._taken.clear()
        return state.step + self.steps(self.seconds - gone, state, step, self.pause)


def mean_cost(phases: Sequence[Phase], costs: Sequence[float], done: float = 0.0) -> float:
    """What a step costs on average over what is left of a schedule after the share `done`. costs: of a step of each phase."""
    begins = [*(phase.begins for phase in phases), 1.0]
    left = [max(0.0, end - max(begin, done)) for begin, end in pairwise(begins)]
    return sum(cost * share for cost, share in zip(costs, left, strict=True)) / sum(left)
