"""How two places in a text belong together: markers are written around both, and read where they begin.

Baldini Soares et al. 2019, arXiv:1906.03158, section 3.2: "entity markers, entity start" is the best of six ways; the states at
[E1] and [E2] side by side go into one linear layer. That is what a head of token labels does with an output for each label and
marker, when the scores of both places are added up: so a folder is one of transformers' ...ForTokenClassification, whose first
half of outputs is for [E1]. `reads: text` takes the state that stands for the whole text instead ("entity markers, [CLS]", and
the first part of R-BERT, Wu and He 2019, arXiv:1905.08284): a folder is a ...ForSequenceClassification. Networks that only look
back have read nothing of a part at its marker: for them [E1] and [E2] are written once more, after the text, and read there.
Letters: W windows, O labels, N tokens of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from yanmo.batch import Packed, Row
from yanmo.errors import UserError
from yanmo.labelled.examples import Related
from yanmo.models.heads import TaskHead, TaskKind
from yanmo.models.network import Network
from yanmo.models.seq2seq import Seq2Seq
from yanmo.objectives.layout import hidden_at
from yanmo.objectives.objective import Loss
from yanmo.tasks import metrics
from yanmo.tasks.offsets import Placed, placed
from yanmo.tasks.task import Task
from yanmo.tasks.windows import NO_WORDS, Window, lay_windows, room_beside, surrounded
from yanmo.tokenizer import Tokens

Part = tuple[int, int]
"""From which token to which, the end not included."""
NONE = (
    "no_relation", "no relation", "norelation", "none", "na", "n/a", "other",
    "无关系", "没有关系", "无关", "无", "其他", "其它", "未知",
)  # fmt: skip
"""Labels that say there is no relation, the likeliest first, in lower case."""
ELLIPSIS = "..."


@dataclass(frozen=True)
class RelatedWindow(Window):
    """marks: (2,) where [E1] and [E2] are read. label: its number, or None where it is not known."""

    marks: np.ndarray = field(default_factory=lambda: np.zeros(2, dtype=np.int64))
    label: int | None = None


@dataclass(frozen=True)
class RelatedBatch:
    """marks: (W, 2) in R*T. labels: (W,)."""

    packed: Packed
    marks: Tensor
    labels: Tensor
    counts: dict[str, int]

    @property
    def tokens(self) -> int:
        return self.packed.real


@dataclass(frozen=True)
class Relation:
    """The label with the greatest probability, and all labels with theirs."""

    label: str
    probability: float
    probabilities: dict[str, float] = field(repr=False)


class RelationExtraction(Task):
    """One label of several by a softmax. none: the label of pairs that have no relation, or None where there is no such label."""

    kind = "relation"
    of_texts = True
    metric = "micro_f1"
    takes = None
    wants = "text, head and tail"
    exclusive = True

    def __init__(
        self, network: Network, head: TaskHead | None, tokens: Tokens, section: Any, labels: Sequence[str], length: int
    ):
        super().__init__(network, head, tokens, section, labels, length)
        markers = tokens.group("entities")
        if markers is None:
            raise UserError("relation: the tokenizer has no markers [E1], [/E1], [E2], [/E2]; take the one saved with the model")
        self.markers: tuple[int, ...] = markers
        self.none = none_of(section, self.labels)
        self._number = {label: number for number, label in enumerate(self.labels)}
        self._at_markers = section.reads == "markers"
        self._repeats = self._at_markers and network.continues and not isinstance(network, Seq2Seq)
        self._official = self.none is not None and all(
            label == self.none or metrics.DIRECTION.search(label) for label in self.labels
        )
        self.metric = (  # pyright: ignore[reportIncompatibleVariableOverride, reportAttributeAccessIssue]
            "semeval_f1" if self._official else "micro_f1" if self.none is None else "micro_f1_without_none"
        )

    @classmethod
    def head_of(cls, section: Any) -> TaskKind | None:
        return "token" if section.reads == "markers" else "sequence"

    @classmethod
    def labels_of(cls, section: Any, examples: Sequence[Related]) -> tuple[str, ...]:
        found = sorted({example.relation for example in examples if example.relation is not None})
        if len(found) < 2:
            raise UserError(
                f"relation: the {len(examples)} examples to learn from have {len(found)} label{'' if len(found) == 1 else 's'} "
                f"({', '.join(found) or 'none'}); there is nothing to tell apart"
            )
        none_of(section, found)
        return tuple(found)

    @classmethod
    def outputs(cls, section: Any, labels: Sequence[str]) -> int:
        return len(labels) * (2 if section.reads == "markers" else 1)

    def encode(self, examples: Sequence[Related]) -> list[Window]:
        windows: list[Window] = []
        texts = placed(self.tokens, [example.text for example in examples])
        ellipsis = self.tokens.encode([ELLIPSIS])[0]
        for number, (example, text) in enumerate(zip(examples, texts, strict=True)):
            parts = [self._part(example, name, text, getattr(example, name)) for name in ("head", "tail")]
            cut = self._cut(example, parts, len(text.tokens), len(ellipsis))
            ids, (head, tail) = _joined(text.tokens, cut, parts, ellipsis)
            ids, marks = mark(ids, head, tail, self.markers)
            if self._repeats:
                marks = len(ids), len(ids) + 1
                ids = [*ids, self.markers[0], self.markers[2]]
            read = surrounded(self.tokens, ids)
            windows.append(
                RelatedWindow(
                    document=number, tokens=read.tokens, sentences=NO_WORDS, words=NO_WORDS, example=number, types=read.types,
                    marks=np.array(marks) + read.begins[0], label=None if example.relation is None else self._label(example),
                )
            )  # fmt: skip
        return windows

    def collate(self, rows: Sequence[Row], length: int) -> RelatedBatch:
        laid = lay_windows(rows, length, self.tokens.pad)
        windows = [window for window in laid.windows if isinstance(window, RelatedWindow)]
        marks = np.stack([window.marks for window in windows]) + laid.firsts[:, None]
        labels = np.array([window.label or 0 for window in windows], dtype=np.int64)
        counts = {self.kind: len(windows), "accuracy": len(windows)}
        return RelatedBatch(laid.packed, torch.from_numpy(marks), torch.from_numpy(labels), counts)

    def losses(self, batch: RelatedBatch, turn: str) -> dict[str, Loss]:
        scores_WO, count = self._scores(batch), len(batch.labels)
        right = (scores_WO.argmax(-1) == batch.labels).sum()
        loss = Loss(F.cross_entropy(scores_WO, batch.labels, reduction="sum"), count)
        return {self.kind: loss, "accuracy": Loss(right, count, weight=0)}

    def found(self, batch: RelatedBatch) -> Sequence[list[float]]:
        return self._scores(batch).softmax(-1).tolist()

    def predict(self, example: Related, windows: Sequence[Any], found: Sequence[list[float]]) -> Relation:
        chances = dict(zip(self.labels, found[0], strict=True))
        best = max(chances, key=chances.__getitem__)
        return Relation(best, chances[best], chances)

    def told(self, prediction: Relation) -> str:
        return prediction.label

    def figures(self, examples: Sequence[Related], predictions: Sequence[Relation]) -> dict[str, float]:
        gold = [str(example.relation) for example in examples]
        predicted = [one.label for one in predictions]
        found = metrics.relations(gold, predicted, self.none)
        if self.none is not None and self._official and any(label != self.none for label in gold):
            found |= metrics.semeval_2010_task_8(gold, predicted, self.none)
        return found

    def _scores(self, batch: RelatedBatch) -> Tensor:  # (W, O)
        if not self._at_markers:
            return self.scores(batch.packed).float()
        assert isinstance(self.head, TaskHead), "markers are read by a head"
        states = hidden_at(self.network.states(batch.packed, "token"), batch.marks.flatten())
        scores = self.head(states[None], batch.packed)[0].float()  # (2W, 2O): a head of tokens looks at none but these
        first, second = scores.view(-1, 2, 2, len(self.labels)).diagonal(dim1=1, dim2=2).unbind(-1)
        return first + second

    def _label(self, example: Related) -> int:
        if example.relation not in self._number:
            known = ", ".join(self.labels[:10]) + (" ..." if len(self.labels) > 10 else "")
            raise UserError(f"{example.origin}: relation {example.relation!r} is none of those that the model knows: {known}")
        return self._number[example.relation]

    def _part(self, example: Related, name: str, text: Placed, characters: tuple[int, int]) -> Part:
        held = text.holding(*characters)
        if held is None:
            raise UserError(
                f"{example.origin}: {name} {example.text[slice(*characters)]!r}, characters {characters[0]} to {characters[1]}: "
                "the tokenizer makes nothing of it; choose characters that it knows"
            )
        return held

    def _cut(self, example: Related, parts: Sequence[Part], size: int, ellipsis: int) -> list[Part]:
        """The tokens that are read: a window with both parts in its middle; or two, one around each, where they are too far
        apart. Raises UserError where the parts alone are longer than a row.
        """
        room = room_beside(self.tokens, self.length) - len(self.markers) - 2 * self._repeats
        begin, end = min(part[0] for part in parts), max(part[1] for part in parts)
        if end - begin <= room:
            return [around((begin, end), size, room)]
        (first, first_end), (second, second_end) = sorted(parts)
        spare = room - ellipsis - (first_end - first) - (second_end - second)
        if spare < 0 or first_end > second:
            raise UserError(
                f"{example.origin}: head and tail do not fit into rows of {self.length} (they have {first_end - first} and "
                f"{second_end - second} tokens); lengthen training.length (the network reads {self.network.config.length})"
            )
        side = spare // 4
        return [(max(0, first - side), first_end + side), (second - side, min(size, second_end + side))]


def none_of(section: Any, labels: Sequence[str]) -> str | None:
    """The label that says there is no relation: the section's, or the likeliest by its name. Raises UserError where the section
    names one that does not occur."""
    if section.none is not None and section.none not in labels:
        known = ", ".join(labels[:10]) + (" ..." if len(labels) > 10 else "")
        raise UserError(f"relation: none {section.none!r} is no label of the examples to learn from; they have {known}")
    named = {label.lower(): label for label in reversed(labels)}
    return section.none or next((named[name] for name in NONE if name in named), None)


def around(part: Part, size: int, room: int) -> Part:
    """`room` of `size` tokens, or all, with a part as far in their middle as can be."""
    begin = part[0] - (room - (part[1] - part[0])) // 2
    begin = max(0, min(begin, size - room))
    return begin, min(size, begin + room)


def mark(ids: Sequence[int], head: Part, tail: Part, markers: Sequence[int]) -> tuple[list[int], tuple[int, int]]:
    """Ids with [E1] and [/E1] around the head, [E2] and [/E2] around the tail, and where [E1] and [E2] stand.

    Where several meet, what ends there comes before what begins, what began last ends first, what ends last begins first; of
    two that are the same, the head is outside.
    """
    inserted = []
    for number, (begin, end) in enumerate((head, tail)):
        inserted.append((begin, 1, -end, number, markers[2 * number]))
        inserted.append((end, 0, -begin, -number, markers[2 * number + 1]))
    marked, before, places = [], 0, {}
    for place, *_, marker in sorted(inserted):
        marked += ids[before:place]
        places[marker] = len(marked)
        marked.append(marker)
        before = place
    marked += ids[before:]
    return marked, (places[markers[0]], places[markers[2]])


def _joined(
    ids: Sequence[int], cut: Sequence[Part], parts: Sequence[Part], ellipsis: Sequence[int]
) -> tuple[list[int], list[Part]]:
    """The tokens of one window, or of two with an ellipsis between them, and where the parts are among them."""
    joined: list[int] = []
    moved: dict[Part, Part] = {}
    for begin, end in cut:
        joined += ellipsis if joined else ()
        shift = len(joined) - begin
        moved |= {part: (part[0] + shift, part[1] + shift) for part in parts if begin <= part[0] and part[1] <= end}
        joined += ids[begin:end]
    return joined, [moved[part] for part in parts]
