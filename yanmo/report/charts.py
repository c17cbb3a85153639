"""Charts as inline SVG, drawn for any width: places along x are percentages, so that text keeps its size on a phone.

Every chart is a figure with a caption; colours and fonts come from page.css, which knows light, dark and paper.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from yanmo.report.numbers import count, tick, ticks
from yanmo.report.tags import Child, Children, tag

GRID = 1000  # units of the stretched coordinate system that paths are drawn in
PATH_POINTS = 600  # a longer line is thinned
BAR_ROW, BAR_HEIGHT = 46, 9  # pixels

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One series; `style` is classes in page.css; `points` are dots joined by a thin line, `of METHOD` a way of adapting."""

    name: str
    points: Sequence[Point]
    style: str = "plain"


def line_chart(
    title: str, lines: Sequence[Line], x_label: str, y_label: str, *, height: int, from_zero: bool, legend: bool
) -> Element:
    """Lines over a shared x axis. Raw lines may leave the frame: it fits the others where there are others."""
    lines = [line for line in lines if line.points]
    framed = [line for line in lines if line.style != "raw"] or lines
    x_low, x_high = _extent([x for line in lines for x, _ in line.points], room=0.0)
    y_low, y_high = _extent([y for line in framed for _, y in line.points], room=0.06, from_zero=from_zero)
    x_ticks = [x for x in ticks(x_low, x_high, 6 if height > 200 else 3) if x_low <= x <= x_high]
    y_ticks = [y for y in ticks(y_low, y_high, max(3, height // 45)) if y_low <= y <= y_high]

    def along(x: float) -> float:  # shares of the frame, from the left and from the top
        return (x - x_low) / (x_high - x_low)

    def down(y: float) -> float:
        return (y_high - y) / (y_high - y_low)

    def path(points: Sequence[Point]) -> str:
        return "M" + "L".join(f"{along(x) * GRID:.1f} {down(y) * GRID:.1f}" for x, y in _thin(points))

    def dot(x: float, y: float) -> Element:
        hint = tag("title", f"{x_label} {count(x) if x == round(x) else f'{x:.4g}'}: {y:.4g}")
        return tag("circle", hint, cx=_percent(along(x)), cy=_percent(down(y)), r=3.2)

    paths = [tag("path", d=path(line.points), class_=f"line {line.style}") for line in lines]
    stretched = {"view_box": f"0 0 {GRID} {GRID}", "preserve_aspect_ratio": "none"}
    marks = [
        _x_axis(x_label, [(along(x), tick(x, _apart(x_ticks))) for x in x_ticks]),
        _y_axis(y_label, [(down(y), tick(y, _apart(y_ticks))) for y in y_ticks]),
        tag("svg", paths, width="100%", height="100%", **stretched),
        [dot(x, y) for line in lines if line.style == "points" for x, y in line.points],
    ]
    key = [(line.style, line.name) for line in lines] if legend and len(lines) > 1 else []
    return _figure(title, key, _svg(title, marks, height), "plot")


def column_chart(title: str, edges: Sequence[float], counts: Sequence[float], x_label: str, y_label: str) -> Element:
    """A histogram: one column between neighbouring edges, drawn equally wide (edges usually grow by a factor)."""
    y_ticks = ticks(0.0, max([*counts, 1.0]), 3)
    top, width = y_ticks[-1], 1 / len(counts)
    every = -(-len(edges) // 6)
    columns = []
    for index, value in enumerate(counts):
        hint = tag("title", f"{count(edges[index])} – {count(edges[index + 1])}: {count(value)}")
        place = {"x": _percent((index + 0.06) * width), "y": _percent(1 - value / top)}
        columns.append(tag("rect", hint, **place, width=_percent(0.88 * width), height=_percent(value / top)))
    marks = [
        _x_axis(x_label, [(index * width, count(edges[index])) for index in range(0, len(edges), every)]),
        _y_axis(y_label, [(1 - y / top, tick(y, _apart(y_ticks))) for y in y_ticks]),
        columns,
    ]
    return _figure(title, [], _svg(title, marks, height=170), "plot")


def _x_axis(label: str, marks: Sequence[tuple[float, str]]) -> list[Element]:
    """Numbers under the frame, at shares of its width; on a phone every second one is hidden (class dense)."""
    texts = [tag("text", label, x="100%", y="100%", dy=36, class_="end")]
    for index, (place, number) in enumerate(marks):
        style = "end" if place > 0.97 else "middle"  # the last one ends at the frame: it must not leave the page
        if index % 2 and len(marks) > 4:
            style += " dense"
        texts.append(tag("text", number, x=_percent(place), y="100%", dy=18, class_=style))
    return texts


def _y_axis(label: str, marks: Sequence[tuple[float, str]]) -> list[Element]:
    """Grid lines at shares of the height, their numbers at the left, the unit above."""
    drawn = [tag("text", label, y=-14, dx="-2.9rem")]
    for place, number in marks:
        drawn.append(tag("line", x1="0%", x2="100%", y1=_percent(place), y2=_percent(place), class_="grid"))
        drawn.append(tag("text", number, x=-8, y=_percent(place), dy="0.35em", class_="end"))
    return drawn


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart; shares of the full width. `lost` is drawn beyond `share`, `second` as a thin bar below; `spread` is a
    line from one place to another, and `dots` stand where single values are."""

    name: str
    value: str
    share: float
    second: float | None = None
    lost: float = 0.0
    note: str = ""
    spread: tuple[float, float] | None = None
    dots: Sequence[float] = ()


def bar_chart(title: str, bars: Sequence[Bar], key: Sequence[tuple[str, str]] = (), describe: str = "") -> Element:
    """Rows of horizontal bars, name and value above each; with `second` a thinner bar below, with `lost` a funnel."""
    marks: list[Child] = []

    def bar_from(start: float, share: float, style: str, y: int, height: int = BAR_HEIGHT) -> None:
        marks.append(tag("rect", x=_percent(start), y=y, width=_percent(share), height=height, class_=style))

    for index, bar in enumerate(bars):
        y = index * BAR_ROW
        note = [tag("tspan", bar.note, class_="note"), tag("tspan", bar.value, dx=10)] if bar.note else bar.value
        marks.append(tag("text", bar.name, x=0, y=y + 16, class_="name"))
        marks.append(tag("text", note, x="100%", y=y + 16, class_="value end"))
        bar_from(0, 1, "track", y + 24)
        bar_from(0, bar.share, "bar", y + 24)
        if bar.lost > 0:
            bar_from(bar.share, bar.lost, "lost", y + 24)
        if bar.second is not None:
            bar_from(0, bar.second, "second", y + 26 + BAR_HEIGHT, 3)
        middle = y + 24 + BAR_HEIGHT / 2
        if bar.spread is not None:
            low, high = (_percent(min(max(end, 0.0), 1.0)) for end in bar.spread)
            ends = [(low, high, middle, middle), *((end, end, middle - BAR_HEIGHT, middle + BAR_HEIGHT) for end in (low, high))]
            marks += [tag("line", x1=x1, x2=x2, y1=y1, y2=y2, class_="spread") for x1, x2, y1, y2 in ends]
        marks += [tag("circle", cx=_percent(min(max(dot, 0.0), 1.0)), cy=middle, r=3.2) for dot in bar.dots]
    return _figure(title, key, _svg(title, marks, len(bars) * BAR_ROW, describe), "bars")


def smooth(points: Sequence[Point], share: float = 0.04) -> list[Point]:
    """Mean over a centred window of `share` of the points (at least 5), so that it does not lag.

    At the start, where curves are steep, the window narrows; at the end it is one-sided.
    """
    sums = [0.0, *itertools.accumulate(y for _, y in points)]
    half = max(2, round(share * len(points) / 2))
    result: list[Point] = []
    for index, (x, _) in enumerate(points):
        first = max(0, index - half)
        last = min(len(points), index + min(half, index) + 1)
        result.append((x, (sums[last] - sums[first]) / (last - first)))
    return result


def _extent(values: Sequence[float], room: float, from_zero: bool = False) -> tuple[float, float]:
    """Lowest and highest value of an axis, with `room` as a share of the extent; never empty."""
    low, high = min(values), max(values)
    if from_zero and high > 0:
        return min(0.0, low), high * (1 + room)
    if low == high:
        room, low, high = 0.0, low - (abs(low) / 2 or 1.0), high + (abs(high) / 2 or 1.0)
    return low - room * (high - low), high + room * (high - low)


def _apart(marks: Sequence[float]) -> float:
    return marks[1] - marks[0] if len(marks) > 1 else 1.0


def _thin(points: Sequence[Point]) -> Sequence[Point]:
    """At most PATH_POINTS points: of each stretch the lowest and the highest, so that spikes stay visible."""
    if len(points) <= PATH_POINTS:
        return points
    stretch = -(-2 * len(points) // PATH_POINTS)
    kept: list[Point] = []
    for start in range(0, len(points), stretch):
        piece = points[start : start + stretch]
        kept += sorted({min(piece, key=lambda point: point[1]), max(piece, key=lambda point: point[1])})
    return kept


def _svg(title: str, marks: Sequence[Children], height: int, describe: str = "") -> Element:
    name = f"{title}. {describe}" if describe else title
    return tag("svg", *marks, width="100%", height=height, role="img", aria_label=name)


def _figure(title: str, key: Sequence[tuple[str, str]], svg: Element, kind: str) -> Element:
    legend = tag("ul", [tag("li", tag("i", class_=style), name) for style, name in key], class_="key") if key else None
    return tag("figure", tag("figcaption", title), legend, tag("div", svg, class_=kind))


def _percent(share: float) -> str:
    return f"{100 * share:.3f}".rstrip("0").rstrip(".") + "%"
