"""The contract of a task: an objective with labels, which reads examples and not documents, and can say what it predicts.

A task owns its head, not the network: several tasks can stand on one. Examples become windows, which are packed into rows as
documents are in pretraining: an epoch costs what its real tokens cost.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import Tensor

from yanmo.adapt import layerwise
from yanmo.batch import Packed, Row, to_device
from yanmo.errors import UserError
from yanmo.labelled.content import given_of, right_of
from yanmo.labelled.examples import Example
from yanmo.models.family import multiple
from yanmo.models.heads import TaskHead, TaskKind
from yanmo.models.network import Network, in_mode
from yanmo.objectives.objective import Objective
from yanmo.progress import Progress, silent
from yanmo.recipe import KIND_OF, article, families_of
from yanmo.tasks.judged import Judged
from yanmo.tasks.windows import LONGEST, Window, WindowOrder
from yanmo.tokenizer import Tokens

PLACES = 4096
"""Places of a batch that is predicted, padding included."""
MULTIPLE = 16
"""Rows that are predicted are as long as their longest window, rounded up to this."""


TIE = 1e-6
"""What a nat of the loss counts where weights are chosen by another figure: of two that have the same, the lower loss wins."""


class Task(Objective):
    """kind: the recipe's. head_kind: what its head looks at, or None for tasks that use the network's own. metric: the figure
    that weights are chosen by; higher is better but for those in `lower`."""

    kind: ClassVar[str]
    head_kind: ClassVar[TaskKind | None] = None
    metric: ClassVar[str]
    takes: ClassVar[str | None] = "text"
    """The field that a plain text stands for; None where a task needs more: `wants` says what."""
    wants: ClassVar[str] = ""
    names_labels: ClassVar[bool] = True
    """Whether `labels` are names that a person has given, where there are any."""
    exclusive: bool = False
    """Whether an example has exactly one of `labels`: then it can be counted what is taken for what."""
    of_texts: ClassVar[bool] = False
    """Whether an example says one thing of its whole text, and not something of every token."""
    by_eye: ClassVar[bool] = False
    """Predictions are texts that are neither right nor wrong: a person looks at any of them."""
    lower: ClassVar[tuple[str, ...]] = ()
    """Figures that are better when they are lower."""
    hundredths: ClassVar[tuple[str, ...]] = ()
    """Figures that people read as they are, because they go up to 100 or are no shares; they read others times 100."""
    longest: ClassVar[int] = LONGEST
    """Places of a row at most, where the recipe does not say."""
    steady = False                                        # examples are soon known by heart: what stands out is to be learned

    def __init__(
        self, network: Network, head: TaskHead | None, tokens: Tokens, section: Any, labels: Sequence[str], length: int
    ):
        """labels: what the head's outputs stand for. length: places of a row, and of the longest window."""
        super().__init__(network)
        kind = self.head_of(section)
        assert (head is None) == (kind is None), f"{self.kind} has a head of kind {kind}"
        self.head, self.tokens, self.section = head, tokens, section
        self.labels, self.length = tuple(labels), length
        self.kept: dict[str, float] = {}
        """What `prepare` and `settle` have found, and a folder keeps besides weights: a threshold."""
        self.measured_by: dict[str, str] = {}
        """How `figures` found those that people only compare when they were found the same way: sacreBLEU's signatures."""

    # What each task says

    @classmethod
    @abstractmethod
    def labels_of(cls, section: Any, examples: Sequence[Any]) -> tuple[str, ...]:
        """What a head's outputs stand for, from the examples to learn from. Raises UserError where there is nothing to learn."""

    @classmethod
    def tokens_for(cls, section: Any, tokens: Tokens) -> Tokens:
        """The tokenizer with the special tokens that the task reads or writes besides."""
        return tokens.with_special(getattr(section, "special", ()))

    @classmethod
    def head_of(cls, section: Any) -> TaskKind | None:
        """`head_kind`, where it does not depend on the section."""
        return cls.head_kind

    @classmethod
    def outputs(cls, section: Any, labels: Sequence[str]) -> int:
        """How many numbers the head gives."""
        return len(labels)

    def notes(self, windows: Sequence[Any]) -> list[str]:
        """Sentences for the user: what of the examples is not read or learned as a whole."""
        return []

    def shown(self, windows: Sequence[Any]) -> list[str]:
        """What a person should see of what will be learned, before the first step."""
        return []

    def beside(self, windows: float) -> list[str]:
        """Sentences for the user of a task that learns from what goes through the network together: `windows`, on average."""
        return []

    def prepare(self, examples: Sequence[Any]) -> None:
        """Told once what will be learned from, before the first step: for weights of labels and the like."""

    def settle(self, examples: Sequence[Any]) -> None:
        """Told once what weights were chosen by, when they are: for thresholds and the like."""

    @abstractmethod
    def encode(self, examples: Sequence[Any]) -> list[Window]:
        """The windows of all examples, at least one for each, in their order. Raises UserError for a label that is not known."""

    @abstractmethod
    def collate(self, rows: Sequence[Row], length: int) -> Any:
        """The task's own batch of windows, see yanmo.tasks.windows.lay_windows."""

    def found(self, batch: Any) -> Sequence[Any]:
        """What the network says of each window of a batch, in the order of its rows; no gradient is kept."""
        raise AssertionError("a task finds something in windows, or has `predictions` of its own")

    def predict(self, example: Any, windows: Sequence[Any], found: Sequence[Any]) -> Any:
        """The task's typed prediction for an example, from what was found in its windows."""
        raise AssertionError("a task that finds something in windows says what it predicts by that")

    @abstractmethod
    def figures(self, examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        """The metrics, from examples that have labels."""

    def told(self, prediction: Any) -> str:
        """A prediction as a person reads it, in the form of yanmo.labelled.content.right_of."""
        return str(prediction)

    def wrong(self, example: Any, prediction: Any) -> float:
        """How far off a prediction is: 0 where it is right. Of texts that are judged by eye nobody knows."""
        return float(self.by_eye or self.told(prediction) != right_of(example))

    # What all have in common

    def check_family(self, lacks: str, reason: str | None = None) -> None:
        """Raises UserError for a family that the section does not fit, which `lacks` something; or for another reason."""
        family, fits = self.network.config.family, self.section.fits
        if reason or KIND_OF.get(family) not in fits:
            others = ", ".join(families_of(*fits))
            raise UserError(f"{self.kind}: {article(family)} {reason or lacks}; these families do: {others}")

    def places(self, tokens: int) -> int:
        return tokens

    def paces(self) -> Mapping[str, float]:
        decay = self.section.adaptation.layer_decay
        return {} if decay is None else {f"network.{name}": pace for name, pace in layerwise(self.network, decay).items()}

    def scores(self, packed: Packed) -> Tensor:
        """What the head says of packed rows; its shape is that of `head_kind`, see yanmo.models.heads."""
        assert isinstance(self.head, TaskHead), "a task without a head has no scores"
        return self.head(self.network.states(packed, self.head.kind), packed)

    def order(self, examples: Sequence[Example], seed: int, shuffle: bool = True) -> WindowOrder:
        """The order of the examples' windows, for the trainer."""
        return WindowOrder(self.encode(examples), self.length, self, seed, shuffle)

    @torch.no_grad()
    def predictions(self, examples: Sequence[Any], progress: Progress = silent) -> list[Any]:
        """A prediction for each example, in their order. Windows are packed into rows, so that padding costs next to nothing."""
        if not examples:
            return []
        windows = self.encode(examples)
        found: list[Any] = [None] * len(windows)
        done = 0
        with in_mode(self):
            for rows, length in self._rows(windows):
                batch = to_device(self.collate(rows, length), self.network.device)
                read = [piece.document for row in rows for piece in row.pieces]
                for number, one in zip(read, self.found(batch), strict=True):
                    found[number] = one
                done += len(read)
                progress(done, len(windows), "windows")
        each = groupby(zip(windows, found, strict=True), key=lambda pair: pair[0].example)
        joined = {number: list(zip(*pairs, strict=True)) for number, pairs in each}
        return [self.predict(example, *joined[number]) for number, example in enumerate(examples)]

    def _rows(self, windows: Sequence[Window]) -> Iterator[tuple[list[Row], int]]:
        longest = max(window.places for window in windows)
        total = sum(window.places for window in windows)
        length = min(self.length, multiple(max(longest, min(total, self.length)), MULTIPLE))
        order = WindowOrder(windows, length, self, seed=0, shuffle=False)
        at_once = max(1, PLACES // length)
        for begin in range(0, order.rows_per_epoch, at_once):
            numbers = range(begin, min(begin + at_once, order.rows_per_epoch))
            yield [order.row(number) for number in numbers], length

    def judged(self, examples: Sequence[Any], predictions: Sequence[Any]) -> list[Judged]:
        """Labelled examples, and what was predicted of them, as a person reads both."""
        return [
            Judged(one.origin, given_of(one), right_of(one), self.told(prediction), self.wrong(one, prediction))
            for one, prediction in zip(examples, predictions, strict=True)
        ]

    def measured(self, examples: Sequence[Any]) -> tuple[dict[str, float], Sequence[Any], Sequence[Any]]:
        """The metrics of held-out examples with the weights of now, and the examples that were predicted with what was said."""
        predictions = self.predictions(examples)
        return self.figures(examples, predictions), examples, predictions

    def judge(self, examples: Sequence[Any]) -> tuple[dict[str, float], list[Judged]]:
        """The metrics of held-out examples, and what was predicted of them as a person reads it."""
        figures, shown, predictions = self.measured(examples)
        return figures, self.judged(shown, predictions)

    def appraise(self, examples: Sequence[Any]) -> dict[str, float]:
        """The metrics of held-out examples with the weights of now."""
        return self.measured(examples)[0]

    def readable(self, figures: Mapping[str, float]) -> dict[str, str]:
        """Figures as people read them, and how those were found that are compared only when it was the same way."""
        shown = {name: f"{value if name in self.hundredths else 100 * value:.2f}" for name, value in figures.items()}
        shown |= {f"{name}, signature": signature for name, signature in self.measured_by.items()}
        return {name.replace("_", " "): text for name, text in shown.items()}

    def check(self, examples: Sequence[Any]) -> dict[str, float]:
        """The metrics that weights are chosen by while it learns: no more work than that needs."""
        return self.appraise(examples)

    @property
    def deciding(self) -> str:
        """The figure that weights are chosen by."""
        return self.section.metric or self.metric

    def of_the_deciding(self) -> dict[str, Any]:
        """What whoever compares trials by the deciding figure must know of it."""
        name = self.deciding
        scale = 1 if name in self.hundredths else 100
        return {"metric": name, "scale": scale, "lower": name in self.lower, "measured_by": self.measured_by}

    def merit(self, found: Mapping[str, float]) -> float:
        name = self.deciding
        if name not in found:
            raise UserError(f"metric {name!r}: {self.kind} finds {', '.join(sorted(found))}")
        of_loss = TIE * found.get("loss", 0.0)
        return (found[name] if name in self.lower else -found[name]) + of_loss
