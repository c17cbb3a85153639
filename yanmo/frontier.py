"""Quality against diversity: a generator's texts at several temperatures, and whether an adversarial generator is any better
than the maximum-likelihood one at another temperature.

Caccia et al. 2020, arXiv:1811.02549, section 4: one pair of figures says nothing, as every generator trades quality for diversity
when its temperature is changed; generators are compared by their curves. Quality is BLEU against real texts, diversity
Self-BLEU, both of as many texts for every generator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import mean
from typing import Any, Literal

from yanmo.bleu import ORDERS, each_bleu, self_bleu, words
from yanmo.errors import UserError
from yanmo.generation import generate
from yanmo.models import Network
from yanmo.progress import Progress, silent
from yanmo.tokenizer import Tokens

TEMPERATURES = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
SURE = 2.0
"""Standard errors by which an adversarial generator must lie above the curve to be called better."""
BY_ORDER = ("bleu", "self_bleu", "error")

Outcome = Literal["better", "not better", "not comparable"]


@dataclass(frozen=True)
class Point:
    """What a generator writes at one temperature. bleu, self_bleu: by order. error: the standard error of each bleu. texts: how
    many were written. words: of a text, their mean number."""

    temperature: float
    bleu: dict[int, float]
    self_bleu: dict[int, float]
    error: dict[int, float]
    texts: int
    words: float

    def to_json(self) -> dict[str, Any]:
        tree = asdict(self)
        return tree | {name: {str(order): value for order, value in tree[name].items()} for name in BY_ORDER}

    @staticmethod
    def from_json(tree: Mapping[str, Any]) -> Point:
        by_order = {name: {int(order): value for order, value in tree[name].items()} for name in BY_ORDER}
        return Point(**{**tree, **by_order})


@dataclass(frozen=True)
class Difference:
    """BLEU of one order less the other generator's at the same Self-BLEU: gain, the mean over the temperatures at which the
    other's curve comes by (compared), None where it never does; error: the standard error of one difference."""

    order: int
    gain: float | None = None
    error: float | None = None
    compared: tuple[float, ...] = ()

    @property
    def sure(self) -> bool:
        return self.gain is not None and self.error is not None and self.gain > SURE * self.error

    def __str__(self) -> str:
        return "–" if self.gain is None else f"{self.gain:+.3f} (standard error {self.error:.3f})"


@dataclass(frozen=True)
class Verdict:
    """Whether the adversarial generator's texts are better than equally diverse ones of the maximum-likelihood generator, in a
    sentence, and by how much at each order."""

    outcome: Outcome
    sentence: str
    differences: tuple[Difference, ...]

    def to_json(self) -> dict[str, Any]:
        differences = [{**asdict(one), "compared": list(one.compared)} for one in self.differences]
        return {"outcome": self.outcome, "sentence": self.sentence, "differences": differences}


@dataclass(frozen=True)
class Frontiers:
    """Both generators' curves, and what follows."""

    likelihood: tuple[Point, ...]
    adversarial: tuple[Point, ...]
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        return {
            "likelihood": [point.to_json() for point in self.likelihood],
            "adversarial": [point.to_json() for point in self.adversarial],
            "verdict": self.verdict.to_json(),
        }


def frontier(
    network: Network,
    tokens: Tokens,
    references: Sequence[str],
    temperatures: Sequence[float] = TEMPERATURES,
    count: int | None = None,
    seed: int = 0,
    max_new_tokens: int = 64,
    progress: Progress = silent,
) -> tuple[Point, ...]:
    """BLEU-2 to BLEU-5 against the references, and Self-BLEU, of `count` texts written from nothing at each temperature, by
    default as many as there are references, and two at least. Raises UserError for a network that does not continue text."""
    count = max(2, len(references)) if count is None else count
    known, points = [words(text) for text in references], list[Point]()
    for temperature in temperatures:
        texts = sampled(network, tokens, count, temperature, seed, max_new_tokens)
        points.append(point_of(texts, known, temperature))
        progress(len(points) * count, len(temperatures) * count, "texts")
    return tuple(points)


def sampled(
    network: Network, tokens: Tokens, count: int, temperature: float, seed: int = 0, max_new_tokens: int = 64
) -> list[list[str]]:
    """Texts written from nothing, as words."""
    written = generate(network, tokens, [""] * count, temperature=temperature, seed=seed, max_new_tokens=max_new_tokens)
    return [words(one.text) for one in written]


def point_of(texts: Sequence[Sequence[str]], references: Sequence[Sequence[str]], temperature: float) -> Point:
    """The figures of texts and references that are words."""
    scores = each_bleu(texts, references, ORDERS)
    means = {order: float(each.mean()) for order, each in scores.items()}
    errors = {order: float(each.std()) / len(texts) ** 0.5 for order, each in scores.items()}
    return Point(temperature, means, self_bleu(texts, ORDERS), errors, len(texts), mean(map(len, texts)))


