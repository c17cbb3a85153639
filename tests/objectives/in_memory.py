"""Documents and tokenizers in memory, and rows made by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from yanmo.batch import Piece, Row

PAD, UNKNOWN, CLS, SEP, MASK, FIRST = range(6)
SIZE = 1000


@dataclass
class FakeTokens:
    """What objectives ask of yanmo.tokenizer.Tokens."""

    prefix: tuple[int, ...] = (CLS,)
    suffix: tuple[int, ...] = (SEP,)
    separator: int | None = SEP
    pad: int = PAD
    mask: int | None = MASK
    special: frozenset[int] = frozenset(range(FIRST))
    size: int = SIZE
    groups: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def group(self, name: str) -> tuple[int, ...] | None:
        if name == "mask":
            return None if self.mask is None else (self.mask,)
        return self.groups.get(name)


@dataclass
class FakeShards:
    documents: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    lengths: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.lengths = np.array([len(tokens) for tokens, _, _ in self.documents], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, document: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.documents[document]


def random_document(rng: np.random.Generator, length: int, sentence: int = 12) -> tuple[np.ndarray, ...]:
    """Words of one to four tokens, sentences that start at words, token ids of no meaning."""
    words = np.append(0, np.cumsum(rng.integers(1, 5, size=length)))
    words = words[words < length]
    sentences = words[np.append(True, rng.random(len(words) - 1) < 2 / sentence)]
    return rng.integers(FIRST, SIZE, size=length).astype(np.uint16), sentences.astype(np.uint32), words.astype(np.uint32)


def random_shards(documents: int, mean: int, seed: int = 0) -> FakeShards:
    rng = np.random.default_rng(seed)
    lengths = rng.lognormal(np.log(mean), 0.8, documents).astype(int) + 1
    return FakeShards([random_document(rng, length) for length in lengths])  # pyright: ignore[reportArgumentType]


def piece_of(tokens: list[int] | np.ndarray, words: list[int] | None = None, document: int = 0, **rest) -> Piece:
    tokens = np.asarray(tokens)
    words_array = np.arange(len(tokens)) if words is None else np.array(words)
    sentences = np.array(rest.pop("sentences", [0]))
    return Piece(document, tokens, sentences, words_array, **rest)


def row_of(*pieces: Piece, seed: int = 0, other: Piece | None = None) -> Row:
    return Row(tuple(pieces), np.random.default_rng(seed), lambda rng: other or pieces[0])
