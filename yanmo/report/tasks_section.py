"""What the report says of tasks: every way of adapting, what pretraining was worth, what the best model gets wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element

from yanmo.report.charts import Bar, Line, Point, bar_chart, line_chart
from yanmo.report.findings import Findings, TaskFindings, Tree, dig, listing, mapping
from yanmo.report.layout import script_of, section, table
from yanmo.report.numbers import count, real, short
from yanmo.report.tags import tag
from yanmo.report.words import Words

SCRATCH = "scratch"
ROOM = 1.08
"""How much longer the track of a bar is than what is greatest on it."""
MATRIX = 12
"""Labels up to which a confusion matrix can be read; of more the commonest confusions are listed."""
CONFUSIONS, ERRORS, TYPES = 12, 12, 24
"""Rows that are shown."""
OF_LABEL = "f1/"
"""Before a label in the names of figures: its own F1."""


def tasks_section(findings: Findings, words: Words) -> Element | None:
    """A part for each task that has results."""
    parts = [part for task in findings.tasks for part in _task(task, words)]
    return section("tasks", words("tasks"), words("tasks.lead"), *parts)


def best_of(task: TaskFindings) -> Tree:
    """The line of the method whose model is the task's."""
    method = dig(task.results, "best", "method")
    return next((one for one in listing(task.results.get("methods")) if one.get("method") == method), {})


def shown_best(task: TaskFindings, words: Words) -> tuple[str, str, str] | None:
    """What a headline says of a task: a name, its figure, and how that compares with what has learned nothing before."""
    best = best_of(task)
    mean = real(best.get("mean"))
    if mean is None:
        return None
    gain = _gain(best, _scratch(task), words) if best.get("method") != SCRATCH else None
    name, method = words.metric(str(best.get("metric"))), words.method(str(best.get("method")))
    return f"{task.name}: {name}", f"{mean:.1f}", gain or method


def _task(task: TaskFindings, words: Words) -> list[Element]:
    methods = [one for one in listing(task.results.get("methods")) if real(one.get("mean")) is not None]
    if not methods:
        return []
    trial = _best_trial(task)
    title = tag("div", tag("h3", task.name, tag("small", _about(task, trial, words))), _gains(methods, words), class_="task")
    figures = tag("div", _curves(task, methods, words), _types(task, trial, words), class_="pair")
    parts = [title, _bars(methods, words), _table(methods, words), figures]
    return [*(part for part in parts if part is not None), *mistakes(task, trial, words)]


def mistakes(task: TaskFindings, trial: Tree, words: Words) -> list[Element]:
    """What a trial takes for what, and examples that it gets wrong."""
    return [part for part in (_confusion(task, words), _errors(task, trial, words)) if part is not None]


def _best_trial(task: TaskFindings) -> Tree:
    best = mapping(task.results.get("best"))
    for trial in listing(task.results.get("trials")):
        if all(trial.get(name) == best.get(name) for name in ("method", "seed")):
            return trial
    return {}


def _about(task: TaskFindings, trial: Tree, words: Words) -> str:
    """classification · 4,000 examples to learn from, 500 to choose by, 1,200 to measure on"""
    kind = words.name(str(task.results.get("task")))
    sizes = {name: count(real(dig(trial, "examples", name)) or 0) for name in ("train", "valid", "test")}
    return f"{kind} · {words('tasks.examples', **sizes)}" if "examples" in trial else kind


def _scratch(task: TaskFindings) -> Tree:
    return next((one for one in listing(task.results.get("methods")) if one.get("method") == SCRATCH), {})


def _gains(methods: Sequence[Tree], words: Words) -> Element | None:
    """A sentence for each method: how far it is from a network that has learned nothing before."""
    scratch = next((one for one in methods if one.get("method") == SCRATCH), {})
    said = [gain for one in methods if one is not scratch and (gain := _gain(one, scratch, words))]
    return tag("ul", [tag("li", sentence) for sentence in said], class_="gains") if said else None