def frontiers(
    adversarial: Network,
    likelihood: Network,
    tokens: Tokens,
    references: Sequence[str],
    *,
    temperatures: Sequence[float] = TEMPERATURES,
    seed: int = 0,
    max_new_tokens: int = 64,
    progress: Progress = silent,
) -> Frontiers:
    """Both generators' curves, each of as many texts as there are references, and the verdict."""
    curves = [
        frontier(network, tokens, references, temperatures, None, seed, max_new_tokens, progress)
        for network in (likelihood, adversarial)
    ]
    return Frontiers(curves[0], curves[1], verdict(curves[1], curves[0]))


def verdict(adversarial: Sequence[Point], likelihood: Sequence[Point], orders: Sequence[int] = ORDERS) -> Verdict:
    """Compare both at equal Self-BLEU: each adversarial point with the maximum-likelihood curve, a line between neighbouring
    temperatures, where that comes by; the highest place where it does so twice.

    Better is what is higher, and surely so, at every order: shorter texts alone raise the smoothed BLEU-4 and BLEU-5 and lower
    BLEU-2. Raises UserError for unequal sample sizes, by which alone both figures differ.
    """
    if len(sizes := {point.texts for point in (*adversarial, *likelihood)}) != 1:
        raise UserError(
            f"samples of {' and '.join(map(str, sorted(sizes)))} texts: BLEU and Self-BLEU grow with their number; "
            "compare samples of one size"
        )
    found = tuple(_difference(adversarial, likelihood, order) for order in orders)
    known = [one for one in found if one.gain is not None]
    if all(one.sure for one in known):
        outcome: Outcome = "better" if len(known) == len(found) else "not comparable"
    else:
        outcome = "not better"
    return Verdict(outcome, _sentence(outcome, found), found)


def _difference(adversarial: Sequence[Point], likelihood: Sequence[Point], order: int) -> Difference:
    places = [(point, _at(likelihood, point.self_bleu[order], order)) for point in adversarial]
    both = [(point, *there) for point, there in places if there is not None]
    if not both:
        return Difference(order)
    gain = mean(point.bleu[order] - bleu for point, bleu, _ in both)
    error = mean((point.error[order] ** 2 + error**2) ** 0.5 for point, _, error in both)
    return Difference(order, gain, error, tuple(point.temperature for point, *_ in both))


def markdown(curves: Mapping[str, Sequence[Point]]) -> str:
    """A table of all points: a generator's name, temperature, words a text, BLEU and Self-BLEU by order."""
    heads = ["words"] + [f"BLEU-{order}" for order in ORDERS] + [f"Self-BLEU-{order}" for order in ORDERS]
    lines = [f"| generator | temperature | {' | '.join(heads)} |", f"|---|{'--:|' * (1 + len(heads))}"]
    for name, points in curves.items():
        for point in points:
            figures = [f"{point.words:.1f}"] + [f"{of[order]:.3f}" for of in (point.bleu, point.self_bleu) for order in ORDERS]
            lines.append(f"| {name} | {point.temperature:g} | {' | '.join(figures)} |")
    return "\n".join(lines)


def _at(curve: Sequence[Point], alike: float, order: int) -> tuple[float, float] | None:
    """(BLEU, its error) of a curve where its Self-BLEU is `alike`, None where it never is."""
    places = []
    for one, other in pairwise(sorted(curve, key=lambda point: point.temperature)):
        low, high = sorted((one, other), key=lambda point: point.self_bleu[order])
        room = high.self_bleu[order] - low.self_bleu[order]
        if low.self_bleu[order] <= alike <= high.self_bleu[order]:
            share = (alike - low.self_bleu[order]) / room if room else 0.5
            mixed = ((1 - share) * getattr(low, name)[order] + share * getattr(high, name)[order] for name in ("bleu", "error"))
            places.append(tuple(mixed))
    return max(places, default=None)


def _sentence(outcome: Outcome, found: Sequence[Difference]) -> str:
    shown = ", ".join(f"BLEU-{one.order} {one}" for one in found)
    figures = f"at equal Self-BLEU, less the maximum-likelihood generator's: {shown}"
    if outcome == "better":
        return f"The adversarial generator is better than maximum likelihood at another temperature; its BLEU {figures}."
    if outcome == "not better":
        return (
            "The adversarial generator is NOT better than maximum likelihood at another temperature; use the one in likelihood/. "
            f"Its BLEU {figures}."
        )
    return (
        "The adversarial generator cannot be compared with maximum likelihood, whose texts are at no temperature as alike as its "
        f"own are: nothing says that it is better. Its BLEU {figures}."
    )
