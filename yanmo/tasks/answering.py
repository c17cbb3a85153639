"""Questions about a text, answered by a part of it, or by nothing where the text does not say.

Devlin et al. 2018, arXiv:1810.04805, sections 4.2 and 4.3, and run_squad.py of google-research/bert: a window is the question, a
separator and a part of the context; every token of the context has a score as the begin and one as the end of the answer, and a
span is worth their sum. Windows of one question are compared by these sums as they are; a window without the answer learns to
point to the place that stands for none, which keeps them comparable (Clark and Gardner 2018, arXiv:1710.10723, section 3.3).
Here the softmax is over that place and the context, and never over the question or padding; and a question counts once in the
loss, however many windows it has, where run_squad.py has each window count.
Letters: R rows, T places of a row, W windows, N tokens of the part of the context in a window, M the most of these and one.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from yanmo.batch import Packed, Row, parts_of
from yanmo.errors import UserError
from yanmo.labelled.content import NOTHING
from yanmo.labelled.examples import Asked, Span, is_placed
from yanmo.labelled.subject import CONTEXT as LEAST
from yanmo.models.heads import TaskHead
from yanmo.models.network import Network
from yanmo.models.seq2seq import Seq2Seq
from yanmo.objectives.objective import Loss
from yanmo.progress import Progress, silent
from yanmo.tasks import text_metrics
from yanmo.tasks.offsets import Placed, placed
from yanmo.tasks.task import Task
from yanmo.tasks.windows import NO_WORDS, Window, lay_windows, room_beside, surrounded
from yanmo.tokenizer import Tokens

THRESHOLD = "threshold"
SURE = 1e4
"""The absence of an answer where there is nothing that one could point at."""


@dataclass(frozen=True)
class AskedWindow(Window):
    """begin: where the context's tokens do. offsets: (N, 2), which characters of the context each holds. nowhere: the place that
    stands for no answer. target: the answer's first and last among the N tokens, or None where the window has no whole answer.
    share: of the question's windows, one over their number; 0 where an answer is whole in none: nothing is to be learned then."""

    begin: int = 0
    offsets: np.ndarray = field(default_factory=lambda: NO_WORDS.reshape(0, 2))
    nowhere: int = 0
    target: tuple[int, int] | None = None
    share: float = 1.0


@dataclass(frozen=True)
class AskedBatch:
    """places: (W, M) in R*T, the first for no answer, then those of the context. open: (W, M), where an answer may begin or end,
    which is not at blanks. targets: (W, 2) among the M. shares: (W,)."""

    packed: Packed
    places: Tensor
    open: Tensor
    targets: Tensor
    shares: Tensor
    counts: dict[str, float]

    @property
    def tokens(self) -> int:
        return self.packed.real


@dataclass(frozen=True)
class Found:
    """The best span of a window, as its first and last token among those of the context, -inf where there is none; what no answer
    scores; and how likely both are in the window."""

    score: float
    first: int
    last: int
    nothing: float
    chance: float
    chance_of_nothing: float


@dataclass(frozen=True)
class Answer:
    """A part of the context, from character start to end, the end not included; "" from 0 to 0 where the context has no answer.

    score: how likely it is in the window in which it stands. absence: by how much no answer scores more than the best span.
    """

    text: str
    start: int
    end: int
    score: float
    absence: float


