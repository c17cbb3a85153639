"""Labelling: words and tokens, windows that lose no tag, legal sequences, and where entities stand in a text."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_tasks import alone, batches_of, learn, task_of

from yanmo.errors import UserError
from yanmo.labelled.examples import Tagged
from yanmo.labelled.tags import faults

ENGLISH = Tagged(
    origin="t.conll:1",
    tokens=("Willem", "van", "Rijn", "founded", "Antwerp", "."),
    tags=("B-PER", "I-PER", "I-PER", "O", "B-LOC", "O"),
)
CHINESE = Tagged(origin="t.conll:9", tokens=tuple("王小明在上海。"), tags=("B-PER", "I-PER", "I-PER", "O", "B-LOC", "I-LOC", "O"))
EXAMPLES = [ENGLISH, CHINESE]
LONG = Tagged(origin="t.conll:20", tokens=CHINESE.tokens * 20, tags=CHINESE.tags * 20)


def words_of(task, example):
    """Scores of the words of one example that is read alone, in one window."""
    (window,) = task.encode([example])
    return task.scores(alone(window))[0][window.picked].float()


@pytest.mark.parametrize("family", ["bert", "gpt2", "xlnet", "t5", "modernbert"])
def test_the_loss_is_the_cross_entropy_of_every_word(family):
    task = task_of(family, "labelling", EXAMPLES)
    with torch.no_grad():
        found = [task(batch)["labelling"] for batch in batches_of(task, EXAMPLES)]
        plain = [
            float(F.cross_entropy(words_of(task, one), torch.tensor([*map(task.labels.index, one.tags)]), reduction="sum"))
            for one in EXAMPLES
        ]
    assert sum(one.count for one in found) == 13
    assert sum(float(one.total) for one in found) == pytest.approx(sum(plain), rel=1e-5)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_word_is_looked_at_where_the_network_knows_all_of_it(family):
    """Encoders at its first token, networks that look back at its last."""
    task = task_of(family, "labelling", EXAMPLES)
    (window,) = task.encode([ENGLISH])
    pieces = [task.tokens.encode([(" " if number else "") + word])[0] for number, word in enumerate(ENGLISH.tokens)]
    ends = np.cumsum([len(piece) for piece in pieces]) + len(task.tokens.prefix)
    assert window.tokens[len(task.tokens.prefix) : ends[-1]].tolist() == [index for piece in pieces for index in piece]
    first = family == "bert"
    assert window.picked.tolist() == [end - len(piece) if first else end - 1 for end, piece in zip(ends, pieces, strict=True)]


@pytest.mark.parametrize("decoder", ["softmax", "crf"])
@pytest.mark.parametrize("length", [16, 33, 192])
def test_no_tag_is_lost_and_none_counts_twice(decoder, length):
    task = task_of("bert", "labelling", EXAMPLES, length=length, decoder=decoder)
    batches = batches_of(task, [LONG, ENGLISH])
    assert sum(batch.counts["labelling"] for batch in batches) == len(LONG.tags) + len(ENGLISH.tags)
    windows = [window for window in task.encode([LONG])]
    assert np.concatenate([window.tags for window in windows]).tolist() == [task.labels.index(tag) for tag in LONG.tags]
    (found,) = task.predictions([LONG])
    assert len(found.tags) == len(LONG.tags)


@pytest.mark.parametrize("decoder", ["softmax", "crf"])
def test_only_legal_sequences_are_given(decoder):
    task = task_of("bert", "labelling", EXAMPLES, decoder=decoder)
    for found in task.predictions([LONG, ENGLISH, CHINESE]):
        assert not faults(found.tags, "BIO")


@pytest.mark.parametrize("decoder", ["softmax", "crf"])
def test_names_are_learned_by_heart_and_found_in_the_text(decoder):
    task = task_of("bert", "labelling", EXAMPLES, loud=False, decoder=decoder)
    learn(task, EXAMPLES, 100, rate=5e-3)
    english, chinese = task.eval().predictions(EXAMPLES)
    assert english.tags == ENGLISH.tags
    assert [(one.text, one.type, one.start, one.end) for one in english.entities] == [
        ("Willem van Rijn", "PER", 0, 15), ("Antwerp", "LOC", 24, 31),
    ]  # fmt: skip
    assert [(one.text, one.type, one.start, one.end) for one in chinese.entities] == [
        ("王小明", "PER", 0, 3), ("上海", "LOC", 4, 6),
    ]  # fmt: skip
    assert task.appraise(EXAMPLES)["f1"] == 1


def test_a_raw_text_keeps_its_characters():
    offsets = ((0, 6), (7, 10), (11, 15), (17, 24), (25, 32), (32, 33))
    raw = replace(ENGLISH, text="Willem van Rijn, founded Antwerp.", offsets=offsets)
    task = task_of("bert", "labelling", EXAMPLES, loud=False)
    learn(task, [raw, CHINESE], 100, rate=5e-3)
    (found,) = task.eval().predictions([replace(raw, tags=None)])
    assert [(raw.text[one.start : one.end], one.text) for one in found.entities] == [("Willem van Rijn",) * 2, ("Antwerp",) * 2]


def test_words_that_the_tokenizer_drops_keep_their_tags():
    task = task_of("bert", "labelling", EXAMPLES)
    odd = Tagged(origin="t:1", tokens=("A", "\u200b", "B"), tags=("O", "B-PER", "O"))
    (window,) = task.encode([odd])
    assert len(window.picked) == 3
    assert len(set(window.picked.tolist())) == 3


def test_what_cannot_be_learned_is_refused():
    task = task_of("bert", "labelling", EXAMPLES)
    with pytest.raises(UserError, match=r"t\.conll:1: .*B-ORG.*does not know"):
        task.appraise([replace(ENGLISH, tags=("B-ORG", "O", "O", "O", "O", "O"))])
    with pytest.raises(UserError, match="nothing to find"):
        task_of("bert", "labelling", [replace(ENGLISH, tags=("O",) * 6)])
