"""Independent trainings side by side: each in a process of its own, with its share of the cores.

A small network cannot fill many cores: as many networks at once as there are cores, each on one, come further than one after
another on all of them.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from yanmo import guard
from yanmo.corpus.workers import cores, end_with_parent
from yanmo.errors import Interrupted, UserError
from yanmo.progress import Progress

Work = Callable[..., Any]
POLL = 0.5
"""Seconds between looks at whether a stop was asked for."""
ENOUGH = 0.2
"""Trials that are done, together, before it is said how long the others will take."""
PATIENCE = 600.0
"""Seconds that a training has to save what it has when it is asked to stop."""


@dataclass
class Lane:
    """A process and what it does: the number of its job, and how much of that is done. None: it has nothing to do."""

    process: BaseProcess
    pipe: Connection
    job: int | None = None
    share: float = 0.0
    speed: float = 0.0


def through_lanes(
    work: Work, jobs: Sequence[tuple[Any, ...]], lanes: int, progress: Progress, say: Callable[[str], None]
) -> list[Any]:
    """What `work(*job, progress, say)` returns of each job, in their order, with `lanes` of them at a time; one at a time is done
    in this process. work: a function of a module, which raises Interrupted where it was stopped and has saved what it has.

    Raises what a job raises of UserError, when the others have saved what they have, and Interrupted when it was asked to stop.
    """
    lanes = min(lanes, len(jobs))
    if lanes <= 1:
        return [work(*job, progress, say) for job in jobs]
    crew = [_started(work, number, lanes) for number in range(lanes)]
    try:
        with guard.interrupts() as asked:
            return _Shift(jobs, crew, progress, say).done(asked.is_set)
    finally:
        _end(crew)


class _Shift:
    """Jobs given to lanes until all are done."""

    def __init__(self, jobs: Sequence[tuple[Any, ...]], crew: Sequence[Lane], progress: Progress, say: Callable[[str], None]):
        self.jobs, self.crew, self.progress, self.say = jobs, crew, progress, say
        self.next, self.began = 0, time.monotonic()
        self.results: dict[int, Any] = {}

    def done(self, asked: Callable[[], bool]) -> list[Any]:
        for lane in self.crew:
            self._give(lane)
        while len(self.results) < len(self.jobs):
            if asked():
                raise Interrupted
            ready = wait([lane.pipe for lane in self.crew], POLL)
            for lane in self.crew:
                if lane.pipe in ready:
                    self._hear(lane)
        return [self.results[number] for number in range(len(self.jobs))]

    def _give(self, lane: Lane) -> None:
        """The next job, where there is one."""
        lane.job, lane.share, lane.speed = None, 0.0, 0.0
        if self.next < len(self.jobs):
            lane.job = self.next
            self.next += 1
            lane.pipe.send(self.jobs[lane.job])

    def _hear(self, lane: Lane) -> None:
        """One message of a lane: (what, value)."""
        try:
            what, value = lane.pipe.recv()
        except (EOFError, ConnectionResetError):
            lane.process.join()
            raise UserError(
                f"the process of a training has ended by itself (status {lane.process.exitcode}): for want of memory "
                "(set `parallel` lower; what is finished is kept), or because the script that calls yanmo has no "
                "`if __name__ == '__main__':` around it"
            ) from None
        if what == "say":
            self.say(value)
        elif what == "done":
            assert lane.job is not None, "only who has a job says that it is done"
            self.results[lane.job] = value
            self._give(lane)
        elif what == "progress":
            lane.share, lane.speed = value
            self._show()
        elif what == "stopped":
            raise Interrupted
        elif what == "refused":
            raise UserError(value)
        else:
            raise RuntimeError(f"a training failed in a process of its own:\n{value}")

    def _show(self) -> None:
        done = len(self.results) + sum(lane.share for lane in self.crew)
        passed = time.monotonic() - self.began
        left = {"left": passed * (len(self.jobs) - done) / done} if done >= ENOUGH else {}
        speed = {"tokens_per_second": total} if (total := sum(lane.speed for lane in self.crew)) else {}
        self.progress(round(done, 1), len(self.jobs), f"trials, {len(self.crew)} at a time", **left, **speed)


def _started(work: Work, number: int, lanes: int) -> Lane:
    here, there = get_context("spawn").Pipe()
    with _share_of_cores(number, lanes) as share:
        process = get_context("spawn").Process(target=_lane, args=(work, there, share), name=f"lane {number}")
        process.start()
    there.close()
    return Lane(process, here)


@contextmanager
def _share_of_cores(number: int, lanes: int) -> Iterator[int]:
    """Processes that are started here get some of the cores, which no other lane has where there are enough; how many."""
    count = max(1, cores() // lanes)
    if not hasattr(os, "sched_setaffinity"):
        yield count
        return
    before = os.sched_getaffinity(0)
    ordered, many = sorted(before), len(before)            # neighbours, which share caches and memory
    own = ordered[number * many // lanes : (number + 1) * many // lanes] or [ordered[number % many]]
    os.sched_setaffinity(0, own)
    try:
        yield len(own)
    finally:
        os.sched_setaffinity(0, before)


def _end(crew: Sequence[Lane]) -> None:
    """Ask all that still learn to stop, which saves what they have, and wait for them."""
    for lane in crew:
        with suppress(OSError):
            lane.pipe.send(None)
        if lane.job is not None:
            lane.process.terminate()
    for lane in crew:
        while lane.process.is_alive():                     # it may still have much to say
            try:
                if lane.pipe.poll(POLL):
                    lane.pipe.recv()
            except (EOFError, OSError):
                lane.process.join(PATIENCE)
                lane.process.kill()
        lane.process.join()


def _lane(work: Work, pipe: Connection, threads: int) -> None:
    """The life of a process: one job after another, until None comes. Ctrl-C at the terminal is for its parent."""
    import torch

    if hasattr(os, "setpgrp"):
        os.setpgrp()
    end_with_parent()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)

    def progress(done: float, total: float | None, unit: str, **figures: float | str) -> None:
        speed = figures.get("tokens_per_second")
        pipe.send(("progress", (done / total if total else 0.0, speed if isinstance(speed, float) else 0.0)))

    while (job := pipe.recv()) is not None:
        try:
            message = ("done", work(*job, progress, lambda sentence: pipe.send(("say", sentence))))
        except Interrupted:
            message = ("stopped", None)
        except UserError as error:
            message = ("refused", str(error))
        except Exception:
            message = ("failed", traceback.format_exc())
        pipe.send(message)
