"""Tags of tokens: from entities and back, what may follow what, what is illegal, and the best sequence that is legal.

BIO (Ramshaw and Marcus 1995 as changed by Sang and Veenstra 1999, there IOB2): B-TYPE begins an entity, I-TYPE goes on with it.
BIOES: also E-TYPE ends one of several tokens and S-TYPE is one token. IOB1 (Ramshaw and Marcus 1995): I-TYPE begins, too, and
B-TYPE stands only where an entity follows another of its type. BMES and BILOU are BIOES in other letters.
A tag without a type (B) has the type "_", as in seqeval.
Letters: T tokens of a sentence, N tokens of all sentences, S sentences, K tags.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

import numpy as np

from yanmo.errors import UserError

Scheme = Literal["BIO", "BIOES", "IOB1"]
SCHEMES: tuple[Scheme, ...] = ("BIO", "BIOES", "IOB1")
OUTSIDE = "O"
SAME_LETTERS = {"M": "I", "L": "E", "U": "S"}
"""BMES's middle, and BILOU's last and unit, in the letters of BIOES."""


@dataclass(frozen=True, order=True)
class Entity:
    """Tokens start, start + 1 ... end - 1 of a sentence."""

    start: int
    end: int
    type: str


@dataclass(frozen=True)
class Fault:
    """A tag that may not stand where it stands. place: of its token, from 0. reason: a sentence for a person."""

    place: int
    reason: str


@cache
def parts(tag: str) -> tuple[str, str]:
    """A tag's letter (B, I, O, E, S) and its type. Raises UserError for what is no tag."""
    letter, dash, kind = tag[:1], tag[1:2], tag[2:]
    letter = SAME_LETTERS.get(letter, letter)
    if tag == OUTSIDE:
        return OUTSIDE, ""
    if letter not in set("BIES") or dash not in ("", "-") or (dash and not kind):
        raise UserError(
            f"{tag!r} is no tag: allowed are O, and B-TYPE, I-TYPE, E-TYPE, S-TYPE (also M- for I-, L- for E-, U- for S-); "
            "write the tags so, or give spans over the text"
        )
    return letter, kind or "_"


def standard(tags: Iterable[str]) -> list[str]:
    """The same tags in the letters of BIOES: what is BMES or BILOU afterwards is not. Raises UserError for what is no tag."""
    return [SAME_LETTERS[tag[0]] + tag[1:] if parts(tag) and tag[0] in SAME_LETTERS else tag for tag in tags]


def scheme_of(sequences: Iterable[Sequence[str]]) -> Scheme:
    """The scheme that sentences are tagged in: BIOES where E- or S- occurs; IOB1 where entities begin with I-, and none begins
    with B- that does not follow another of its type; else BIO. Raises UserError for what is no tag."""
    bare, separating, beginning = False, True, False
    for tags in sequences:
        previous = OUTSIDE
        for tag in tags:
            letter = parts(tag)[0]
            if letter in ("E", "S"):
                return "BIOES"
            bare |= letter == "I" and not may_follow(previous, tag, "BIO")
            beginning |= letter == "B"
            separating &= letter != "B" or may_follow(previous, tag, "IOB1")
            previous = tag
    return "IOB1" if bare and separating else "BIO"


def may_follow(previous: str, tag: str, scheme: Scheme) -> bool:
    """Whether a tag may stand after another. A sentence begins, and ends, as if there were an O before, and after it."""
    before, kind_before = parts(previous)
    letter, kind = parts(tag)
    inside = before in ("B", "I") and kind == kind_before
    if scheme == "BIO":
        return letter in ("O", "B") or (letter == "I" and inside)
    if scheme == "IOB1":
        return letter in ("O", "I") or (letter == "B" and inside)
    return letter in ("I", "E") and inside if before in ("B", "I") else letter in ("O", "B", "S")


def faults(tags: Sequence[str], scheme: Scheme) -> list[Fault]:
    """Every place of a sentence where its tags are illegal."""
    found = []
    for place, (previous, tag) in enumerate(zip([OUTSIDE, *tags], [*tags, OUTSIDE], strict=True)):
        if may_follow(previous, tag, scheme):
            continue
        if place == len(tags):
            found.append(Fault(place - 1, f"a sentence may not end with {previous} in {scheme}"))
        elif place == 0:
            found.append(Fault(place, f"a sentence may not begin with {tag} in {scheme}"))
        else:
            found.append(Fault(place, f"{tag} may not follow {previous} in {scheme}"))
    return found


