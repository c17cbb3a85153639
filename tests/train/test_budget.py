"""Steps that a budget in minutes has room for, where steps do not all cost the same."""

import pytest

from yanmo.budget import MEASURED_STEPS, Budget, mean_cost
from yanmo.checkpoint import State
from yanmo.objectives.objective import Phase
from yanmo.recipe import Training

PHASES = (Phase(0.0), Phase(0.8))


@pytest.mark.parametrize(("done", "cost"), [(0.0, 0.8 * 1 + 0.2 * 11), (0.4, (0.4 * 1 + 0.2 * 11) / 0.6), (0.9, 11.0)])
def test_the_average_step_of_what_is_left(done, cost):
    assert mean_cost(PHASES, (1.0, 11.0), done) == pytest.approx(cost)


def play(minutes, costs, slower):
    """A run whose steps take `slower(step)` times what was measured: the seconds that it takes."""
    budget, state = Budget(Training(minutes=minutes), PHASES), State(costs=list(costs), validations=1)
    state.decide(budget.steps(60 * minutes, state, mean_cost(PHASES, costs), pause=0.0))
    budget.pause, gone = 0.0, 0.0
    while state.step < state.steps:
        place, planned = state.place()
        number = int(place >= round(0.8 * planned))
        seconds = costs[number] * slower(state.step)
        gone += seconds
        budget.took(seconds, number)
        state.step += 1
        again = budget.again(state, gone)
        if again is not None:
            state.decide(again)
    return gone


@pytest.mark.parametrize("slower", [lambda step: 1.0, lambda step: 2.0, lambda step: 0.6, lambda step: 3.0 if step < 20 else 1.0])
def test_a_game_whose_moves_cost_more_keeps_its_minutes(slower):
    assert play(10, (0.5, 4.0), slower) == pytest.approx(600, rel=0.06)


def test_too_few_steps_decide_nothing():
    budget, state = Budget(Training(minutes=1), PHASES), State(costs=[1.0, 1.0])
    state.decide(10)
    budget.pause, state.step = 0.0, 9
    for _ in range(MEASURED_STEPS - 1):
        budget.took(1.0, 0)
    assert budget.again(state, 59.0) is None
    budget.took(1.0, 0)
    assert budget.again(state, 59.0) is not None
