"""What happened to the corpus: figures that add up from workers, and the report they become."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from yanmo.corpus.units import CLASSES, SCRIPTS


@dataclass
class Step:
    """A row of the funnel: documents and bytes (UTF-8) that came in and went out, and the seconds of all workers."""

    step: str
    documents_in: int = 0
    documents_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: float = 0.0

    def add(self, other: Step) -> None:
        """Take in the same step of another batch."""
        for name in ("documents_in", "documents_out", "bytes_in", "bytes_out", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass
class CorpusReport:
    """The report of a corpus, as `report.json` holds it.

    funnel: one Step for each step that is switched on, in order; the last gives what was kept.
    switches: for each cleaning switch, documents changed and what was changed in them; for each filter, documents dropped.
    encodings: files read in each encoding; files: those that are not UTF-8, by name (the first thousand).
    scripts: share of the kept characters, space apart. lengths: kept documents by characters; `lengths[i]` counts those of
    2**i to 2**(i + 1) - 1. languages: detected ones, where a language filter is set. index_bytes: memory of the indexes.
    """

    documents: int = 0
    bytes: int = 0
    characters: int = 0
    train: int = 0
    validation: int = 0
    funnel: list[Step] = field(default_factory=list)
    switches: dict[str, dict[str, int]] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    encodings: dict[str, int] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    scripts: dict[str, float] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)
    languages: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    index_bytes: int = 0
    workers: int = 1
    seconds: float = 0.0

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), ensure_ascii=False, indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> CorpusReport:
        """What `write` wrote."""
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        tree["funnel"] = [Step(**row) for row in tree["funnel"]]
        return cls(**tree)


@dataclass
class Tally:
    """The part of the figures that a worker counts in one batch."""

    funnel: dict[str, Step] = field(default_factory=dict)
    switches: dict[str, Counter[str]] = field(default_factory=dict)
    languages: Counter[str] = field(default_factory=Counter)

    def step(self, name: str) -> Step:
        return self.funnel.setdefault(name, Step(name))

    def add(self, other: Tally) -> None:
        """Take in another batch."""
        for name, step in other.funnel.items():
            self.step(name).add(step)
        for name, counter in other.switches.items():
            self.switches.setdefault(name, Counter()).update(counter)
        self.languages.update(other.languages)


def script_shares(counts: np.ndarray) -> dict[str, float]:
    """(CLASSES,) characters of each class -> share of each script, largest first."""
    shares: Counter[str] = Counter()
    for name, count in zip(SCRIPTS, counts[: CLASSES - 1].tolist(), strict=True):
        shares[name] += count
    total = max(1, sum(shares.values()))
    return {name: count / total for name, count in shares.most_common()}
