"""Tags: read as seqeval reads them, legal as it says, decoded as trying every sequence does."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB1, IOB2, IOBES, Entities

from yanmo.errors import UserError
from yanmo.labelled.tags import (
    Entity,
    Scheme,
    TagSet,
    best_paths,
    decode,
    decode_all,
    entities,
    faults,
    mended,
    scheme_of,
    standard,
    tags_of,
)

DATA = Path(__file__).parents[2].parent / "shared" / "data"
THEIRS = {"BIO": IOB2, "BIOES": IOBES, "IOB1": IOB1}
LETTERS = {"BIO": "BI", "BIOES": "BIES", "IOB1": "BI"}


def drawn(scheme: Scheme, many: int, seed: int, kinds: tuple[str, ...] = ("A", "B-C")) -> list[list[str]]:
    """Sentences of any tags, most of them illegal."""
    rng = np.random.default_rng(seed)
    names = ["O", *(f"{letter}-{kind}" for letter in LETTERS[scheme] for kind in kinds)]
    return [[str(tag) for tag in rng.choice(names, size=rng.integers(1, 9))] for _ in range(many)]


def strictly(tags: list[str], scheme: Scheme) -> list[Entity]:
    return sorted(Entity(one.start, one.end, one.tag) for one in Entities([tags], THEIRS[scheme]).entities[0])


@pytest.mark.parametrize("scheme", ["BIO", "BIOES"])
def test_illegal_tags_are_read_as_seqeval_reads_them(scheme: Scheme) -> None:
    for tags in [*drawn(scheme, 1000, seed=0), *drawn(scheme, 500, seed=1, kinds=("A",)), ["B", "I", "O", "I"]]:
        theirs = sorted(Entity(start, end + 1, kind) for kind, start, end in get_entities(tags))
        assert entities(tags) == theirs, tags
        assert entities(tags, strict=scheme) == strictly(tags, scheme), tags
        for strict in (False, True):
            legal = mended(tags, scheme, strict)
            assert not faults(legal, scheme)
            assert entities(legal) == entities(legal, strict=scheme) == entities(tags, scheme if strict else None)


def test_tags_are_legal_where_they_are_those_of_their_entities() -> None:
    """A sentence is legal when and only when it is what its entities are written as: nothing else means the same."""
    for scheme in ("BIO", "BIOES", "IOB1"):
        names = ["O", *(f"{letter}-{kind}" for letter in LETTERS[scheme] for kind in "XY")]
        for tags in itertools.product(names, repeat=4):
            assert (not faults(tags, scheme)) == (tags_of(entities(tags), 4, scheme) == list(tags)), (scheme, tags)


def test_iob1_is_read_as_seqeval_reads_it_strictly() -> None:
    legal = [tags for tags in drawn("IOB1", 1500, seed=2) if not faults(tags, "IOB1")]
    assert len(legal) > 200
    for tags in legal:
        assert entities(tags) == strictly(tags, "IOB1")
        assert entities(mended(tags, "BIOES")) == entities(tags)
        assert mended(mended(tags, "BIO"), "IOB1") == tags


def test_faults_name_their_places() -> None:
    found = faults(["I-A", "O", "B-A", "I-B"], "BIO")
    assert [(fault.place, fault.reason) for fault in found] == [
        (0, "a sentence may not begin with I-A in BIO"),
        (3, "I-B may not follow B-A in BIO"),
    ]
    assert [(fault.place, fault.reason) for fault in faults(["S-A", "B-A"], "BIOES")] == [
        (1, "a sentence may not end with B-A in BIOES")
    ]
    assert faults([], "BIO") == []


@pytest.mark.parametrize(
    ("sentences", "scheme"),
    [
        (["B-A I-A O"], "BIO"),
        (["O O", "B-A B-B"], "BIO"),
        (["B-A I-A O I-A"], "BIO"),
        (["S-A O"], "BIOES"),
        (["B-A M-A E-A"], "BIOES"),
        (["B-A L-A U-B"], "BIOES"),
        (["O I-A I-A O"], "IOB1"),
        (["I-A B-A O I-B"], "IOB1"),
        (["I-A B-A", "O B-A"], "BIO"),
        (["O"], "BIO"),
    ],
)
def test_schemes_are_found(sentences: list[str], scheme: Scheme) -> None:
    assert scheme_of([sentence.split() for sentence in sentences]) == scheme


def test_other_letters_mean_the_same() -> None:
    assert standard(["B-A", "M-A", "E-A", "O", "B-B", "L-B", "U-B"]) == ["B-A", "I-A", "E-A", "O", "B-B", "E-B", "S-B"]
    assert entities(["B-A", "M-A", "E-A", "U-A"]) == [Entity(0, 3, "A"), Entity(3, 4, "A")]


def test_tag_sets_hold_what_decoding_needs() -> None:
    tags = TagSet.of([["O", "B-A"], ["S-B", "O"]])
    assert tags.names == ("O", "B-A", "I-A", "E-A", "S-A", "B-B", "I-B", "E-B", "S-B")
    assert TagSet.of([["I-A", "B-A", "O"]]).names == ("O", "B-A", "I-A")
    assert TagSet.named(["I-A", "B-A", "O"]).follows.tolist() == [[True, True, True], [True, True, True], [False, True, True]]
    assert TagSet.named(["O", "B-A", "I-A"]).begins.tolist() == [True, True, False]
    assert TagSet.named(["O", "B-A", "E-A"]).ends.tolist() == [True, False, True]
    assert tags.numbers_of(["S-B", "O"]).tolist() == [8, 0]


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (lambda: entities(["PER"]), "'PER' is no tag"),
        (lambda: entities(["B-"]), "'B-' is no tag"),
        (lambda: scheme_of([["O", ""]]), "is no tag"),
        (lambda: TagSet.named(["B-A", "I-A", "E-A"]), "no sequence of these is legal in BIOES"),
        (lambda: TagSet.named(["O", "O"]), "each may be there once"),
        (lambda: TagSet.named(["O", "B-A"]).numbers_of(["O", "B-C"]), "token 1 has the tag B-C"),
        (lambda: tags_of([Entity(0, 2, "A"), Entity(1, 3, "B")], 4, "BIO"), "B at tokens 1 to 3 overlaps A at 0 to 2"),
        (lambda: tags_of([Entity(2, 5, "A")], 4, "BIO"), "tokens 0 to 4"),
        (lambda: tags_of([Entity(2, 2, "A")], 4, "BIO"), "A at tokens 2 to 2"),
    ],
)
def test_mistakes_are_named(mistake, words: str) -> None:
    with pytest.raises(UserError, match=words.replace("(", r"\(")):
        mistake()


@pytest.mark.parametrize(
    "names", [["O", "B-A", "I-A", "B-B", "I-B"], ["O", "B-A", "I-A", "E-A", "S-A"], ["I-A", "O", "B-A", "I-B"]]
)
def test_decoding_finds_the_best_of_all_legal_sequences(names: list[str]) -> None:
    tags, rng = TagSet.named(names), np.random.default_rng(3)
    lengths = rng.integers(0, 6, size=40)
    scores = [rng.normal(size=(length, len(names))).astype(np.float32) * 3 for length in lengths]
    found = decode_all(scores, tags)
    assert [decode(each, tags) for each in scores] == found
    for scores_TK, best in zip(scores, found, strict=True):
        legal = [path for path in itertools.product(names, repeat=len(scores_TK)) if not faults(path, tags.scheme)]
        totals = [sum(scores_TK[place, tags.numbers[tag]] for place, tag in enumerate(path)) for path in legal]
        assert tuple(best) == legal[int(np.argmax(totals))]


def test_best_paths_add_transitions() -> None:
    rng, many = np.random.default_rng(4), 4
    lengths = np.array([3, 1, 5, 2, 5])
    scores_NK = rng.normal(size=(lengths.sum(), many))
    steps_KK, begins_K, ends_K = rng.normal(size=(many, many)), rng.normal(size=many), rng.normal(size=many)
    found, end = best_paths(scores_NK, lengths, steps_KK, begins_K, ends_K), 0
    for length in lengths:
        begin, end = end, end + length
        paths = np.array([*itertools.product(range(many), repeat=int(length))])
        totals = scores_NK[begin:end][np.arange(length), paths].sum(1) + steps_KK[paths[:, :-1], paths[:, 1:]].sum(1)
        totals += begins_K[paths[:, 0]] + ends_K[paths[:, -1]]
        assert found[begin:end].tolist() == paths[totals.argmax()].tolist()


@pytest.mark.parametrize("name", ["ner-resume-zh", "ner-medicine-zh", "ner-peoples-daily-zh"])
def test_real_tags_come_back(name: str) -> None:
    path = DATA / name / "test.jsonl"
    if not path.exists():
        pytest.skip(f"needs {path}")
    sentences = [json.loads(line)["tags"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert scheme_of(sentences) == "BIO"
    for tags in sentences:
        assert faults(tags, "BIO") == []
        assert mended(mended(tags, "BIOES"), "BIO") == mended(mended(tags, "IOB1"), "BIO") == tags
