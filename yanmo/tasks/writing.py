"""One text into another: translation and summarisation.

Encoder-decoders read the source and write the target (Vaswani et al. 2017, arXiv:1706.03762). Decoders and LSTMs read source,
separator and target as one text, of which they learn the target (Radford et al. 2018, section 3.3), and go on from the separator.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from yanmo.batch import Row
from yanmo.beams import BeamSettings, beam_search
from yanmo.errors import UserError
from yanmo.generation import UNFINISHED, Writer
from yanmo.labelled.content import some_of
from yanmo.labelled.examples import Rewritten
from yanmo.models.heads import TaskHead
from yanmo.models.network import Network
from yanmo.objectives.cross_entropy import Smoothing
from yanmo.objectives.objective import Loss
from yanmo.objectives.rewriting import Example, RewrittenBatch, Sides
from yanmo.progress import Progress, silent
from yanmo.tasks import text_metrics
from yanmo.tasks.task import Task
from yanmo.tasks.windows import NO_WORDS, Window
from yanmo.tokenizer import Tokens

AT_ONCE = 512
"""Sources between two signs of progress."""


@dataclass(frozen=True)
class WrittenWindow(Window):
    """A source and one of its targets. given, asked: what is read and what is learned, without the special tokens around them.
    unread, unlearned: how many tokens of the source and of the target have no place in a row."""

    given: np.ndarray = field(default_factory=lambda: NO_WORDS)
    asked: np.ndarray = field(default_factory=lambda: NO_WORDS)
    taken: int = 0
    unread: int = 0
    unlearned: int = 0

    @property
    def places(self) -> int:
        return self.taken


@dataclass(frozen=True)
class Written:
    """What was written. score: its log-probability in nats over its number of tokens to the power of length_penalty. ended: it is
    not only so long because more was not allowed. unread: tokens at the source's end that there was no room for."""

    text: str
    score: float
    ended: bool = True
    unread: int = 0


