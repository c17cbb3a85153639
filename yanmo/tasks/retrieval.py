"""Texts that are to be found by a query: vectors that are near where query and text belong together.

A query is told apart from the texts of all others that go through the network with it, by cross entropy over the cosines
(Henderson et al. 2017, arXiv:1705.00652, section 4; with negatives of its own, Karpukhin et al. 2020, arXiv:2004.04906, section
3.2); and a text from all other queries (Radford et al. 2021, arXiv:2103.00020, section 2.3). Texts that are right for a query and
stand there for another one are left out of its negatives.
Letters: Q queries, C texts, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from yanmo.batch import Packed, Row
from yanmo.errors import UserError
from yanmo.labelled.examples import Retrieved
from yanmo.models import Network
from yanmo.models.heads import TaskHead
from yanmo.objectives.contrast import VECTOR_KEY, Vector, check_vector, known_vectors, vectors_of
from yanmo.objectives.objective import Loss
from yanmo.progress import Progress, silent
from yanmo.tasks import metrics
from yanmo.tasks.task import Task
from yanmo.tasks.windows import NO_WORDS, Window, lay_windows, surrounded
from yanmo.tokenizer import Tokens
from yanmo.vectors import best_of_parts, embed_parts

QUERIES = 256
"""Queries that are compared with all texts at once."""


@dataclass(frozen=True)
class RetrievedWindow(Window):
    """A query, its text and its negatives, one after the other; in a row each is a document of its own. sizes: tokens of each.
    texts: what the text and the negatives are, as numbers of different texts; right: those that the query may find. unread:
    tokens at the ends of all of them that have no place."""

    sizes: tuple[int, ...] = ()
    texts: tuple[int, ...] = ()
    right: frozenset[int] = field(default_factory=frozenset)
    unread: int = 0

    def parts(self) -> list[Window]:
        """A window for each of them."""
        parts = np.split(self.tokens, np.cumsum(self.sizes)[:-1])
        return [Window(document=self.document, tokens=part, sentences=NO_WORDS, words=NO_WORDS) for part in parts]


@dataclass(frozen=True)
class RetrievedBatch:
    """queries: (Q,), texts: (C,), which of the packed documents they are. own: (Q,) the text of each query among the C. known:
    (Q, C), which texts are right for a query and not its own here."""

    packed: Packed
    queries: Tensor
    texts: Tensor
    own: Tensor
    known: Tensor
    counts: dict[str, int]

    @property
    def tokens(self) -> int:
        return self.packed.real


@dataclass(frozen=True)
class Ranked:
    """What a query found among all texts that were there. ranks: of the texts that are right for it, from 1, best first. best:
    the text that it found first; score: its cosine."""

    ranks: tuple[int, ...]
    best: str
    score: float


class Retrieval(Task):
    """The more examples go through the network together, the more there is to be told apart from: see training.batch and
    training.micro_rows. Examples that are too long for a row are learned from their beginnings; in use, texts that are longer
    than the network have a vector for each of their parts, of which the nearest counts."""

    kind = "retrieval"
    of_texts = True
    metric = "mrr@10"
    takes = None
    wants = "query and positive; to find texts use `yanmo index` and `yanmo search`, for vectors `yanmo embed`"
    longest = 512

    def __init__(
        self, network: Network, head: TaskHead | None, tokens: Tokens, section: Any, labels: Sequence[str], length: int
    ):
        super().__init__(network, head, tokens, section, labels, length)
        self.check_family("has no state that stands for a text")
        self.vector: Vector = check_vector(network, tokens, section.vector or known_vectors(network)[0])
        network.config = replace(network.config, settings={**network.config.settings, VECTOR_KEY: self.vector})

    @property
    def mixes_rows(self) -> bool:
        return True

    @classmethod
    def labels_of(cls, section: Any, examples: Sequence[Retrieved]) -> tuple[str, ...]:
        if len({example.positive for example in examples}) < 2:
            raise UserError("retrieval: all examples to learn from have the same text to be found; there is nothing to learn")
        return ()

    def encode(self, examples: Sequence[Retrieved]) -> list[Window]:
        """A window for each example, with `negatives` of its own. Raises UserError for a text without a token."""
        groups = [[one.query, one.positive, *self._negatives(one)] for one in examples]
        ids = iter(self.tokens.encode([text for group in groups for text in group]))
        numbers: dict[str, int] = {}
        right: dict[str, set[int]] = {}
        for example in examples:
            right.setdefault(example.query, set()).add(numbers.setdefault(example.positive, len(numbers)))
        windows: list[Window] = []
        for number, (example, group) in enumerate(zip(examples, groups, strict=True)):
            encoded = [next(ids) for _ in group]
            if not all(encoded):
                raise UserError(f"{example.origin}: the tokenizer knows nothing in {group[encoded.index([])]!r}; leave it out")
            texts = tuple(numbers.setdefault(text, len(numbers)) for text in group[1:])
            windows.append(self._window(number, encoded, texts, frozenset(right[example.query])))
        return windows

    def _negatives(self, example: Retrieved) -> tuple[str, ...]:
        return example.negatives[: self.section.negatives]

    def _window(self, number: int, encoded: list[list[int]], texts: tuple[int, ...], right: frozenset[int]) -> RetrievedWindow:
        around = len(self.tokens.prefix) + len(self.tokens.suffix)
        room = self.length - around * len(encoded)
        if room < len(encoded):
            raise UserError(f"training.length {self.length} has no room for {len(encoded)} texts; make rows longer")
        kept = shared_out([len(ids) for ids in encoded], room)
        read = [surrounded(self.tokens, ids[:size]).tokens for ids, size in zip(encoded, kept, strict=True)]
        return RetrievedWindow(
            document=number, tokens=np.concatenate(read), sentences=NO_WORDS, words=NO_WORDS, example=number,
            sizes=tuple(map(len, read)), texts=texts, right=right, unread=sum(map(len, encoded)) - sum(kept),
        )  # fmt: skip

    def notes(self, windows: Sequence[Window]) -> list[str]:
        cut = [one.unread for one in windows if isinstance(one, RetrievedWindow) and one.unread]
        if not cut:
            return []
        return [
            f"{len(cut):,} of {len(windows):,} examples have no place in a row of {self.length}: their texts are read from the "
            f"beginning, and {sum(cut):,} tokens at the ends are not"
        ]

    def beside(self, windows: float) -> list[str]:
        own = " (and its own)" if self.section.negatives else ""
        return [
            f"a query is told apart from about {max(0, round(windows) - 1):,} texts of others{own} at once; a larger "
            "training.batch, and training.micro_rows, the rows that go through the network together, make that more"
        ]

    def collate(self, rows: Sequence[Row], length: int) -> RetrievedBatch:
        windows = [[piece for piece in row.pieces if isinstance(piece, RetrievedWindow)] for row in rows]
        parts = [tuple(part for one in own for part in one.parts()) for own in windows]
        split = [replace(row, pieces=pieces) for row, pieces in zip(rows, parts, strict=True)]
        laid = lay_windows(split, length, self.tokens.pad)
        each = [one for own in windows for one in own]
        sizes = np.array([len(one.sizes) for one in each])
        firsts = np.cumsum(sizes) - sizes
        texts = np.setdiff1d(np.arange(sizes.sum()), firsts)
        named = np.array([text for one in each for text in one.texts])
        own = firsts - np.arange(len(each))
        known = np.stack([np.isin(named, list(one.right)) for one in each])
        known[np.arange(len(each)), own] = False
        count = len(each) if len(texts) > 1 else 0        # a text by itself is always found
        firsts, texts, own, known = (torch.from_numpy(one) for one in (firsts, texts, own, known))
        return RetrievedBatch(laid.packed, firsts, texts, own, known, {self.kind: count, "accuracy": count})

    def losses(self, batch: RetrievedBatch, turn: str) -> dict[str, Loss]:
        count = batch.counts[self.kind]
        vectors = F.normalize(vectors_of(self.network(batch.packed), batch.packed, self.vector), dim=-1)
        scores_QC = vectors[batch.queries] @ vectors[batch.texts].T / self.section.temperature
        if not count:
            nothing = (scores_QC * 0).sum()
            return {self.kind: Loss(nothing, 0), "accuracy": Loss(nothing.detach(), 0, weight=0)}
        scores_QC = scores_QC.masked_fill(batch.known, float("-inf"))
        total = F.cross_entropy(scores_QC, batch.own, reduction="sum")
        if self.section.both:
            back_QQ = scores_QC[:, batch.own].T
            total = (total + F.cross_entropy(back_QQ, torch.arange(len(back_QQ), device=total.device), reduction="sum")) / 2
        return {self.kind: Loss(total, count), "accuracy": Loss((scores_QC.argmax(-1) == batch.own).sum(), count, weight=0)}

    def predictions(self, examples: Sequence[Retrieved], progress: Progress = silent) -> list[Ranked]:
        """What each example's query finds among all positives and negatives of all examples."""
        if not examples:
            return []
        queries = list(dict.fromkeys(example.query for example in examples))
        texts = list(dict.fromkeys(text for example in examples for text in (example.positive, *example.negatives)))
        number = {text: place for place, text in enumerate(texts)}
        right: dict[str, dict[int, None]] = {}
        for example in examples:
            right.setdefault(example.query, {})[number[example.positive]] = None
        asked, there = (embed_parts(self.network, self.tokens, some, self.vector) for some in (queries, texts))
        found: dict[str, Ranked] = {}
        for begin in range(0, len(queries), QUERIES):
            group = queries[begin : begin + QUERIES]
            parts = slice(asked.firsts[begin], asked.firsts[begin + len(group)])
            scores = best_of_parts((asked.vectors[parts] @ there.vectors.T).numpy(), there.firsts[:-1])
            scores = np.maximum.reduceat(scores, asked.firsts[begin : begin + len(group)] - asked.firsts[begin], axis=0)
            ranks = metrics.ranks_of(scores, [list(right[query]) for query in group])
            for query, own, row in zip(group, ranks, scores, strict=True):
                found[query] = Ranked(tuple(own), texts[int(row.argmax())], float(row.max()))
            progress(len(found), len(queries), "queries")
        return [found[example.query] for example in examples]

    def told(self, prediction: Ranked) -> str:
        return prediction.best

    def wrong(self, example: Retrieved, prediction: Ranked) -> float:
        return 1 - 1 / prediction.ranks[0]

    def figures(self, examples: Sequence[Retrieved], predictions: Sequence[Ranked]) -> dict[str, float]:
        """A query counts once, however many texts are right for it."""
        each = {example.query: one.ranks for example, one in zip(examples, predictions, strict=True)}
        return metrics.ranking(list(each.values()))


def shared_out(sizes: Sequence[int], room: int) -> list[int]:
    """How much of each size there is room for: of the longest ones as much as of one another, of the others all."""
    kept = [0] * len(sizes)
    for left, place in zip(range(len(sizes), 0, -1), sorted(range(len(sizes)), key=sizes.__getitem__), strict=True):
        kept[place] = min(sizes[place], room // left)
        room -= kept[place]
    return kept