def entities(tags: Sequence[str], strict: Scheme | None = None) -> list[Entity]:
    """The entities of a sentence, in order. Legal tags of any scheme mean one thing; illegal ones are read as seqeval does.

    strict None: its default mode, as conlleval: whatever continues nothing begins an entity. strict "BIO" or "BIOES": its strict
    mode: only what begins and ends as the scheme says is an entity. Raises UserError for what is no tag.
    """
    assert strict != "IOB1", "IOB1 is read, and has no strict mode"
    found, begin = [], None
    previous, kind_before = OUTSIDE, ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        letter, kind = parts(tag)
        goes_on = letter in ("I", "E") and previous in ("B", "I") and kind == kind_before
        if not goes_on:
            if begin is not None and (strict != "BIOES" or previous in ("E", "S")):
                found.append(Entity(begin, place, kind_before))
            begins = letter in ("B", "S") or (letter in ("I", "E") and strict is None)
            begin = place if begins else None
        previous, kind_before = letter, kind
    return found


def tags_of(found: Iterable[Entity], tokens: int, scheme: Scheme) -> list[str]:
    """The tags of a sentence of so many tokens. Raises UserError for entities that overlap, are empty or stand outside."""
    tags, last = [OUTSIDE] * tokens, Entity(0, 0, "")
    for entity in sorted(found):
        if not 0 <= entity.start < entity.end <= tokens:
            raise UserError(f"{entity.type} at tokens {entity.start} to {entity.end}: the sentence has tokens 0 to {tokens}")
        if entity.start < last.end:
            raise UserError(
                f"{entity.type} at tokens {entity.start} to {entity.end} overlaps {last.type} at {last.start} to {last.end}: "
                f"{scheme} has one tag for a token; leave one of the two out"
            )
        touches = entity.start == last.end and entity.type == last.type
        inside = ["I"] * (entity.end - entity.start)
        if scheme != "IOB1" or touches:
            inside[0] = "B"
        if scheme == "BIOES":
            inside[-1] = "E" if len(inside) > 1 else "S"
        tags[entity.start : entity.end] = [letter if entity.type == "_" else f"{letter}-{entity.type}" for letter in inside]
        last = entity
    return tags


def mended(tags: Sequence[str], scheme: Scheme, strict: bool = False) -> list[str]:
    """Legal tags of the entities that seqeval finds, in its default or its strict mode; also BIO from IOB1, BIOES from BIO ..."""
    assert not (strict and scheme == "IOB1"), "IOB1 is read, and has no strict mode"
    return tags_of(entities(tags, scheme if strict else None), len(tags), scheme)


@dataclass(frozen=True)
class TagSet:
    """The K tags that a model chooses among, in the order of its scores."""

    names: tuple[str, ...]
    scheme: Scheme

    def __post_init__(self):
        if len(set(self.names)) < len(self.names):
            raise UserError(f"tags {', '.join(self.names)}: each may be there once")
        lasting = np.diag(self.follows) & self.begins & self.ends
        if not lasting.any():
            raise UserError(
                f"tags {', '.join(self.names)}: no sequence of these is legal in {self.scheme}; O, or B-TYPE (in BIOES S-TYPE), "
                "is missing"
            )

    @classmethod
    def of(cls, sequences: Iterable[Sequence[str]], scheme: Scheme | None = None) -> TagSet:
        """O, and every tag that the scheme has of the types that occur, sorted; the scheme is what scheme_of finds, and BIO where
        that is IOB1, whose tags are to be mended first."""
        sequences = [*sequences]
        detected = scheme or scheme_of(sequences)
        scheme = "BIO" if detected == "IOB1" else detected
        kinds = sorted({parts(tag)[1] for tags in sequences for tag in tags} - {""})
        letters = scheme.replace("O", "")
        return cls((OUTSIDE, *(letter if kind == "_" else f"{letter}-{kind}" for kind in kinds for letter in letters)), scheme)

    @classmethod
    def named(cls, names: Sequence[str]) -> TagSet:
        """The tags of a model, in its order: BIOES where E- or S- is among them, else BIO."""
        return cls(tuple(names), "BIOES" if {"E", "S"} & {parts(name)[0] for name in names} else "BIO")

    @cached_property
    def follows(self) -> np.ndarray:
        """(K, K) bool: whether tag j may stand after tag i."""
        return np.array([[may_follow(before, tag, self.scheme) for tag in self.names] for before in self.names])

    @cached_property
    def begins(self) -> np.ndarray:
        """(K,) bool: whether a sentence may begin with the tag."""
        return np.array([may_follow(OUTSIDE, tag, self.scheme) for tag in self.names])

    @cached_property
    def ends(self) -> np.ndarray:
        """(K,) bool: whether a sentence may end with the tag."""
        return np.array([may_follow(tag, OUTSIDE, self.scheme) for tag in self.names])

    @cached_property
    def numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def numbers_of(self, tags: Sequence[str]) -> np.ndarray:
        """(T,) int64. Raises UserError for a tag that is not among these."""
        unknown = next((place for place, tag in enumerate(tags) if tag not in self.numbers), None)
        if unknown is not None:
            raise UserError(
                f"token {unknown} has the tag {tags[unknown]}, which the model does not know; it knows {', '.join(self.names)}"
            )
        return np.fromiter((self.numbers[tag] for tag in tags), np.int64, len(tags))


