"""From texts to token ids with the starts of sentences and whole words, at the speed of looking words up.

Three ways give the ids of tokenizer.encode, from the fastest to the one that always works:
- WordPiece of the BERT kind treats words apart when a space, a punctuation mark or a Chinese character is between them,
  so the ids of every segment are looked up; segments with no such border between them are put together first.
- Byte-level BPE and BPE with byte fallback keep every byte of the text, so where a token stands follows from how many
  bytes the tokens before it have, and the tokenizer need not work out offsets.
- Any other tokenizer gives its own offsets.
Letters: N tokens of a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from yanmo.tokenizer.borders import Segmenter, Segments, sentence_starts, word_starts
from yanmo.tokenizer.merges import Units, merges_of
from yanmo.tokenizer.pieces import WordPieces, byte_lengths, cuts_safely, pieces_apart
from yanmo.tokenizer.tokens import Tokens

BATCH = 1 << 16
"""Characters that are worked on at once: enough to make calls cheap, little enough to stay in the cache."""
LONG = 1 << 20
"""Characters of a text beyond which it is encoded in parts: at once, 100 MB would take gigabytes."""
_BEGINNER = "[A-Z0-9А-ЯЁぁ-ゖァ-ヺ一-鿿가-힣]"
CUT = re.compile(rf"(?:(?<=\S\n)|(?<=。))(?={_BEGINNER})|(?<=[a-z][!?])(?= [A-Z])")
"""Where the words, the sentences and the pieces of a tokenizer end whatever stands around (`cuts_safely`)."""


@dataclass(frozen=True)
class Encoded:
    """A text as tokens. tokens: (N,) ids. sentences, words: where each begins among them, the first at 0."""

    tokens: np.ndarray
    sentences: np.ndarray
    words: np.ndarray


@dataclass(frozen=True)
class Ragged:
    """Lists of different lengths, end to end: list i is values[offsets[i]:offsets[i + 1]]."""

    values: np.ndarray
    offsets: np.ndarray

    def __getitem__(self, index: int) -> np.ndarray:
        return self.values[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True)
class EncodedBatch:
    """Several texts as tokens, ready to be written."""

    tokens: Ragged
    sentences: Ragged
    words: Ragged


def encode_documents(tokens: Tokens, texts: Sequence[str]) -> list[Encoded]:
    """The tokens of each text with the starts of its sentences and words; the ids are those of tokens.encode."""
    encoder = encoder_of(tokens)
    return [
        Encoded(batch.tokens[index], batch.sentences[index], batch.words[index])
        for batch in encoder.batches(texts)
        for index in range(len(batch.tokens.offsets) - 1)
    ]


_encoders: dict[str, Encoder] = {}


def encoder_of(tokens: Tokens) -> Encoder:
    """The encoder of a tokenizer; it remembers the words it has seen, so the same one is given again."""
    encoder = _encoders.get(tokens.hash)
    if encoder is None:
        if len(_encoders) >= 4:
            _encoders.clear()
        encoder = _encoders[tokens.hash] = Encoder(tokens)
    return encoder


class Encoder:
    """Encodes texts with one tokenizer. Not safe for threads: it learns while it works."""

    def __init__(self, tokens: Tokens):
        self.tokens = tokens
        self.tokenizer = tokens.tokenizer
        self.segmenter = Segmenter()
        tree = json.loads(tokens.json)
        self.added = tuple(token["content"] for token in tree["added_tokens"] if not token["special"])  # found in any text
        self.pieces = WordPieces(tokens.tokenizer, tree, self.segmenter) if pieces_apart(tree) else None
        self.byte_lengths = byte_lengths(tree, tokens.size)
        self.cuts_safely = cuts_safely(tree)
        merges = merges_of(tree, tokens.size) if self.byte_lengths is not None else None
        self.units = Units(tokens.tokenizer, tree, merges, self.segmenter) if merges is not None else None

    def batches(self, texts: Sequence[str]) -> Iterable[EncodedBatch]:
        """The texts in their order, some of them at a time."""
        for group in _groups(texts):
            yield self.encode(group) if len(group[0]) <= LONG else self._in_parts(group[0])

    def _in_parts(self, text: str) -> EncodedBatch:
        """A long text, with the tokens, sentences and words that it has as a whole."""
        if not self.cuts_safely or any(token in text for token in self.added):
            return self.encode([text])
        parts = [self.encode([part]) for part in _parts(text)]
        begins = np.cumsum([0, *(len(part.tokens.values) for part in parts)])
        columns = (
            [part.tokens.values for part in parts],
            [part.sentences.values + begin for part, begin in zip(parts, begins, strict=False)],
            [part.words.values + begin for part, begin in zip(parts, begins, strict=False)],
        )
        joined = map(np.concatenate, columns)
        return EncodedBatch(*(Ragged(values, np.array([0, len(values)])) for values in joined))

    def encode(self, texts: Sequence[str]) -> EncodedBatch:
        """The texts at once; a large list is better given to `batches`."""
        self.segmenter.forget()
        segments = self.segmenter.cut(texts)
        flags = self.segmenter.flags[segments.kinds]
        sentences = sentence_starts(flags, segments)
        words = word_starts(flags, segments) | sentences
        plain = not any(token in text for text in texts for token in self.added)
        if self.pieces is not None and plain:
            return _looked_up(self.pieces, segments, sentences, words)
        if self.units is not None and plain:
            ids = Ragged(*self.units.ids(segments))
        else:
            ids = Ragged(*_joined(self.tokens.encode(texts), np.int32))
        if self.byte_lengths is not None:
            batch = self._by_bytes(texts, segments, ids, sentences, words)
            if batch is not None:
                return batch
        return self._by_offsets(texts, segments, sentences, words)

    def _by_bytes(
        self, texts: Sequence[str], segments: Segments, ids: Ragged, sentences: np.ndarray, words: np.ndarray
    ) -> EncodedBatch | None:
        """Where tokens stand from the bytes of those before them; None when they do not add up to the text."""
        assert self.byte_lengths is not None, "only called for tokenizers that keep every byte"
        sizes = self.segmenter.bytes[segments.kinds]
        begins = np.zeros(len(sizes) + 1, np.int64)
        np.cumsum(sizes, out=begins[1:])
        lengths = self.byte_lengths[ids.values]
        ends = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=ends[1:])
        starts_of_texts = begins[segments.firsts]
        if not np.array_equal(np.diff(ends[ids.offsets]), begins[segments.ends] - starts_of_texts):
            return None
        shift = np.repeat(starts_of_texts - ends[ids.offsets[:-1]], np.diff(ids.offsets))
        starts = ends[:-1] + shift
        columns = []
        for flags in (sentences, words):
            at = np.zeros(begins[-1] + 1, bool)
            at[begins[:-1][flags]] = True
            columns.append(_ragged_starts(np.flatnonzero(at[starts]), ids.offsets))
        return EncodedBatch(ids, *columns)

    def _by_offsets(self, texts: Sequence[str], segments: Segments, sentences: np.ndarray, words: np.ndarray) -> EncodedBatch:
        """Where tokens stand from the tokenizer's offsets: a word begins with a token if a border lies in or before it."""
        encoded = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        ids = Ragged(*_joined([encoding.ids for encoding in encoded], np.int32))
        spans = np.array([span for encoding in encoded for span in encoding.offsets], np.int64).reshape(-1, 2)
        shift = np.repeat(segments.begins[segments.firsts], np.diff(ids.offsets))
        starts, ends = spans[:, 0] + shift, spans[:, 1] + shift
        previous = np.zeros_like(starts)
        previous[1:] = ends[:-1]
        first = ids.offsets[:-1][np.diff(ids.offsets) > 0]
        previous[first] = shift[first]
        columns = []
        for flags in (sentences, words):
            at = np.zeros(segments.begins[-1] + 2, np.int64)
            at[segments.begins[:-1][flags] + 1] = 1
            upto = np.cumsum(at)  # upto[p]: borders before character p
            columns.append(_ragged_starts(np.flatnonzero(upto[starts + 1] > upto[previous]), ids.offsets))
        return EncodedBatch(ids, *columns)


