"""Examples as rows of tokens: windows, their order, and how they are laid out side by side.

Letters: R rows, T places of a row, W windows, N tokens of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from yanmo.batch import Fit, Order, Packed, Piece, Row
from yanmo.errors import UserError
from yanmo.tokenizer import Tokens

LONGEST, SHORTEST = 256, 128
"""Tokens of a row, where the recipe does not say: as many as the longest example needs, within these."""
NO_WORDS = np.zeros(0, dtype=np.int64)
"""Nothing asks a window where its sentences and words begin."""


@dataclass(frozen=True)
class Window(Piece):
    """An example, or as much of a long one as fits into a row, as the network reads it: `tokens` has the special ones too.

    document: its number among all windows; example: that of its example. types: (N,), 0 in the first and 1 in the second part
    of a pair, or None.
    """

    example: int = 0
    types: np.ndarray | None = None

    @property
    def places(self) -> int:
        """Of a row that it takes."""
        return len(self.tokens)


class _Lengths:
    """What an order asks of documents, of windows."""

    def __init__(self, windows: Sequence[Window]):
        self.lengths = np.array([window.places for window in windows], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, document: int, /) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        raise AssertionError("windows are not cut into pieces")


class WindowOrder(Order):
    """The order of windows: packed into rows and dealt out anew in every epoch, as documents are."""

    def __init__(self, windows: Sequence[Window], length: int, fit: Fit, seed: int, shuffle: bool = True):
        self.windows = windows
        super().__init__(_Lengths(windows), length, fit, seed, shuffle)

    def piece(self, piece: int) -> Piece:
        return self.windows[piece]

    def _check_enough(self, places: int) -> None:
        if not places:
            raise UserError("none of the examples has anything that could be read; lengthen training.length, or give other ones")


@dataclass(frozen=True)
class Laid:
    """Rows of windows laid out: what goes through the network, the windows in the order of their places, and where in R*T each
    begins, (W,)."""

    packed: Packed
    windows: tuple[Window, ...]
    firsts: np.ndarray


def lay_windows(rows: Sequence[Row], length: int, pad: int) -> Laid:
    """The windows of each row one after the other, padding at the end."""
    windows = [piece for row in rows for piece in row.pieces if isinstance(piece, Window)]
    counts = [len(row.pieces) for row in rows]
    sizes = np.array([len(window.tokens) for window in windows])
    row = np.repeat(np.arange(len(rows)), counts)
    line = np.cumsum(sizes) - sizes
    begins = np.cumsum(counts) - np.array(counts)
    firsts = line - line[begins][row] + row * length
    assert (firsts + sizes <= (row + 1) * length).all(), "the packer put more into a row than it has places"
    places = np.repeat(firsts - line, sizes) + np.arange(int(sizes.sum()))
    tokens = np.full(len(rows) * length, pad, dtype=np.int64)
    documents, positions, types = (np.zeros(len(tokens), dtype=np.int64) for _ in range(3))
    tokens[places] = np.concatenate([window.tokens for window in windows])
    documents[places] = np.repeat(np.arange(len(windows)) - begins[row] + 1, sizes)
    positions[places] = np.arange(int(sizes.sum())) - np.repeat(line, sizes)
    typed = any(window.types is not None for window in windows)
    if typed:
        given = [np.zeros(len(window.tokens), np.int64) if window.types is None else window.types for window in windows]
        types[places] = np.concatenate(given)
    shape = (len(rows), length)
    tokens_RT, documents_RT, positions_RT = (torch.from_numpy(found.reshape(shape)) for found in (tokens, documents, positions))
    whole = len(windows) == len(rows) and bool((sizes == length).all())
    types_RT = torch.from_numpy(types.reshape(shape)) if typed else None
    packed = Packed(tokens_RT, documents_RT, positions_RT, types_RT, whole)
    return Laid(packed, tuple(windows), firsts)


@dataclass(frozen=True)
class Surrounded:
    """Token ids as the network reads them, with the family's special tokens, and where in them each part begins."""

    tokens: np.ndarray
    types: np.ndarray | None
    begins: tuple[int, ...]


def surrounded(tokens: Tokens, first: Sequence[int], second: Sequence[int] | None = None) -> Surrounded:
    """One text, or two with a separator between them, as `objectives.layout` lays them out in pretraining."""
    separator = () if tokens.separator is None else (tokens.separator,)
    ids = [*tokens.prefix, *first]
    begins = [len(tokens.prefix)]
    types = None
    if second is not None:
        ids += separator
        begins.append(len(ids))
        ids += second
        types = np.zeros(len(ids) + len(tokens.suffix), dtype=np.int64)
        types[begins[1] :] = 1
    ids += tokens.suffix
    return Surrounded(np.array(ids, dtype=np.int64), types, tuple(begins))


def room_beside(tokens: Tokens, length: int, pair: bool = False) -> int:
    """Tokens of text that a row has places for."""
    return length - len(tokens.prefix) - len(tokens.suffix) - int(pair and tokens.separator is not None)
