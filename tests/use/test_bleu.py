"""BLEU and Self-BLEU: sample by sample the figures of nltk."""

import warnings
from itertools import islice

import numpy as np
import pytest
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from yanmo.bleu import ORDERS, bleu, each_bleu, each_self_bleu, self_bleu, words
from yanmo.corpus.samples import SAMPLES
from yanmo.errors import UserError

ALL_ORDERS = (1, *ORDERS)


def theirs(sample: list[str], references: list[list[str]], order: int) -> float:
    weights = [1 / order] * order
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                    # nltk's hint that something has no match
        return float(sentence_bleu(references, sample, weights, SmoothingFunction().method1))


def drawn(seed: int, many: int, vocabulary: int, longest: int) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return [[f"w{word}" for word in rng.integers(vocabulary, size=rng.integers(longest + 1))] for _ in range(many)]


def docs(many: int) -> list[list[str]]:
    lines = (line.strip() for _, text in SAMPLES["python-docs"].documents() for line in text.splitlines())
    return [words(line) for line in islice((line for line in lines if line), 200, 200 + many)]


@pytest.mark.parametrize(
    ("samples", "references"),
    [
        (drawn(0, 40, vocabulary=3, longest=9), drawn(1, 30, vocabulary=3, longest=9)),
        (drawn(2, 40, vocabulary=12, longest=12), drawn(3, 30, vocabulary=12, longest=5)),
        (drawn(4, 40, vocabulary=12, longest=5), drawn(5, 30, vocabulary=12, longest=14)),
        (drawn(6, 40, vocabulary=200, longest=8), drawn(7, 30, vocabulary=200, longest=8)),
        (drawn(8, 40, vocabulary=2, longest=3), drawn(9, 30, vocabulary=2, longest=40)),
        (docs(60)[:30], docs(60)[30:]),
    ],
    ids=["many matches", "long samples", "short samples", "few matches", "repeated words", "real text"],
)
def test_every_sample_has_the_figure_of_nltk(samples: list[list[str]], references: list[list[str]]) -> None:
    ours, own = each_bleu(samples, references, ALL_ORDERS), each_self_bleu(samples, ALL_ORDERS)
    for order in ALL_ORDERS:
        expected = [theirs(sample, references, order) for sample in samples]
        assert ours[order] == pytest.approx(expected, abs=1e-12)
        assert bleu(samples, references, [order]) == {order: pytest.approx(np.mean(expected), abs=1e-12)}
        others = [theirs(sample, samples[:number] + samples[number + 1 :], order) for number, sample in enumerate(samples)]
        assert own[order] == pytest.approx(others, abs=1e-12)
        assert self_bleu(samples, [order]) == {order: pytest.approx(np.mean(others), abs=1e-12)}


@pytest.mark.parametrize(
    ("sample", "references"),
    [
        ("", ["a b"]),
        ("a", ["a"]),
        ("a b", ["a b c d e f"]),
        ("x y z", ["a b c"]),
        ("a a a a a", ["a b", "a a"]),
        ("a b c d", ["a b c", "a b c d e"]),
        ("a b c", ["", ""]),
        ("a b c d e f g", ["a b c d e f g"]),
    ],
    ids=["empty", "one word", "shorter than n", "no match", "clipped", "equally close lengths", "empty references", "equal"],
)
@pytest.mark.parametrize("order", ALL_ORDERS)
def test_corner_cases(sample: str, references: list[str], order: int) -> None:
    given = [reference.split() for reference in references]
    assert each_bleu([sample.split()], given, [order])[order][0] == pytest.approx(theirs(sample.split(), given, order), abs=1e-12)


def test_texts_that_are_all_the_same_are_entirely_alike() -> None:
    assert self_bleu([["the", "same", "words", "again", "and", "again"]] * 5) == dict.fromkeys(ORDERS, pytest.approx(1))
    assert bleu([[], []], [["a"]]) == dict.fromkeys(ORDERS, 0.0)
    assert self_bleu([[], []]) == dict.fromkeys(ORDERS, 0.0)


def test_too_few_texts_are_refused() -> None:
    with pytest.raises(UserError, match="BLEU of 0 samples against 1 references"):
        bleu([], [["a"]])
    with pytest.raises(UserError, match="BLEU of 1 samples against 0 references"):
        bleu([["a"]], [])
    with pytest.raises(UserError, match="there must be two at least"):
        self_bleu([["a"]])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a man rides a horse.", ["a", "man", "rides", "a", "horse", "."]),
        ("  it 's \tdon't\n", ["it", "'", "s", "don", "'", "t"]),
        ("研墨2.0是 Yanmo！", ["研", "墨", "2", ".", "0", "是", "Yanmo", "！"]),
        ("きょう ไทย 한국어 où हिन्दी", ["き", "ょ", "う", "ไ", "ท", "ย", "한국어", "où", "हिन्दी"]),
        ("…😀€3", ["…", "😀", "€", "3"]),
        ("", []),
        (" \n", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected
