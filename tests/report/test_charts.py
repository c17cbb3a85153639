"""Numbers and lines against their definitions."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yanmo.report.charts import PATH_POINTS, Line, line_chart, smooth
from yanmo.report.numbers import count, decimal, percent, real, short, size, tick, ticks
from yanmo.report.tags import html, tag


def test_numbers_as_people_read_them() -> None:
    assert [count(value) for value in (0, 999.6, 1_234_567)] == ["0", "1,000", "1,234,567"]
    assert [decimal(value) for value in (3.75414, 1_234.5, 0.000301, 0.00000123, 0)] == [
        "3.754", "1,234.500", "0.000301", "1.23e-06", "0.000",
    ]  # fmt: skip
    assert [percent(value) for value in (0, 0.0004, 0.3517, 1)] == ["0.0%", "<0.1%", "35.2%", "100%"]
    assert [size(value) for value in (0, 999, 1_000, 8_134_000, 2.5e12, 3e15)] == [
        "0 B", "999 B", "1 kB", "8.13 MB", "2.5 TB", "3,000 TB",
    ]  # fmt: skip
    assert [short(value) for value in (4_096, 11_240_000, 1_300_000_000)] == ["4,096", "11.2 M", "1.3 B"]


def test_what_is_no_number_is_none() -> None:
    assert [real(value) for value in (None, "3", True, math.nan, math.inf, [1])] == [None] * 6
    assert real(3) == 3.0


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(2, 8))
def test_ticks_are_round_and_cover_the_range(low: float, extent: float, wanted: int) -> None:
    high = low + extent
    if not high - low > 1e-9 * abs(low):
        return
    marks = ticks(low, high, wanted)
    step = marks[1] - marks[0]
    assert marks[0] <= low + 1e-6 * step
    assert marks[-1] >= high - 1e-6 * step
    assert 2 <= len(marks) <= 2 * wanted + 2
    assert round(step / 10 ** math.floor(math.log10(step * 1.0001)), 3) in (1, 2, 5)


def test_neighbouring_ticks_read_differently() -> None:
    for low, high in ((0, 1), (0, 1e-3), (3.6, 3.64), (0, 41_000), (0, 3e-5)):
        marks = ticks(low, high)
        assert len({tick(mark, marks[1] - marks[0]) for mark in marks}) == len(marks)


def test_smoothing_keeps_constants_and_straight_lines() -> None:
    constant = [(float(x), 2.0) for x in range(300)]
    assert smooth(constant) == [(x, pytest.approx(2.0)) for x, _ in constant]
    straight = [(float(x), 3.0 * x) for x in range(300)]
    assert smooth(straight)[:290] == [(x, pytest.approx(y)) for x, y in straight[:290]]


def test_smoothing_is_the_mean_of_the_window() -> None:
    values = [math.sin(x) for x in range(200)]
    smoothed = smooth(list(enumerate(values)), share=0.1)
    assert smoothed[100][1] == pytest.approx(sum(values[90:111]) / 21)
    assert smoothed[199][1] == pytest.approx(sum(values[189:]) / 11)


def test_a_long_line_is_thinned_and_keeps_its_spike() -> None:
    points = [(float(x), 1.0) for x in range(50_000)]
    points[31_415] = (31_415.0, 9.0)
    chart = html(line_chart("t", [Line("", points)], "x", "y", height=100, from_zero=True, legend=False))
    path = chart.split('<path d="')[1].split('"')[0]
    assert path.count("L") < PATH_POINTS
    assert f"{1000 * 31_415 / 49_999:.1f} {1000 * (1 - 1 / 1.06):.1f}" in path


@pytest.mark.parametrize("points", [[(5.0, 3.0)], [(1.0, 0.0), (2.0, 0.0)], [(0.0, -1.0), (1.0, -1.0)]])
@pytest.mark.parametrize("from_zero", [True, False])
def test_flat_and_single_points(points: list[tuple[float, float]], from_zero: bool) -> None:
    chart = line_chart("t", [Line("", points, "points")], "x", "y", height=100, from_zero=from_zero, legend=False)
    assert html(chart).count("<circle") == len(points)


def test_text_and_tails_are_kept_in_order() -> None:
    element = tag("p", "a", tag("b", "<", class_="x&"), ["c", None, tag("i")], "d", hidden=None)
    assert html(element) == '<p>a<b class="x&amp;">&lt;</b>c<i></i>d</p>'
