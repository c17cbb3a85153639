"""BLEU of texts against other texts, and among themselves: how good sampled texts are, and how unlike each other.

BLEU of a sentence: Papineni et al. 2002, section 2.3; precisions without a match: method 1 of Chen and Cherry 2014, section 3.
Self-BLEU: Zhu et al. 2018, arXiv:1802.01886, section 3.2. The figures are those of nltk's sentence_bleu, sample by sample; its
loop over all references for every sample takes hours where every n-gram's largest count, found once, takes seconds.
Letters: S samples, T texts (samples and references), N places of all texts, G different n-grams of one length, E pairs of a text
and an n-gram that it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from yanmo.corpus.units import PUNCTUATION, SPACE, SPACELESS, SYMBOL, classes, codes_of
from yanmo.errors import UserError

ORDERS = (2, 3, 4, 5)
"""Longest n-grams that are counted, as in Texygen's tables."""
EPSILON = 0.1
"""Matches where there are none (method 1)."""

Words = Sequence[str]


def words(text: str) -> list[str]:
    """The words of a text: runs of letters and digits; a character of a script without spaces, a punctuation mark and a symbol
    each stand alone."""
    kinds = classes()[codes_of(text)]
    alone = (kinds <= SPACELESS) | (kinds == PUNCTUATION) | (kinds == SYMBOL)
    begins = kinds != SPACE
    begins[1:] &= alone[1:] | alone[:-1] | (kinds[:-1] == SPACE)
    ends = kinds != SPACE
    ends[:-1] &= alone[1:] | alone[:-1] | (kinds[1:] == SPACE)
    return [text[begin : end + 1] for begin, end in zip(np.flatnonzero(begins), np.flatnonzero(ends), strict=True)]


def bleu(samples: Sequence[Words], references: Sequence[Words], orders: Sequence[int] = ORDERS) -> dict[int, float]:
    """The mean over samples of each one's BLEU against all references, by order."""
    return _means(each_bleu(samples, references, orders))


def self_bleu(samples: Sequence[Words], orders: Sequence[int] = ORDERS) -> dict[int, float]:
    """The mean over samples of each one's BLEU against all others, by order: the higher, the more alike they are."""
    return _means(each_self_bleu(samples, orders))


def each_bleu(samples: Sequence[Words], references: Sequence[Words], orders: Sequence[int] = ORDERS) -> dict[int, np.ndarray]:
    """Each sample's BLEU against all references, by order: (S,). Raises UserError without samples or without references."""
    if not samples or not references:
        raise UserError(f"BLEU of {len(samples)} samples against {len(references)} references: there must be some of both")
    sizes, lengths = _lengths(samples), _lengths(references)
    matches = np.zeros((max(orders), len(samples)), np.int64)
    for order, grams in enumerate(_counted([*samples, *references], max(orders))):
        sampled = grams.owners < len(samples)
        limits = np.zeros(grams.different, np.int64)
        np.maximum.at(limits, grams.numbers[~sampled], grams.counts[~sampled])
        clipped = np.minimum(grams.counts[sampled], limits[grams.numbers[sampled]])
        matches[order] = np.bincount(grams.owners[sampled], clipped, len(samples))
    return _scores(sizes, matches, _closest(sizes, lengths), orders)


def each_self_bleu(samples: Sequence[Words], orders: Sequence[int] = ORDERS) -> dict[int, np.ndarray]:
    """Each sample's BLEU against all others, by order: (S,). Raises UserError for fewer than two samples."""
    if len(samples) < 2:
        raise UserError(f"Self-BLEU of {len(samples)} samples: each is compared with the others, so there must be two at least")
    sizes = _lengths(samples)
    matches = np.zeros((max(orders), len(samples)), np.int64)
    for order, grams in enumerate(_counted(samples, max(orders))):
        clipped = np.minimum(grams.counts, grams.largest_elsewhere())
        matches[order] = np.bincount(grams.owners, clipped, len(samples))
    different, first, many = np.unique(sizes, return_inverse=True, return_counts=True)
    others = [different if many[index] > 1 else np.delete(different, index) for index in range(len(different))]
    closest = np.array([_closest(different[index : index + 1], lengths)[0] for index, lengths in enumerate(others)])
    return _scores(sizes, matches, closest[first], orders)


@dataclass(frozen=True)
class _Grams:
    """The n-grams of one length in some texts. owners, numbers, counts: (E,) a text, an n-gram of it, how often it has it.
    different: G."""

    owners: np.ndarray
    numbers: np.ndarray
    counts: np.ndarray
    different: int

    def largest_elsewhere(self) -> np.ndarray:
        """(E,) the largest count of the n-gram in one other text, 0 where no other has it."""
        order = np.lexsort((-self.counts, self.numbers))
        numbers, counts = self.numbers[order], self.counts[order]
        tops = np.flatnonzero(np.diff(numbers, prepend=-1))          # of every n-gram, the text that has it most often
        shared = np.diff(tops, append=len(numbers)) > 1
        largest = counts[tops][numbers]
        largest[tops] = np.where(shared, counts[np.minimum(tops + 1, len(counts) - 1)], 0)
        elsewhere = np.empty_like(largest)
        elsewhere[order] = largest
        return elsewhere


def _counted(texts: Sequence[Words], longest: int) -> Iterator[_Grams]:
    """The n-grams of 1, 2 ... longest words."""
    known: dict[str, int] = {}
    numbers_N = np.array([known.setdefault(word, len(known)) for text in texts for word in text], np.int64)
    lengths = _lengths(texts)
    owners_N = np.repeat(np.arange(len(texts)), lengths)
    left_N = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(numbers_N))
    grams_N, different = numbers_N.copy(), len(known)                # the number of the n-gram that begins at each place
    for order in range(1, longest + 1):
        here = np.flatnonzero(left_N >= order)
        if order > 1:
            keys = grams_N[here] * len(known) + numbers_N[here + order - 1]
            found, grams_N[here] = np.unique(keys, return_inverse=True)
            different = len(found)
        pairs, counts = np.unique(owners_N[here] * max(different, 1) + grams_N[here], return_counts=True)
        yield _Grams(pairs // max(different, 1), pairs % max(different, 1), counts, different)


def _closest(sizes: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(S,) the reference length that is closest to each size, the shorter of two that are equally close."""
    lengths = np.unique(lengths)
    above = np.searchsorted(lengths, sizes).clip(max=len(lengths) - 1)
    below = (above - 1).clip(min=0)
    return np.where(np.abs(lengths[below] - sizes) <= np.abs(lengths[above] - sizes), lengths[below], lengths[above])


def _scores(sizes: np.ndarray, matches: np.ndarray, closest: np.ndarray, orders: Sequence[int]) -> dict[int, np.ndarray]:
    """BLEU by order, (S,) each. matches: (orders, S), n-grams of 1, 2 ... words that a reference has, too."""
    places = (sizes - np.arange(len(matches))[:, None]).clip(min=1)
    logs = np.log(np.where(matches > 0, matches, EPSILON) / places).cumsum(0)
    brevity = np.exp(np.minimum(0, 1 - closest / sizes.clip(min=1)))
    return {order: np.where(matches[0] > 0, brevity * np.exp(logs[order - 1] / order), 0.0) for order in orders}


def _lengths(texts: Sequence[Words]) -> np.ndarray:
    return np.fromiter(map(len, texts), np.int64, len(texts))


def _means(scores: dict[int, np.ndarray]) -> dict[int, float]:
    return {order: float(each.mean()) for order, each in scores.items()}
