"""Where words and sentences begin in a text, for any script: by rjieba for Chinese, by classes of characters otherwise.

A text is a sequence of segments (what rjieba cuts: Chinese words, runs of Latin letters and digits, single characters of
anything else). A word is one Chinese word, a run of letters of a script that has spaces, a punctuation mark, or a
character of a script that has no spaces and no segmenter here (kana, Thai). A space belongs to the word after it, as in
byte-level tokenizers, so that a word never crosses one.
Segments recur, so everything about one is found out once and kept: texts become arrays of segment numbers.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import rjieba

LETTER = 1 << 0  # begins with a letter or digit that may continue a word
JOINS = 1 << 1  # ends with something that a letter may continue
MARK = 1 << 2  # begins with a mark that belongs to the character before it
SPACE = 1 << 3
NEWLINE = 1 << 4
LOWER = 1 << 5  # begins with a lower-case letter
ABBREVIATION = 1 << 6  # a full stop after it does not end a sentence
STOP = 1 << 7  # ends a sentence whatever follows
ASCII_STOP = 1 << 8  # ends a sentence when a space follows: ! and ?
DOT = 1 << 9  # ends a sentence when a space follows, and then no lower-case letter
CLOSER = 1 << 10  # a quotation mark or bracket that still belongs to the sentence that has just ended
ALONE = 1 << 11  # begins with a letter that stands for itself: Han, kana, Thai
COMMA = 1 << 12  # goes on with a sentence that seemed to have ended: “好！”，他说

STOPS = "。！？；｡"
CLOSERS = "\"'”’」』）)】》〉〕］]"
COMMAS = ",，、:：—–-…~～/"
ABBREVIATIONS = frozenset(
    re.findall(
        r"\S+",
        "mr mrs ms dr prof rev gen col sen rep gov capt lt sgt st jr sr vs etc nos vol fig figs eq ch sec pp eds al inc "
        "ltd co corp dept univ approx est jan feb apr jun jul aug sep sept oct nov dec "
        "e.g i.e cf viz ca a.m p.m u.s u.k u.n ph.d",
    )
)

# Letters of scripts that are written without spaces: each character stands for itself.
UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x30A0),  # radicals, CJK marks, hiragana
    (0x3105, 0x312F),  # bopomofo
    (0x31A0, 0x31BF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
LIMIT = 400_000
"""Different segments that are kept, about 100 MB; then the memory begins anew."""


@dataclass(frozen=True)
class Segments:
    """Texts as segments. The texts are joined by a newline, which is a segment of its own.

    kinds: (N,) number of each segment in the Segmenter. begins: (N + 1,) where it begins, in characters of the joined
    text. firsts, ends: (documents,) the first segment of each text and the one after its last.
    """

    kinds: np.ndarray
    begins: np.ndarray
    firsts: np.ndarray
    ends: np.ndarray


class Segmenter(dict[str, int]):
    """Segment -> number, and what is known of each: flags, characters and UTF-8 bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.lives = 0
        self._clear_all()

    def _clear_all(self) -> None:
        self.clear()
        self.names: list[str] = []
        self.flags = np.zeros(0, np.uint16)
        self.characters = np.zeros(0, np.int32)
        self.bytes = np.zeros(0, np.int32)

    def __missing__(self, name: str) -> int:
        number = self[name] = len(self.names)
        self.names.append(name)
        return number

    def forget(self) -> None:
        """Begin anew, when more segments are known than are worth their memory."""
        if len(self.names) > LIMIT:
            self._clear_all()
            self.lives += 1

    def number(self, names: Sequence[str]) -> np.ndarray:
        """The numbers of segments; new ones are looked at and kept."""
        kinds = np.fromiter(map(self.__getitem__, names), np.int32, len(names))
        self.learn()
        return kinds

    def learn(self) -> None:
        known = len(self.flags)
        new = self.names[known:]
        if not new:
            return
        self.flags = _extended(self.flags, [_flags(name) for name in new])
        self.characters = _extended(self.characters, [len(name) for name in new])
        self.bytes = _extended(self.bytes, [len(name.encode("utf-8", "surrogatepass")) for name in new])

    def cut(self, texts: Sequence[str]) -> Segments:
        """Cut texts into segments, all at once: a call for each text would cost more than the cutting."""
        assert not any(text.endswith("\r") for text in texts[:-1]), "a text that ends in \\r would merge with the joint"
        kinds = self.number(rjieba.cut("\n".join(texts)))
        begins = np.zeros(len(kinds) + 1, np.int64)
        np.cumsum(self.characters[kinds], out=begins[1:])
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        starts = np.cumsum(lengths + 1) - (lengths + 1)
        firsts = np.searchsorted(begins[:-1], starts)
        ends = np.searchsorted(begins[:-1], starts + lengths)
        return Segments(kinds, begins, firsts, ends)


