"""What goes through a network: rows of tokens, several documents to a row.

Letters: R rows, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """Rows of tokens, several documents to a row, none of which sees another.

    tokens, documents, positions: (R, T) int64. documents is 1, 2, 3... within a row and 0 where there is padding;
    positions restart at 0 with every document. types: (R, T) int64, 0 in the first and 1 in the second part of a pair,
    or None where nothing is paired. whole: every row is one document without padding, so that nothing need be hidden.
    """

    tokens: Tensor
    documents: Tensor
    positions: Tensor
    types: Tensor | None = None
    whole: bool = False


class Batch(Protocol):
    """What a collator makes. Every objective has its own frozen dataclass with at least these fields."""

    @property
    def packed(self) -> Packed: ...

    @property
    def counts(self) -> dict[str, int]:
        """How many targets each of the objective's losses has here; the trainer divides by their sum over the step."""
        ...


@dataclass(frozen=True)
class Piece:
    """A document, or as much of one as fits into a row; special tokens are not in it yet.

    tokens: (N,) token ids. sentences, words: where each sentence and each word starts, the first at 0.
    document: its number in the shards, so that a pair's second part can be taken from another one.
    """

    document: int
    tokens: np.ndarray
    sentences: np.ndarray
    words: np.ndarray


@dataclass(frozen=True)
class Row:
    """The pieces that share a row, and the row's own randomness: a function of (seed, epoch, row) and of nothing else."""

    pieces: tuple[Piece, ...]
    rng: np.random.Generator
    other: Callable[[np.random.Generator], Piece]
    """A random piece of the corpus, for negatives; the caller looks that it is of another document."""


def to_device(batch: Any, device: torch.device) -> Any:
    """The same batch with every tensor on `device`."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if is_dataclass(batch) and not isinstance(batch, type):
        return replace(batch, **{field.name: to_device(getattr(batch, field.name), device) for field in fields(batch)})
    return batch