class Writing(Task):
    """What is learned is every target of a source. Sources that are too long are read from their beginning, as far as rows go."""

    takes = "source"
    by_eye = True

    def __init__(
        self, network: Network, head: TaskHead | None, tokens: Tokens, section: Any, labels: Sequence[str], length: int
    ):
        super().__init__(network, head, tokens, section, labels, length)
        self.check_family("writes no text from another", network.judges)
        self.sides = Sides(network, tokens, self.kind, both_ways=False)
        if not self.sides.suffix:
            raise UserError(f"{self.kind}: the tokenizer has no token that ends a text (eos_token); nothing written would end")
        separator = tokens.suffix[0] if tokens.separator is None else tokens.separator
        self.between = () if self.sides.start is not None else (separator,)

    @classmethod
    def labels_of(cls, section: Any, examples: Sequence[Rewritten]) -> tuple[str, ...]:
        if not any(example.targets for example in examples):
            raise UserError(f"{cls.kind}: none of the examples to learn from has a target")
        return ()

    def encode(self, examples: Sequence[Rewritten]) -> list[Window]:
        """A window for each target. Raises UserError for an example without one."""
        for example in examples:
            _targets(example)
        targets = iter(self.tokens.encode([target for example in examples for target in _targets(example)]))
        windows: list[Window] = []
        for number, (example, source) in enumerate(zip(examples, self._sources(examples), strict=True)):
            for _ in _targets(example):
                target = next(targets)
                if not target:
                    raise UserError(f"{example.origin}: the tokenizer knows nothing in this target; leave it out")
                windows.append(self._window(len(windows), number, source, target))
        return windows

    def notes(self, windows: Sequence[Window]) -> list[str]:
        windows = [window for window in windows if isinstance(window, WrittenWindow)]
        cut = [window.unread for window in windows if window.unread]
        lost = [window.unlearned for window in windows if window.unlearned]
        long = sum(len(window.asked) + window.unlearned > self.section.longest for window in windows)
        found, many = [], f"of {len(windows):,}"
        if cut:
            found.append(
                f"{len(cut):,} {many} sources have no place in a row of {self.length}: their beginnings are read, and "
                f"{sum(cut):,} tokens at their ends are not"
            )
        if lost:
            found.append(f"{len(lost):,} {many} targets have no place either: {sum(lost):,} tokens at their ends are not learned")
        if long:
            found.append(
                f"{long:,} {many} targets are longer than the {self.section.longest} tokens that are written at most (longest)"
            )
        return found

    def collate(self, rows: Sequence[Row], length: int) -> RewrittenBatch:
        windows = [[piece for piece in row.pieces if isinstance(piece, WrittenWindow)] for row in rows]
        return self.sides.lay([[Example(one.given, one.asked, one.ends) for one in row] for row in windows], length)

    def losses(self, batch: RewrittenBatch, turn: str) -> dict[str, Loss]:
        """Targets are smoothed while it learns; held-out ones are measured as they are."""
        share = self.section.smoothing if self.training else 0.0
        return self.sides.losses(self.network, batch, Smoothing(share, self.tokens.size) if share else None)

    def predictions(self, examples: Sequence[Any], progress: Progress = silent, beams: int | None = None) -> list[Written]:
        """What is written of each source, the shortest first; with the section's beams if no other number is said."""
        section, room, network = self.section, self._room(), self.network
        assert isinstance(network, Writer), "families that write have networks that go on"
        settings = BeamSettings(beams or section.beams, section.length_penalty)
        sources = self._sources(examples)
        texts = [[*self.sides.prefix, *source[:room], *(self.between or self.sides.suffix)] for source in sources]
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        found: dict[int, Written] = {}
        for begin in range(0, len(order), AT_ONCE):
            numbers = order[begin : begin + AT_ONCE]
            written = beam_search(
                network,
                [texts[number] for number in numbers],
                settings,
                max_new_tokens=section.longest,
                ends=self.sides.suffix[:1],
                pad=self.tokens.pad,
                tokens=self.tokens.size,
            )
            for number, (best, *_) in zip(numbers, written, strict=True):
                text = self.tokens.decode(best.tokens, skip_special=True).rstrip(UNFINISHED).strip()
                found[number] = Written(text, best.score, best.ended, max(0, len(sources[number]) - room))
            progress(len(found), len(order), "texts")
        return [found[number] for number in range(len(texts))]

    def check(self, examples: Sequence[Any]) -> dict[str, float]:
        """Of `checked` examples from all over, each written with the likeliest token every time."""
        chosen = some_of(examples, self.section.checked)
        return self.figures(chosen, self.predictions(chosen, beams=1))

    def told(self, prediction: Written) -> str:
        return prediction.text

    def figures(self, examples: Sequence[Rewritten], predictions: Sequence[Written]) -> dict[str, float]:
        return self.compared([one.text for one in predictions], [_targets(example) for example in examples])

    @abstractmethod
    def compared(self, written: Sequence[str], targets: Sequence[Sequence[str]]) -> dict[str, float]:
        """The metrics of texts, each beside what it may be."""

    def _sources(self, examples: Sequence[Rewritten]) -> list[list[int]]:
        return self.tokens.encode([self.section.prompt + example.source for example in examples])

    def _window(self, number: int, example: int, source: list[int], target: list[int]) -> WrittenWindow:
        """Where both share a row, each has half of it, and what the other leaves over."""
        room = self.length - self.sides.around - len(self.between)
        of_source = of_target = room
        if self.between:
            of_target = room - min(len(source), room // 2)
            of_source = room - min(len(target), of_target)
        given = np.array([*source[:of_source], *self.between], dtype=np.int64)
        asked = np.array(target[:of_target], dtype=np.int64)
        return WrittenWindow(
            document=number,
            tokens=np.concatenate([given, asked]),
            sentences=NO_WORDS,
            words=NO_WORDS,
            ends=len(target) <= of_target,
            example=example,
            given=given,
            asked=asked,
            taken=self.sides.places(len(given), len(asked), len(given) + len(asked)),
            unread=max(0, len(source) - of_source),
            unlearned=max(0, len(target) - of_target),
        )

    def _room(self) -> int:
        """Tokens of a source that is to be written from: as many as rows have places for, and what is written has positions."""
        if not self.between:
            return self.length - self.sides.around
        positions = self.network.config.length
        written = min(self.section.longest, positions // 2)
        return min(self.length, positions - written) - len(self.sides.prefix) - len(self.between)


def _targets(example: Rewritten) -> tuple[str, ...]:
    if not example.targets:
        raise UserError(f"{example.origin}: this example has no target; targets are what is learned, and measured by")
    return example.targets


class Translation(Writing):
    """Into another language (Bahdanau et al. 2014, arXiv:1409.0473). Measured by sacreBLEU (Post 2018, arXiv:1804.08771)."""

    kind = "translation"
    metric = "bleu"
    hundredths = ("bleu", "chrf")

    def compared(self, written: Sequence[str], targets: Sequence[Sequence[str]]) -> dict[str, float]:
        found, self.measured_by = text_metrics.translation(targets, written, self.section.language)
        return found


class Summarisation(Writing):
    """Shorter (Rush et al. 2015, arXiv:1509.00685). Measured by ROUGE (Lin 2004)."""

    kind = "summarisation"
    metric = "rouge_l"
    lower = ("repetition",)

    def compared(self, written: Sequence[str], targets: Sequence[Sequence[str]]) -> dict[str, float]:
        return text_metrics.rouge(targets, written) | text_metrics.variety(written)
