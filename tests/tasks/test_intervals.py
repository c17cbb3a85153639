"""Intervals over seeds and comparisons of two systems: scipy's figures, and all resamples of a few examples."""

import itertools

import numpy as np
import pytest
from scipy import stats

from yanmo.errors import UserError
from yanmo.tasks.intervals import Comparison, interval, paired_bootstrap, rendered, student


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_students_quantiles_are_scipys(confidence: float) -> None:
    for freedom in [*range(1, 40), 99, 100, 1000]:
        assert student(freedom, confidence) == pytest.approx(stats.t.ppf((1 + confidence) / 2, freedom), rel=1e-9)


def test_intervals_are_scipys() -> None:
    rng = np.random.default_rng(0)
    for many in (2, 3, 5, 10):
        values = rng.normal(0.8, 0.02, many)
        found = interval(values.tolist())
        low, high = stats.t.interval(0.95, many - 1, loc=values.mean(), scale=stats.sem(values))
        assert (found.low, found.mean, found.high) == pytest.approx((low, values.mean(), high), rel=1e-9)


def test_intervals_on_one_line() -> None:
    assert rendered([0.826, 0.831, 0.836], digits=1, scale=100) == "83.1 ± 1.2 (3 seeds)"   # 4.3027 * 0.5 / sqrt(3)
    assert rendered([0.8306], digits=2) == "0.83 (1 seed)"
    assert interval([0.5]).half is None
    assert rendered([2.0, 2.0]) == "2.0 ± 0.0 (2 seeds)"
    with pytest.raises(UserError, match="no seed has finished"):
        interval([])


def test_bootstrap_is_that_of_all_resamples() -> None:
    """Four examples have 256 resamples, which a large number of draws comes close to."""
    first, second = np.array([0.0, 1.0, 0.0, 0.5]), np.array([1.0, 0.5, 0.5, 0.5])
    each = np.array([(second - first)[[*rows]].mean() for rows in itertools.product(range(4), repeat=4)])
    found = paired_bootstrap(first, second, resamples=40_000)
    assert found.difference == pytest.approx(0.25)
    assert found.wins == pytest.approx((each > 0).mean() + (each == 0).mean() / 2, abs=0.01)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(each, [0.025, 0.975])), abs=0.01)


def test_bootstrap_of_means_is_scipys() -> None:
    rng = np.random.default_rng(1)
    first = rng.random(200)
    second = first + rng.normal(0.02, 0.1, 200)
    theirs = stats.bootstrap(
        (second - first,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    ours = paired_bootstrap(first, second, resamples=5000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.0015)
    assert ours == paired_bootstrap(first, second, resamples=5000)
    assert ours != paired_bootstrap(first, second, resamples=5000, seed=1)
    mirrored = paired_bootstrap(second, first, resamples=5000)
    assert (mirrored.low, mirrored.high, mirrored.wins) == pytest.approx((-ours.high, -ours.low, 1 - ours.wins))


def test_bootstrap_of_a_figure_that_is_no_mean() -> None:
    """F1 from found, right and true entities: twice the right ones over all that were found and are there."""

    def f1(sums_RM: np.ndarray, examples: int) -> np.ndarray:
        return 2 * sums_RM[:, 1] / (sums_RM[:, 0] + sums_RM[:, 2])

    first, second = np.tile([2.0, 1.0, 2.0], (30, 1)), np.tile([2.0, 2.0, 2.0], (30, 1))
    assert paired_bootstrap(first, second, f1) == Comparison(0.5, 0.5, 0.5, 1.0)
    assert paired_bootstrap(first, first, f1) == Comparison(0.0, 0.0, 0.0, 0.5)


def test_bootstrap_of_what_cannot_be_compared() -> None:
    with pytest.raises(UserError, match="3 and 2 examples"):
        paired_bootstrap([1, 2, 3], [1, 2])
    with pytest.raises(UserError, match="0 and 0 examples"):
        paired_bootstrap([], [])
