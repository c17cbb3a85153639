"""What the report says of a game: the curves of both generators, every point in figures, and which is better."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from yanmo.report.charts import Line, line_chart
from yanmo.report.findings import Tree, dig, listing, mapping
from yanmo.report.layout import table
from yanmo.report.numbers import count, decimal, real
from yanmo.report.tags import Child, tag
from yanmo.report.words import Words

GENERATORS = ("likelihood", "adversarial")
OUTCOMES = ("better", "not better", "not comparable")
ORDER = "4"
"""Of the chart; the table has all."""


def frontier_parts(report: Tree, words: Words) -> list[Element | None]:
    """A heading with the verdict, a chart and a table; nothing where no game was played."""
    found = mapping(report.get("frontiers"))
    curves = {name: points for name in GENERATORS if (points := listing(found.get(name)))}
    if not curves:
        return []
    judged = mapping(found.get("verdict"))
    said = tag("div", tag("h3", words("frontier")), tag("p", _verdict(judged, words)))
    return [said, _chart(curves, words), _table(curves, words)]


def _verdict(judged: Tree, words: Words) -> str:
    gains = []
    for one in listing(judged.get("differences")):
        gain, error = real(one.get("gain")), real(one.get("error"))
        gains.append(f"BLEU-{one.get('order')} {'–' if gain is None or error is None else f'{gain:+.3f} ± {error:.3f}'}")
    outcome = str(judged.get("outcome"))
    return words(f"frontier.{outcome if outcome in OUTCOMES else 'not comparable'}", gains=", ".join(gains))


def _chart(curves: dict[str, list[Tree]], words: Words) -> Element | None:
    lines = []
    for name, style in zip(GENERATORS, ("plain", "points"), strict=True):
        places = [(real(dig(point, "self_bleu", ORDER)), real(dig(point, "bleu", ORDER))) for point in curves.get(name, [])]
        known = [(alike, bleu) for alike, bleu in places if alike is not None and bleu is not None]
        lines.append(Line(words(f"frontier.{name}"), sorted(known), "points" if style == "points" else "plain"))
    if not any(line.points for line in lines):
        return None
    texts = real(next(iter(curves.values()))[0].get("texts")) or 0
    title = words("frontier.title", count=count(texts))
    axes = words("frontier.x", order=ORDER), words("frontier.y", order=ORDER)
    return line_chart(title, lines, *axes, height=300, from_zero=False, legend=True)


def _table(curves: dict[str, list[Tree]], words: Words) -> Element | None:
    orders = list(mapping(next(iter(curves.values()))[0].get("bleu")))
    heads = ["", words("frontier.words"), *(f"BLEU-{order}" for order in orders), *(f"Self-BLEU-{order}" for order in orders)]
    rows: list[Sequence[Child]] = []
    for name, points in curves.items():
        for point in points:
            head = words("frontier.generator", generator=words(f"frontier.{name}"), temperature=f"{point.get('temperature')}")
            figures = [real(dig(point, figure, order)) for figure in ("bleu", "self_bleu") for order in orders]
            length = real(point.get("words"))
            shown = ["–" if figure is None else decimal(figure) for figure in figures]
            rows.append((head, "–" if length is None else decimal(length, 1), *shown))
    return table("", heads, rows)
