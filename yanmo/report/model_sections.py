"""What the report says about the model: how it was trained, what it has learned."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import median
from typing import Any
from xml.etree.ElementTree import Element

from yanmo.report.charts import Line, Point, line_chart, smooth
from yanmo.report.findings import Findings, Tree, dig, listing, mapping
from yanmo.report.frontier_parts import frontier_parts
from yanmo.report.layout import script_of, section, table
from yanmo.report.numbers import count, decimal, percent, real
from yanmo.report.tags import Child, tag
from yanmo.report.words import Words

MAIN_LOSSES = ("masked", "causal", "bound")  # the loss that the headline shows, where there are several
LARGE = ("masked", "causal", "reconstruction")  # the one whose chart is large: a bound is not seen while training
MASK = re.compile(r"\[MASK\]|<mask>")


def main_loss(losses: Tree) -> str | None:
    """The name of the loss that counts most."""
    return next((name for name in (*MAIN_LOSSES, *losses) if real(losses.get(name)) is not None), None)


def speed(findings: Findings) -> float | None:
    """Tokens a second over the whole of training; while it is not finished, the median of its steps."""
    if overall := real(findings.speed.get("tokens_per_second")):
        return overall
    rates = [rate for record in findings.training if (rate := real(record.get("tokens_per_second")))]
    return median(rates) if rates else None


def training_section(findings: Findings, words: Words) -> Element | None:
    training, validation = findings.training, findings.validation
    if not training and not validation:
        return None
    everything = (*training, *validation)
    losses = sorted(_names(everything, "losses"), key=lambda name: name not in LARGE)
    charts = [_loss_chart(name, findings, words, big=index == 0) for index, name in enumerate(losses)]
    small = [
        *charts[1:],
        *(_accuracy_chart(name, findings, words) for name in _names(everything, "accuracies")),
        *(_measure_chart(name, findings, words) for name in _names(everything, "measures")),
        _curve("training.speed", training, "tokens_per_second", words),
        _curve("training.rate", training, "learning_rate", words, plain=True),
        _curve("training.norm", training, "norm", words),
    ]
    last = training[-1] if training else {}
    tokens, seconds = real(last.get("tokens")), real(last.get("seconds"))
    lead = ""
    if tokens is not None and seconds is not None:
        lead = words("training.lead", steps=count(last["step"]), tokens=count(tokens), time=words.duration(seconds))
    skipped = sum(bool(record.get("skipped")) for record in training)
    note = tag("p", words("training.skipped", count=count(skipped)), class_="aside") if skipped else None
    return section("training", words("training"), lead, charts[0] if charts else None, tag("div", small, class_="pair"), note)


def _names(records: Sequence[Tree], kind: str) -> list[str]:
    """The names of losses or accuracies, in the order in which they first appear."""
    return list(dict.fromkeys(name for record in records for name in record[kind]))


def _loss_chart(name: str, findings: Findings, words: Words, big: bool) -> Element:
    title = words("training.loss.named", name=words.known(f"loss.{name}") or name)
    lines = _with_validation(findings, words, "losses", name)
    unit, height = words("training.nats"), 300 if big else 170
    return line_chart(title, lines, words("training.step"), unit, height=height, from_zero=False, legend=big)


def _accuracy_chart(name: str, findings: Findings, words: Words) -> Element:
    title = _accuracy(name, words)
    lines = _with_validation(findings, words, "accuracies", name)
    unit = words("training.accuracy.y")
    return line_chart(title, lines, words("training.step"), unit, height=170, from_zero=True, legend=False)


def _measure_chart(name: str, findings: Findings, words: Words) -> Element:
    lines, unit = _with_validation(findings, words, "measures", name), words(f"measure.{name}.y")
    return line_chart(words(f"measure.{name}"), lines, words("training.step"), unit, height=170, from_zero=True, legend=False)


def _with_validation(findings: Findings, words: Words, kind: str, name: str) -> list[Line]:
    raw = _points(findings.training, kind, name)
    return [
        Line(words("training.raw"), raw, "raw"),
        Line(words("training.smooth"), smooth(raw), "smooth"),
        Line(words("training.validation"), _points(findings.validation, kind, name), "points"),
    ]


def _curve(title: str, records: Sequence[Tree], key: str, words: Words, plain: bool = False) -> Element | None:
    points = _points(records, key)
    if not points:
        return None
    smoothed = [Line("", points, "plain")] if plain else [Line("", points, "raw"), Line("", smooth(points), "smooth")]
    step, unit = words("training.step"), words(f"{title}.y")
    return line_chart(words(title), smoothed, step, unit, height=170, from_zero=True, legend=False)


def _points(records: Sequence[Tree], *keys: str) -> list[Point]:
    """(step, value) wherever the value is a finite number."""
    return [(float(record["step"]), value) for record in records if (value := real(dig(record, *keys))) is not None]


def evaluation_section(findings: Findings, words: Words) -> Element | None:
    report = findings.evaluation
    documents, tokens = (real(dig(report, "counts", name)) for name in ("documents", "tokens"))
    lead = words("evaluation.lead")
    if documents and tokens:
        lead = words("evaluation.lead.counts", documents=count(documents), tokens=count(tokens))
    parts = (_measures(report, words), _fills(report, words), _generations(report, words), _samples(report, words))
    parts += tuple(frontier_parts(report, words))
    return section("evaluation", words("evaluation"), lead, *parts)


def _measures(report: Tree, words: Words) -> Element | None:
    rows: list[Sequence[Child]] = []
    for name, value in mapping(report.get("losses")).items():
        if (number := real(value)) is not None:
            rows.append((words("evaluation.loss", name=words.known(f"loss.{name}") or name), decimal(number)))
    figures = {key: value for key, value in mapping(report.get("figures")).items() if key not in report}
    for key, value in (*report.items(), *figures.items()):
        if (number := real(value)) is not None:
            rows.append((words.known(f"evaluation.{key}") or key.replace("_", " "), _shown(key, value, number)))
    for name, value in mapping(report.get("accuracies")).items():
        if (number := real(value)) is not None:
            rows.append((_accuracy(name, words), percent(number)))
    return table("", [words("evaluation.measure"), words("evaluation.value")], rows)


def _shown(key: str, value: Any, number: float) -> str:
    if key.endswith(("accuracy", "share", "rate")):
        return percent(number)
    return count(number) if isinstance(value, int) or key == "active_units" else decimal(number)


def _accuracy(name: str, words: Words) -> str:
    """What an accuracy is of; one of a mixture has the name of its part before it."""
    if known := words.known(f"accuracy.{name}"):
        return known
    of = name.removesuffix("_accuracy")
    return words("accuracy.of", name=words.known(f"loss.{of}") or of.replace("_", " "))


def _fills(report: Tree, words: Words) -> Element | None:
    items = [_fill(entry) for entry in listing(report.get("fills"))]
    return tag("div", tag("h3", words("evaluation.fills")), tag("ul", items, class_="fills")) if items else None


def _fill(entry: Tree) -> Element:
    """A sentence with the best answers written into its gaps, and under it the candidates of each gap."""
    gaps = _gaps(entry.get("answers"))
    pieces = MASK.split(str(entry.get("text", "")))
    sentence: list[Child] = [pieces[0]]
    for index, piece in enumerate(pieces[1:]):
        best = str(gaps[index][0].get("token", "")) if index < len(gaps) else "?"
        sentence += [tag("mark", _visible(best)), piece]
    lists = [tag("ol", [_answer(answer) for answer in gap]) for gap in gaps]
    return tag("li", tag("p", sentence, lang=script_of("".join(pieces))), lists)


def _gaps(answers: Any) -> list[list[Tree]]:
    """The candidates of each gap: `answers` is a list for one gap, a list of lists for several."""
    if not isinstance(answers, list) or not answers:
        return []
    gaps = [listing(gap) for gap in answers] if isinstance(answers[0], list) else [listing(answers)]
    return [gap for gap in gaps if gap]


def _answer(answer: Tree) -> Element:
    probability = real(answer.get("probability")) or 0.0
    token = str(answer.get("token", ""))
    return tag(
        "li",
        tag("span", _visible(token), class_="token", lang=script_of(token)),
        tag("span", tag("i", style=f"width:{100 * min(max(probability, 0.0), 1.0):.1f}%"), class_="meter"),
        tag("span", percent(probability), class_="number"),
    )


def _visible(token: str) -> str:
    return token if token.strip() else "␣" * max(1, len(token))


def _generations(report: Tree, words: Words) -> Element | None:
    items = []
    for entry in listing(report.get("generations")):
        prompt, text = str(entry.get("prompt", "")), str(entry.get("text", ""))
        items.append(
            tag(
                "blockquote",
                tag("b", prompt) if prompt else None,
                text.removeprefix(prompt),
                lang=script_of(prompt + text),
            )
        )
    return tag("div", tag("h3", words("evaluation.generations")), items, class_="generations") if items else None


def _samples(report: Tree, words: Words) -> Element | None:
    """What was written from latents that were drawn, and from no beginning."""
    texts = report.get("samples")
    texts = [text for text in texts if isinstance(text, str)] if isinstance(texts, list) else []
    items = [tag("blockquote", text if text.strip() else "␣", lang=script_of(text)) for text in texts]
    return tag("div", tag("h3", words("evaluation.samples")), items, class_="generations") if items else None
