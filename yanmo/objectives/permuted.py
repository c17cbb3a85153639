"""Permutation language model: some tokens of a text are asked for in a random order, each given the text and those before it.

Yang et al. 2019, arXiv:1906.08237, sections 2.2, 2.3 (partial prediction) and 3.1 (K = 6, spans of 1 to 5 tokens in K times as
many); zihangdai/xlnet data_utils.py, _sample_mask and _local_perm.
Letters: R rows, T places of a row that are learned from, M places that come before them, A places that are asked for in a row
at most, N in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from yanmo.batch import Packed, Row
from yanmo.models.network import Network
from yanmo.models.twostream import CONTEXT, NO_PLACE, Factorisation, SegmentMemory, TwoStream
from yanmo.objectives.cross_entropy import cross_entropy
from yanmo.objectives.layout import Layout, Text, hidden_at, lay_out
from yanmo.objectives.objective import Loss, Objective
from yanmo.recipe import PermutedObjective
from yanmo.tokenizer import Tokens


@dataclass(frozen=True)
class PermutedBatch:
    """packed: (R, M + T). factorisation: of the last T places. picked, answers: (N,) numbers in R * A that are asked for, and the
    tokens that stand there."""

    packed: Packed
    factorisation: Factorisation
    picked: Tensor
    answers: Tensor
    counts: dict[str, int]

    @property
    def tokens(self) -> int:
        return self.packed.real


class Permuted(Objective):
    """One token in K is asked for. Those of a document that are not are seen by all; those that are, and its special tokens, have
    one random order. Special tokens around the text are never asked for."""

    def __init__(self, network: Network, tokens: Tokens, recipe: PermutedObjective):
        super().__init__(network)
        assert isinstance(network, TwoStream), "the recipe is for networks of two streams"
        self.network: TwoStream = network
        self.recipe = recipe
        self.prefix, self.suffix, self.pad = tokens.prefix, tokens.suffix, tokens.pad

    def places(self, tokens: int) -> int:
        return tokens + len(self.prefix) + len(self.suffix)

    def collate(self, rows: Sequence[Row], length: int) -> PermutedBatch:
        texts = [[Text.of(piece, self.suffix) for piece in row.pieces] for row in rows]
        layout = lay_out(texts, length, self.prefix, (), self.pad)
        asked, ranks = zip(*(self._order(layout, number, row.rng) for number, row in enumerate(rows)), strict=True)
        most = max(1, *(len(places) for places in asked))
        filled = np.full((len(rows), most), NO_PLACE)
        for row, places in zip(filled, asked, strict=True):
            row[: len(places)] = places
        picked = np.flatnonzero(filled != NO_PLACE)
        answers = layout.tokens[picked // most, filled.reshape(-1)[picked] + self.recipe.memory]
        return PermutedBatch(
            packed=layout.packed(),
            factorisation=Factorisation(torch.from_numpy(np.stack(ranks)), torch.from_numpy(filled)),
            picked=torch.from_numpy(picked),
            answers=torch.from_numpy(answers),
            counts={"permuted": len(picked), "accuracy": len(picked)},
        )

    def losses(self, batch: PermutedBatch, turn: str) -> dict[str, Loss]:
        packed, memory = self._remembered(batch.packed)
        hidden_RAD = self.network(packed, batch.factorisation, memory)
        total, correct = cross_entropy(self.network.head, hidden_at(hidden_RAD, batch.picked), batch.answers)
        count = len(batch.answers)
        return {"permuted": Loss(total, count), "accuracy": Loss(correct, count, weight=0)}

    def _remembered(self, packed: Packed) -> tuple[Packed, SegmentMemory | None]:
        """The places that are learned from, and the memory of those before them, which are read without gradient."""
        places = self.recipe.memory
        if not places:
            return packed, None
        memory = self.network.memory(places)
        with torch.no_grad():
            self.network(_cut(packed, slice(places)), memory=memory)
        return _cut(packed, slice(places, None)), memory

    def _order(self, layout: Layout, number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The places of a row that are asked for, as they stand, and all T ranks. One order for the row is one for each of its
        documents, none of which sees another."""
        length, memory = layout.tokens.shape[1], self.recipe.memory
        text = layout.places[layout.rows == number] - number * length - memory
        text = text[text >= 0]
        chosen = np.zeros(len(text), dtype=bool)
        for start, size in zip(*spans(len(text), self.recipe.one_in, self.recipe.span, rng), strict=True):
            chosen[np.arange(start, start + size) % len(text)] = True
        ordered = layout.documents[number, memory:] > 0
        ordered[text[~chosen]] = False
        ranks = np.full(length - memory, CONTEXT)
        ranks[ordered] = rng.permutation(int(ordered.sum()))
        return text[chosen], ranks


def spans(tokens: int, one_in: int, longest: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Where spans start and how long they are, among so many tokens in a circle: a span that goes beyond the last token goes on
    at the first, so that all tokens have the same chance.

    A length n has a chance in proportion to 1 / n. Each span stands anywhere among one_in * n tokens of its own, and what
    is left over at the end has its share, rounded up or down at random: spans have tokens / one_in tokens in all.
    """
    chances = 1 / np.arange(1, longest + 1)
    lengths = 1 + rng.choice(longest, size=tokens // one_in + 1, p=chances / chances.sum())
    ends = np.cumsum(lengths * one_in)
    whole = int(np.searchsorted(ends, tokens, side="right"))
    left = tokens - (int(ends[whole - 1]) if whole else 0)
    lengths = np.append(lengths[:whole], np.floor(left / one_in + rng.random())).astype(np.int64)
    contexts = np.append(lengths[:whole] * one_in, left)
    begins = np.cumsum(contexts) - contexts + np.floor(rng.random(whole + 1) * (contexts - lengths + 1)).astype(np.int64)
    kept = lengths > 0
    return (begins[kept] + rng.integers(max(tokens, 1))) % max(tokens, 1), lengths[kept]


def _cut(packed: Packed, places: slice) -> Packed:
    """Some places of every row."""
    parts = {name: getattr(packed, name)[:, places] for name in ("tokens", "documents", "positions")}
    return replace(packed, **parts, types=None if packed.types is None else packed.types[:, places])
