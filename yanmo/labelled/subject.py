"""What a lint looks at: the examples of each part, what could not be read, and what is known of the network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from yanmo.labelled.content import texts_of
from yanmo.labelled.examples import Example, Retrieved, Rewritten
from yanmo.labelled.fields import BadExample
from yanmo.tokenizer import Tokens, encode_documents


@dataclass(frozen=True)
class Read:
    """By text: how many tokens it has, and how many of these are unknown ones."""

    sizes: dict[str, int]
    unknown: dict[str, int]

    def size(self, example: Example) -> int:
        """Tokens of the longest sequence that an example needs at once, without special ones."""
        texts = [self.sizes[text] for text in texts_of(example)]
        return max(texts) if isinstance(example, Rewritten | Retrieved) else sum(texts)


@dataclass(frozen=True)
class Subject:
    """labels: those that the network knows, or is to know."""

    kind: str
    parts: dict[str, tuple[Example, ...]]
    tokens: Tokens | None
    length: int | None
    labels: tuple[str, ...] | None
    faults: tuple[BadExample, ...]

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