def _looked_up(pieces: WordPieces, segments: Segments, sentences: np.ndarray, words: np.ndarray) -> EncodedBatch:
    """Ids of segments from memory; segments that are not apart for the tokenizer are put together to units first."""
    units, kinds = pieces.units(segments)
    tokens, offsets = pieces.gather(kinds)
    bounds = offsets[np.searchsorted(units, np.append(segments.firsts, len(segments.kinds)))]
    filled = np.flatnonzero(np.diff(offsets))
    begin = units[filled]
    previous_end = np.append(0, np.append(units, len(segments.kinds))[filled + 1])[:-1]
    columns = []
    for flags in (sentences, words):
        upto = np.cumsum(flags)
        before = np.append(0, upto)[previous_end]  # borders before the end of the unit before
        columns.append(_ragged_starts(offsets[filled[upto[begin] > before]], bounds))
    return EncodedBatch(Ragged(tokens, bounds), *columns)


def _ragged_starts(starts: np.ndarray, offsets: np.ndarray) -> Ragged:
    """Starts among all tokens as starts among the tokens of each text."""
    bounds = np.searchsorted(starts, offsets)
    local = starts - np.repeat(offsets[:-1], np.diff(bounds))
    return Ragged(local, bounds)


def _joined(lists: list[list[int]], dtype: type) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(part) for part in lists], out=offsets[1:])
    values = np.zeros(offsets[-1], dtype)
    for part, start, end in zip(lists, offsets[:-1], offsets[1:], strict=True):
        values[start:end] = part
    return values, offsets


def _groups(texts: Sequence[str]) -> Iterable[list[str]]:
    """Neighbouring texts of about BATCH characters; one that ends in a carriage return ends its group, a long one is alone."""
    group: list[str] = []
    size = 0
    for text in texts:
        if group and len(text) > LONG:
            yield group
            group, size = [], 0
        group.append(text)
        size += len(text)
        if size >= BATCH or text.endswith("\r"):
            yield group
            group, size = [], 0
    if group:
        yield group


def _parts(text: str) -> Iterable[str]:
    """A text in parts of BATCH characters and what there is up to the next safe cut."""
    start = 0
    while (cut := CUT.search(text, start + BATCH)) is not None:
        yield text[start : cut.end()]
        start = cut.end()
    yield text[start:]
