"""What is known of a tokenizer's inside: whether words are apart for it, and how many bytes each token has."""

from __future__ import annotations

import re
import unicodedata
from itertools import chain, compress
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from yanmo.tokenizer.borders import Segmenter, Segments
from yanmo.tokenizer.kinds import CHARACTERS, PIECES

HAN = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
"""What BERT calls a Chinese character (google-research/bert, tokenization.py), as the tokenizers library has it."""

COMMON_HAN = re.compile("[\u4e00-\u9fff]+")
BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def pieces_apart(tree: dict[str, Any]) -> bool:
    """Whether a tokenizer.json is WordPiece with BERT's own normalizer and pre-tokenizer."""
    return (
        tree["model"].get("type") == "WordPiece"
        and (tree["normalizer"] or {}).get("type") == "BertNormalizer"
        and (tree["pre_tokenizer"] or {}).get("type") == "BertPreTokenizer"
    )


def cuts_safely(tree: dict[str, Any]) -> bool:
    """Whether no piece of a tokenizer.json crosses the cuts of encoding.py, nor depends on what is beyond them.

    So for BERT's WordPiece, for the splits of kinds.py and for GPT-2's; not for splits that take a mark and the letters after
    it together (Qwen's, Llama 3's), nor where a space is put before the text.
    """
    if pieces_apart(tree):
        return True
    if (tree["normalizer"] or {"type": "Lowercase"})["type"] != "Lowercase" or tree["pre_tokenizer"] is None:
        return False
    steps = tree["pre_tokenizer"]
    steps = steps["pretokenizers"] if steps["type"] == "Sequence" else [steps]
    if not steps or any(step["type"] != "ByteLevel" or step["add_prefix_space"] for step in steps[1:]):
        return False
    first = steps[0]
    if first["type"] == "ByteLevel":
        return first["use_regex"] and not first["add_prefix_space"]
    known = first["type"] == "Split" and first["behavior"] == "Isolated" and not first["invert"]
    return known and first["pattern"] in ({"Regex": PIECES}, {"Regex": CHARACTERS}) and not any(s["use_regex"] for s in steps[1:])


def byte_lengths(tree: dict[str, Any], size: int) -> np.ndarray | None:
    """(vocabulary,) bytes of text of each token, for a BPE that keeps every byte; None for any other tokenizer."""
    model = tree["model"]
    if model.get("type") != "BPE" or tree["normalizer"] is not None:
        return None
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return None
    steps = tree["pre_tokenizer"] or {"type": "Sequence", "pretokenizers": []}
    steps = steps["pretokenizers"] if steps["type"] == "Sequence" else [steps]
    if any(step["type"] == "Split" and step["behavior"] == "Removed" for step in steps):
        return None
    byte_level = [step for step in steps if step["type"] == "ByteLevel"]
    if any(step["type"] not in ("ByteLevel", "Split", "Digits") for step in steps):
        return None
    if any(step["add_prefix_space"] for step in byte_level) or not (byte_level or model.get("byte_fallback")):
        return None
    lengths = np.zeros(size, np.int64)
    for token, index in model["vocab"].items():
        one = not byte_level and BYTE.fullmatch(token)
        lengths[index] = 1 if one else len(token) if byte_level else len(token.encode())
    for token in tree["added_tokens"]:
        lengths[token["id"]] = len(token["content"].encode())
    return lengths


