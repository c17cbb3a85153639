"""How a stage tells that it advances: called now and then with what is done; who shows it is not the stage's business."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """`done` of `total` (None where it cannot be known), in `unit`; figures are shown beside it (documents/s, loss ...)."""

    def __call__(self, done: float, total: float | None, unit: str, **figures: float | str) -> None: ...


def silent(done: float, total: float | None, unit: str, **figures: float | str) -> None:
    """Show nothing."""