def _gain(one: Tree, scratch: Tree, words: Words) -> str | None:
    means = real(one.get("mean")), real(scratch.get("mean"))
    if means[0] is None or means[1] is None:
        return None
    difference = means[0] - means[1]
    amount = f"{abs(difference):.3f}" if one.get("lower") else words("tasks.points", count=f"{abs(difference):.1f}")
    side = "above" if difference >= 0 else "below"
    halves = real(one.get("half")), real(scratch.get("half"))
    if halves[0] is None or halves[1] is None:
        sure = words("tasks.one seed")
    else:
        sure = words("tasks.apart" if abs(difference) > halves[0] + halves[1] else "tasks.overlap")
    return words(f"tasks.{side}", method=words.method(str(one.get("method"))), difference=amount) + sure


def _measured(methods: Sequence[Tree], words: Words) -> str:
    """accuracy, test examples"""
    first = methods[0]
    split = "test" if first.get("split") == "test" else "valid"
    return _begun(words(f"tasks.on {split}", metric=words.metric(str(first.get("metric")))))


def _begun(title: str) -> str:
    """With a capital letter."""
    return title[:1].upper() + title[1:]


def _figure(one: Tree) -> str:
    """83.1 ± 0.9"""
    places = 3 if one.get("lower") else 1
    half = real(one.get("half"))
    return f"{real(one.get('mean')) or 0.0:.{places}f}" + ("" if half is None else f" ± {half:.{places}f}")


def _values(one: Tree) -> list[float]:
    raw = one.get("values")
    return [value for number in raw if (value := real(number)) is not None] if isinstance(raw, list) else []


def _bars(methods: Sequence[Tree], words: Words) -> Element:
    ends = [*(value for one in methods for value in _values(one)), *(_high(one) for one in methods)]
    top = max(ROOM * max(ends), 1e-9)
    if max(ends) <= 100 < top:                             # shares end at 100
        top = 100.0
    bars = []
    for one in methods:
        mean, half = real(one.get("mean")) or 0.0, real(one.get("half"))
        spread = None if half is None else ((mean - half) / top, (mean + half) / top)
        dots = [value / top for value in _values(one)] if half is not None else []
        bars.append(Bar(words.method(str(one.get("method"))), _figure(one), max(mean, 0.0) / top, spread=spread, dots=dots))
    several = any(bar.spread for bar in bars)
    key = [("bar", words("tasks.mean")), ("spread", words("tasks.interval")), ("dot", words("tasks.seed"))] if several else []
    chart = bar_chart(_measured(methods, words), bars, key, "; ".join(f"{bar.name}: {bar.value}" for bar in bars))
    chart.set("class", "ways")
    return chart


def _high(one: Tree) -> float:
    return (real(one.get("mean")) or 0.0) + (real(one.get("half")) or 0.0)


def _table(methods: Sequence[Tree], words: Words) -> Element | None:
    rows = []
    for one in methods:
        learned, parameters, seconds = (real(one.get(name)) for name in ("learned", "parameters", "seconds"))
        size = "–" if learned is None or parameters is None else words("tasks.of", part=short(learned), whole=short(parameters))
        spent = "–" if seconds is None else words.duration(seconds)
        rows.append((words.method(str(one.get("method"))), _figure(one), count(len(_values(one))), size, spent))
    heads = [words("tasks.method"), words.metric(str(methods[0].get("metric"))), words("tasks.seeds")]
    return table("", [*heads, words("tasks.learned"), words("tasks.time")], rows)


def _curves(task: TaskFindings, methods: Sequence[Tree], words: Words) -> Element | None:
    """The metric on the examples that weights are chosen by, as a mean over seeds."""
    lines = []
    for one in methods:
        method, metric = str(one.get("method")), str(one.get("metric"))
        curves = [
            {float(record["step"]): value for record in records if (value := real(dig(record, "validation", metric))) is not None}
            for (own, _), records in task.validation.items()
            if own == method
        ]
        scale = real(next((trial.get("scale") for trial in listing(task.results.get("trials"))), None)) or 1.0
        lines.append(Line(words.method(method), _mean_curve(curves, scale), f"of {method}"))
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    title = _begun(words("tasks.curves", metric=words.metric(str(methods[0].get("metric")))))
    return line_chart(title, lines, words("training.step"), "", height=240, from_zero=False, legend=True)


def _mean_curve(curves: Sequence[dict[float, float]], scale: float) -> list[Point]:
    """Where every seed was measured."""
    if not curves:
        return []
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    return [(step, scale * sum(curve[step] for curve in curves) / len(curves)) for step in steps]


