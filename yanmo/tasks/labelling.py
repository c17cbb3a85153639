"""Names and other parts of a text: a tag for every word, by itself or with its neighbours, always in a legal sequence.

A word that becomes several tokens has its tag at the first of them (Devlin et al. 2018, section 5.3), in a network that only
looks back at the last. A sentence that is longer than a row is read in windows that overlap, and every word belongs to the one in
which it stands furthest from an end: no tag is lost, and none counts twice.
Letters: R rows, T places of a row, N words of a batch, K tags, W windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from yanmo.batch import Packed, Row
from yanmo.errors import UserError
from yanmo.labelled.content import placed_words, told_parts
from yanmo.labelled.examples import Tagged
from yanmo.labelled.tags import TagSet, decode, entities, mended
from yanmo.models import Seq2Seq
from yanmo.models.heads import TaskHead
from yanmo.models.network import Network
from yanmo.objectives.layout import hidden_at
from yanmo.objectives.objective import Loss
from yanmo.tasks import metrics
from yanmo.tasks.crf import CRF
from yanmo.tasks.task import Task
from yanmo.tasks.windows import NO_WORDS, Window, lay_windows, room_beside, surrounded
from yanmo.tokenizer import Tokens

BLANK = "▁"
"""What SentencePiece's tokenizers write for the blank before a word."""


@dataclass(frozen=True)
class TaggedWindow(Window):
    """picked: (N,) places of the window's own words among its tokens. tags: (N,) their tags' numbers, or None where they are not
    known. opens, closes: whether the first, and the last, of them is that of the sentence."""

    picked: np.ndarray = field(default_factory=lambda: NO_WORDS)
    tags: np.ndarray | None = None
    opens: bool = True
    closes: bool = True


@dataclass(frozen=True)
class TaggedBatch:
    """picked: (N,) places in R*T of all words, window after window; tags: (N,). sizes: (W,) words of each window; opens, closes:
    (W,) bool."""

    packed: Packed
    picked: Tensor
    tags: Tensor
    sizes: Tensor
    opens: Tensor
    closes: Tensor
    counts: dict[str, int]

    @property
    def tokens(self) -> int:
        return self.packed.real


@dataclass(frozen=True)
class NamedEntity:
    """A part of a text and its type. start, end: characters of the text, the end not included. score: how sure it is, the mean of
    its tags' probabilities, each for itself."""

    text: str
    type: str
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class Entities:
    """The parts that were found in a text, and the tag of each of its words."""

    entities: tuple[NamedEntity, ...]
    tags: tuple[str, ...]