def decode(scores_TK: np.ndarray, tags: TagSet) -> list[str]:
    """The legal tags of a sentence that have the largest sum of scores: logits and log-probabilities give the same."""
    return decode_all([scores_TK], tags)[0]


def decode_all(scores: Sequence[np.ndarray], tags: TagSet) -> list[list[str]]:
    """The legal tags of each sentence, from its (T, K) scores; see decode.

    Where the best tag of every token by itself makes a legal sentence, no legal one is better; only others are searched.
    """
    lengths = np.fromiter(map(len, scores), np.int64, len(scores))
    if not lengths.sum():
        return [[] for _ in scores]
    scores_NK = np.concatenate([each for each in scores if len(each)])
    assert scores_NK.shape[1] == len(tags.names), f"scores of {scores_NK.shape[1]} tags where there are {len(tags.names)}"
    best_N = scores_NK.argmax(1)
    kept = np.flatnonzero(lengths)
    last = lengths[kept].cumsum() - 1
    first = last - lengths[kept] + 1
    legal_N = np.ones(len(best_N), bool)
    legal_N[1:] = tags.follows[best_N[:-1], best_N[1:]]
    legal_N[first] = tags.begins[best_N[first]]
    legal_N[last] &= tags.ends[best_N[last]]
    searched = ~np.logical_and.reduceat(legal_N, first)
    if searched.any():
        which_N = np.repeat(searched, lengths[kept])
        closed = np.where([False, True], 0, -np.inf)                       # what a transition that is not, and one that is, adds
        steps_KK, begins_K, ends_K = (closed[allowed.astype(int)] for allowed in (tags.follows, tags.begins, tags.ends))
        best_N[which_N] = best_paths(scores_NK[which_N], lengths[kept][searched], steps_KK, begins_K, ends_K)
    names = [tags.names[number] for number in best_N]
    ends = lengths.cumsum()
    return [names[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]


def best_paths(
    scores_NK: np.ndarray, lengths: np.ndarray, steps_KK: np.ndarray, begins_K: np.ndarray, ends_K: np.ndarray
) -> np.ndarray:
    """(N,) the numbers of the tags that maximise scores and transitions of each sentence (Viterbi 1967), all sentences at once.

    scores_NK: the tokens of all sentences, one after the other; lengths: (S,) at least 1 each. -inf forbids a transition.
    """
    order = np.argsort(-lengths, kind="stable")                            # the longest first: those left are always the first
    starts, lengths = (lengths.cumsum() - lengths)[order], lengths[order]
    left = np.searchsorted(-lengths, -np.arange(lengths[0]))               # how many sentences have a token at each time
    scores_NK = scores_NK.astype(np.float64)
    best_SK = begins_K + scores_NK[starts]
    from_NK = np.zeros(scores_NK.shape, np.int64)
    for time in range(1, lengths[0]):
        many = left[time]
        reached = best_SK[:many, :, None] + steps_KK
        places = starts[:many] + time
        from_NK[places] = reached.argmax(1)
        best_SK[:many] = reached.max(1) + scores_NK[places]
    tags_S = (best_SK + ends_K).argmax(1)
    found_N = np.zeros(len(scores_NK), np.int64)
    found_N[starts + lengths - 1] = tags_S
    for time in range(lengths[0] - 1, 0, -1):
        places = starts[: left[time]] + time
        found_N[places - 1] = from_NK[places, found_N[places]]
    return found_N


__all__ = [
    "Entity", "Fault", "Scheme", "TagSet", "best_paths", "decode", "decode_all", "entities", "faults", "may_follow", "mended",
    "parts", "scheme_of", "standard", "tags_of",
]  # fmt: skip
