"""The order of the data and the packer, against their definitions."""

import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from yanmo.batch import Order, plan
from yanmo.errors import UserError

ROOM = 2


class Fit:
    """An objective that puts two special tokens around a piece."""

    def places(self, tokens):
        return tokens + ROOM

    def room(self, length):
        return length - ROOM


class Shards:
    def __init__(self, documents):
        self.documents = documents
        self.lengths = np.array([len(tokens) for tokens, _, _ in documents])

    def __len__(self):
        return len(self.documents)

    def __getitem__(self, document):
        return self.documents[document]


def shards(count=300, mean=40, seed=0):
    """Documents whose tokens are their own places: i-th token of document d is 1000 * d + i."""
    rng = np.random.default_rng(seed)
    documents = []
    for number, length in enumerate(rng.lognormal(np.log(mean), 0.9, count).astype(int) + 1):
        words = np.flatnonzero(np.append(True, rng.random(length - 1) < 0.5))
        sentences = words[np.append(True, rng.random(len(words) - 1) < 0.15)]
        documents.append((10_000 * number + np.arange(length), sentences, words))
    return Shards(documents)


def content(row):
    return [piece.tokens.tolist() for piece in row.pieces]


def test_a_row_is_a_function_of_its_number():
    text = shards()
    first = Order(text, 64, Fit(), seed=3)
    numbers = [0, 5, first.rows_per_epoch * 2 + 1, 1, first.rows_per_epoch, 5]
    wanted = {number: (content(row := first.row(number)), row.rng.random(3).tolist()) for number in numbers}
    again = Order(text, 64, Fit(), seed=3)
    for number in reversed(numbers):
        row = again.row(number)
        assert (content(row), row.rng.random(3).tolist()) == wanted[number]
    assert content(Order(text, 64, Fit(), seed=4).row(0)) != wanted[0][0]


def test_every_token_once_in_every_epoch_and_rows_differ():
    text = shards()
    order = Order(text, 64, Fit(), seed=0)
    everything = np.sort(np.concatenate([tokens for tokens, _, _ in text.documents]))
    rows = []
    for epoch in range(3):
        numbers = range(epoch * order.rows_per_epoch, (epoch + 1) * order.rows_per_epoch)
        epochs_rows = [content(order.row(number)) for number in numbers]
        read = np.sort(np.concatenate([tokens for row in epochs_rows for tokens in row]))
        np.testing.assert_array_equal(read, everything)
        rows.append({tuple(sorted(tokens[0] for tokens in row)) for row in epochs_rows})
    assert order.tokens_per_epoch == len(everything)
    crowded = [{row for row in epoch if len(row) > 1} for epoch in rows]
    assert len(crowded[0] & crowded[1]) < 0.1 * len(crowded[0])


def test_without_shuffle_every_epoch_is_the_same():
    order = Order(shards(), 64, Fit(), seed=0, shuffle=False)
    for number in (0, 7):
        first, later = order.row(number), order.row(number + 3 * order.rows_per_epoch)
        assert content(first) == content(later)
        assert first.rng.random() == later.rng.random()


def test_documents_that_fit_are_whole_and_long_ones_cut_at_starts():
    text, room = shards(200, 150), 62
    order = Order(text, 64, Fit(), seed=0)
    seen = {}
    for number in range(order.rows_per_epoch):
        row = order.row(number)
        assert sum(len(piece.tokens) + ROOM for piece in row.pieces) <= 64
        for piece in row.pieces:
            tokens, sentences, words = text[piece.document]
            begin = int(piece.tokens[0] - tokens[0])
            end = begin + len(piece.tokens)
            assert piece.ends == (end == len(tokens))
            assert len(tokens) > room or (begin, end) == (0, len(tokens))
            assert begin == 0 or begin in words
            for own, all_starts in ((piece.sentences, sentences), (piece.words, words)):
                inside = all_starts[(all_starts > begin) & (all_starts < end)] - begin
                np.testing.assert_array_equal(own, [0, *inside])
            if not piece.ends and end not in sentences:
                assert not set(range(end + 1, begin + room + 1)) & set(words.tolist()), "a later word start was free"
            seen.setdefault(piece.document, []).append((begin, end))
    for document, spans in seen.items():
        spans.sort()
        assert spans[0][0] == 0
        assert spans[-1][1] == len(text[document][0])
        assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))


def test_a_sentence_start_near_the_end_of_the_room_is_preferred():
    tokens = np.arange(400)
    text = Shards([(tokens, np.array([0, 125]), np.arange(0, 400, 2))])
    order = Order(text, 130, Fit(), seed=0)
    sizes = sorted(len(piece.tokens) for number in range(order.rows_per_epoch) for piece in order.row(number).pieces)
    assert 125 in sizes                                   # 128 is a word start and would have fitted


def test_a_long_word_is_cut_hard():
    text = Shards([(np.arange(1000), np.array([0]), np.array([0]))])
    order = Order(text, 64, Fit(), seed=0)
    assert order.pieces == -(-1000 // 62)


def test_plan_holds_every_piece_and_no_row_overflows():
    histogram = np.random.default_rng(0).integers(0, 50, size=129)
    histogram[0] = 0
    held = np.zeros_like(histogram)
    for count, row in plan(histogram):
        assert sum(row) <= 128
        np.add.at(held, list(row), count)
    np.testing.assert_array_equal(held, histogram)


def test_pieces_of_one_size_share_rows():
    histogram = np.zeros(257, int)
    histogram[25] = 1000
    assert plan(histogram) == [(100, (25,) * 10)]


@pytest.mark.parametrize("length", [128, 256, 512])
def test_padding_of_real_text(length):
    path = Path(__file__).parents[2] / "shared/data/pretrain-zh/train.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    documents = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            text = "".join(json.loads(line)["text"].split())
            ends = np.array([index + 1 for index, char in enumerate(text[:-1]) if char in "。！？"], dtype=int)
            documents.append((np.zeros(len(text), np.uint16), np.append(0, ends), np.arange(len(text))))
    order = Order(Shards(documents), length, Fit(), seed=0)
    assert order.padding < 0.02


def test_a_million_documents_are_planned_by_their_lengths():
    lengths = np.random.default_rng(0).integers(1, 60, size=1_000_000)
    text = Shards([])
    text.lengths = lengths
    order = Order(text, 128, Fit(), seed=0)
    assert order.pieces == len(lengths)
    assert order.padding < 0.01


def test_too_little_text():
    one = Shards([(np.arange(20), np.array([0]), np.arange(20))])
    with pytest.raises(UserError, match="20 tokens in 1 documents, less than one row of 64"):
        Order(one, 64, Fit(), seed=0)
    assert len(Order(one, 64, Fit(), seed=0, shuffle=False).row(0).pieces) == 1
    with pytest.raises(UserError, match="no document has any tokens"):
        Order(Shards([(np.arange(0), np.arange(0), np.arange(0))]), 64, Fit(), seed=0)
    with pytest.raises(UserError, match="no room"):
        Order(one, 2, Fit(), seed=0)


def test_empty_documents_are_passed_over():
    empty = (np.arange(0), np.arange(0), np.arange(0))
    text = Shards([empty, (np.arange(100), np.array([0]), np.arange(100)), empty])
    order = Order(text, 64, Fit(), seed=0)
    assert {piece.document for number in range(order.rows_per_epoch) for piece in order.row(number).pieces} == {1}
