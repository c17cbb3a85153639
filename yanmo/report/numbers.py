"""Numbers as people read them."""

from __future__ import annotations

import math
from typing import Any


def real(value: Any) -> float | None:
    """The value as a finite number; None where it is none (missing, text, NaN)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def count(value: float) -> str:
    """12,345"""
    return f"{round(value):,}"


def decimal(value: float, places: int = 3) -> str:
    """1,234.568; small numbers keep three significant digits: 0.000301"""
    if value and abs(value) < 10 ** -(places - 1):
        return f"{value:.3g}" if abs(value) < 1e-4 else f"{value:.6f}".rstrip("0")
    return f"{value:,.{places}f}"


def percent(share: float) -> str:
    """12.3%; what is not nothing is not shown as nothing: <0.1%"""
    if 0 < share < 0.001:
        return "<0.1%"
    return "100%" if share == 1 else f"{share:.1%}"


def size(bytes_: float) -> str:
    """8.13 MB; powers of ten, as disks are sold."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if bytes_ >= factor:
            return f"{bytes_ / factor:.3g} {unit}" if bytes_ < 1000 * factor else f"{bytes_ / factor:,.0f} {unit}"
    return f"{bytes_:.0f} B"


def short(value: float) -> str:
    """11.2 M parameters, 4,096: a figure for a line of text."""
    for unit, factor in (("B", 1e9), ("M", 1e6)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return count(value)


def tick(value: float, step: float) -> str:
    """A number on an axis whose ticks are `step` apart: as many places as tell neighbours apart."""
    if value == 0:
        return "0"
    if step < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-").replace(".0e", "e")
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{places}f}"


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 x 10^n apart), about as many as wanted, from at most `low` to at least `high`."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / max(1, wanted)
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = magnitude * next(factor for factor, most in ((1, 1.5), (2, 3.5), (5, 7.5), (10, 11)) if rough / magnitude < most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]
