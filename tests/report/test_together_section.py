"""What the report says of several tasks at once: the table, each part's curves, what each counted."""

import json
from pathlib import Path
from typing import Any

import pytest

from yanmo.report.findings import read_findings
from yanmo.report.page import render
from yanmo.report.words import WORDS, Words


def line_of(step: int) -> dict[str, Any]:
    task = {"ner/labelling": 2 / step, "ner/accuracy": 0.5, "ner/weight": 1 + step / 10}
    return {"step": step, "tokens": 10 * step, "loss": 1.0, **task, "masked/masked": 6.0, "masked/weight": 0.8}


@pytest.fixture
def joint(tmp_path: Path) -> Path:
    """A run in which a task and a masked language model were learned together, in two ways."""
    task = {"metric": "micro_f1", "valid": {"micro_f1": 0.5}, "test": {}}
    results = {
        "table": [{"weighting": "fixed", "ner: f1": "50.0"}, {"weighting": "pcgrad", "ner: f1": "51.0 <b>"}],
        "verdicts": ["fixed: negative transfer: ner loses 3.0 ± 1.0"],
        "trials": [{"weighting": one, "seed": seed, "tasks": {"ner": task}} for one in ("fixed", "pcgrad") for seed in (0, 1)],
        "best": {"weighting": "pcgrad", "seed": 1},
    }
    for trial in results["trials"]:
        folder = tmp_path / "together" / "trials" / f"{trial['weighting']}-seed{trial['seed']}"
        folder.mkdir(parents=True)
        held_out = {"step": 10, "validation": {"ner/labelling": 1.0, "ner/micro_f1": 0.5, "masked/masked": 6.1, "loss": 7.1}}
        lines = [*(line_of(step) for step in range(1, 21)), held_out]
        (folder / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (tmp_path / "together" / "results.json").write_text(json.dumps(results))
    return tmp_path


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_has_the_table_curves_and_weights(joint: Path, language: str) -> None:
    (joint / "recipe.yaml").write_text(f"language: {language}\n")
    page, column = render(read_findings(joint)), ("en", "zh").index(language)
    part = page[page.index('id="together"') :].partition("</section>")[0]

    def word(key: str, **values: str) -> str:
        return WORDS[f"together.{key}"][column].format(**values)

    assert WORDS["together"][column] in part
    assert word("lead", weighting="pcgrad") in part
    assert "negative transfer: ner loses 3.0 ± 1.0" in part
    assert "51.0 &lt;b&gt;" in part
    assert word("curves", trial="pcgrad, 1") in part
    assert word("loss", part="ner", name="labelling") in part
    assert word("loss", part="masked", name=WORDS["loss.masked"][column]) in part
    assert word("figure", part="ner", name=Words("zh" if column else "en").metric("micro_f1")) in part
    assert word("weights") in part
    assert word("weight.y") in part
    for name in ("ner", "masked"):                         # fixed weights are not drawn, the others once
        assert part.count(f"<figcaption>{word('weight', part=name, weighting='pcgrad')}</figcaption>") == 1
    assert part.count("<figure>") == 5


def test_the_page_has_what_the_best_trial_gets_wrong(joint: Path) -> None:
    results = json.loads((joint / "together" / "results.json").read_text())
    for trial in results["trials"]:
        trial["tasks"]["ner"] |= {"judged": 40, "wrong": 3, "by_eye": False}
        folder = joint / "together" / "trials" / f"{trial['weighting']}-seed{trial['seed']}" / "judged" / "ner"
        folder.mkdir(parents=True)
        mistake = {"origin": "a.jsonl, line 3", "given": f"of {folder.parts[-3]}", "gold": "<right>", "predicted": "left"}
        (folder / "errors.jsonl").write_text(json.dumps(mistake) + "\n")
    (joint / "together" / "results.json").write_text(json.dumps(results))
    page = render(read_findings(joint))
    part = page[page.index('id="together"') :].partition("</section>")[0]
    assert WORDS["tasks.errors"][0].format(wrong="3", total="40", shown="1", model="pcgrad, seed 1") in part
    assert part.count("of pcgrad-seed1") == 1, "of the best trial, and of no other"
    assert "of fixed" not in part
    assert "&lt;right&gt;" in part


def test_what_was_never_learned_together_has_no_section(tmp_path: Path) -> None:
    assert 'id="together"' not in render(read_findings(tmp_path))


@pytest.mark.parametrize("value", [3, [], "text", {"table": 3}, {"table": [{"a": 1}], "verdicts": 3, "trials": [3], "best": []}])
def test_values_of_another_shape_do_no_harm(joint: Path, value: Any) -> None:
    (joint / "together" / "results.json").write_text(json.dumps(value))
    assert "</html>" in render(read_findings(joint))