class Answering(Task):
    """Questions that all have an answer are always given one. Where some to learn from have none, a question has none when this
    scores more than the best span by a threshold, which is chosen by F1 on the validation examples (Devlin et al. 2018, 4.3)."""

    kind = "answering"
    head_kind = "span"
    metric = "f1"
    names_labels = False
    takes = None
    wants = "context and question"
    _language: str | None = None
    """Of the answers that were measured last."""

    def __init__(
        self, network: Network, head: TaskHead | None, tokens: Tokens, section: Any, labels: Sequence[str], length: int
    ):
        super().__init__(network, head, tokens, section, labels, length)
        looks_back = network.continues and not isinstance(network, Seq2Seq)
        self._none_is_last = bool(tokens.suffix) and (looks_back or not tokens.prefix)

    @classmethod
    def labels_of(cls, section: Any, examples: Sequence[Asked]) -> tuple[str, ...]:
        if not any(example.answers for example in examples):
            raise UserError(f"answering: none of {len(examples)} questions to learn from has an answer: nothing can be learned")
        return "start", "end"

    def prepare(self, examples: Sequence[Asked]) -> None:
        """Raises UserError for answers that are not where they are said to be; warns of those that stand whole in no window,
        longer than windows overlap: nothing is learned from their questions."""
        if any(example.answers == () for example in examples):
            self.kept[THRESHOLD] = 0.0
        lost = {window.example for window in self.encode(examples) if isinstance(window, AskedWindow) and window.share == 0}
        if lost:
            warnings.warn(
                f"answering: {len(lost)} of {len(examples)} questions are not learned from: their answer stands whole in no "
                f"window of {self.length} tokens (the first: {examples[min(lost)].origin}); lengthen training.length, "
                "or lower stride",
                stacklevel=2,
            )

    def inexact(self, examples: Sequence[Asked]) -> list[Span]:
        """The answers that begin or end inside of a token: the whole token is learned, and scored against what is right."""
        contexts = self._contexts(examples)
        return [
            answer
            for example in examples
            for answer in example.answers or ()
            if not contexts[example.context].exact(*_inside_blanks(answer))
        ]

    def encode(self, examples: Sequence[Asked]) -> list[Window]:
        windows: list[Window] = []
        contexts = self._contexts(examples)
        questions = self.tokens.encode([example.question for example in examples])
        for number, (example, question) in enumerate(zip(examples, questions, strict=True)):
            context = contexts[example.context]
            answers = [context.holding(*_checked(example, answer)) for answer in example.answers or ()]
            parts = self._parts(example, question, len(context.tokens))
            targets = [next((one for one in answers if one and begin <= one[0] and one[1] <= end), None) for begin, end in parts]
            known = not example.answers or any(targets)
            for (begin, end), target in zip(parts, targets, strict=True):
                read = surrounded(self.tokens, question, context.tokens[begin:end])
                windows.append(
                    AskedWindow(
                        document=len(windows), tokens=read.tokens, sentences=NO_WORDS, words=NO_WORDS, example=number,
                        types=read.types, begin=read.begins[1], offsets=context.offsets[begin:end],
                        nowhere=len(read.tokens) - 1 if self._none_is_last else 0,
                        target=None if target is None else (target[0] - begin, target[1] - 1 - begin),
                        share=1 / len(parts) if known else 0.0,
                    )
                )  # fmt: skip
        return windows

    def collate(self, rows: Sequence[Row], length: int) -> AskedBatch:
        laid = lay_windows(rows, length, self.tokens.pad)
        windows = [window for window in laid.windows if isinstance(window, AskedWindow)]
        most = 1 + max(1, *(len(window.offsets) for window in windows))
        places = np.zeros((len(windows), most), dtype=np.int64)
        opened = np.zeros(places.shape, dtype=bool)
        targets = np.zeros((len(windows), 2), dtype=np.int64)
        opened[:, 0] = True
        for number, (window, first) in enumerate(zip(windows, laid.firsts, strict=True)):
            size = len(window.offsets)
            places[number, 0] = first + window.nowhere
            places[number, 1 : size + 1] = first + window.begin + np.arange(size)
            opened[number, 1 : size + 1] = window.offsets[:, 1] > window.offsets[:, 0]
            if window.target is not None:
                targets[number] = np.array(window.target) + 1
        shares = np.array([window.share for window in windows], dtype=np.float32)
        counts = {self.kind: float(shares.sum()), "accuracy": len(windows)}
        return AskedBatch(
            laid.packed,
            torch.from_numpy(places),
            torch.from_numpy(opened),
            torch.from_numpy(targets),
            torch.from_numpy(shares),
            counts,
        )

    def losses(self, batch: AskedBatch, turn: str) -> dict[str, Loss]:
        """The mean of the cross entropies of begin and end; and how often both are right."""
        scores = self._scores(batch)
        each = F.cross_entropy(scores, batch.targets, reduction="none").mean(1)
        right = (scores.argmax(1) == batch.targets).all(1).sum()
        loss = Loss((each * batch.shares).sum(), batch.counts[self.kind])
        return {self.kind: loss, "accuracy": Loss(right, len(each), weight=0)}

    def found(self, batch: AskedBatch) -> Sequence[Found]:
        scores = self._scores(batch)                       # (W, M, 2)
        begins, ends = scores[:, 1:, 0], scores[:, 1:, 1]
        longest = min(self.section.longest, ends.shape[1])
        reached = F.pad(ends, (0, longest - 1), value=-math.inf).unfold(1, longest, 1)  # ends as far as an answer may reach
        best, where = (begins[:, :, None] + reached).flatten(1).max(1)
        first = where // longest
        nothing, norm = scores[:, 0].sum(-1), scores.logsumexp(1).sum(-1)
        columns = (best, first, first + where % longest, nothing, (best - norm).exp(), (nothing - norm).exp())
        return [Found(*one) for one in zip(*(column.tolist() for column in columns), strict=True)]

    def predictions(self, examples: Sequence[Asked], progress: Progress = silent) -> list[Answer]:
        return super().predictions([replace(example, answers=None) for example in examples], progress)

    def predict(self, example: Asked, windows: Sequence[AskedWindow], found: Sequence[Found]) -> Answer:
        window, best = max(zip(windows, found, strict=True), key=lambda pair: pair[1].score)
        nothing = min(found, key=lambda one: one.nothing)  # what the window that is surest of an answer says, as in run_squad.py
        absence = SURE if best.score == -math.inf else nothing.nothing - best.score
        if best.score == -math.inf or absence > self.kept.get(THRESHOLD, math.inf):
            return Answer("", 0, 0, nothing.chance_of_nothing, absence)
        begin, end = int(window.offsets[best.first, 0]), int(window.offsets[best.last, 1])
        return Answer(example.context[begin:end], begin, end, best.chance, absence)

    def settle(self, examples: Sequence[Asked]) -> None:
        if THRESHOLD not in self.kept:
            return
        self.kept[THRESHOLD] = math.inf
        answered = self.predictions(examples)
        gold = [_texts(example) for example in examples]
        language = text_metrics.language_of([text for texts in gold for text in texts])
        pairs = zip(gold, answered, strict=True)
        worth = np.array([text_metrics.answers([texts], [one.text], language)["f1"] for texts, one in pairs])
        right = np.array([not texts for texts in gold], dtype=np.float64)
        self.kept[THRESHOLD] = best_threshold(np.array([one.absence for one in answered]), worth, right)

    def told(self, prediction: Answer) -> str:
        return prediction.text or NOTHING

    def wrong(self, example: Asked, prediction: Answer) -> float:
        return float(not text_metrics.answer_em(prediction.text, _texts(example), self._language))

    def figures(self, examples: Sequence[Asked], predictions: Sequence[Answer]) -> dict[str, float]:
        gold, said = [_texts(example) for example in examples], [one.text for one in predictions]
        self._language = text_metrics.language_of_answers(gold, said)
        return text_metrics.answers(gold, said, self._language)

    def _scores(self, batch: AskedBatch) -> Tensor:  # (W, M, 2)
        scores = self.scores(batch.packed).flatten(0, 1)[batch.places].float()
        return scores.masked_fill(~batch.open[:, :, None], -math.inf)

    def _contexts(self, examples: Sequence[Asked]) -> dict[str, Placed]:
        """Every context once: questions share them."""
        texts = list(dict.fromkeys(example.context for example in examples))
        return dict(zip(texts, placed(self.tokens, texts), strict=True))

    def _parts(self, example: Asked, question: Sequence[int], size: int) -> list[tuple[int, int]]:
        """Windows overlap at least so far that each answer that can be predicted stands whole in one of them."""
        room = room_beside(self.tokens, self.length, pair=True) - len(question)
        if room < max(1, min(size, LEAST)):
            raise UserError(
                f"{example.origin}: the question has {len(question)} tokens and leaves no room for the context in rows of "
                f"{self.length}; lengthen training.length (the network reads {self.network.config.length})"
            )
        return parts_of(size, room, min(self.section.stride, 1 - min(self.section.longest, room // 2) / room))


def best_threshold(absences: np.ndarray, worth: np.ndarray, worth_of_none: np.ndarray) -> float:
    """The threshold of absence above which no answer is given that makes the sum of what is given the greatest: `worth` of each
    example's answer, or `worth_of_none`. In the middle between two examples; the lowest of several that are as good."""
    order = np.argsort(absences, kind="stable")
    absences = absences[order]
    totals = np.append(0.0, np.cumsum((worth - worth_of_none)[order]))
    borders = np.concatenate([absences[:1] - 1, (absences[:-1] + absences[1:]) / 2, absences[-1:] + 1])
    totals[1:-1][absences[:-1] == absences[1:]] = -math.inf  # no threshold is between two that are the same
    return float(borders[totals.argmax()])


def _checked(example: Asked, answer: Span) -> tuple[int, int]:
    """From which character to which an answer goes. Raises UserError where something else stands there."""
    end = answer.start + len(answer.text)
    if not is_placed(example, answer):
        there = example.context[answer.start : end]
        at = example.context.find(answer.text)
        hint = f"it begins at {at}" if at >= 0 else "the context has it nowhere"
        raise UserError(
            f"{example.origin}: question {example.id!r}: answer {answer.text!r} is not at character {answer.start} of the "
            f"context, where {there!r} stands; {hint}"
        )
    return answer.start, end


def _inside_blanks(answer: Span) -> tuple[int, int]:
    begin = answer.start + len(answer.text) - len(answer.text.lstrip())
    return begin, begin + len(answer.text.strip())


def _texts(example: Asked) -> list[str]:
    return [answer.text for answer in example.answers or ()]
