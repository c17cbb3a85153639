"""What the page says of tasks: the figures of every method, what pretraining was worth, what is taken for what, and errors."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_tasks import fill_tasks, trial, write
from test_report import Page

from yanmo.recipe.tasks import TASK_KINDS
from yanmo.report import write_report
from yanmo.report.words import NAMES, WORDS, Words
from yanmo.trials import by_method

HOSTILE = '<script>alert("x")</script>'


@pytest.fixture
def with_tasks(make_run: Callable[[str], Path]) -> Callable[[str], Path]:
    def make(language: str) -> Path:
        folder = make_run(language)
        fill_tasks(folder)
        return folder

    return make


def section_of(folder: Path) -> str:
    """The HTML of the section, or nothing."""
    page = write_report(folder).read_text(encoding="utf-8")
    found = re.search(r'<section id="tasks">.*?</section>', page, re.DOTALL)
    return found[0] if found else ""


def test_every_method_is_in_the_table_with_its_interval(with_tasks: Callable[[str], Path]) -> None:
    part = section_of(with_tasks("en"))
    rows = re.findall(r'<tr><th scope="row">([^<]*)</th><td>([^<]*)</td><td>(\d)</td><td>([^<]*)</td><td>([^<]*)</td></tr>', part)
    assert rows == [
        ("from scratch", "50.0", "1", "5.26 M of 5.27 M", "30 s"),
        ("full", "60.0", "1", "5.26 M of 5.27 M", "30 s"),
        ("from scratch", "72.0 ± 2.5", "3", "5.26 M of 5.27 M", "30 s"),
        ("LoRA", "72.7 ± 7.6", "3", "5.26 M of 5.27 M", "30 s"),
        ("full", "83.7 ± 1.9", "3", "5.26 M of 5.27 M", "30 s"),
    ]


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        ("en", ["full is 11.7 points above from scratch; the intervals do not touch.",
                "LoRA is 0.7 points above from scratch; the intervals overlap: it may be chance.",
                "full is 10.0 points above from scratch; one seed says nothing of chance."]),
        ("zh", ["全参数微调：比从头训练高 11.7 个百分点，区间不相交。"]),
    ],
)  # fmt: skip
def test_what_pretraining_was_worth_is_said(with_tasks: Callable[[str], Path], language: str, sentences: list[str]) -> None:
    part = section_of(with_tasks(language))
    for sentence in sentences:
        assert sentence in part


def test_what_is_worse_than_from_scratch_is_said_to_be(with_tasks: Callable[[str], Path]) -> None:
    folder = with_tasks("en")
    trials = [
        trial(method, seed, {"loss": score + seed / 100}, scale=1, lower=True)
        for method, score in (("scratch", 2.5), ("full", 2.0), ("frozen", 3.0))
        for seed in (0, 1)
    ]
    results = {"task": "dialogue", "trials": trials, "methods": by_method(trials), "best": {"method": "full", "seed": 0}}
    write(folder / "tasks/sentiment/results.json", results)
    part = section_of(folder)
    assert "full is 0.500 below from scratch" in part
    assert "frozen is 0.500 above from scratch" in part


def test_intervals_and_seeds_stand_where_they_are(with_tasks: Callable[[str], Path]) -> None:
    folder = with_tasks("en")
    methods = json.loads((folder / "tasks/sentiment/results.json").read_text(encoding="utf-8"))["methods"]
    part = section_of(folder)
    chart = part[part.index("Accuracy on the test examples") :]
    chart = chart[: chart.index("</figure>")]
    top = 1.08 * max(one["mean"] + one["half"] for one in methods)
    bars = [float(width) for width in re.findall(r'width="([\d.]+)%" height="9" class="bar"', chart)]
    assert bars == [pytest.approx(100 * one["mean"] / top, abs=1e-3) for one in methods]
    dots = [float(place) for place in re.findall(r'<circle cx="([\d.]+)%"', chart)]
    assert dots == [pytest.approx(100 * value / top, abs=1e-3) for one in methods for value in one["values"]]
    ends = {float(place) for place in re.findall(r'<line x1="([\d.]+)%"', chart)}
    wanted = {one["mean"] + sign * one["half"] for one in methods for sign in (1, -1)}
    assert sorted(ends) == [pytest.approx(100 * end / top, abs=1e-3) for end in sorted(wanted)]


def test_what_is_taken_for_what(with_tasks: Callable[[str], Path]) -> None:
    part = section_of(with_tasks("en"))
    cells = re.findall(r'<td class="(right|wrong)" style="--share:(\d+)%" title="([^"]*)">(\d+)</td>', part)
    assert cells == [
        ("right", "93", "93% of bad: bad", "560"),
        ("wrong", "7", "7% of bad: good", "40"),
        ("wrong", "24", "24% of good: bad", "147"),
        ("right", "76", "76% of good: good", "453"),
    ]


def test_of_many_labels_the_commonest_confusions_are_listed(with_tasks: Callable[[str], Path]) -> None:
    folder = with_tasks("en")
    labels = [f"label{number}" for number in range(19)]
    counts = [[50 if gold == said else gold if said == 0 else 0 for said in range(19)] for gold in range(19)]
    write(folder / "tasks/sentiment/full-seed1/confusion.json", {"labels": labels, "counts": counts})
    part = section_of(folder)
    assert '<tr><th scope="row">label18</th><td>label0</td><td>18</td></tr>' in part
    assert part.count("<td>label0</td>") == 12
    assert "<td>50</td>" not in part


def test_types_and_a_dozen_errors(with_tasks: Callable[[str], Path]) -> None:
    part = section_of(with_tasks("en"))
    assert "40 of 1,200 examples came out wrong; 12 of them (full, seed 0)" in part
    assert "187 of 1,200 examples came out wrong; 12 of them (full, seed 1)" in part
    assert part.count("test.jsonl:") == 24
    assert "/data/" not in part
    assert "F1 of each label (full, seed 0)" in part
    assert "F1 of each label (full, seed 1)" not in part, "a confusion matrix says more"


def test_texts_that_were_written_are_no_errors(with_tasks: Callable[[str], Path]) -> None:
    folder = with_tasks("en")
    trials = [trial("full", 0, {"bleu": 20.1}, scale=1, by_eye=True, judged=1_000, measured_by={})]
    results = {"task": "translation", "trials": trials, "methods": by_method(trials), "best": {"method": "full", "seed": 0}}
    write(folder / "tasks/names/results.json", results)
    part = section_of(folder)
    assert "12 of 1,000 texts that it wrote (full, seed 0)" in part
    assert "20.1" in part


@pytest.mark.parametrize("language", ["en", "zh"])
def test_data_are_escaped(with_tasks: Callable[[str], Path], language: str) -> None:
    folder = with_tasks(language)
    error = json.dumps(dict.fromkeys(("origin", "given", "gold", "predicted"), HOSTILE))
    write(folder / "tasks/sentiment/full-seed1/errors.jsonl", error)
    write(folder / "tasks/sentiment/full-seed1/confusion.json", {"labels": [HOSTILE, "b"], "counts": [[1, 2], [3, 4]]})
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in page.elements}
    assert page.text.count(HOSTILE) >= 4


@pytest.mark.parametrize("value", [None, [], {}, "text", 3, [3], {"a": None}, [{"a": "b"}], [[1]]])
def test_values_of_another_shape_do_no_harm(with_tasks: Callable[[str], Path], value: Any) -> None:
    folder = with_tasks("en")
    whole = json.loads((folder / "tasks/sentiment/results.json").read_text(encoding="utf-8"))
    for key in ("trials", "methods", "best", "task"):
        write(folder / "tasks/sentiment/results.json", whole | {key: value})
        section_of(folder)
    write(folder / "tasks/sentiment/results.json", {**whole, "methods": [{"method": "full", "mean": 1, "values": value}]})
    section_of(folder)
    write(folder / "tasks/sentiment/results.json", whole)
    for confusion in (value, {"labels": value, "counts": value}, {"labels": ["a", "b"], "counts": value}):
        write(folder / "tasks/sentiment/full-seed1/confusion.json", confusion)
        section_of(folder)
    write(folder / "tasks/sentiment/full-seed1/errors.jsonl", json.dumps(value))
    section_of(folder)


def test_a_run_of_tasks_alone(with_tasks: Callable[[str], Path]) -> None:
    folder = with_tasks("en")
    for name in ("corpus", "tokenizer", "shards", "pretrain", "evaluation"):
        shutil.rmtree(folder / name)
    write(folder / "recipe.yaml", "name: mine\ntasks:\n  sentiment: {kind: classification}\n  names: {kind: labelling}\n")
    page = write_report(folder).read_text(encoding="utf-8")
    assert page.index(">sentiment<") < page.index(">names<"), "in the recipe's order"
    assert "sentiment (classification) · names (labelling)" in page
    assert "BERT" not in page
    assert "<dt>sentiment: accuracy</dt><dd>83.7<small>full is 11.7 points above" in page
    assert "yanmo predict" in page
    assert "yanmo evaluate" in page
    assert "Train the tokenizer" not in page


def test_a_task_by_itself_has_a_page_too(with_tasks: Callable[[str], Path]) -> None:
    task = with_tasks("en") / "tasks" / "sentiment"
    whole, page = (write_report(folder).read_text(encoding="utf-8") for folder in (task.parents[1], task))
    part = section_of(task)
    assert ">names<" not in part
    assert part[part.index("<h3>sentiment") : -len("</section>")] in whole
    assert f"yanmo predict {task}/model" in page


def test_without_tasks_nothing_is_said(run_folder: Path) -> None:
    assert section_of(run_folder) == ""


def test_every_word_is_used(with_tasks: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    say = Words.__call__
    monkeypatch.setattr(Words, "__call__", lambda words, key, **values: seen.add(key) or say(words, key, **values))
    folder = with_tasks("en")
    section_of(folder)
    test_of_many_labels_the_commonest_confusions_are_listed(lambda _: folder)
    test_texts_that_were_written_are_no_errors(lambda _: folder)
    test_what_is_worse_than_from_scratch_is_said_to_be(lambda _: folder)
    trials = [trial("full", 0, {"f1": 0.5}, test={})]
    write(folder / "tasks/names/results.json", {"trials": trials, "methods": by_method(trials)})
    section_of(folder)
    assert [key for key in WORDS if key.startswith("tasks") and key not in seen] == []


def test_kinds_and_methods_have_names() -> None:
    assert set(TASK_KINDS) <= set(NAMES)
    assert {f"method.{method}" for method in ("scratch", "frozen", "adapter", "lora", "full")} <= set(WORDS)
