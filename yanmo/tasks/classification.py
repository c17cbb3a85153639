"""What a text is, or how two texts belong together: one label of several, several labels, or a number.

Long texts are read in windows; what is found in them is averaged, of several labels the greatest is taken. An example counts once
in the loss, however many windows it has.
Letters: W windows, O outputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from yanmo.batch import Packed, Row, parts_of
from yanmo.errors import UserError
from yanmo.labelled.content import told_labels
from yanmo.labelled.examples import Classified
from yanmo.models.heads import TaskHead
from yanmo.models.network import Network
from yanmo.objectives.objective import Loss
from yanmo.tasks import metrics
from yanmo.tasks.task import Task
from yanmo.tasks.windows import NO_WORDS, Window, lay_windows, room_beside, surrounded
from yanmo.tokenizer import Tokens


@dataclass(frozen=True)
class ClassifiedWindow(Window):
    """target: (O,) what the outputs are to be, or None where it is not known. share: of an example's windows, one over their
    number, times what its label weighs."""

    target: np.ndarray | None = None
    share: float = 1.0


@dataclass(frozen=True)
class ClassifiedBatch:
    """targets: (W, O), chances of the labels, or the number itself. shares: (W,)."""

    packed: Packed
    targets: Tensor
    shares: Tensor
    counts: dict[str, float]

    @property
    def tokens(self) -> int:
        return self.packed.real


@dataclass(frozen=True)
class Label:
    """The label with the greatest probability, and all labels with theirs."""

    label: str
    probability: float
    probabilities: dict[str, float] = field(repr=False)


@dataclass(frozen=True)
class Labels:
    """The labels with a probability of one half or more, and all with theirs."""

    labels: tuple[str, ...]
    probabilities: dict[str, float] = field(repr=False)


class TextTask(Task):
    """What tasks have in common whose head says something of a whole text or pair."""

    head_kind = "sequence"
    of_texts = True

    def encode(self, examples: Sequence[Classified]) -> list[Window]:
        windows: list[Window] = []
        firsts = self.tokens.encode([example.text for example in examples])
        paired = [example.pair for example in examples]
        seconds = iter(self.tokens.encode([text for text in paired if text is not None]))
        for number, (example, first) in enumerate(zip(examples, firsts, strict=True)):
            target = None if example.label is None else self.target(example)
            read = self._read(example, first, None if example.pair is None else next(seconds))
            for one in read:
                share = self.weight(example) / len(read)
                windows.append(
                    ClassifiedWindow(
                        document=len(windows), tokens=one.tokens, sentences=NO_WORDS, words=NO_WORDS, example=number,
                        types=one.types, target=target, share=share,
                    )
                )  # fmt: skip
        return windows

    def collate(self, rows: Sequence[Row], length: int) -> ClassifiedBatch:
        laid = lay_windows(rows, length, self.tokens.pad)
        nothing = np.zeros(self.outputs(self.section, self.labels), dtype=np.float32)
        windows = [window for window in laid.windows if isinstance(window, ClassifiedWindow)]
        targets = np.stack([nothing if window.target is None else window.target for window in windows])
        shares = np.array([window.share for window in windows], dtype=np.float32)
        counts = {self.kind: float(shares.sum())} | ({"accuracy": len(windows)} if self.has_accuracy else {})
        return ClassifiedBatch(laid.packed, torch.from_numpy(targets), torch.from_numpy(shares), counts)

    has_accuracy: ClassVar[bool] = False

    def target(self, example: Classified) -> np.ndarray:
        """(O,), what the outputs are to be."""
        raise NotImplementedError

    def weight(self, example: Classified) -> float:
        return 1.0

    def _read(self, example: Classified, first: list[int], second: list[int] | None) -> list[Any]:
        """The windows of one text, or of a pair, of which the longer part moves."""
        if second is None:
            parts = parts_of(len(first), room_beside(self.tokens, self.length), self.section.stride)
            return [surrounded(self.tokens, first[begin:end]) for begin, end in parts]
        fixed, moving = (first, second) if len(first) <= len(second) else (second, first)
        room = room_beside(self.tokens, self.length, pair=True) - len(fixed)
        if room < 1 + len(self.tokens.prefix):
            raise UserError(
                f"{example.origin}: the shorter text of this pair has {len(fixed)} tokens and leaves no room in rows of "
                f"{self.length}; lengthen training.length (the network reads {self.network.config.length})"
            )
        parts = [moving[begin:end] for begin, end in parts_of(len(moving), room, self.section.stride)]
        return [surrounded(self.tokens, *((fixed, part) if fixed is first else (part, fixed))) for part in parts]


class Classification(TextTask):
    """One label of several by a softmax; or of each label, by a sigmoid, whether the text has it."""

    kind = "classification"
    metric = "accuracy"                                   # micro F1 where there are several labels
    lower = ("calibration_error",)

    def __init__(
        self, network: Network, head: TaskHead | None, tokens: Tokens, section: Any, labels: Sequence[str], length: int
    ):
        super().__init__(network, head, tokens, section, labels, length)
        self.several = section.several
        if self.several:
            self.metric = "micro_f1"  # pyright: ignore[reportAttributeAccessIssue]
        self.exclusive = not self.several
        self.has_accuracy = not self.several  # pyright: ignore[reportIncompatibleVariableOverride, reportAttributeAccessIssue]
        self._number = {label: number for number, label in enumerate(self.labels)}
        self._weights: dict[str, float] = {}

    @classmethod
    def labels_of(cls, section: Any, examples: Sequence[Classified]) -> tuple[str, ...]:
        found: set[str] = set()
        for example in examples:
            found |= set(_names(example))
        if len(found) < (1 if section.several else 2):
            origin = examples[0].origin if examples else "no example"
            raise UserError(
                f"classification: the examples to learn from have {len(found)} label{'' if len(found) == 1 else 's'} "
                f"({', '.join(sorted(found)) or 'none'}); there is nothing to tell apart ({origin})"
            )
        return tuple(sorted(found))

    def prepare(self, examples: Sequence[Classified]) -> None:
        if self.section.class_weights == "balanced":
            counts = Counter(name for example in examples for name in _names(example))
            total = sum(counts.values())
            self._weights = {name: total / (len(counts) * count) for name, count in counts.items()}

    def target(self, example: Classified) -> np.ndarray:
        target = np.zeros(len(self.labels), dtype=np.float32)
        for name in _names(example):
            if name not in self._number:
                known = ", ".join(self.labels[:10]) + (" ..." if len(self.labels) > 10 else "")
                raise UserError(f"{example.origin}: label {name!r} is none of those that the model knows: {known}")
            target[self._number[name]] = 1
        return target

    def weight(self, example: Classified) -> float:
        names = [] if example.label is None else _names(example)
        return float(np.mean([self._weights.get(name, 1.0) for name in names])) if names else 1.0

    def losses(self, batch: ClassifiedBatch, turn: str) -> dict[str, Loss]:
        scores_WO = self.scores(batch.packed).float()
        if self.several:
            each = F.binary_cross_entropy_with_logits(scores_WO, batch.targets, reduction="none").sum(-1)
            return {self.kind: Loss((each * batch.shares).sum(), batch.counts[self.kind])}
        each = F.cross_entropy(scores_WO, batch.targets, reduction="none")
        right = (scores_WO.argmax(-1) == batch.targets.argmax(-1)).sum()
        loss = Loss((each * batch.shares).sum(), batch.counts[self.kind])
        return {self.kind: loss, "accuracy": Loss(right, len(each), weight=0)}

    def found(self, batch: ClassifiedBatch) -> Sequence[np.ndarray]:
        scores_WO = self.scores(batch.packed).float()
        return list((F.logsigmoid(scores_WO) if self.several else F.log_softmax(scores_WO, -1)).cpu().numpy())

    def predict(self, example: Classified, windows: Sequence[Any], found: Sequence[Any]) -> Label | Labels:
        if self.several:                                  # a label that one window shows is the text's
            chances = dict(zip(self.labels, np.exp(np.max(found, axis=0)).tolist(), strict=True))
            return Labels(tuple(name for name, chance in chances.items() if chance >= 0.5), chances)
        joined = np.exp(np.mean(found, axis=0))
        chances = dict(zip(self.labels, (joined / joined.sum()).tolist(), strict=True))
        best = max(chances, key=chances.__getitem__)
        return Label(best, chances[best], chances)

    def told(self, prediction: Label | Labels) -> str:
        return prediction.label if isinstance(prediction, Label) else told_labels(prediction.labels)

    def figures(self, examples: Sequence[Classified], predictions: Sequence[Any]) -> dict[str, float]:
        if self.several:
            gold = [set(_names(example)) for example in examples]
            return metrics.multilabel(gold, [set(one.labels) for one in predictions], self.labels)
        gold = [_names(example)[0] for example in examples]
        found = metrics.classification(gold, [one.label for one in predictions])
        sure = [one.probability for one in predictions]
        right = [one.label == label for one, label in zip(predictions, gold, strict=True)]
        return found | {"calibration_error": metrics.calibration_error(sure, right)}


def _names(example: Classified) -> tuple[str, ...]:
    label = example.label
    assert label is not None, f"{example.origin} has a label"
    return tuple(map(str, label)) if isinstance(label, tuple) else (str(label),)


class Regression(TextTask):
    """A number, by least squares on numbers that are moved and scaled to mean 0 and variance 1."""

    kind = "regression"
    squares = True
    names_labels = False
    metric = "spearman"
    lower = hundredths = ("mse",)

    def __init__(
        self, network: Network, head: TaskHead | None, tokens: Tokens, section: Any, labels: Sequence[str], length: int
    ):
        super().__init__(network, head, tokens, section, labels, length)
        self.mean, self.deviation = map(float, labels)

    @classmethod
    def labels_of(cls, section: Any, examples: Sequence[Classified]) -> tuple[str, ...]:
        """The mean and the standard deviation, as text."""
        numbers = np.array([_number(example) for example in examples])
        if len(set(numbers.tolist())) < 2:
            raise UserError("regression: all examples to learn from have the same number; there is nothing to learn")
        return repr(float(numbers.mean())), repr(float(numbers.std()))

    @classmethod
    def outputs(cls, section: Any, labels: Sequence[str]) -> int:
        return 1

    def target(self, example: Classified) -> np.ndarray:
        return np.array([(_number(example) - self.mean) / self.deviation], dtype=np.float32)

    def losses(self, batch: ClassifiedBatch, turn: str) -> dict[str, Loss]:
        each = (self.scores(batch.packed).float() - batch.targets)[:, 0] ** 2
        return {self.kind: Loss((each * batch.shares).sum(), batch.counts[self.kind])}

    def found(self, batch: ClassifiedBatch) -> Sequence[float]:
        return self.scores(batch.packed).float()[:, 0].cpu().tolist()

    def predict(self, example: Classified, windows: Sequence[Any], found: Sequence[float]) -> float:
        return float(np.mean(found)) * self.deviation + self.mean

    def told(self, prediction: float) -> str:
        return f"{prediction:.4g}"

    def wrong(self, example: Classified, prediction: float) -> float:
        return abs(_number(example) - prediction)

    def figures(self, examples: Sequence[Classified], predictions: Sequence[float]) -> dict[str, float]:
        return metrics.regression([_number(example) for example in examples], list(predictions))


def _number(example: Classified) -> float:
    if not isinstance(example.label, int | float):
        raise UserError(f"{example.origin}: label {example.label!r} is no number; regression learns numbers")
    return float(example.label)