def _types(task: TaskFindings, trial: Tree, words: Words) -> Element | None:
    """The F1 of each label, of tasks that have no confusion matrix; the best first."""
    figures = mapping(trial.get("test")) or mapping(trial.get("valid"))
    each = [(name, value) for name, raw in figures.items() if name.startswith(OF_LABEL) and (value := real(raw)) is not None]
    if not each or task.confusion:
        return None
    ordered = sorted(each, key=lambda one: -one[1])[:TYPES]
    bars = [Bar(name[len(OF_LABEL) :], f"{100 * value:.1f}", min(max(value, 0.0), 1.0)) for name, value in ordered]
    return bar_chart(words("tasks.types", model=_model(trial, words)), bars)


def _model(trial: Tree, words: Words) -> str:
    """full, seed 1"""
    return words("tasks.trial", method=words.method(str(trial.get("method"))), seed=str(trial.get("seed")))


def _confusion(task: TaskFindings, words: Words) -> Element | None:
    """What is taken for what: a matrix, or of many labels what is confused most."""
    labels, rows = task.confusion.get("labels"), task.confusion.get("counts")
    if not isinstance(labels, list) or not isinstance(rows, list) or len(labels) < 2 or len(rows) != len(labels):
        return None
    names = [str(label) for label in labels]
    counts = [[real(value) or 0.0 for value in row] if isinstance(row, list) else [] for row in rows]
    if any(len(row) != len(names) for row in counts):
        return None
    if len(names) <= MATRIX:
        return _matrix(names, counts, words)
    numbers = range(len(names))
    pairs = [(counts[gold][said], names[gold], names[said]) for gold in numbers for said in numbers if gold != said]
    worst = sorted((pair for pair in pairs if pair[0]), key=lambda pair: -pair[0])[:CONFUSIONS]
    heads = [words("tasks.gold"), words("tasks.predicted"), words("tasks.examples.head")]
    return table(words("tasks.confused"), heads, [(gold, said, count(number)) for number, gold, said in worst])


def _matrix(names: Sequence[str], counts: Sequence[Sequence[float]], words: Words) -> Element:
    lines = []
    for gold, row in enumerate(counts):
        whole = sum(row) or 1.0
        cells = [
            tag(
                "td",
                count(number) if number else "·",
                class_="right" if gold == said else "wrong",
                style=f"--share:{100 * number / whole:.0f}%",
                title=words("tasks.taken", gold=names[gold], predicted=names[said], share=f"{100 * number / whole:.0f}%"),
            )
            for said, number in enumerate(row)
        ]
        lines.append(tag("tr", tag("th", names[gold], scope="row"), cells))
    heads = tag("tr", tag("th", words("tasks.corner"), scope="col"), [tag("th", name, scope="col") for name in names])
    caption = tag("caption", words("tasks.confusion"))
    return tag("div", tag("table", caption, tag("thead", heads), tag("tbody", lines)), class_="table matrix")


def _errors(task: TaskFindings, trial: Tree, words: Words) -> Element | None:
    """Some examples that came out wrong, or, of texts that were written, some of all."""
    if not task.errors:
        return None
    sizes = {"shown": count(min(len(task.errors), ERRORS)), "model": _model(trial, words)}
    judged, wrong = (real(trial.get(name)) for name in ("judged", "wrong"))
    if trial.get("by_eye"):
        title = words("tasks.outputs", total=count(judged or len(task.errors)), **sizes)
    else:
        title = words("tasks.errors", wrong=count(wrong or len(task.errors)), total=count(judged or len(task.errors)), **sizes)
    items = [_error(error, words) for error in task.errors[:ERRORS]]
    return tag("div", tag("h3", title), tag("ol", items, class_="errors"))


def _error(error: Tree, words: Words) -> Element:
    """A text, and under it what is right and what was predicted side by side."""

    def text(name: str) -> str:
        return str(error.get(name, ""))

    def side(name: str) -> Element:
        said = tag("dd", text(name) or "␣", lang=script_of(text(name)))
        return tag("div", tag("dt", words(f"tasks.{name}")), said, class_=name)

    origin = text("origin").rpartition("/")[2]
    given: list[Any] = [text("given"), tag("small", f" {origin}") if origin else None]
    return tag("li", tag("p", given, lang=script_of(text("given"))), tag("dl", side("gold"), side("predicted")))