class WordPieces:
    """The ids of segments, each found once by the tokenizer itself. They grow beside the segmenter's own arrays."""

    def __init__(self, tokenizer: Tokenizer, tree: dict[str, Any], segmenter: Segmenter):
        self.tokenizer = tokenizer
        self.segmenter = segmenter
        normalizer = tree["normalizer"]
        self.han = HAN if normalizer["handle_chinese_chars"] else ()
        self.borders: dict[str, bool] = {}
        self.table = self._table(tree["model"]["unk_token"]) if self.han else None
        self._clear()

    def _clear(self) -> None:
        self.life = self.segmenter.lives
        self.counts = np.zeros(0, np.int32)
        self.starts = np.zeros(0, np.int64)
        self.values = np.zeros(0, np.int32)
        self.apart_before = np.zeros(0, bool)
        self.apart_after = np.zeros(0, bool)

    def _table(self, unknown: str) -> np.ndarray | None:
        """Ids of the characters of COMMON_HAN, none of which any normalizer of BERT changes."""
        ids = self.tokenizer.get_vocab(with_added_tokens=False)
        if unknown not in ids:
            return None
        return np.array([ids.get(chr(code), ids[unknown]) for code in range(0x4E00, 0xA000)], np.int32)

    def _learn(self) -> None:
        """Find the ids of the segments that are new since the last time."""
        if self.life != self.segmenter.lives:
            self._clear()
        new = self.segmenter.names[len(self.counts) :]
        if not new:
            return
        simple = np.fromiter((self.table is not None and bool(COMMON_HAN.fullmatch(name)) for name in new), bool, len(new))
        counts = np.fromiter(map(len, new), np.int32, len(new))
        rest = [new[place] for place in np.flatnonzero(~simple)]
        encoded = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(rest, add_special_tokens=False)]
        counts[~simple] = [len(ids) for ids in encoded]
        values = [self.values, self._characters("".join(compress(new, simple)))]
        values.append(np.fromiter(chain.from_iterable(encoded), np.int32))
        # The ids of Chinese words come first, those of the other segments after them.
        starts = np.zeros(len(new), np.int64)
        begin = len(self.values)
        for group in (simple, ~simple):
            starts[group] = begin + np.cumsum(counts[group]) - counts[group]
            begin += int(counts[group].sum())
        before, after = np.ones(len(new), bool), np.ones(len(new), bool)
        before[~simple] = [self._splits(name[0]) for name in rest]
        after[~simple] = [self._splits(name[-1]) for name in rest]
        self.values = np.concatenate(values)
        self.starts = np.concatenate([self.starts, starts])
        self.counts = np.concatenate([self.counts, counts])
        self.apart_before = np.concatenate([self.apart_before, before])
        self.apart_after = np.concatenate([self.apart_after, after])

    def _characters(self, text: str) -> np.ndarray:
        """The ids of common Chinese characters, which BERT takes one by one."""
        if self.table is None:
            return np.zeros(0, np.int32)
        return self.table[np.frombuffer(text.encode("utf-32-le"), np.uint32) - 0x4E00]

    def _splits(self, character: str) -> bool:
        """Whether a word ends before and after this character wherever it stands, as the tokenizer itself says."""
        known = self.borders.get(character)
        if known is None:
            known = self.borders[character] = self._looks_apart(character)
        return known

    def _looks_apart(self, character: str) -> bool:
        code = ord(character)
        if any(low <= code <= high for low, high in self.han):
            return True
        if not character.isspace() and unicodedata.category(character)[0] not in "PS":
            return False
        text = self.tokenizer.normalizer.normalize_str(f"a{character}a")
        words = [word for word, _ in self.tokenizer.pre_tokenizer.pre_tokenize_str(text)]
        return len(words) > 1 and words[0] == "a" and words[-1] == "a"

    def units(self, segments: Segments) -> tuple[np.ndarray, np.ndarray]:
        """Where units that the tokenizer treats apart begin among the segments, and their numbers."""
        self._learn()
        kinds = segments.kinds
        apart = np.ones(len(kinds), bool)
        apart[1:] = self.apart_after[kinds[:-1]] | self.apart_before[kinds[1:]]
        apart[segments.firsts[segments.firsts < len(kinds)]] = True
        begins = np.flatnonzero(apart)
        numbers = kinds[begins]
        ends = np.append(begins[1:], len(kinds))
        joined = np.flatnonzero(ends - begins > 1)
        if len(joined):
            names = self.segmenter.names
            spans = zip(begins[joined].tolist(), ends[joined].tolist(), strict=True)
            pieces = kinds.tolist()
            units = ["".join([names[kind] for kind in pieces[begin:end]]) for begin, end in spans]
            numbers[joined] = self.segmenter.number(units)
            self._learn()
        return begins, numbers

    def gather(self, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The ids of units one after the other, and where those of each begin (one more for the end)."""
        counts = self.counts[kinds]
        offsets = np.zeros(len(kinds) + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        places = np.repeat(self.starts[kinds] - offsets[:-1], counts) + np.arange(offsets[-1])
        return self.values[places], offsets
