"""What came out of held-out examples, for a person to judge: some that came out wrong, and what is taken for what."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yanmo.display import on_one_line
from yanmo.files import write_atomically

ERRORS, CONFUSION = "errors.jsonl", "confusion.json"
"""Beside a trial's figures."""
MOST = 48
"""Examples that are kept."""
WIDE = 400
"""Columns of each text that are kept; a wide character counts twice."""


@dataclass(frozen=True)
class Judged:
    """An example and what was predicted of it, as a person reads both. wrong: how far off that is, 0 for what is right."""

    origin: str
    given: str
    gold: str
    predicted: str
    wrong: float


def mistakes(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Of what came out wrong the worst, and of those that are as bad any, the same ones every time; on a line each."""
    wrong = [one for one in judged if one.wrong]
    random.Random(0).shuffle(wrong)
    wrong.sort(key=lambda one: -one.wrong)
    return [
        {
            "origin": one.origin,
            "given": on_one_line(one.given, WIDE),
            "gold": on_one_line(one.gold, WIDE),
            "predicted": on_one_line(one.predicted, WIDE),
        }
        for one in wrong[:MOST]
    ]


def taken_for(judged: Sequence[Judged], labels: Sequence[str]) -> dict[str, Any]:
    """labels: those that occur, in their order; counts: of each that is right, how often each was predicted."""
    pairs = Counter((one.gold, one.predicted) for one in judged)
    known = [label for label in labels if any(label in pair for pair in pairs)]
    return {"labels": known, "counts": [[pairs[gold, predicted] for predicted in known] for gold in known]}


def keep_judged(judged: Sequence[Judged], labels: Sequence[str] | None, folder: Path) -> None:
    """Write errors.jsonl, and, where every example has one of `labels`, confusion.json."""
    lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in mistakes(judged))
    write_atomically(folder / ERRORS, lines)
    if labels is not None:
        write_atomically(folder / CONFUSION, json.dumps(taken_for(judged, labels), ensure_ascii=False))
