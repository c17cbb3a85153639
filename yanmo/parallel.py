"""The ranks of a run: processes that each hold the whole network and take a share of every step's rows.

`torchrun --nproc_per_node=N` starts them and tells each its number; without it there is one. Gradients and counts are
summed over the ranks, and the division by the counts of the whole step is in the loss, so that N ranks compute what one
would.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from yanmo.errors import UserError

BUCKET = 1 << 24
"""Numbers of a gradient that are summed at once: 64 MB, few enough that the buffers of the transport stay small."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run. Every method but `is_first` must be called on all ranks alike."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.rank == 0

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Each number's sum over the ranks, in double precision."""
        if self.size == 1:
            return [float(number) for number in numbers]
        kind = torch.float32 if self.device.type == "mps" else torch.float64
        summed = torch.tensor(list(numbers), dtype=kind, device=self.device)
        dist.all_reduce(summed)
        return summed.tolist()

    def sum_(self, flat: Tensor) -> None:
        """Replace a flat tensor by its sum over the ranks, in buckets."""
        if self.size > 1:
            for bucket in flat.split(BUCKET):
                dist.all_reduce(bucket)

    def share_(self, *tensors: Tensor) -> None:
        """Give every rank what the first one has in these tensors."""
        if self.size > 1:
            for tensor in tensors:
                for bucket in tensor.view(-1).split(BUCKET):
                    dist.broadcast(bucket, src=0)

    def share(self, thing: Any) -> Any:
        """What the first rank holds; something small."""
        if self.size == 1:
            return thing
        held = [thing]
        dist.broadcast_object_list(held, src=0, device=self.device)
        return held[0]

    def gather(self, tensor: Tensor | None) -> Tensor | None:
        """Every rank's rows one after the other, on the CPU; None where no rank has any. Something small."""
        held = [None if tensor is None else tensor.cpu()]
        if self.size > 1:
            held *= self.size
            dist.all_gather_object(held, held[self.rank])
        rows = [part for part in held if part is not None]
        return torch.cat(rows) if rows else None

    def rows(self, rows: int) -> tuple[int, int]:
        """The first and the number of this rank's rows out of a step's. Raises UserError when they cannot be shared."""
        if rows % self.size:
            nearest = max(1, round(rows / self.size)) * self.size
            raise UserError(
                f"training.rows: {rows} rows cannot be shared by {self.size} processes; take a multiple, as {nearest}"
            )
        return self.rank * (rows // self.size), rows // self.size


def choose_device() -> torch.device:
    """The GPU of this process where there is one, Apple's where there is one, the CPU otherwise."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


@contextmanager
def joined(device: torch.device | None = None) -> Iterator[Ranks]:
    """The ranks that torchrun started (nccl between GPUs, gloo between CPUs), or this process alone."""
    device = device or choose_device()
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield Ranks(device=device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif device.type == "mps":
        device = torch.device("cpu")  # Apple's GPU knows no communication between processes
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(int(os.environ["RANK"]), size, device)
    finally:
        dist.destroy_process_group()
