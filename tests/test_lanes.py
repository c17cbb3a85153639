"""Trainings side by side: what one after another finds, on cores of their own; what fails or is stopped takes nothing with it."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from yanmo.corpus.workers import cores
from yanmo.errors import Interrupted, UserError
from yanmo.lanes import through_lanes
from yanmo.progress import silent


def squared(number: int, folder: Path, progress: Any, say: Any) -> dict[str, Any]:
    """Waits for another that does the same, so that it ends only where two are at work at once."""
    import torch

    (folder / f"here-{number}").touch()
    while not (folder / f"here-{number ^ 1}").exists():
        time.sleep(0.01)
    progress(1, 2, "steps", tokens_per_second=10.0)
    say(f"{number} is done")
    mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return {"square": number**2, "process": os.getpid(), "cores": mine, "threads": torch.get_num_threads()}


def stubborn(number: int, progress: Any, say: Any) -> int:
    if number == 1:
        raise UserError("tasks.a: no")
    if number == 2:
        raise ValueError("a mistake of ours")
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def patient(folder: Path, progress: Any, say: Any) -> None:
    """Learns for ever; saves when it is asked to stop, as the trainer does."""
    from yanmo.guard import interrupts

    with interrupts() as asked:
        (folder / f"begun-{os.getpid()}").touch()
        while not asked.wait(0.01):
            pass
    time.sleep(0.2)
    (folder / f"saved-{os.getpid()}").touch()
    raise Interrupted


def test_jobs_come_back_in_their_order_from_processes_that_work_at_once(tmp_path: Path) -> None:
    said: list[str] = []
    shown: list[tuple[float, float | None, dict[str, Any]]] = []
    found = through_lanes(
        squared,
        [(number, tmp_path) for number in range(4)],
        2,
        lambda done, total, unit, **figures: shown.append((done, total, figures)),
        said.append,
    )
    assert [one["square"] for one in found] == [0, 1, 4, 9]
    assert sorted(said) == [f"{number} is done" for number in range(4)]
    assert len({one["process"] for one in found} - {os.getpid()}) == 2
    assert all(total == 4 and 0 < done <= 4 for done, total, _ in shown)
    assert shown[0][2]["tokens_per_second"] in (10.0, 20.0)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or cores() < 2, reason="one core, or none that can be told apart")
def test_each_has_its_own_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = os.sched_getaffinity(0)
    one, other = through_lanes(squared, [(0, tmp_path), (1, tmp_path)], 2, silent, print)
    assert not set(one["cores"]) & set(other["cores"])
    assert {*one["cores"], *other["cores"]} == before
    assert [one["threads"], other["threads"]] == [len(one["cores"]), len(other["cores"])]
    assert os.sched_getaffinity(0) == before


def test_a_single_lane_is_this_process(tmp_path: Path) -> None:
    (tmp_path / "here-1").touch()
    (found,) = through_lanes(squared, [(0, tmp_path)], 4, silent, print)
    assert found["process"] == os.getpid()


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [(1, UserError, "^tasks.a: no$"), (2, RuntimeError, "a mistake of ours"), (3, UserError, "ended by itself .*memory")],
)
def test_what_one_meets_all_hear(number: int, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        through_lanes(stubborn, [(0,), (number,), (0,)], 2, silent, print)


def test_a_stop_waits_until_all_have_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        while len(list(tmp_path.glob("begun-*"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Interrupted):
        through_lanes(patient, [(tmp_path,), (tmp_path,)], 2, silent, print)
    thread.join()
    assert len(list(tmp_path.glob("saved-*"))) == 2
