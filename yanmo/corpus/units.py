"""What a text is made of, counted by numpy for many documents at once: scripts, and units with their n-grams.

A unit is a character of a script written without spaces (Han, kana, Thai, Khmer ...), or else a word: a run of other letters
and digits. N-grams of units mean the same for Chinese, English and text that mixes them; case, spaces and punctuation do
not count. Everything is a pure function of the text: no process-dependent hash.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

HAN, KANA, SPACELESS, HANGUL, CYRILLIC, LATIN, LETTER, DIGIT, PUNCTUATION, SYMBOL, SPACE = range(11)
CLASSES = 11
SCRIPTS = ("Han", "kana", "other", "Hangul", "Cyrillic", "Latin", "other", "digits", "punctuation", "other")
"""The name in the report of each class; space is not counted there."""

WINDOW = 1 << 19
"""Characters looked at together: bounds the memory whatever the length of a document."""
CHARACTERS, WORDS = 5, 3
"""Units of a shingle: five where most units are characters, three where most are words."""
BLOCK = 8192
"""Units within which a repeated n-gram counts as repetition, so that long documents are not punished for their length."""
LARGEST = 1 << 20
"""Characters up to which every shingle enters the signature; of longer documents a share chosen by hash does."""

_RANGES = (
    (HAN, (0x2E80, 0x2FD5), (0x3005, 0x3006), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF)),
    (KANA, (0x3041, 0x3096), (0x309D, 0x309F), (0x30A1, 0x30FA), (0x30FC, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F)),
    (SPACELESS, (0x0E01, 0x0EDD), (0x0F40, 0x0FBC), (0x1000, 0x109F), (0x1780, 0x17D3), (0x1950, 0x19DF), (0x1A20, 0x1AAD)),
    (HANGUL, (0x1100, 0x11FF), (0x3131, 0x318E), (0xA960, 0xA97C), (0xAC00, 0xD7FB), (0xFFA0, 0xFFDC)),
    (CYRILLIC, (0x0400, 0x052F), (0x1C80, 0x1C88), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)),
    (LATIN, (0x0041, 0x024F), (0x1E00, 0x1EFF), (0x2C60, 0x2C7F), (0xA722, 0xA7FF), (0xFF21, 0xFF5A)),
)  # fmt: skip


@cache
def classes() -> np.ndarray:
    """(0x110000,) uint8: the class of every code point, from its Unicode category and block."""
    table = np.full(0x110000, SYMBOL, np.uint8)
    table[0x20000:0x32400] = HAN
    table[0xE0100:0xE01F0] = LETTER                       # variation selectors go with their letter
    of = {"L": LETTER, "M": LETTER, "N": DIGIT, "P": PUNCTUATION, "S": SYMBOL, "Z": SPACE, "C": SYMBOL}
    table[:0x20000] = [of[unicodedata.category(chr(code))[0]] for code in range(0x20000)]
    table[[0x09, 0x0A, 0x0D, 0x200C, 0x200D]] = SPACE, SPACE, SPACE, LETTER, LETTER
    for kind, *ranges in _RANGES:
        for first, last in ranges:
            part = table[first : last + 1]
            part[part == LETTER] = kind
    table[[0x3007, *range(0x3021, 0x302A)]] = HAN         # 〇 and the Hangzhou numerals are numbers by category
    return table


def codes_of(text: str) -> np.ndarray:
    """(characters,) uint32 code points."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def joined(words: Sequence[str]) -> str:
    """Words with blanks between them; without where most are of a script without spaces, or single characters."""
    together = "".join(words)
    if 2 * len(together) <= 3 * len(words):
        return together
    return together if 2 * int((classes()[codes_of(together)] <= SPACELESS).sum()) > len(words) else " ".join(words)


