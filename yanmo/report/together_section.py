"""What the report says of several tasks that were learned at once: what each has from the others, its curves, what it counted."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from yanmo.report.charts import Line, Point, line_chart, smooth
from yanmo.report.findings import Findings, TaskFindings, Tree, listing, mapping
from yanmo.report.layout import section, table
from yanmo.report.numbers import real
from yanmo.report.tags import tag
from yanmo.report.tasks_section import mistakes
from yanmo.report.words import Words

WEIGHT, PENALTY = "weight", "uncertainty"
"""What yanmo/multitask/objective.py writes of a part besides its losses."""


def together_section(findings: Findings, words: Words) -> Element | None:
    """The table, sentences on what each task has from the others, curves of the best trial, weights of every weighting, and what
    the best trial gets wrong."""
    report = findings.together
    lines = listing(report.get("table"))
    if not lines:
        return None
    heads = list(lines[0])
    rows = [[str(line.get(head, "")) for head in heads] for line in lines]
    verdicts = report.get("verdicts")
    said = [tag("p", str(one), class_="aside") for one in verdicts] if isinstance(verdicts, list) else []
    best = mapping(report.get("best"))
    name = f"{best.get('weighting')}-seed{best.get('seed')}"
    training, validation = findings.joint.get(name, ([], []))
    parts = list(dict.fromkeys(key.rpartition("/")[0] for record in training for key in record if "/" in key))
    curves = [chart for part in parts for chart in _curves(part, training, validation, _metric(report, part), words)]
    tried = dict.fromkeys(str(trial.get("weighting")) for trial in listing(report.get("trials")))
    weights = [_weight_chart(part, one, findings, words) for one in tried if one != "fixed" for part in parts]
    return section(
        "together",
        words("together"),
        words("together.lead", weighting=str(best.get("weighting"))),
        table("", heads, rows),
        tag("div", said) if said else None,
        tag("h3", words("together.curves", trial=name.replace("-seed", ", "))) if curves else None,
        tag("div", curves, class_="pair"),
        tag("h3", words("together.weights")) if any(one is not None for one in weights) else None,
        tag("div", weights, class_="pair"),
        *(part for task in findings.together_tasks for part in _mistakes(task, words)),
    )


def _mistakes(task: TaskFindings, words: Words) -> list[Element]:
    """What the best trial gets wrong in one of its tasks, under the task's name."""
    parts = mistakes(task, task.results, words)
    return [tag("div", tag("h3", task.folder.name), class_="task"), *parts] if parts else []


def _metric(report: Tree, part: str) -> str | None:
    """The figure of a task that decides; None for what is no task."""
    for trial in listing(report.get("trials")):
        if metric := mapping(mapping(trial.get("tasks")).get(part)).get("metric"):
            return str(metric)
    return None


def _curves(part: str, training: Sequence[Tree], validation: Sequence[Tree], metric: str | None, words: Words) -> list[Element]:
    """A part's losses, and of a task its metric on held-out examples."""
    keys = dict.fromkeys(key for record in training for key in record if key.rpartition("/")[0] == part)
    charts = []
    for key in keys:
        own = key.rpartition("/")[2]
        if own in (WEIGHT, PENALTY) or own.endswith("accuracy"):
            continue
        raw = _points(training, key)
        held_out = _points([mapping(record.get("validation")) | {"step": record["step"]} for record in validation], key)
        lines = [
            Line(words("training.raw"), raw, "raw"),
            Line(words("training.smooth"), smooth(raw), "smooth"),
            Line(words("training.validation"), held_out, "points"),
        ]
        title, unit = words("together.loss", part=part, name=words.known(f"loss.{own}") or own), words("training.nats")
        charts.append(line_chart(title, lines, words("training.step"), unit, height=170, from_zero=False, legend=False))
    found = _points([mapping(record.get("validation")) | {"step": record["step"]} for record in validation], f"{part}/{metric}")
    if metric is not None and found:
        title = words("together.figure", part=part, name=words.metric(metric))
        lines = [Line("", found, "points")]
        charts.append(line_chart(title, lines, words("training.step"), "", height=170, from_zero=True, legend=False))
    return charts


def _weight_chart(part: str, weighting: str, findings: Findings, words: Words) -> Element | None:
    """What a part counted in the first seed's trial."""
    trials = [records for trial, (records, _) in findings.joint.items() if trial.rpartition("-seed")[0] == weighting]
    points = _points(trials[0], f"{part}/{WEIGHT}") if trials else []
    if not points:
        return None
    title = words("together.weight", part=part, weighting=weighting)
    lines = [Line("", points, "raw"), Line("", smooth(points), "smooth")]
    return line_chart(title, lines, words("training.step"), words("together.weight.y"), height=170, from_zero=True, legend=False)


def _points(records: Sequence[Tree], key: str) -> list[Point]:
    return [(float(record["step"]), value) for record in records if (value := real(record.get(key))) is not None]
