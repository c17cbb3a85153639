"""Interpolated modified Kneser-Ney smoothing, from token ids to sorted tables.

Kneser and Ney 1995; Chen and Goodman 1998 (TR-10-98), section 3: three discounts an order, from counts of counts. A lower order
counts in how many contexts an n-gram was seen and not how often; one that begins a text has no context, and there it is how
often (Heafield et al. 2013, "Scalable modified Kneser-Ney language model estimation", section 3). The lowest order is
interpolated with the uniform distribution, so that every token has a probability above zero.

All texts stand end to end; an n-gram is the place of its first n - 1 tokens among those of the order below, and its last token:
one 64-bit key, so that an order is counted by sorting, CHUNK tokens at a time. Memory: at most 8 bytes a token, 40 bytes a
token of one chunk, and 80 bytes for each different n-gram of the largest order beside the tables themselves, of 16 bytes each.
Letters: N tokens, G different n-grams of an order, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from yanmo.batch import Documents
from yanmo.progress import Progress, silent

CHUNK = 1 << 22
"""Tokens that are sorted at once; whole texts, so a longer text makes a longer chunk."""
DISCOUNTS = (0.5, 1.0, 1.5)
"""Where counts of counts say nothing, as in little text (KenLM's --discount_fallback)."""


@dataclass(frozen=True)
class Level:
    """One order. keys: (G,) int64, sorted, the place of the first tokens in the order below * V + the last token; of order 1,
    where places are ids, all ids. chances: (G,) float32, what the order itself gives the last token after the first ones.
    left: (G,) float32, what the order above leaves to this one after such an n-gram; 1 where it never saw anything after it."""

    keys: np.ndarray
    chances: np.ndarray
    left: np.ndarray


def estimate(
    documents: Documents,
    order: int,
    vocabulary: int,
    lead: Sequence[int],
    tail: Sequence[int],
    progress: Progress = silent,
) -> list[Level]:
    """The tables of orders 1 to `order`. lead: tokens before every text, of which the first is never predicted; tail: after it.
    vocabulary: how many ids there are, all of which get a probability."""
    tokens, starts = _end_to_end(documents, lead, tail)
    total = len(tokens) * order
    chunks = list(_chunks(starts, len(tokens)))
    is_start = np.zeros(len(tokens), bool)
    is_start[starts] = True
    nodes = tokens.astype(np.int32)                       # of every token, the place of the n-gram that ends with it, or -1
    ends = np.append(starts[1:], len(tokens))
    keys = [np.arange(vocabulary)]
    counts = [np.bincount(tokens[~is_start] if lead else tokens, minlength=vocabulary)]
    progress(len(tokens), total, "tokens")
    for size in range(2, order + 1):
        at_start = starts[ends - starts >= size - 1] + size - 2
        first = np.bincount(nodes[at_start], minlength=len(keys[-1])) if size > 2 or not lead else 0
        new, suffixes, seen = _count(tokens, nodes, is_start, chunks, vocabulary)
        counts[-1] = np.bincount(suffixes, minlength=len(keys[-1])) + first
        keys.append(new)
        counts.append(seen)
        progress(len(tokens) * size, total, "tokens")
    return _smooth(keys, counts, vocabulary)


def _end_to_end(documents: Documents, lead: Sequence[int], tail: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """All texts that have tokens, with what stands around them, and where each begins."""
    lengths = np.asarray(documents.lengths)
    used = np.flatnonzero(lengths)
    sizes = lengths[used] + len(lead) + len(tail)
    starts = np.cumsum(sizes) - sizes
    tokens = np.empty(int(sizes.sum()), np.uint16 if _fits(documents, used, lead, tail) else np.int32)
    for document, begin, length in zip(used.tolist(), (starts + len(lead)).tolist(), lengths[used].tolist(), strict=True):
        tokens[begin : begin + length] = documents[document][0]
    for offset, token in enumerate(lead):
        tokens[starts + offset] = token
    for offset, token in enumerate(tail, -len(tail)):
        tokens[starts + sizes + offset] = token
    return tokens, starts


def _fits(documents: Documents, used: np.ndarray, lead: Sequence[int], tail: Sequence[int]) -> bool:
    """Whether ids take 16 bits."""
    kind = documents[int(used[0])][0].dtype if len(used) else np.dtype(np.int64)
    return kind.itemsize <= 2 and max(*lead, *tail, 0, 0) < 1 << 16


def _chunks(starts: np.ndarray, total: int) -> Iterator[slice]:
    """Runs of whole texts with about CHUNK tokens."""
    cuts = starts[np.flatnonzero(np.diff(starts // CHUNK)) + 1]
    bounds = [0, *cuts.tolist(), total]
    return (slice(begin, end) for begin, end in pairwise(bounds))


def _count(
    tokens: np.ndarray, nodes: np.ndarray, is_start: np.ndarray, chunks: list[slice], vocabulary: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The n-grams of the next order: keys, the place of each without its first token, how often each was seen, (G,) each.

    `nodes` holds the places of the order below, and those of this order afterwards.
    """
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for chunk in chunks:
        here = nodes[chunk]
        ends = np.flatnonzero((here[:-1] >= 0) & ~is_start[chunk][1:]) + 1
        found = here[ends - 1].astype(np.int64) * vocabulary + tokens[chunk][ends]
        order = np.argsort(found)
        found = found[order]
        new = np.append(True, found[1:] != found[:-1])[: len(found)]
        firsts = np.flatnonzero(new)
        parts.append((found[firsts], here[ends[order[firsts]]], np.diff(np.append(firsts, len(found)))))
        here[:] = -1
        here[ends[order]] = np.cumsum(new, dtype=np.int32) - 1
    if len(parts) == 1:
        return parts[0]
    keys, suffixes, counts = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(keys)
    sorted_ = keys[order]
    firsts = np.flatnonzero(np.append(True, sorted_[1:] != sorted_[:-1])[: len(sorted_)])
    merged = sorted_[firsts], suffixes[order[firsts]], np.add.reduceat(counts[order], firsts)
    for chunk, (own, _, _) in zip(chunks, parts, strict=True):
        here = nodes[chunk]
        seen = here >= 0
        here[seen] = np.searchsorted(merged[0], own)[here[seen]]
    return merged


def discounts(counts: np.ndarray) -> np.ndarray:
    """What is taken from a count of 0, 1, 2, 3 or more (Chen and Goodman 1998, equation 26), or DISCOUNTS where that is none."""
    ones, twos, threes, fours = (int((counts == number).sum()) for number in (1, 2, 3, 4))
    if not ones or not twos or not threes:
        return np.array([0.0, *DISCOUNTS])
    share = ones / (ones + 2 * twos)
    found = np.array([0.0, 1 - 2 * share * twos / ones, 2 - 3 * share * threes / twos, 3 - 4 * share * fours / threes])
    return found if (found[1:] > 0).all() else np.array([0.0, *DISCOUNTS])


def _smooth(keys: list[np.ndarray], counts: list[np.ndarray], vocabulary: int) -> list[Level]:
    """Chances and what is left, from (adjusted) counts."""
    chances, left = [], []
    for level, (own, seen) in enumerate(zip(keys, counts, strict=True)):
        taken = discounts(seen)[np.minimum(seen, 3)]
        context = own // vocabulary if level else np.zeros(len(own), np.int64)
        contexts = len(keys[level - 1]) if level else 1
        totals = np.bincount(context, seen, contexts)
        kept = np.divide(np.bincount(context, taken, contexts), totals, out=np.ones(contexts), where=totals > 0)
        shares = (seen - taken) / totals[context]
        chances.append(shares if level else shares + kept[0] / vocabulary)
        left += [kept] if level else []
    left.append(np.ones(len(keys[-1])))
    return [
        Level(own, chance.astype(np.float32), rest.astype(np.float32))
        for own, chance, rest in zip(keys, chances, left, strict=True)
    ]
