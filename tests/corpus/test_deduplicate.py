"""Duplicates and contamination against sets: true Jaccard similarity, Python's set, substring search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from yanmo.corpus.decontaminate import Forbidden, read_forbidden
from yanmo.corpus.deduplicate import HashIndex, NearIndex, band_of, signatures_of, similarity_of
from yanmo.corpus.units import CHARACTERS, analyse, units_of
from yanmo.errors import UserError
from yanmo.recipe import Decontaminate


def characters(count: int, seed: int) -> list[str]:
    return [chr(code) for code in np.random.default_rng(seed).integers(0x4E00, 0x9000, count)]


def jaccard(first: str, second: str) -> float:
    one, two = ({text[place : place + CHARACTERS] for place in range(len(text) - CHARACTERS + 1)} for text in (first, second))
    return len(one & two) / len(one | two)


def pairs(similarities: list[float]) -> tuple[list[str], list[str], np.ndarray]:
    """Texts of 400 characters whose copies have some characters replaced, and the true similarity of each pair."""
    first, second = [], []
    for seed, wanted in enumerate(similarities):
        text = characters(400, seed)
        copy = list(text)
        changes = round(400 * (1 - wanted) / (1 + wanted) / CHARACTERS)
        for place in np.random.default_rng(seed + 10_000).choice(396, changes, replace=False):
            copy[place] = "改"
        first.append("".join(text))
        second.append("".join(copy))
    return first, second, np.array([jaccard(one, two) for one, two in zip(first, second, strict=True)])


def signed(texts: list[str], permutations: int = 128) -> np.ndarray:
    analysis = analyse(texts)
    return signatures_of(analysis.shingles, analysis.offsets, permutations)


def test_shingles_are_the_set_that_jaccard_is_defined_on() -> None:
    text = "".join(characters(300, 1)) * 2
    expected = {text[place : place + CHARACTERS] for place in range(len(text) - CHARACTERS + 1)}
    assert len(set(analyse([text]).shingles.tolist())) == len(expected)
    words = ["to", "be", "or", "not", "to", "be", "that", "is", "the", "question", "to", "be"]
    assert len(set(analyse([" ".join(words)]).shingles.tolist())) == len(set(zip(words, words[1:], words[2:], strict=False)))


@pytest.mark.parametrize("permutations", [64, 128, 256])
def test_similarity_estimates_true_jaccard(permutations: int) -> None:
    first, second, true = pairs(np.random.default_rng(0).uniform(0.3, 1, 300).tolist())
    estimate = similarity_of(signed(first, permutations), signed(second, permutations))
    deviation = np.sqrt(true * (1 - true) / permutations) + 0.002
    assert abs((estimate - true).mean()) < 0.01
    assert (np.abs(estimate - true) < 4 * deviation + 0.02).mean() > 0.99
    assert np.sqrt(((estimate - true) ** 2).mean()) < 1.4 * np.sqrt((deviation**2).mean())


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_the_threshold_holds(threshold: float) -> None:
    levels = np.linspace(max(0.2, threshold - 0.35), 0.99, 400).tolist()
    first, second, true = pairs(levels)
    index = NearIndex(threshold, 128)
    assert not index.add(signed(first)).any()
    near = index.add(signed(second))
    assert near[true > threshold + 0.12].mean() > 0.98
    assert near[true < threshold - 0.12].mean() < 0.01
    middle = np.abs(true - threshold) < 0.02
    assert 0.1 < near[middle].mean() < 0.9
    assert (near == (similarity_of(signed(first), signed(second)) >= threshold)).mean() > 0.97


def test_first_in_reading_order_stays_whatever_the_batches() -> None:
    first, second, _ = pairs([0.95] * 60)
    texts = [text for pair in zip(first, second, first, strict=True) for text in pair]
    signatures = signed(texts)
    results = []
    for size in (1, 7, 180):
        index = NearIndex(0.8, 128)
        results.append(np.concatenate([index.add(signatures[start : start + size]) for start in range(0, 180, size)]).tolist())
    assert results[0] == [False, True, True] * 60
    assert results[1] == results[0]
    assert results[2] == results[0]


def test_near_index_grows_and_stays_small() -> None:
    random = np.random.default_rng(0)
    index = NearIndex(0.8, 128)
    kept = random.integers(0, 256, (60_000, 128), np.uint8)
    for start in range(0, len(kept), 5000):
        assert not index.add(kept[start : start + 5000]).any()
    assert index.add(kept[::7]).all()
    assert index.bytes / len(kept) < 400


def test_what_many_documents_share_is_not_searched_for_ever() -> None:
    random = np.random.default_rng(0)
    forms = random.integers(0, 256, (3000, 128), np.uint8)
    forms[:, :8] = 7  # one band is the same in all
    index = NearIndex(0.8, 128)
    assert not index.add(forms[:1500]).any()
    assert not index.add(forms[1500:]).any()
    assert index.add(forms).all()


def test_bands() -> None:
    for similarity in (0.5, 0.7, 0.8, 0.95):
        rows = band_of(similarity, 128)
        assert 1 - (1 - similarity**rows) ** (128 // rows) >= 0.9
    assert (band_of(0.8, 128), band_of(0.5, 128)) == (8, 2)


def test_hash_index_is_a_set() -> None:
    random = np.random.default_rng(0)
    index, seen = HashIndex(16), set()
    for _ in range(30):
        keys = random.integers(0, 40_000, 3000, np.uint64)
        expected = []
        for key in keys.tolist():
            expected.append(max(key, 1) in seen)
            seen.add(max(key, 1))
        assert index.add(keys).tolist() == expected
    assert index.bytes / len(seen) < 24


def test_forbidden_ngrams_are_those_of_the_texts() -> None:
    forbidden_text = "".join(characters(200, 5))
    units = units_of([forbidden_text])
    hashes, within = units.grams(13)
    assert within.sum() == 188
    forbidden = Forbidden(hashes[within], 13)
    noise = "".join(characters(500, 6))
    texts = [noise, noise + forbidden_text[50:63], noise + forbidden_text[50:62], forbidden_text[:12] + noise, forbidden_text]
    assert forbidden.shares(texts).tolist() == [any(forbidden_text[i : i + 13] in t for i in range(188)) for t in texts]
    assert forbidden.shares([noise, " ".join(forbidden_text[20:40])]).tolist() == [False, True]  # spaces do not hide it


def test_forbidden_files(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text('{"question": "one two three four five six", "answers": ["seven eight nine ten"]}\n{"question": "short"}\n')
    forbidden, notes = read_forbidden(Decontaminate(files=(str(path),), ngram=4))
    assert forbidden is not None
    texts = ["and Two three FOUR five", "two three four", "seven, eight, nine: ten!", "five six seven eight"]
    assert forbidden.shares(texts).tolist() == [True, False, True, True]
    assert "1 test texts" in notes[0]
    assert read_forbidden(Decontaminate()) == (None, [])
    with pytest.raises(UserError, match="no such file"):
        read_forbidden(Decontaminate(files=(str(tmp_path / "no.jsonl"),)))
    with pytest.raises(UserError, match="ngram lower"):
        read_forbidden(Decontaminate(files=(str(path),), ngram=50))
