"""Texts that become two: what is given, and what is asked for. An encoder-decoder reads the one and writes the other; a
decoder reads the one both ways and goes on with the other.

Letters: R rows, T places of a row, N places that have an answer.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from yanmo.batch import Packed, Piece, Row
from yanmo.models.family import multiple
from yanmo.models.network import Network
from yanmo.models.seq2seq import Seq2Seq
from yanmo.objectives.cross_entropy import Smoothing, cross_entropy
from yanmo.objectives.layout import Layout, Segment, Text, hidden_at, lay_out
from yanmo.objectives.objective import Loss, Objective
from yanmo.tokenizer import Tokens

MULTIPLE = 16
"""Rows of sources and of targets are as long as a batch needs, rounded up to this: few shapes, little padding."""
NO_WORDS = np.zeros(0, dtype=np.int64)
"""Nothing asks where words begin in a text that was rewritten."""


@dataclass(frozen=True)
class Example:
    """given, asked: token ids, without the special tokens around them. ends: what is asked for is over where it ends; a text
    that was cut off before its end is not."""

    given: np.ndarray
    asked: np.ndarray
    ends: bool = True


@dataclass(frozen=True)
class Sizes:
    """The most tokens that an Example of a piece may have: given, asked for, and of both together."""

    given: int
    asked: int
    both: int


@dataclass(frozen=True)
class RewrittenBatch:
    """source: what an encoder reads; None where a decoder has it at the beginning of `target`. target: what the decoder reads,
    one place behind what it says. places, answers: (N,) places of `target` and the tokens that are to be said there."""

    source: Packed | None
    target: Packed
    places: Tensor
    answers: Tensor
    counts: dict[str, int]

    @property
    def tokens(self) -> int:
        return self.target.real + (0 if self.source is None else self.source.real)


class Sides:
    """How examples are laid out for a network, and what it is to say. Encoder-decoders have the family's special tokens around
    both texts, in rows of their own; decoders around the whole, and an answer only where the text asked for is to be said.
    Losses are called `name`.

    both_ways: a decoder sees all of what is given at every place of it; else only what comes before.
    """

    def __init__(self, network: Network, tokens: Tokens, name: str, both_ways: bool = True):
        self.start = network.config.decoder_start if isinstance(network, Seq2Seq) else None
        before = tokens.suffix[-1:] if self.start is None else ()
        self.prefix, self.suffix, self.pad = tokens.prefix or before, tokens.suffix, tokens.pad
        self.name, self.both_ways = name, both_ways

    @property
    def around(self) -> int:
        """Special tokens around a text."""
        return len(self.prefix) + len(self.suffix)

    def places(self, given: int, asked: int, both: int) -> int:
        """Places of a row that an example with so many tokens takes: of the longer side, where they are apart."""
        return self.around + (both if self.start is None else max(given, asked))

    def lay(self, examples: Sequence[Sequence[Example]], length: int) -> RewrittenBatch:
        """A batch of rows of at most `length` places, from the examples of each row."""
        return self._continued(examples, length) if self.start is None else self._apart(examples, length, self.start)

    def losses(self, network: Network, batch: RewrittenBatch, smoothing: Smoothing | None = None) -> dict[str, Loss]:
        """The cross entropy of what is asked for, and how much of it is right."""
        hidden = network(batch.target) if batch.source is None else network(batch.source, batch.target)
        total, correct = cross_entropy(network.head, hidden_at(hidden, batch.places), batch.answers, smoothing)
        count = len(batch.answers)
        return {self.name: Loss(total, count), "accuracy": Loss(correct, count, weight=0)}

    def _apart(self, examples: Sequence[Sequence[Example]], length: int, start: int) -> RewrittenBatch:
        """Sources and targets in rows of their own: document n of a row on one side belongs to document n on the other."""
        sources = [[self._text(example.given, True) for example in row] for row in examples]
        targets = [[self._text(example.asked, example.ends) for example in row] for row in examples]
        source, asked = (self._laid_out(side, self._needed(side, length)) for side in (sources, targets))
        read = np.roll(asked.tokens, 1)                   # rows end in padding or in the end of a text: both are replaced
        read[asked.positions == 0] = start
        read[asked.documents == 0] = self.pad
        places = np.flatnonzero(asked.documents)
        return self._batch(source.packed(), replace(asked, tokens=read).packed(), places, asked.tokens.reshape(-1)[places])

    def _continued(self, examples: Sequence[Sequence[Example]], length: int) -> RewrittenBatch:
        """What is asked for follows what is given in one text."""
        texts = [[self._text(np.concatenate([one.given, one.asked]), one.ends) for one in row] for row in examples]
        side = self._laid_out(texts, length)
        given = [len(self.prefix) + len(one.given) for row in examples for one in row]
        prefix = np.zeros(side.tokens.size, dtype=bool)
        for first, size in zip(side.firsts.tolist(), given, strict=True):
            prefix[first : first + size] = True
        prefix = prefix.reshape(side.tokens.shape)
        places = np.flatnonzero((side.documents > 0) & ~prefix & (side.positions > 0)) - 1
        packed = replace(side.packed(), prefix=torch.from_numpy(prefix)) if self.both_ways else side.packed()
        return self._batch(None, packed, places, side.tokens.reshape(-1)[places + 1])

    def _text(self, tokens: np.ndarray, ends: bool) -> Text:
        return Text((Segment(tokens, NO_WORDS),), self.suffix if ends else ())

    def _laid_out(self, rows: Sequence[Sequence[Text]], length: int) -> Layout:
        return lay_out(rows, length, self.prefix, (), self.pad)

    def _needed(self, rows: Sequence[Sequence[Text]], length: int) -> int:
        """The length of rows that all of these fit into, at most `length` where the packer has kept to its bounds."""
        longest = max(sum(len(self.prefix) + len(text.segments[0].tokens) + len(text.suffix) for text in row) for row in rows)
        return max(longest, min(length, multiple(longest, MULTIPLE)))

    def _batch(self, source: Packed | None, target: Packed, places: np.ndarray, answers: np.ndarray) -> RewrittenBatch:
        counts = {self.name: len(places), "accuracy": len(places)}
        return RewrittenBatch(source, target, torch.from_numpy(places), torch.from_numpy(answers), counts)


class Rewriting(Objective):
    """What such objectives share: they say what is given and asked for of a piece, and how much that is at most."""

    def __init__(self, network: Network, tokens: Tokens, name: str):
        super().__init__(network)
        self.sides, self.name = Sides(network, tokens, name), name

    @abstractmethod
    def rewrite(self, piece: Piece, rng: np.random.Generator) -> Example:
        """What is given and what is asked for."""

    @abstractmethod
    def sizes(self, tokens: int) -> Sizes:
        """The most that `rewrite` makes of a piece of so many tokens; none may fall when there are more."""

    def places(self, tokens: int) -> int:
        sizes = self.sizes(tokens)
        return self.sides.places(sizes.given, sizes.asked, sizes.both)

    def narrowest(self, length: int) -> int:
        sizes = self.sizes(length)
        return length if self.sides.start is None else max(1, min(sizes.given, sizes.asked))

    def collate(self, rows: Sequence[Row], length: int) -> RewrittenBatch:
        return self.sides.lay([[self.rewrite(piece, row.rng) for piece in row.pieces] for row in rows], length)

    def losses(self, batch: RewrittenBatch, turn: str) -> dict[str, Loss]:
        return self.sides.losses(self.network, batch)
