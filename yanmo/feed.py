"""The batches of each step, made while the step before is computed."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from torch.utils.data import DataLoader, Dataset

from yanmo.batch import Row
from yanmo.objectives.objective import Objective

FORKS = "fork" in multiprocessing.get_all_start_methods()
"""Whether a process can be copied as it is; elsewhere workers must be sent the data."""


class Rows(Protocol):
    """An order of the data (yanmo.batch.Order): row n is a function of n, and n goes on for ever."""

    @property
    def rows_per_epoch(self) -> int: ...

    @property
    def places_per_epoch(self) -> int: ...

    def row(self, number: int, /) -> Row: ...


@dataclass(frozen=True)
class Share(Dataset):
    """One rank's share of each step: of its rows, step*rows ... step*rows+rows-1, the `count` from `first` on."""

    objective: Objective
    order: Rows
    rows: int
    first: int
    count: int
    micro: int
    length: int

    def __getitem__(self, step: int) -> list[Any]:
        begin = step * self.rows + self.first
        numbers = range(begin, begin + self.count)
        return [self._batch(numbers[at : at + self.micro]) for at in range(0, self.count, self.micro)]

    def _batch(self, numbers: range) -> Any:
        return self.objective.collate([self.order.row(number) for number in numbers], self.length)


class Feed:
    """Micro-batches of any step, cheapest when steps are asked for in turn.

    workers: processes that make them; with none a thread of this process is one step ahead.
    """

    def __init__(self, share: Share, workers: int):
        self.share, self.workers = share, workers
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: tuple[int, Future[list[Any]] | Iterator[list[Any]]] | None = None

    def take(self, step: int) -> list[Any]:
        """The micro-batches of a step."""
        at, source = self._ahead or (None, None)
        if self.workers:
            if not isinstance(source, Iterator) or at != step:
                source = iter(self._loader(step))
            batches = next(source)
            self._ahead = (step + 1, source)
            return batches
        ready = source.result() if isinstance(source, Future) else None  # always waited for: an order is not shared
        batches = ready if ready is not None and at == step else self.share[step]
        self._ahead = (step + 1, self._thread.submit(self.share.__getitem__, step + 1))
        return batches

    def close(self) -> None:
        """Stop the thread or the processes."""
        self._ahead = None
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _loader(self, step: int) -> DataLoader[Any]:
        return DataLoader(
            self.share,
            batch_size=None,
            sampler=itertools.count(step),  # type: ignore[arg-type]  # any iterable of keys will do
            num_workers=self.workers,
            collate_fn=_as_it_is,
            multiprocessing_context="fork" if FORKS else None,
        )


def _as_it_is(batches: list[Any]) -> list[Any]:
    return batches