def word_starts(flags: np.ndarray, segments: Segments) -> np.ndarray:
    """(N,) whether a word begins at each segment."""
    before = np.zeros_like(flags)
    before[1:] = flags[:-1]
    blank = SPACE | NEWLINE
    glued = ((flags & MARK) != 0) & ((before & blank) == 0)
    glued |= ((flags & LETTER) != 0) & ((before & JOINS) != 0)
    glued |= ((before & SPACE) != 0) & ((flags & blank) == 0)
    starts = ~glued
    starts[segments.firsts[segments.firsts < len(flags)]] = True
    return starts


def sentence_starts(flags: np.ndarray, segments: Segments) -> np.ndarray:
    """(N,) whether a sentence begins at each segment: after 。！？；!? . and newlines, closing quotes taken along.

    A dot inside a number, after an abbreviation or before a lower-case word ends nothing; nor does a newline before a
    lower-case word, where a paragraph was only wrapped.
    """
    size = len(flags)
    places = np.arange(size)
    ending = (flags & (STOP | ASCII_STOP | DOT)) != 0
    closing = (flags & CLOSER) != 0
    last = np.maximum.accumulate(np.where(closing, 0, places))  # the last segment up to here that closes nothing
    in_end = ending | (closing & ending[last])
    filled = np.where((flags & (SPACE | NEWLINE)) != 0, size, places)
    following = np.minimum.accumulate(filled[::-1])[::-1]  # the next segment that is not blank
    lower = np.zeros(size, bool)
    lower[following < size] = (flags[following[following < size]] & LOWER) != 0

    starts = np.zeros(size, bool)
    candidates = np.flatnonzero(in_end[:-1] & ~in_end[1:]) + 1
    stop = last[candidates - 1]
    apart = (flags[candidates] & (SPACE | NEWLINE)) != 0
    apart |= (flags[candidates] & ALONE) != 0
    dotted = (flags[stop] & DOT) != 0
    abbreviated = (flags[np.maximum(stop - 1, 0)] & ABBREVIATION) != 0
    is_end = ((flags[stop] & STOP) != 0) | (apart & ~(dotted & (abbreviated | lower[candidates])))
    is_end &= (flags[candidates] & COMMA) == 0
    starts[candidates[is_end]] = True
    newline = (flags & NEWLINE) != 0
    starts[1:] |= newline[:-1] & ~newline[1:] & ~lower[1:]
    starts[1:] &= ~newline[1:]

    # Blanks at the end of a text are not a sentence.
    document_end = np.zeros(size, np.int64)
    document_end[segments.firsts[segments.firsts < size]] = 1
    if len(segments.ends):
        document_end = segments.ends[np.maximum(np.cumsum(document_end) - 1, 0)]
    starts &= following < document_end
    starts[segments.firsts[segments.firsts < size]] = True
    return starts


def _extended(array: np.ndarray, values: list[int]) -> np.ndarray:
    return np.concatenate([array, np.array(values, array.dtype)])


def _flags(name: str) -> int:
    if "\u4e00" <= name[0] <= "\u9fff" and "\u4e00" <= name[-1] <= "\u9fff":
        return ALONE
    first, last = _character(name[0]), _character(name[-1])
    flags = first & ~JOINS | last & JOINS
    if name.endswith(("\n", "\r", "\u2028", "\u2029", "\x0b", "\x0c", "\x85")):
        flags = NEWLINE
    if len(name) > 1:
        flags &= ~(STOP | ASCII_STOP | DOT | CLOSER)
    word = name.lower()
    if word in ABBREVIATIONS or (len(name) == 1 and name.isupper() and name.isascii()):
        flags |= ABBREVIATION
    return flags


@lru_cache(maxsize=100_000)
def _character(character: str) -> int:
    flags = 0
    category = unicodedata.category(character)
    code = ord(character)
    if character.isspace():
        flags |= SPACE
    elif category in ("Mn", "Mc", "Me", "Cf") or 0x1F3FB <= code <= 0x1F3FF:
        flags |= MARK | JOINS
    elif category[0] in "LN" and any(low <= code <= high for low, high in UNSPACED):
        flags |= ALONE
    elif category[0] in "LN":
        flags |= LETTER | JOINS
        if character.islower():
            flags |= LOWER
    if character in STOPS:
        flags |= STOP
    elif character in "!?":
        flags |= ASCII_STOP
    elif character == ".":
        flags |= DOT
    elif character in CLOSERS:
        flags |= CLOSER
    elif character in COMMAS:
        flags |= COMMA
    return flags