class Labelling(Task):
    kind = "labelling"
    head_kind = "token"
    metric = "f1"

    def __init__(
        self, network: Network, head: TaskHead | None, tokens: Tokens, section: Any, labels: Sequence[str], length: int
    ):
        super().__init__(network, head, tokens, section, labels, length)
        self.tagset = TagSet.named(self.labels)
        self.crf = CRF(self.tagset) if section.decoder == "crf" else None
        self.looks_back = network.continues and not isinstance(network, Seq2Seq)
        self._pieces: dict[str, list[int]] = {}

    @classmethod
    def labels_of(cls, section: Any, examples: Sequence[Tagged]) -> tuple[str, ...]:
        found = TagSet.of(example.tags or () for example in examples).names
        if len(found) < 2:
            raise UserError("labelling: no example to learn from has a tag other than O; there is nothing to find")
        return found

    def encode(self, examples: Sequence[Tagged]) -> list[Window]:
        windows: list[Window] = []
        self._learn_words(examples)
        room = room_beside(self.tokens, self.length)
        for number, example in enumerate(examples):
            gold = None if example.tags is None else self._numbers(example)
            pieces = [self._pieces[word][:room] for word in _written(example)]
            for window in _windows(pieces, room, self.section.stride):
                ids = [index for piece in pieces[window.begin : window.end] for index in piece]
                read = surrounded(self.tokens, ids)
                sizes = np.array([len(piece) for piece in pieces[window.begin : window.end]], dtype=np.int64)
                ends = np.cumsum(sizes) + read.begins[0]
                places = ends - 1 if self.looks_back else ends - sizes
                own = slice(window.first - window.begin, window.last - window.begin)
                windows.append(
                    TaggedWindow(
                        document=len(windows), tokens=read.tokens, sentences=NO_WORDS, words=NO_WORDS, example=number,
                        picked=places[own], tags=None if gold is None else gold[window.first : window.last],
                        opens=window.first == 0, closes=window.last == len(pieces),
                    )
                )  # fmt: skip
        return windows

    def collate(self, rows: Sequence[Row], length: int) -> TaggedBatch:
        laid = lay_windows(rows, length, self.tokens.pad)
        windows = [window for window in laid.windows if isinstance(window, TaggedWindow)]
        picked = np.concatenate([window.picked + first for window, first in zip(windows, laid.firsts, strict=True)])
        tags = [np.zeros(len(one.picked), np.int64) if one.tags is None else one.tags for one in windows]
        sizes, opens, closes = zip(*((len(one.picked), one.opens, one.closes) for one in windows), strict=True)
        return TaggedBatch(
            laid.packed,
            torch.from_numpy(picked),
            torch.from_numpy(np.concatenate(tags)),
            torch.tensor(sizes),
            torch.tensor(opens),
            torch.tensor(closes),
            {self.kind: len(picked), "accuracy": len(picked)},
        )

    def losses(self, batch: TaggedBatch, turn: str) -> dict[str, Loss]:
        scores_NK, count = self._word_scores(batch), len(batch.picked)
        right = Loss((scores_NK.argmax(-1) == batch.tags).sum(), count, weight=0)
        if self.crf is None:
            return {self.kind: Loss(F.cross_entropy(scores_NK, batch.tags, reduction="sum"), count), "accuracy": right}
        some = batch.sizes > 0
        total = self.crf(scores_NK, batch.tags, batch.sizes[some], batch.opens[some], batch.closes[some])
        return {self.kind: Loss(total, count), "accuracy": right}

    def found(self, batch: TaggedBatch) -> Sequence[np.ndarray]:
        """(words, K) scores of each window's own words."""
        return np.split(self._word_scores(batch).cpu().numpy(), np.cumsum(batch.sizes.cpu().numpy())[:-1])

    def predict(self, example: Tagged, windows: Sequence[Any], found: Sequence[np.ndarray]) -> Entities:
        scores_NK = np.concatenate(found)
        if self.crf is None or not len(scores_NK):
            tags = decode(scores_NK, self.tagset)
        else:
            best = self.crf.decode(torch.from_numpy(scores_NK).to(self.crf.begins.device), [len(scores_NK)])
            tags = [self.labels[number] for number in best.tolist()]
        shifted = scores_NK - scores_NK.max(1, keepdims=True, initial=-np.inf) if len(scores_NK) else scores_NK
        chances = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
        sure = [float(chances[place, self.tagset.numbers[tag]]) for place, tag in enumerate(tags)]
        text, offsets = placed_words(example)
        parts = []
        for one in entities(tags):
            begin, end = offsets[one.start][0], offsets[one.end - 1][1]
            parts.append(NamedEntity(text[begin:end], one.type, begin, end, float(np.mean(sure[one.start : one.end]))))
        return Entities(tuple(parts), tuple(tags))

    def told(self, prediction: Entities) -> str:
        return told_parts((one.text, one.type) for one in prediction.entities)

    def figures(self, examples: Sequence[Tagged], predictions: Sequence[Entities]) -> dict[str, float]:
        gold = [mended(example.tags or (), self.tagset.scheme) for example in examples]
        return metrics.entities(gold, [list(one.tags) for one in predictions], self.tagset.scheme)

    def _word_scores(self, batch: TaggedBatch) -> Tensor:
        return hidden_at(self.scores(batch.packed), batch.picked).float()

    def _numbers(self, example: Tagged) -> np.ndarray:
        try:
            return self.tagset.numbers_of(mended(example.tags or (), self.tagset.scheme))
        except UserError as error:
            raise UserError(f"{example.origin}: {error}") from None

    def _learn_words(self, examples: Sequence[Tagged]) -> None:
        """The tokens of every word that has not been seen yet, as it is written: with the blank before it where there is one."""
        new = list(dict.fromkeys(word for example in examples for word in _written(example) if word not in self._pieces))
        unknown = self.tokens.pad if self.tokens.unknown is None else self.tokens.unknown
        blank = self.tokens.tokenizer.token_to_id(BLANK)
        for word, ids in zip(new, self.tokens.encode(new), strict=True):
            if len(ids) > 1 and ids[0] == blank and not word.startswith(" "):
                ids = ids[1:]
            self._pieces[word] = ids or [unknown]         # a word that the tokenizer drops keeps its place, and its tag


@dataclass(frozen=True)
class _Part:
    """Words begin ... end are read, and first ... last of them are the window's own."""

    begin: int
    end: int
    first: int
    last: int


def _windows(pieces: Sequence[Sequence[int]], room: int, stride: float) -> Iterator[_Part]:
    """Windows of as many words as fit into `room` tokens; where two overlap, each has the half that is nearer to its middle."""
    ends = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int64)
    count, parts, begin = len(pieces), [], 0
    while True:
        end = int(np.searchsorted(ends, ends[begin] + room, side="right")) - 1
        parts.append((begin, end))
        if end >= count:
            break
        target = ends[begin] + max(1, int(room * stride))
        begin = min(max(begin + 1, int(np.searchsorted(ends, target, side="right")) - 1), end)
    borders = [0, *((later[0] + earlier[1] + 1) // 2 for earlier, later in pairwise(parts)), count]
    for (begin, end), first, last in zip(parts, borders[:-1], borders[1:], strict=True):
        yield _Part(begin, end, first, last)


def _written(example: Tagged) -> list[str]:
    """The words as they stand in the text, a blank before each that has one there."""
    text, offsets = placed_words(example)
    befores = [0, *(end for _, end in offsets)][: len(offsets)]
    return [
        (" " if text[before:begin].isspace() else "") + word
        for word, (begin, _), before in zip(example.tokens, offsets, befores, strict=True)
    ]
