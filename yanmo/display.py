"""What a person sees while a run goes on: one line for each stage that advances, and a table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from yanmo.progress import Progress

PLAIN_SECONDS = 10
"""Where there is no terminal, a line this often instead of a bar."""

console = Console(stderr=True, highlight=False)


@contextmanager
def stage(name: str) -> Iterator[Progress]:
    """Show one stage: a live bar in a terminal, a line now and then where output goes to a file."""
    started = time.monotonic()
    if console.is_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description:<10}"), BarColumn(bar_width=14), _Figures())
        with Bars(*columns, console=console, transient=True, refresh_per_second=4) as bars:
            task = bars.add_task(name, total=None)

            def show(done: float, total: float | None, unit: str, **figures: float | str) -> None:
                bars.update(task, completed=done, total=total, unit=unit, figures=figures)

            yield show
    else:
        yield _Lines(name)
    console.print(f"[green]✓[/] {name:<10} {duration(time.monotonic() - started)}")


def note(sentence: str, style: str = "") -> None:
    """One sentence, above whatever bar is shown; brackets in it are text."""
    console.print(Text(sentence, style))


def table(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Names and what they are, on standard output, so that a closing table can be kept."""
    shown = Table(show_header=False, box=None, pad_edge=False)
    shown.add_column(style="dim", no_wrap=True)
    shown.add_column(overflow="fold")
    for name, text in rows:
        shown.add_row(Text(name), Text(text))
    _print(title, shown, Console(highlight=False))


def columns(title: str, lines: Sequence[Mapping[str, str]]) -> None:
    """Lines of the same columns, on standard output."""
    shown = Table(box=None, pad_edge=False)
    for name in lines[0] if lines else ():
        shown.add_column(Text(name), style="dim" if name == next(iter(lines[0])) else "", overflow="fold")
    for line in lines:
        shown.add_row(*map(Text, line.values()))
    _print(title, shown, Console(highlight=False))


MARKS = {"ok": ("✓", "green"), "look at": ("!", "yellow"), "do not train": ("✗", "bold red")}


def findings(title: str, rows: Sequence[tuple[str, str, Sequence[tuple[str, str]]]], closing: tuple[str, str]) -> None:
    """What was found, on standard output: (verdict, name, lines as style and text) each, and at the end a verdict and why."""
    shown = Table(show_header=False, box=None, pad_edge=False)
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    out = Console(highlight=False)
    room = out.width - 3 - max((cell_len(name) + 2 for _, name, _ in rows), default=0)
    for verdict, name, lines in rows:
        mark, style = MARKS[verdict]
        cut = [(style, on_one_line(text, room) if style == EXAMPLE else text) for style, text in lines]
        shown.add_row(Text(f"{mark} {name}", style), Text("\n").join(Text(text, style) for style, text in cut))
    _print(title, shown, out)
    verdict, sentence = closing
    mark, style = MARKS[verdict]
    out.print(Text.assemble((f"{mark} {verdict}", style), f": {sentence}"))


def _print(title: str, shown: Table, out: Console) -> None:
    """A table under its title, which may be wider."""
    if title:
        out.print(Text(title, "bold"))
    out.print(shown)


EXAMPLE = "dim"
"""The style of an example, which has one line."""


def on_one_line(text: str, width: int) -> str:
    """A text on one line, cut at its end; a wide character counts twice."""
    text = " ".join(text.split())
    return text if cell_len(text) <= width else f"{set_cell_size(text, max(1, width - 2)).rstrip()} …"


def duration(seconds: float) -> str:
    """12 s, 3 min 05 s, 2 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if seconds >= 1 else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def number(value: float) -> str:
    """Short enough to read at a glance: 12,345 or 3.142 or 2.1e-05."""
    if value == 0 or 1e-3 <= abs(value) < 100:
        return f"{value:.4g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1e}"


def short(count: float) -> str:
    """A count at a glance: 11.2 M, 67.3 k, 512."""
    for unit, factor in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f}"


def figures_line(done: float, total: float | None, unit: str, figures: dict[str, float | str]) -> str:
    """1,200 of 4,000 documents · 12 s left · loss 4.2 · 3,100 tokens/s: first what must not be cut off."""
    parts = [f"{number(done)} of {number(total)} {unit}" if total else f"{number(done)} {unit}" if unit else ""]
    for name, value in sorted(figures.items(), key=lambda figure: figure[0] != "left"):
        parts.append(_figure(name, value))
    return " · ".join(parts)


def _figure(name: str, value: float | str) -> str:
    if name == "left" and not isinstance(value, str):
        return f"{duration(value)} left"
    text = value if isinstance(value, str) else number(value)
    return f"{text} {name.replace('_per_second', '/s')}" if name.endswith("_per_second") else f"{name.replace('_', ' ')} {text}"


class _Figures(ProgressColumn):
    """What is done and what it costs, cut to what the terminal has room for."""

    def render(self, task: Task) -> Text:
        fields = task.fields
        line = figures_line(task.completed, task.total, fields.get("unit", ""), fields.get("figures", {}))
        return Text(line, no_wrap=True, overflow="ellipsis")


class _Lines:
    """Progress as lines of text."""

    def __init__(self, name: str):
        self.name, self.last = name, time.monotonic()

    def __call__(self, done: float, total: float | None, unit: str, **figures: float | str) -> None:
        now = time.monotonic()
        if now - self.last >= PLAIN_SECONDS:
            self.last = now
            print(f"  {self.name}: {figures_line(done, total, unit, figures)}", file=sys.stderr, flush=True)
