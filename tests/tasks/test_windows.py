"""Windows: rows of examples, and texts that are longer than a row."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tasks import alone, batches_of, task_of

from yanmo.batch import parts_of
from yanmo.labelled.examples import Classified
from yanmo.tasks.labelling import _windows

EXAMPLES = [
    Classified(origin=f"t.jsonl:{number}", text=text, label=label)
    for number, (text, label) in enumerate(
        [("The bread was good.", "good"), ("Bad, bad port.", "bad"), ("北京很好。", "good"), ("The company in the war", "bad")], 1
    )
]


@given(st.integers(1, 200), st.integers(1, 50), st.floats(0.05, 1))
def test_windows_of_a_text_cover_it_and_fit_into_the_room(size: int, room: int, stride: float) -> None:
    parts = parts_of(size, room, stride)
    assert all(0 <= begin < end <= size and end - begin <= room for begin, end in parts)
    assert parts[0][0] == 0
    assert parts[-1][1] == size
    assert all(later[0] <= earlier[1] for earlier, later in pairwise(parts))


@given(st.lists(st.integers(1, 6), min_size=1, max_size=60), st.integers(6, 30), st.floats(0.1, 1))
def test_every_word_belongs_to_one_window(sizes: list[int], room: int, stride: float) -> None:
    parts = list(_windows([[0] * size for size in sizes], room, stride))
    assert [number for part in parts for number in range(part.first, part.last)] == list(range(len(sizes)))
    for part in parts:
        assert part.begin <= part.first <= part.last <= part.end
        assert sum(sizes[part.begin : part.end]) <= room


def test_a_word_belongs_to_the_window_in_which_it_stands_furthest_from_an_end() -> None:
    parts = list(_windows([[0]] * 30, 10, 0.5))
    for word in range(5, 25):
        (own,) = [part for part in parts if part.first <= word < part.last]
        nearest = max(min(word - part.begin, part.end - 1 - word) for part in parts if part.begin <= word < part.end)
        assert min(word - own.begin, own.end - 1 - word) == nearest


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_rows_hold_every_window_once_as_it_would_stand_alone(family: str) -> None:
    task = task_of(family, "classification", EXAMPLES, length=64)
    windows = {window.document: window for window in task.encode(EXAMPLES)}
    seen = []
    for batch in batches_of(task, EXAMPLES, at_once=1):
        packed = batch.packed
        for document in range(1, int(packed.documents.max()) + 1):
            inside = packed.documents == document
            found = packed.tokens[inside].tolist()
            (number,) = [number for number, window in windows.items() if window.tokens.tolist() == found]
            assert packed.positions[inside].tolist() == alone(windows[number]).positions[0].tolist()
            seen.append(number)
    assert sorted(seen) == list(windows)


def test_lines_are_packed_and_not_padded() -> None:
    examples = EXAMPLES * 20
    task = task_of("bert", "classification", EXAMPLES, length=192)
    order = task.order(examples, seed=0)
    assert order.padding < 0.2                            # four sizes only
    assert np.sum([len(order.row(number).pieces) for number in range(order.rows_per_epoch)]) == len(examples)
