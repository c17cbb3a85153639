"""Quality against diversity: figures of what was really written, and verdicts on curves of which the answer is known."""

import json
from dataclasses import replace

import pytest

from yanmo.bleu import ORDERS, bleu, self_bleu, words
from yanmo.errors import UserError
from yanmo.frontier import Point, frontier, frontiers, markdown, verdict
from yanmo.generation import generate

REFERENCES = ["北京是中国的首都。", "The quick brown fox.", "The dog sleeps on the fox.", "a probability"]


def point(alike: float, quality: float, temperature: float = 1.0, error: float = 0.001, texts: int = 100) -> Point:
    figures = (dict.fromkeys(ORDERS, value) for value in (quality, alike, error))
    return Point(temperature, *figures, texts, 9.5)


def line(shift: float = 0.0, alikes: tuple[float, ...] = (0.8, 0.7, 0.5, 0.4), error: float = 0.001) -> list[Point]:
    """Quality is half of likeness, and more by a shift."""
    return [point(alike, alike / 2 + shift, 0.6 + number / 10, error) for number, alike in enumerate(alikes)]


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_points_are_those_of_what_is_written(pairs, family: str) -> None:
    pair = pairs(family)
    network, tokens = pair.network, pair.tokens if family == "gpt2" else replace(pair.tokens, suffix=(1,))
    calls: list[tuple[float, float | None]] = []
    found = frontier(
        network, tokens, REFERENCES, (0, 1.5), 20, 7, 9, lambda done, total, unit, **figures: calls.append((done, total))
    )
    assert calls == [(20, 40), (40, 40)]
    for one, temperature in zip(found, (0, 1.5), strict=True):
        written = generate(network, tokens, [""] * 20, temperature=temperature, seed=7, max_new_tokens=9)
        texts = [words(text.text) for text in written]
        assert (one.temperature, one.texts, one.words) == (temperature, 20, sum(map(len, texts)) / 20)
        assert one.bleu == pytest.approx(bleu(texts, [words(text) for text in REFERENCES]))
        assert one.self_bleu == pytest.approx(self_bleu(texts))
    assert found[0].bleu != found[1].bleu


def test_a_generator_is_not_better_than_itself(pairs) -> None:
    pair = pairs("gpt2")
    found = frontiers(pair.network, pair.network, pair.tokens, REFERENCES * 5, temperatures=(0.3, 0.6, 1.0), max_new_tokens=9)
    assert found.likelihood == found.adversarial
    assert {one.texts for one in found.likelihood} == {20}
    assert found.verdict.outcome == "not better"
    assert [one.gain for one in found.verdict.differences] == pytest.approx([0] * 4)
    tree = found.to_json()
    assert json.loads(json.dumps(tree)) == tree
    assert tree["likelihood"][0]["bleu"]["2"] == found.likelihood[0].bleu[2]
    assert tuple(map(Point.from_json, tree["likelihood"])) == found.likelihood


def test_one_reference_is_enough(pairs) -> None:
    pair = pairs("gpt2")
    found = frontiers(pair.network, pair.network, pair.tokens, REFERENCES[:1], temperatures=(0.5, 1.0), max_new_tokens=5)
    assert {one.texts for one in (*found.likelihood, *found.adversarial)} == {2}


def test_a_temperature_alone_is_no_progress() -> None:
    """Colder or hotter texts on the same line, though each has a higher BLEU or a lower Self-BLEU than some point."""
    found = verdict(line(alikes=(0.75, 0.65, 0.45)), line())
    assert found.outcome == "not better"
    assert [one.gain for one in found.differences] == pytest.approx([0] * 4)
    assert {one.compared for one in found.differences} == {(0.6, 0.7, 0.8)}
    assert "NOT better than maximum likelihood" in found.sentence
    assert "use the one in likelihood/" in found.sentence


@pytest.mark.parametrize(
    ("shift", "error", "outcome"),
    [(0.1, 0.001, "better"), (0.1, 0.1, "not better"), (-0.1, 0.001, "not better"), (0.002, 0.001, "not better")],
)
def test_above_the_curve_is_better_when_it_is_sure(shift: float, error: float, outcome: str) -> None:
    found = verdict(line(shift, error=error), line(error=error), orders=(3,))
    [only] = found.differences
    assert (found.outcome, only.order) == (outcome, 3)
    assert only.gain == pytest.approx(shift)
    assert only.error == pytest.approx(error * 2**0.5)
    assert f"BLEU-3 {shift:+.3f} (standard error {error * 2**0.5:.3f})" in found.sentence
    assert ("NOT better" in found.sentence) == (outcome == "not better")


def test_better_is_better_at_every_order() -> None:
    """Shorter texts alone raise BLEU-4 and BLEU-5, which are smoothed where nothing matches."""
    mixed = [replace(one, bleu=one.bleu | {2: one.bleu[2] - 0.3}) for one in line(0.1)]
    found = verdict(mixed, line())
    assert [one.sure for one in found.differences] == [False, True, True, True]
    assert found.outcome == "not better"
    apart = [replace(one, self_bleu=one.self_bleu | {2: 0.99}) for one in line(0.1)]
    found = verdict(apart, line())
    assert [one.gain is None for one in found.differences] == [True, False, False, False]
    assert found.outcome == "not comparable"
    assert verdict(apart, line(), orders=(3, 4)).outcome == "better"


def test_only_where_the_curve_has_been_measured() -> None:
    found = verdict([point(0.95, 0.9, 0.6), point(0.75, 0.5, 0.7), point(0.1, 0.9, 1.2)], line())
    assert {one.compared for one in found.differences} == {(0.7,)}
    assert found.differences[0].gain == pytest.approx(0.5 - 0.375)


@pytest.mark.parametrize("alike", [0.9, 0.2])
def test_outside_the_curve_nothing_can_be_said(alike: float) -> None:
    found = verdict([point(alike, 0.99)], line())
    assert found.outcome == "not comparable"
    assert all((one.gain, one.compared) == (None, ()) for one in found.differences)
    assert "cannot be compared" in found.sentence
    assert "BLEU-2 –, BLEU-3 –" in found.sentence


def test_a_curve_that_turns_back_counts_at_its_best() -> None:
    curve = [point(0.8, 0.6, 0.6), point(0.5, 0.5, 0.9), point(0.7, 0.1, 1.2)]
    assert verdict([point(0.65, 0.55)], curve).differences[0].gain == pytest.approx(0)


def test_samples_of_unequal_size_are_refused() -> None:
    with pytest.raises(UserError, match="samples of 50 and 100 texts"):
        verdict([point(0.5, 0.5, texts=50)], line())


def test_the_table_has_a_line_for_every_point() -> None:
    lines = markdown({"one": line(), "other": line(0.1)[:1]}).splitlines()
    assert lines[0] == "| generator | temperature | words | " + " | ".join(
        [f"BLEU-{order}" for order in ORDERS] + [f"Self-BLEU-{order}" for order in ORDERS]
    ) + " |"
    assert len(lines) == 2 + 5
    assert len({row.count("|") for row in lines}) == 1
    assert lines[-1].startswith("| other | 0.6 | 9.5 | 0.500 ")


def test_an_encoder_writes_nothing(pairs) -> None:
    pair = pairs("bert")
    with pytest.raises(UserError, match="use fill"):
        frontier(pair.network, pair.tokens, REFERENCES)
