"""The ids of byte-level BPE (and of BPE with byte fallback) put together from those of the segments of a text.

What a tokenizer splits text into before merging is known from the classes of the characters on both sides of a joint.
Where a split is certain, the ids of both sides stand as they are. Inside of one piece (Chinese words in a run) the ids of
the parts are those of the whole exactly when no merge crosses the joint, which the two tokens beside it decide by
themselves: merges on one side do not wait for those on the other. Where one crosses, and where a split is not certain,
the segments are put together, and what comes out is looked up like any other, or given to the tokenizer once.
Letters: N segments, U units, P pairs of tokens.
"""

from __future__ import annotations

import json
import re
from itertools import chain, compress
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from yanmo.tokenizer.borders import Segmenter, Segments
from yanmo.tokenizer.kinds import HAN_RUN, PIECES

HAN, LETTER, DIGIT, MARK, QUOTE, BLANK, SPACE, NEWLINE, ODD = range(9)
"""Characters as splits see them. Apostrophes begin contractions; blanks may belong to what follows; odd ones fit nowhere."""
SPLIT, INSIDE, UNSURE = range(3)
"""What a joint is: between two pieces, inside of one, or not to be told from its two sides."""
COMMON_HAN = re.compile("[\u4e00-\u9fa5]+")
"""Chinese characters of every version of Unicode."""
ONE_PIECE = re.compile(rf"[\u4e00-\u9fa5]{{1,{HAN_RUN}}}| ?[A-Za-z]{{1,64}}")
BYTES = {byte: chr(byte) for byte in (*range(33, 127), *range(161, 173), *range(174, 256))}
BYTES |= {byte: chr(256 + place) for place, byte in enumerate(byte for byte in range(256) if byte not in BYTES)}
"""How byte-level vocabularies write bytes (Radford et al. 2019)."""
INSIDE_CHARACTERS = frozenset(BYTES[byte] for byte in range(0x80, 0xC0))
LIMIT = 300_000
"""Different units that are remembered, about 60 MB; then the memory begins anew."""
LONGEST = 1 << 24
"""Characters of all the units that are remembered."""


