"""Where the tokens of a batch stand: pieces, with special tokens around them, side by side in rows.

Letters: R rows, T places of a row, N tokens of text, S segments, D documents of the batch. A place is a number in R*T.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from yanmo.batch import Packed, Piece


@dataclass(frozen=True)
class Segment:
    """A run of text without special tokens inside: a piece, or one part of a pair. words: where words start, if that is asked."""

    tokens: np.ndarray
    words: np.ndarray


@dataclass(frozen=True)
class Text:
    """What goes into a row as one document: one segment, or the two of a pair, and the special tokens that follow."""

    segments: tuple[Segment, ...]
    suffix: tuple[int, ...]

    @staticmethod
    def of(piece: Piece, suffix: tuple[int, ...]) -> Text:
        """A piece as it is, and what follows it."""
        return Text((Segment(piece.tokens, piece.words),), suffix)


@dataclass(frozen=True)
class Layout:
    """A batch laid out.

    text, places: (N,) every token of text and the place where it stands. rows: (N,) its row. segment_starts: (S,) where
    in `text` segments start. words: (N,) whether a word starts here. firsts: (D,) the place of each document's first token.
    tokens, documents, positions, types: (R, T), as in Packed.
    """

    text: np.ndarray
    places: np.ndarray
    rows: np.ndarray
    segment_starts: np.ndarray
    words: np.ndarray
    firsts: np.ndarray
    tokens: np.ndarray
    documents: np.ndarray
    positions: np.ndarray
    types: np.ndarray
    whole: bool

    def packed(self, typed: bool = False) -> Packed:
        """What goes through the network; with types where there are pairs."""
        tokens, documents, positions = (torch.from_numpy(a) for a in (self.tokens, self.documents, self.positions))
        return Packed(tokens, documents, positions, torch.from_numpy(self.types) if typed else None, self.whole)


def lay_out(
    rows: Sequence[Sequence[Text]], length: int, prefix: tuple[int, ...], separator: tuple[int, ...], pad: int
) -> Layout:
    """Rows of texts as places: prefix, first segment, separator, second segment, suffix, next text, padding at the end."""
    texts = [text for row in rows for text in row]
    segments = [segment for text in texts for segment in text.segments]
    parts = np.array([len(text.segments) for text in texts])
    sizes = np.array([len(segment.tokens) for segment in segments])
    text_row = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    owner = np.repeat(np.arange(len(texts)), parts)
    is_second = np.append(False, owner[1:] == owner[:-1])
    suffixes = np.array([len(text.suffix) for text in texts])

    # Lengths along one endless line of texts; a row then shifts its texts to where it begins.
    taken = sizes + np.where(is_second, len(separator), len(prefix))
    spans = np.bincount(owner, taken, minlength=len(texts)).astype(np.int64) + suffixes
    line = np.cumsum(spans) - spans
    shift = text_row * length - line[np.searchsorted(text_row, np.arange(len(rows)))][text_row]
    firsts = line + shift
    ends = firsts + spans
    assert (ends <= (text_row + 1) * length).all(), "the packer put more into a row than it has places"
    begins = (np.cumsum(taken) + (np.cumsum(suffixes) - suffixes)[owner]) - sizes + shift[owner]

    segment_starts = np.cumsum(sizes) - sizes
    text = np.concatenate([segment.tokens for segment in segments]).astype(np.int64)
    places = _ranges(begins, sizes)
    words = np.zeros(len(text), dtype=bool)
    counts = [len(segment.words) for segment in segments]
    words[np.concatenate([segment.words for segment in segments]).astype(np.int64) + segment_starts.repeat(counts)] = True
    words[segment_starts[sizes > 0]] = True

    tokens = np.full(len(rows) * length, pad, dtype=np.int64)
    tokens[places] = text
    for offset, token in enumerate(prefix):
        tokens[firsts + offset] = token
    for offset, token in enumerate(separator):
        tokens[begins[is_second] - len(separator) + offset] = token
    for suffix in {text.suffix for text in texts}:
        its_ends = ends[[text.suffix == suffix for text in texts]]
        for offset, token in enumerate(suffix):
            tokens[its_ends - len(suffix) + offset] = token

    covered = _ranges(firsts, spans)
    documents, positions, types = (np.zeros(len(tokens), dtype=np.int64) for _ in range(3))
    number = np.arange(len(texts)) - np.searchsorted(text_row, text_row) + 1
    documents[covered] = number.repeat(spans)
    positions[covered] = covered - firsts.repeat(spans)
    second = np.flatnonzero(is_second)
    types[_ranges(begins[second], ends[owner[second]] - begins[second])] = 1
    shape = (len(rows), length)
    return Layout(
        text=text,
        places=places,
        rows=text_row[owner].repeat(sizes),
        segment_starts=segment_starts,
        words=words,
        firsts=firsts,
        tokens=tokens.reshape(shape),
        documents=documents.reshape(shape),
        positions=positions.reshape(shape),
        types=types.reshape(shape),
        whole=len(texts) == len(rows) and bool((spans == length).all()),
    )


def hidden_at(hidden: Tensor, places: Tensor) -> Tensor:
    """The hidden states (N, D) at some places of (R, T, D)."""
    return hidden.flatten(0, 1).index_select(0, places)


def _ranges(begins: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """begin, begin + 1 ... of every range, one after the other."""
    return np.repeat(begins - (np.cumsum(sizes) - sizes), sizes) + np.arange(int(sizes.sum()))
