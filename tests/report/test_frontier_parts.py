"""What the page and the closing table say of a game: every point, and a verdict that leaves no doubt."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from yanmo.report import write_report
from yanmo.report.words import WORDS
from yanmo.summary import _evaluation as closing_rows

ORDERS = ("2", "3", "4", "5")
SENTENCE = "the generator in likelihood/ is as good"


def curve(shift: float) -> list[dict[str, Any]]:
    return [
        {
            "temperature": temperature,
            "bleu": {order: alike / 2 + shift for order in ORDERS},
            "self_bleu": dict.fromkeys(ORDERS, alike),
            "error": dict.fromkeys(ORDERS, 0.004),
            "texts": 515,
            "words": 9.52,
        }
        for temperature, alike in ((0.6, 0.8124), (1.0, 0.6), (1.2, 0.4))
    ]


def game(outcome: str, gain: float | None = None) -> dict[str, Any]:
    error = None if gain is None else 0.004
    differences = [{"order": order, "gain": gain, "error": error, "compared": [1.0]} for order in (2, 3, 4, 5)]
    verdict = {"outcome": outcome, "sentence": SENTENCE, "differences": differences}
    return {"losses": {"causal": 2.0}, "frontiers": {"likelihood": curve(0), "adversarial": curve(0.03), "verdict": verdict}}


def page_with(folder: Path, evaluation: dict[str, Any]) -> str:
    (folder / "evaluation/report.json").write_text(json.dumps(evaluation), encoding="utf-8")
    return write_report(folder).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("language", "evaluation", "said"),
    [
        ("en", game("better", 0.03), "is better than maximum likelihood at another temperature"),
        ("en", game("not better", -0.02), "is not better than maximum likelihood"),
        ("en", game("not better", -0.02), "BLEU-2 -0.020 ± 0.004, BLEU-3 -0.020 ± 0.004"),
        ("en", game("not comparable"), "The two generators cannot be compared"),
        ("zh", game("better", 0.03), "对抗生成器优于换一个温度的最大似然"),
        ("zh", game("not better", 0.001), "对抗生成器并不优于"),
        ("zh", game("not comparable"), "两个生成器无法比较"),
    ],
)
def test_the_page_has_the_verdict_the_chart_and_every_point(
    make_run: Callable[[str], Path], language: str, evaluation: dict[str, Any], said: str
) -> None:
    page = page_with(make_run(language), evaluation)
    column = 0 if language == "en" else 1
    assert said in page
    assert WORDS["frontier.title"][column].format(count="515") in page
    assert page.count("<td>0.812</td>") == 8, "four orders of two generators"
    for generator in ("frontier.likelihood", "frontier.adversarial"):
        assert page.count(WORDS["frontier.generator"][column].format(generator=WORDS[generator][column], temperature="0.6")) == 1
    assert "0.330" in page, "the adversarial BLEU at 1"
    assert page.count("<td>9.5</td>") == 6


def test_without_a_game_nothing_is_said(run_folder: Path) -> None:
    assert "maximum likelihood" not in write_report(run_folder).read_text(encoding="utf-8")


@pytest.mark.parametrize("broken", [None, [], {"likelihood": 3}, {"likelihood": [{"bleu": None}], "verdict": "?"}])
def test_a_broken_file_breaks_no_page(run_folder: Path, broken: Any) -> None:
    assert "</html>" in page_with(run_folder, {"losses": {"causal": 2.0}, "frontiers": broken})


def test_the_closing_table_has_both_at_temperature_one_and_the_verdict(run_folder: Path) -> None:
    page_with(run_folder, game("not better", 0.0))
    rows = closing_rows(run_folder)
    assert rows[-1] == ("verdict", SENTENCE)
    shown = rows[rows.index(("maximum likelihood", "BLEU-2 to 5: 0.300 0.300 0.300 0.300")) :]
    assert shown[1:4] == [
        ("", "Self-BLEU-2 to 5: 0.600 0.600 0.600 0.600"),
        ("adversarial", "BLEU-2 to 5: 0.330 0.330 0.330 0.330"),
        ("", "Self-BLEU-2 to 5: 0.600 0.600 0.600 0.600"),
    ]
