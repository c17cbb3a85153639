"""What a lint looks at: the examples of each part, what could not be read, and what is known of the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from yanmo.labelled.content import texts_of
from yanmo.labelled.examples import Asked, Classified, Example, Retrieved, Rewritten
from yanmo.labelled.fields import BadExample
from yanmo.tokenizer import Tokens, encode_documents

CONTEXT = 8
"""Tokens of a context that a question must leave room for."""


@dataclass(frozen=True)
class Read:
    """By text: how many tokens it has, and how many of these are unknown ones."""

    sizes: dict[str, int]
    unknown: dict[str, int]


@dataclass(frozen=True)
class Rule:
    """How a network reads the examples of its task, as far as their kind does not say. positions: as long as rows can be.
    together: special tokens of a row that source and target share, None where each has its own. prompt: before every source.
    negatives: of an example's own, so many are read. longest: tokens that are written, or that an answer has, at most.
    measures: the network has learned the task, and its labels are what it is measured by."""

    positions: int | None = None
    together: int | None = None
    prompt: str = ""
    negatives: int = 1
    longest: int | None = None
    measures: bool = False


@dataclass(frozen=True)
class Subject:
    """labels: those that the network knows, or is to know. length: of its rows."""

    kind: str
    parts: dict[str, tuple[Example, ...]]
    tokens: Tokens | None
    length: int | None
    labels: tuple[str, ...] | None
    faults: tuple[BadExample, ...]
    rule: Rule = field(default_factory=Rule)

    @property
    def train(self) -> tuple[Example, ...]:
        return self.parts["train"]

    @cached_property
    def all(self) -> list[Example]:
        return [example for part in self.parts.values() for example in part]

    @cached_property
    def read(self) -> Read:
        """Every text as the tokenizer reads it."""
        assert self.tokens is not None, "nothing can be read without a tokenizer"
        texts = list(dict.fromkeys(text for example in self.all for text in texts_of(example)))
        unknown = -1 if self.tokens.unknown is None else self.tokens.unknown
        found = [(len(one.tokens), int(np.count_nonzero(one.tokens == unknown))) for one in encode_documents(self.tokens, texts)]
        sizes, counts = zip(*found, strict=True) if found else ((), ())
        return Read(dict(zip(texts, sizes, strict=True)), dict(zip(texts, counts, strict=True)))

    @property
    def around(self) -> int:
        """Special tokens around a text."""
        assert self.tokens is not None, "nothing is around a text without a tokenizer"
        return len(self.tokens.prefix) + len(self.tokens.suffix)

    @property
    def between(self) -> int:
        """Special tokens between two texts."""
        return int(self.tokens is not None and self.tokens.separator is not None)

    @cached_property
    def sizes(self) -> list[int]:
        """Places that each example takes where it is read at once and whole."""
        sources = [one for one in self.all if isinstance(one, Rewritten)]
        prompted = {one.source: self.read.sizes[one.source] for one in sources}
        if self.rule.prompt and sources and self.tokens is not None:
            texts = encode_documents(self.tokens, [self.rule.prompt + source for source in prompted])
            prompted = {source: len(one.tokens) for source, one in zip(prompted, texts, strict=True)}
        return [self._size(example, prompted) for example in self.all]

    def _size(self, example: Example, prompted: Mapping[str, int]) -> int:
        sizes = self.read.sizes
        match example:
            case Rewritten():
                source, target = prompted[example.source], max((sizes[text] for text in example.targets or ()), default=0)
                return max(source, target) + self.around if self.rule.together is None else source + target + self.rule.together
            case Retrieved():
                return sum(sizes[text] + self.around for text in self.beside(example))
            case Classified() | Asked():
                texts = texts_of(example)
                return sum(sizes[text] for text in texts) + self.around + self.between * (len(texts) - 1)
        return sum(sizes[text] for text in texts_of(example)) + self.around

    def beside(self, example: Retrieved) -> tuple[str, ...]:
        """The texts of an example that share a row."""
        return example.query, example.positive, *example.negatives[: self.rule.negatives]

    def least(self, example: Example) -> int:
        """Places of a row that an example must have to be read at all, however many windows it has; 0 where any will do."""
        sizes = self.read.sizes
        match example:
            case Classified(pair=str() as pair):           # the shorter text is in every window
                fixed = min(sizes[example.text], sizes[pair])
                return fixed + self.around + self.between + 1 + len(self.tokens.prefix if self.tokens is not None else ())
            case Asked():
                context = max(1, min(sizes[example.context], CONTEXT))
                return sizes[example.question] + self.around + self.between + context
            case Retrieved():
                return (self.around + 1) * len(self.beside(example))
        return 0
