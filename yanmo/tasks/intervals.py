"""How sure a figure is: its 95% interval over seeds, and whether one system is better than another on the same examples.

Student's t: with whole degrees of freedom its distribution function is a finite sum (Abramowitz and Stegun 1964, 26.7.3, 26.7.4).
Paired bootstrap: Koehn 2004, "Statistical significance tests for machine translation evaluation".
Letters: N examples, M sums that a figure is made of, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from yanmo.errors import UserError

CONFIDENCE = 0.95
AT_ONCE = 1 << 22
"""Numbers drawn together: bounds the memory."""


@dataclass(frozen=True)
class Interval:
    """The mean over seeds, and how far the 95% interval of the true mean reaches to both sides; None for a single seed, of which
    nothing is known. It takes the seeds' figures for normally distributed."""

    mean: float
    half: float | None
    seeds: int

    @property
    def low(self) -> float:
        return self.mean - (self.half or 0.0)

    @property
    def high(self) -> float:
        return self.mean + (self.half or 0.0)


def interval(values: Sequence[float]) -> Interval:
    """Of a figure's values, one for each seed. Raises UserError where there is none."""
    if not len(values):
        raise UserError("no seed has finished: there is no figure to take the mean of")
    mean, many = math.fsum(values) / len(values), len(values)
    if many == 1:
        return Interval(mean, None, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (many - 1))
    return Interval(mean, student(many - 1) * deviation / math.sqrt(many), many)


def rendered(values: Sequence[float], digits: int = 1, scale: float = 1.0) -> str:
    """Values of a figure, one for each seed, times `scale`, on one line: "83.1 ± 0.9 (3 seeds)". Raises UserError for none."""
    found = interval(values)
    spread = "" if found.half is None else f" ± {found.half * scale:.{digits}f}"
    return f"{found.mean * scale:.{digits}f}{spread} ({found.seeds} seed{'s' * (found.seeds > 1)})"


def student(freedom: int, confidence: float = CONFIDENCE) -> float:
    """How many standard errors an interval of this confidence reaches to each side, with so many degrees of freedom."""
    assert freedom > 0, "a deviation is known from two values on"
    low, high = 0.0, math.pi / 2                                          # the angle whose tangent is t over the root of freedom
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return math.tan(high) * math.sqrt(freedom)


def _within(angle: float, freedom: int) -> float:
    """The chance that Student's t lies between -t and t, where t is tan(angle) times the root of freedom."""
    sine, cosine = math.sin(angle), math.cos(angle)
    term = cosine if freedom % 2 else 1.0
    total = 0.0
    for place in range(1 + freedom % 2, freedom, 2):
        total += term
        term *= cosine * cosine * place / (place + 1)
    return 2 / math.pi * (angle + sine * total) if freedom % 2 else sine * total


@dataclass(frozen=True)
class Comparison:
    """Of two systems on the same examples. difference: the second's figure less the first's; low, high: its 95% interval, as
    percentiles of the resamples. wins: the share of resamples in which the second is better, a draw counting half."""

    difference: float
    low: float
    high: float
    wins: float


def mean_of(sums_RM: np.ndarray, examples: int) -> np.ndarray:
    """(R,) the mean over examples of the first sum."""
    return sums_RM[:, 0] / examples


def paired_bootstrap(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    figure: Callable[[np.ndarray, int], np.ndarray] = mean_of,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Whether the second system is better than the first, or only luckier with the examples that it was measured on.

    first, second: (N,) each example's score, or (N, M) what it adds to the sums that the figure is made of (found, right and true
    entities for F1). figure: from sums (R, M) of N examples to (R,) figures, higher being better. Raises UserError where
    there are no examples, or not the same number of both.
    """
    if len(first) != len(second) or not len(first):
        raise UserError(f"{len(first)} and {len(second)} examples: two systems are compared on the same ones, one by one")
    one_NM, two_NM = (np.asarray(scores, np.float64).reshape(len(scores), -1) for scores in (first, second))
    many, rng = len(one_NM), np.random.default_rng(seed)
    differences = []
    for begin in range(0, resamples, max(AT_ONCE // many, 1)):
        drawn = rng.integers(many, size=(min(max(AT_ONCE // many, 1), resamples - begin), many))
        times_RN = np.stack([np.bincount(row, minlength=many) for row in drawn]).astype(np.float64)
        differences.append(figure(times_RN @ two_NM, many) - figure(times_RN @ one_NM, many))
    differences = np.concatenate(differences)
    whole = figure(two_NM.sum(0, keepdims=True), many) - figure(one_NM.sum(0, keepdims=True), many)
    low, high = np.quantile(differences, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    wins = (differences > 0).mean() + (differences == 0).mean() / 2
    return Comparison(float(whole[0]), float(low), float(high), float(wins))
