"""Worker processes: how many, how they are set up, and a map through them that keeps the order."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import TypeVar

from yanmo.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")
SMALL = 4 << 20
"""Bytes up to which starting workers costs more than it saves."""


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers_for(size: int | None, asked: int | None) -> int:
    """How many workers for `size` bytes (None: unknown): as many as asked, else one for each core, one for little text."""
    return asked or (1 if size is not None and size <= SMALL else cores())


def start_pool(workers: int, set_up: Callable[..., object], *arguments: object) -> ProcessPoolExecutor:
    """Processes that have called `set_up(*arguments)`.

    They are spawned: a fork of a process that has threads may hang, and it would hold the run's lock when its parent is killed.
    """
    return ProcessPoolExecutor(workers, get_context("spawn"), _begin, (set_up, arguments))


def ordered_map(
    pool: ProcessPoolExecutor, function: Callable[[Task], Result], tasks: Iterable[Task], ahead: int
) -> Iterator[Result]:
    """`function` of each task, in their order, with at most `ahead` waiting. Raises UserError when a worker dies."""
    waiting: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(function, task))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            "a worker process has died: for want of memory (set corpus.workers lower; 1 starts none), or because the script "
            "that calls yanmo has no `if __name__ == '__main__':` around it"
        ) from None


def _begin(set_up: Callable[..., object], arguments: tuple[object, ...]) -> None:
    """One thread, Ctrl-C left to the parent, gone when the parent is gone."""
    os.environ["RAYON_NUM_THREADS"], os.environ["TOKENIZERS_PARALLELISM"] = "1", "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    set_up(*arguments)


def end_with_parent() -> None:
    """Have this process end when the one that started it is gone, however that went."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
