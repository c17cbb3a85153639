"""What a lint says: sections with figures, examples and advice, and a verdict; for a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from yanmo import display

Verdict = Literal["ok", "look at", "do not train"]
VERDICTS: tuple[Verdict, ...] = ("ok", "look at", "do not train")
SHOWN = 3
"""Examples of a finding that are shown."""
WIDE = 100
"""Columns of an example that are shown."""


@dataclass(frozen=True)
class Shown:
    """An example of a finding: where it stands, and what is there."""

    origin: str
    text: str


@dataclass(frozen=True)
class Whole(Shown):
    """One of which every word is shown: what is said of a record that cannot be read, with what would mend it."""


@dataclass(frozen=True)
class Section:
    """One finding, or that there is nothing to find. found: sentences; figures: the same numbers by name; advice: what to do."""

    name: str
    verdict: Verdict
    found: tuple[str, ...]
    figures: dict[str, Any] = field(default_factory=dict)
    examples: tuple[Shown, ...] = ()
    advice: str = ""


@dataclass(frozen=True)
class LintReport:
    """kind: of task. parts: how many examples each part has."""

    kind: str
    parts: dict[str, int]
    sections: tuple[Section, ...]

    @property
    def verdict(self) -> Verdict:
        """That of the worst section."""
        return VERDICTS[max((VERDICTS.index(section.verdict) for section in self.sections), default=0)]

    def __getitem__(self, name: str) -> Section:
        return next(section for section in self.sections if section.name == name)

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        sections = [asdict(section) for section in self.sections]
        return {"kind": self.kind, "verdict": self.verdict, "parts": self.parts, "sections": sections}

    def show(self) -> None:
        """Print it: what is wrong first."""
        counts = ", ".join(f"{part} {count:,}" for part, count in self.parts.items())
        worst_first = sorted(self.sections, key=lambda section: -VERDICTS.index(section.verdict))
        folder = _folder([example.origin for section in self.sections for example in section.examples])
        rows = [(one.verdict, one.name, _lines(one, folder)) for one in worst_first]
        display.findings(f"{self.kind}: {counts}", rows, self.closing())

    def closing(self) -> tuple[Verdict, str]:
        """The verdict and a sentence that says why."""
        of = {verdict: [one.name for one in self.sections if one.verdict == verdict] for verdict in VERDICTS}
        bad, odd = of["do not train"], of["look at"]
        if bad:
            return self.verdict, f"mend first: {', '.join(bad)}" + (f"; then look at: {', '.join(odd)}" if odd else "")
        if odd:
            return self.verdict, f"{', '.join(odd)}; training can begin when you know why"
        return self.verdict, "nothing stands against training"


def _lines(section: Section, folder: str) -> list[tuple[str, str]]:
    """(style, text) of each line; of what is as it should be only the figures."""
    lines = [("", sentence) for sentence in section.found]
    if section.verdict == "ok":
        return lines
    for one in section.examples:
        style = "" if isinstance(one, Whole) else display.EXAMPLE
        lines.append((style, f"{one.origin.replace(folder, '') if folder else one.origin}  {one.text}"))
    return lines + ([("italic", f"→ {section.advice}")] if section.advice else [])


def _folder(origins: Sequence[str]) -> str:
    """The folder that all files stand in, which needs not be said with each."""
    first, last = min(origins, default=""), max(origins, default="")  # in the order of letters: all others lie between
    same = next((place for place, sign in enumerate(first) if last[place : place + 1] != sign), len(first))
    return first[: first.rfind("/", 0, same) + 1]


def shown(examples: Sequence[tuple[str, str]]) -> tuple[Shown, ...]:
    """The first of (origin, text), each on one line."""
    return tuple(Shown(origin, shortened(text)) for origin, text in examples[:SHOWN])


def shortened(text: str, width: int = WIDE) -> str:
    """A text on one line, cut at its end; a wide character counts twice."""
    return display.on_one_line(text, width)


def share(part: int, whole: int) -> str:
    """12 (3.4%), or 0."""
    return f"{part:,} ({'<0.1%' if part < 0.0005 * whole else f'{part / whole:.1%}'})" if part and whole else f"{part:,}"
