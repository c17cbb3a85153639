"""What keeps a run from ruin: steps that are not taken, and a stop that waits for the step's end.

A step whose loss or gradient is not a number, or is far from those of the steps before it, is refused.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

WINDOW = 64
"""Accepted steps whose losses and norms are remembered."""
ENOUGH = 16
"""Accepted steps before anything is called a spike."""
LOSS_FACTOR, LOSS_MARGIN = 1.5, 1.0
"""A loss is a spike above the median times the factor plus the margin, in nats."""
NORM_FACTOR = 10.0
"""A gradient's norm is a spike above so many times the median."""
NORM_PATIENCE = 2
"""A norm that is still so high after this many refusals, while the loss is as usual, is how the run is now: norms grow
tenfold where a network begins to learn something by heart. Clipping takes care of it."""
PATIENCE = 5
"""Refused steps in a row after which the run goes back to its last checkpoint."""
RETURNS = 3
"""Returns after which the run stops."""


def refusal(loss: float, norm: float, losses: list[float], norms: list[float], refused: int = 0) -> str | None:
    """Why a step should not be taken, or None.

    losses, norms: those of the last accepted steps; norms are forgotten when they have changed for good. refused: how many
    steps in a row were not taken.
    """
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(norm):
        return f"the norm of the gradient is {norm}"
    if len(losses) >= ENOUGH and loss > (usual := median(losses)) * LOSS_FACTOR + LOSS_MARGIN:
        return f"the loss is {loss:.3g}, usual is {usual:.3g}"
    if len(norms) >= ENOUGH and norm > (usual := median(norms)) * NORM_FACTOR:
        if refused < NORM_PATIENCE:
            return f"the norm of the gradient is {norm:.3g}, usual is {usual:.3g}"
        norms.clear()
    return None


def remember(value: float, values: list[float]) -> None:
    """Add an accepted value to the window."""
    values.append(value)
    del values[:-WINDOW]


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets, so that the step can be finished; a second one stops at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # only the main thread is told of signals
        return

    def ask(number: int, frame: object) -> None:
        event.set()
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