_ODD = np.random.default_rng(1998).integers(0, 2**63, 64, np.uint64) * np.uint64(2) + np.uint64(1)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mixed(values: np.ndarray) -> np.ndarray:
    """64 bits that depend on all bits of each value (the finalizer of Stafford's mix 13)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@dataclass(frozen=True)
class Units:
    """The units of a window. hashes, documents: (U,) per unit; counts: (D, CLASSES) characters of each class a document;
    spaceless: (D,) whether most units of the document are characters."""

    hashes: np.ndarray
    documents: np.ndarray
    counts: np.ndarray
    spaceless: np.ndarray

    def grams(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """(hash at each unit of the n-gram that begins there, whether it stays within its document)."""
        many = len(self.hashes)
        if many < size:
            return np.zeros(many, np.uint64), np.zeros(many, bool)
        total = self.hashes[: many - size + 1] * _ODD[0]
        for place in range(1, size):
            total += self.hashes[place : many - size + 1 + place] * _ODD[place]
        hashes = np.zeros(many, np.uint64)
        hashes[: many - size + 1] = mixed(total)
        within = np.zeros(many, bool)
        within[: many - size + 1] = self.documents[: many - size + 1] == self.documents[size - 1 :]
        return hashes, within


def windows(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """(number of the first document, texts) of at most about WINDOW characters; a longer document comes in several parts."""
    first, held, size = 0, [], 0
    for number, text in enumerate(texts):
        if held and size + len(text) > WINDOW:
            yield first, held
            held, size = [], 0
        if len(text) > WINDOW:
            for start in range(0, len(text), WINDOW):
                yield number, [text[start : start + WINDOW]]
            continue
        if not held:
            first = number
        held.append(text)
        size += len(text)
    if held:
        yield first, held


def units_of(texts: Sequence[str]) -> Units:
    """The units of a few documents; `documents` numbers them from 0."""
    lowered = [text.lower() for text in texts]
    many = len(texts)
    lengths = np.fromiter((len(text) + 1 for text in lowered), np.int64, many)
    codes = codes_of("\n".join(lowered) + "\n")
    document = np.repeat(np.arange(many, dtype=np.int32), lengths)
    kind = classes()[codes]
    counts = np.bincount(document * CLASSES + kind, minlength=many * CLASSES).reshape(many, CLASSES)
    counts[:, SPACE] -= 1
    spaceless = kind <= SPACELESS
    word = (kind > SPACELESS) & (kind <= DIGIT)
    begins = word.copy()
    begins[1:] &= ~word[:-1]
    begins |= spaceless
    kept = np.flatnonzero(word | spaceless)
    starts = np.flatnonzero(begins[kept])
    values = codes[kept].astype(np.uint64) * _GOLDEN
    values ^= values >> np.uint64(29)
    if len(starts) == len(kept):                           # no unit is longer than a character: same hashes, less work
        values *= _ODD[0]
    else:
        place = np.arange(len(kept)) - np.repeat(starts, np.diff(starts, append=len(kept)))
        values *= _ODD[place & 63] + (place >> 6).astype(np.uint64) * np.uint64(2)
        values = np.add.reduceat(values, starts)
    first = kept[starts]
    documents = document[first]
    characters = np.bincount(documents[spaceless[first]], minlength=many)
    total = np.bincount(documents, minlength=many)
    return Units(mixed(values), documents, counts, characters * 2 > total)


@dataclass(frozen=True)
class Analysis:
    """What filters and duplicates need to know of D documents.

    counts: (D, CLASSES) characters of each class; repetition: (D,) share of n-grams that are repeats of an earlier one nearby;
    shingles: (S,) uint64, and offsets: (D + 1,) where those of each document begin.
    """

    counts: np.ndarray
    repetition: np.ndarray
    shingles: np.ndarray
    offsets: np.ndarray


def analyse(texts: Sequence[str]) -> Analysis:
    """Count, in windows of bounded size."""
    many = len(texts)
    counts = np.zeros((many, CLASSES), np.int64)
    repeats, grams = np.zeros(many, np.int64), np.zeros(many, np.int64)
    hashes, documents = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for first, parts in windows(texts):
        units = units_of(parts)
        end = first + len(parts)
        counts[first:end] += units.counts
        shingles, owners, again = _shingles(units)
        repeats[first:end] += again
        grams[first:end] += np.bincount(owners, minlength=len(parts))
        if len(texts[first]) > LARGEST:
            share = 1 << (len(texts[first]) // LARGEST).bit_length()
            chosen = (shingles & np.uint64(share - 1)) == 0
            shingles, owners = shingles[chosen], owners[chosen]
        hashes.append(shingles)
        documents.append(owners.astype(np.int64) + first)
    owner = np.concatenate(documents)
    offsets = np.zeros(many + 1, np.int64)
    np.cumsum(np.bincount(owner, minlength=many), out=offsets[1:])
    return Analysis(counts, repeats / np.maximum(grams, 1), np.concatenate(hashes), offsets)


def _shingles(units: Units) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(hash, document) of every shingle in order, and how many of each document's repeat one of the same block.

    A document with fewer units than a shingle has its units for shingles, and no repetition.
    """
    hashes, keep = units.hashes.copy(), np.zeros(len(units.hashes), bool)
    size = np.where(units.spaceless, CHARACTERS, WORDS)
    many = np.bincount(units.documents, minlength=len(size))
    small = many < size
    keep[small[units.documents]] = True
    for length, which in ((CHARACTERS, units.spaceless & ~small), (WORDS, ~units.spaceless & ~small)):
        if which.any():
            grams, within = units.grams(length)
            mine = within & which[units.documents]
            hashes[mine] = grams[mine]
            keep |= mine
    hashes, owners = hashes[keep], units.documents[keep]
    block = np.zeros(len(owners), np.int64)                # a new block with every document, and after BLOCK units
    if len(owners):
        block[1:] = owners[1:] != owners[:-1]
        block[::BLOCK] = 1
        block = np.cumsum(block) - 1
    first = np.zeros(int(block[-1]) + 1 if len(block) else 0, np.int64)
    first[block] = owners
    keys = np.sort((block.astype(np.uint64) << np.uint64(40)) | (hashes >> np.uint64(24)))
    same = keys[1:][keys[1:] == keys[:-1]] >> np.uint64(40)
    again = np.bincount(first[same.astype(np.int64)], minlength=len(size))
    again[small] = 0
    return hashes, owners, again