class Merges:
    """Whether a merge crosses the joint between two tokens. A token is made in one way, later than its parts."""

    def __init__(self, pairs: np.ndarray, made: np.ndarray, begins: np.ndarray, size: int):
        """pairs: (M, 2) ids in the order of merging; made: (M,) what comes out.

        begins: (M,) whether the right one of a pair begins with a whole character, as what is after a joint does.
        """
        self.rank = np.full(size, -1, np.int64)
        self.left, self.right = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self.rank[made] = np.arange(len(made))
        self.left[made], self.right[made] = pairs.T
        keys = self._key(pairs[:, 0], pairs[:, 1])
        self.order = np.argsort(keys)
        self.keys = keys[self.order]
        self.joins_left, self.joins_right = np.zeros(size, bool), np.zeros(size, bool)
        self.joins_left[pairs[begins, 0]] = self.joins_right[pairs[begins, 1]] = True
        for token, (left, right) in zip(made.tolist(), pairs.tolist(), strict=True):  # parts come before what they make
            self.joins_left[token] |= self.joins_left[right]
            self.joins_right[token] |= self.joins_right[left]

    def _key(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return left * len(self.rank) + right

    def cross(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """(P,) whether the tokens left and right become others when their texts are merged as one.

        Goes back in time: the merge that was made last is undone, and each pair that stood at the joint for a while would
        have been merged if it comes earlier than what ended it. Of equal merges the one further to the left comes first.
        """
        crossed = np.zeros(len(left), bool)
        active = np.flatnonzero(self.joins_left[left] & self.joins_right[right])
        left, right = left[active], right[active]
        ended = np.full(len(active), len(self.order), np.int64)
        while len(active):
            key = self._key(left, right)
            place = np.minimum(np.searchsorted(self.keys, key), len(self.keys) - 1)
            merged = (self.keys[place] == key) & (self.order[place] < ended)
            crossed[active[merged]] = True
            before, after = self.rank[left], self.rank[right]
            undo_right = after >= before
            ended = np.where(undo_right, after + 1, before)
            left, right = np.where(undo_right, left, self.right[left]), np.where(undo_right, self.left[right], right)
            going = ~merged & (ended > 0) & self.joins_left[left] & self.joins_right[right]
            active, ended, left, right = active[going], ended[going], left[going], right[going]
        return crossed


def merges_of(tree: dict[str, Any], size: int) -> Merges | None:
    """The merges of a tokenizer.json, if its splits are known and each token is made in one way after its parts."""
    model, steps = tree["model"], tree["pre_tokenizer"]
    if model.get("type") != "BPE" or model.get("dropout") or model.get("ignore_merges") or steps is None:
        return None
    if not _splits_known(steps["pretokenizers"] if steps["type"] == "Sequence" else [steps]):
        return None
    ids = model["vocab"]
    pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    rank = {left + right: place for place, (left, right) in enumerate(pairs)}
    early = all(rank.get(part, -1) < place for place, pair in enumerate(pairs) for part in pair)
    if not pairs or len(rank) < len(pairs) or not early:
        return None
    made = np.array([ids[left + right] for left, right in pairs])
    begins = np.array([not in_bytes(tree) or right[0] not in INSIDE_CHARACTERS for _, right in pairs])
    return Merges(np.array([(ids[left], ids[right]) for left, right in pairs]), made, begins, size)


def in_bytes(tree: dict[str, Any]) -> bool:
    """Whether the vocabulary is written in BYTES; else in characters."""
    return '"ByteLevel"' in json.dumps(tree["pre_tokenizer"])


def _splits_known(steps: list[dict[str, Any]]) -> bool:
    """Whether text is split as in kinds.py or as in GPT-2; the steps are those of a tokenizer that keeps every byte."""
    first, rest = steps[0], steps[1:]
    if first["type"] == "ByteLevel":
        return first["use_regex"] and not rest
    known = first["type"] == "Split" and first["behavior"] == "Isolated" and not first["invert"]
    return known and first["pattern"] == {"Regex": PIECES} and all(s["type"] == "ByteLevel" and not s["use_regex"] for s in rest)


class Units:
    """The ids of texts from the ids of units, each of which was found once by the tokenizer itself."""

    def __init__(self, tokenizer: Tokenizer, tree: dict[str, Any], merges: Merges, segmenter: Segmenter):
        self.tokenizer, self.merges, self.segmenter = tokenizer, merges, segmenter
        self.bounded = json.dumps(PIECES) in json.dumps(tree["pre_tokenizer"])  # else the splits of GPT-2
        self.in_bytes = in_bytes(tree)
        self.joints = _joints(self.bounded)
        self.classes: dict[str, int] = {}
        self._forget_segments()

    def _forget_segments(self) -> None:
        self.life = self.segmenter.lives
        self.firsts_lasts = np.zeros((0, 2), np.int8)
        self._forget_units()

    def _forget_units(self) -> None:
        self.numbers: dict[str, int] = {}
        self.names: list[str] = []
        self.held = 0
        self.of_segment = np.zeros(0, np.int64)
        self.counts, self.starts = np.zeros(0, np.int32), np.zeros(0, np.int64)
        self.values = np.zeros(0, np.int32)

    def ids(self, segments: Segments) -> tuple[np.ndarray, np.ndarray]:
        """The ids of the texts, end to end, and where those of each begin (one more for the end)."""
        if self.life != self.segmenter.lives:
            self._forget_segments()
        elif len(self.names) > LIMIT or self.held > LONGEST:
            self._forget_units()
        inside = np.zeros(len(segments.kinds) + 1, np.int32)  # the newlines that join the texts are left out
        np.add.at(inside, segments.firsts, 1)
        np.add.at(inside, segments.ends, -1)
        kept = np.flatnonzero(np.cumsum(inside)[:-1])
        bounds = np.searchsorted(kept, np.append(segments.firsts, len(segments.kinds)))
        kinds = segments.kinds[kept]
        joints = self._joints(kinds, bounds)
        across = self._bound_runs(kinds, joints, segments.begins[kept]) if self.bounded and len(kinds) else None
        begins, several, names = _together(joints == UNSURE, self.segmenter.names, kinds)
        alone = np.ones(len(begins), bool)
        alone[several] = False
        units = np.zeros(len(begins), np.int64)
        units[alone] = self._of_segments(kinds[begins[alone]])
        units[several] = self._number(names)
        joints = joints[begins]
        if across is not None and across.any():
            units, joints, begins = self._cut(units, joints, begins, kinds, across)
        fresh = joints == INSIDE
        while len(at := np.flatnonzero(fresh)):
            last = self.values[self.starts[units[at - 1]] + self.counts[units[at - 1]] - 1]
            crossed = np.zeros(len(units), bool)
            crossed[at] = self.merges.cross(last.astype(np.int64), self.values[self.starts[units[at]]].astype(np.int64))
            joined = np.zeros(len(units), bool)  # what is put together now has other tokens at its ends
            joined[:-1] |= crossed[1:]
            joined = (joined | crossed)[~crossed]
            heads, several, names = _together(crossed, self.names, units)
            units, joints, begins = units[heads], joints[heads], begins[heads]
            units[several] = self._number(names)
            fresh = joints == INSIDE
            fresh[1:] &= joined[1:] | joined[:-1]
        counts = self.counts[units]
        offsets = np.zeros(len(units) + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        places = np.repeat(self.starts[units] - offsets[:-1], counts) + np.arange(offsets[-1])
        return self.values[places], offsets[np.searchsorted(begins, bounds)]

    def _joints(self, kinds: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        """(N,) what is before each segment."""
        new = self.segmenter.names[len(self.firsts_lasts) :]
        if new:
            classes = np.array([self._ends(name) for name in new], np.int8)
            self.firsts_lasts = np.concatenate([self.firsts_lasts, classes])
        first, last = self.firsts_lasts[kinds].T
        joints = np.zeros(len(kinds), np.int8)
        joints[1:] = self.joints[last[:-1], first[1:]]
        joints[bounds[:-1][bounds[:-1] < len(kinds)]] = SPLIT
        # The last of several spaces stands apart, unless the text ends with it or a newline takes them all.
        spaces = (first >= BLANK) & (first <= NEWLINE) & (first == last)
        ends = np.zeros(len(kinds), bool)
        ends[:-1] = spaces[:-1] & (first[:-1] != NEWLINE) & (first[1:] < BLANK)
        ends[bounds[bounds > 0] - 1] = False
        ends[1:] &= spaces[:-1]
        joints[ends] = SPLIT
        if self.bounded:  # a Chinese character after it makes 's two pieces
            quoted = np.zeros(len(kinds), bool)
            quoted[1:] = (last[:-1] == QUOTE) & (first[1:] == LETTER)
            joints[1:][quoted[:-1] & (first[1:] == HAN) & (joints[1:] == SPLIT)] = UNSURE
        return joints

    def _bound_runs(self, kinds: np.ndarray, joints: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Put splits into long runs of Chinese, as the tokenizer does; returns (N,) the place in its run of a segment that such a
        split falls into, -1 for others. A run with an unsure joint at either end becomes unsure itself.
        """
        heads = np.flatnonzero(joints != INSIDE)
        run = np.cumsum(joints != INSIDE) - 1
        unsure = joints[heads] == UNSURE
        unsure[:-1] |= joints[heads[1:]] == UNSURE
        unsure = unsure[run]
        start = places - places[heads][run]
        joints[unsure & (joints == INSIDE)] = UNSURE
        joints[(joints == INSIDE) & (start % HAN_RUN == 0)] = SPLIT
        end = start + self.segmenter.characters[kinds] - 1
        cut = (self.firsts_lasts[kinds, 0] == HAN) & ~unsure & (start // HAN_RUN != end // HAN_RUN)
        return np.where(cut, start, -1)

    def _cut(
        self, units: np.ndarray, joints: np.ndarray, begins: np.ndarray, kinds: np.ndarray, across: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Units with those cut that the split of a long run falls into."""
        at = np.flatnonzero(across[begins] >= 0)
        parts: list[list[str]] = []
        for kind, start in zip(kinds[begins[at]].tolist(), across[begins[at]].tolist(), strict=True):
            name, first = self.segmenter.names[kind], HAN_RUN - start % HAN_RUN
            parts.append([name[:first], *(name[cut : cut + HAN_RUN] for cut in range(first, len(name), HAN_RUN))])
        repeats = np.ones(len(units), np.int64)
        repeats[at] = [len(part) for part in parts]
        place = np.repeat(np.arange(len(units)), repeats)
        units, joints, begins = units[place], joints[place], begins[place]
        units[repeats[place] > 1] = self._number(list(chain.from_iterable(parts)))
        joints[1:][place[1:] == place[:-1]] = SPLIT
        return units, joints, begins

    def _of_segments(self, kinds: np.ndarray) -> np.ndarray:
        if len(self.of_segment) < len(self.segmenter.names):
            more = np.full(len(self.segmenter.names) - len(self.of_segment), -1, np.int64)
            self.of_segment = np.concatenate([self.of_segment, more])
        units = self.of_segment[kinds]
        if (units < 0).any():
            new = np.unique(kinds[units < 0])
            self.of_segment[new] = self._number([self.segmenter.names[kind] for kind in new.tolist()])
            units = self.of_segment[kinds]
        return units

    def _number(self, names: list[str]) -> np.ndarray:
        """The numbers of units; the ids of new ones are asked of the tokenizer."""
        numbers, known = self.numbers, len(self.names)
        self.names += set(names).difference(numbers)
        numbers.update(zip(self.names[known:], range(known, len(self.names)), strict=True))
        new = self.names[known:]
        if new:
            self.held += sum(map(len, new))
            values, counts = self._asked(new)
            starts = len(self.values) + np.cumsum(counts) - counts
            self.counts, self.starts = np.concatenate([self.counts, counts]), np.concatenate([self.starts, starts])
            self.values = np.concatenate([self.values, values])
        return np.fromiter(map(numbers.__getitem__, names), np.int64, len(names))

    def _asked(self, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of units end to end, and how many each has. What is one piece needs no splitting, only merging."""
        if not (self.bounded and self.in_bytes):
            ids = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(names, add_special_tokens=False)]
        else:
            whole = [ONE_PIECE.fullmatch(name) is not None for name in names]
            letters = "\0".join(compress(names, whole)).encode().decode("latin-1").translate(BYTES).split(BYTES[0])
            rest = [name for name, one in zip(names, whole, strict=True) if not one]
            merge, pieces = self.tokenizer.model.tokenize, iter(letters)
            others = iter(self.tokenizer.encode_batch_fast(rest, add_special_tokens=False))
            ids = [[token.id for token in merge(next(pieces))] if one else next(others).ids for one in whole]
        counts = np.fromiter(map(len, ids), np.int64, len(ids))
        return np.fromiter(chain.from_iterable(ids), np.int32, int(counts.sum())), counts

    def _ends(self, name: str) -> tuple[int, int]:
        """The classes of the first and the last character of a segment; odd where some other joint is in between."""
        if COMMON_HAN.fullmatch(name) and self.bounded:
            return HAN, HAN
        classes = {self._class(character) for character in name}
        if len(classes) > 1 and classes & {HAN, BLANK, SPACE, NEWLINE, ODD}:
            return ODD, ODD
        return self._class(name[0]), self._class(name[-1])

    def _class(self, character: str) -> int:
        known = self.classes.get(character)
        if known is None:
            known = self.classes[character] = self._seen_as(character)
        return known

    def _seen_as(self, character: str) -> int:
        """The class of a character as the tokenizer itself splits it from others."""

        def one(text: str) -> bool:
            return len(self.tokenizer.pre_tokenizer.pre_tokenize_str(text)) == 1

        if character == "'":
            return QUOTE
        if one(f"{character} "):
            return BLANK if character == " " else NEWLINE if self.bounded and character in "\r\n" else SPACE
        fits = [kind for kind, other in ((HAN, "中"), (LETTER, "a"), (DIGIT, "1"), (MARK, "!")) if one(other + character)]
        if self.bounded:
            return fits[0] if len(fits) == 1 else ODD
        return fits[-1] if fits in ([HAN, LETTER], [DIGIT], [MARK]) else ODD


def _together(with_previous: np.ndarray, names: list[str], kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Where units begin that are put together, which of them have several parts, and what these are called."""
    heads = np.flatnonzero(~with_previous)
    ends = np.append(heads[1:], len(kinds))
    several = np.flatnonzero(ends - heads > 1)
    given = kinds.tolist() if len(several) else []
    spans = zip(heads[several].tolist(), ends[several].tolist(), strict=True)
    return heads, several, ["".join([names[kind] for kind in given[begin:end]]) for begin, end in spans]


def _joints(bounded: bool) -> np.ndarray:
    """(classes, classes) what is between the last character of a segment and the first of the next.

    bounded: the splits of kinds.py; else GPT-2's, for which Chinese characters are letters like others.
    """
    joints = np.full((9, 9), SPLIT, np.int8)
    for same in (LETTER, DIGIT, MARK, QUOTE, ODD):
        joints[same, same] = UNSURE
    joints[HAN, HAN] = INSIDE
    joints[BLANK : NEWLINE + 1, BLANK : NEWLINE + 1] = UNSURE
    joints[MARK, QUOTE] = joints[QUOTE, MARK] = joints[QUOTE, LETTER] = UNSURE
    taken = (LETTER, MARK, QUOTE) if bounded else (LETTER, DIGIT, MARK, QUOTE)  # with the blank before them
    joints[BLANK, taken] = UNSURE
    joints[ODD, :] = joints[:, ODD] = UNSURE
    return joints
