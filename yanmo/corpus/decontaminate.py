"""Decontamination: documents that share a long n-gram with a test file are not trained on.

As for GPT-3 (Brown et al. 2020, arXiv:2005.14165, appendix C), over units: words, or characters of text without spaces.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from yanmo.corpus.read import Reader, Unreadable, parse
from yanmo.corpus.units import units_of, windows
from yanmo.errors import UserError
from yanmo.recipe import Decontaminate, Source

FILTER_BITS = 24


class Forbidden:
    """The n-grams of the test files: sorted hashes behind a table of bits that answers most questions at once.

    Memory: 8 bytes an n-gram and 2^FILTER_BITS bytes.
    """

    def __init__(self, grams: np.ndarray, size: int):
        self.size = size
        self.grams = np.unique(grams)
        self._maybe = np.zeros(1 << FILTER_BITS, bool)
        self._maybe[self._high(self.grams)] = True

    def shares(self, texts: Sequence[str]) -> np.ndarray:
        """(D,) bool: whether each text holds a forbidden n-gram."""
        found = np.zeros(len(texts), bool)
        for first, parts in windows(texts):
            units = units_of(parts)
            hashes, within = units.grams(self.size)
            suspects = np.flatnonzero(within & self._maybe[self._high(hashes)])
            if len(suspects):
                place = np.searchsorted(self.grams, hashes[suspects])
                there = self.grams[np.minimum(place, len(self.grams) - 1)] == hashes[suspects]
                found[first + units.documents[suspects[there]]] = True
        return found

    @staticmethod
    def _high(hashes: np.ndarray) -> np.ndarray:
        return (hashes >> np.uint64(64 - FILTER_BITS)).astype(np.int64)


def read_forbidden(settings: Decontaminate) -> tuple[Forbidden | None, list[str]]:
    """The n-grams of the recipe's test files, None where it names none; and what should be known about them.

    Of a record without a text key every string is taken. Raises UserError for a file that cannot be read.
    """
    if not settings.files:
        return None, []
    reader = Reader(tuple(Source(path=path) for path in settings.files), any_text=True)
    grams, short = [np.zeros(0, np.uint64)], 0
    for batch in reader.batches():
        texts = []
        for piece in batch:
            for line, text in parse(piece):
                if isinstance(text, Unreadable):
                    raise UserError(f"corpus.decontaminate: {piece.name}, line {line}: {text.detail}")
                texts.append(text)
        for _, parts in windows(texts):
            units = units_of(parts)
            hashes, within = units.grams(settings.ngram)
            short += int((np.bincount(units.documents, minlength=len(parts)) < settings.ngram).sum())
            grams.append(np.unique(hashes[within]))
    forbidden = Forbidden(np.concatenate(grams), settings.ngram)
    if not len(forbidden.grams):
        raise UserError(
            f"corpus.decontaminate: no text in {', '.join(settings.files)} has {settings.ngram} words or characters; "
            "set decontaminate.ngram lower"
        )
    notes = [f"decontaminate: {short} test texts are shorter than {settings.ngram} units and could not be looked for"]
    return forbidden, notes if short else []
