"""Classification and regression: losses against plain torch, windows, several labels, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_tasks import alone, batches_of, learn, task_of

from yanmo.errors import UserError
from yanmo.labelled.examples import Classified

TEXTS = ["The bread was good.", "Bad, bad port.", "北京很好。", "The company in the war was founded by a baker", "面包"]
TEXTS += ["two brothers"]


def labelled(labels):
    pairs = enumerate(zip(TEXTS, labels, strict=True), 1)
    return [Classified(origin=f"t.jsonl:{number}", text=text, label=label) for number, (text, label) in pairs]


ONE = labelled(["good", "bad", "good", "so-so", "good", "bad"])
PAIRS = [replace(example, pair=TEXTS[-1 - number]) for number, example in enumerate(ONE)]
MANY = labelled([("a", "b"), (), ("b",), ("c",), ("a", "c"), ("b",)])
NUMBERS = labelled([1.0, 2.5, -3.0, 4.0, 0.5, 2.0])
LONG = [Classified(origin="t.jsonl:9", text=" ".join(TEXTS) * 6, label="bad")]


@torch.no_grad()
def total(task, examples):
    batches = batches_of(task, examples)
    found = [task(batch)[task.kind] for batch in batches]
    return sum(float(one.total) for one in found), sum(float(one.count) for one in found)


def scores_alone(task, examples):
    return [task.scores(alone(window)).float()[0] for window in task.encode(examples)]


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "xlnet", "electra"])
@pytest.mark.parametrize("examples", [ONE, PAIRS], ids=["texts", "pairs"])
def test_the_loss_is_the_cross_entropy_of_every_text_by_itself(family, examples):
    task = task_of(family, "classification", ONE)
    with torch.no_grad():
        loss, count = total(task, examples)
        golds = [task.labels.index(example.label) for example in examples]
        pairs = zip(scores_alone(task, examples), golds, strict=True)
        plain = sum(float(F.cross_entropy(scores, torch.tensor(gold))) for scores, gold in pairs)
    assert count == len(examples)
    assert loss == pytest.approx(plain, rel=1e-5)


def test_several_labels_are_each_a_question_of_their_own():
    task = task_of("bert", "classification", MANY, several=True)
    with torch.no_grad():
        loss, count = total(task, MANY)
        gold = [torch.tensor([float(name in example.label) for name in task.labels]) for example in MANY]
        plain = sum(
            float(F.binary_cross_entropy_with_logits(scores, one, reduction="sum"))
            for scores, one in zip(scores_alone(task, MANY), gold, strict=True)
        )
    assert (loss, count) == (pytest.approx(plain, rel=1e-5), len(MANY))
    assert learn(task, MANY, 60) < 0.1
    assert [set(one.labels) for one in task.eval().predictions(MANY)] == [set(example.label) for example in MANY]


def test_numbers_are_learned_in_units_of_their_deviation():
    task = task_of("bert", "regression", NUMBERS)
    values = np.array([example.label for example in NUMBERS])
    with torch.no_grad():
        loss, _ = total(task, NUMBERS)
        gold = torch.tensor((values - values.mean()) / values.std(), dtype=torch.float32)
        plain = sum(float((scores[0] - one) ** 2) for scores, one in zip(scores_alone(task, NUMBERS), gold, strict=True))
    assert loss == pytest.approx(plain, rel=1e-4)
    learn(task, NUMBERS, 150)
    assert task.eval().predictions(NUMBERS) == pytest.approx(values.tolist(), abs=0.6)


def test_balanced_labels_weigh_the_same_together():
    task = task_of("bert", "classification", ONE, class_weights="balanced")
    weights = {}
    for window in task.encode(ONE):
        label = task.labels[int(window.target.argmax())]
        weights[label] = weights.get(label, 0) + window.share
    assert list(weights.values()) == pytest.approx([2.0, 2.0, 2.0])


def test_a_long_text_counts_once_however_many_windows_it_has():
    short, long = task_of("bert", "classification", ONE, length=128), task_of("bert", "classification", ONE, length=48)
    assert len(long.encode(LONG)) > len(short.encode(LONG)) > 1
    with torch.no_grad():
        assert total(long, LONG)[1] == pytest.approx(1.0)
        scores = torch.stack(scores_alone(long, LONG)).log_softmax(-1).mean(0).softmax(-1)
    (found,) = long.predictions(LONG)
    assert list(found.probabilities.values()) == pytest.approx(scores.tolist(), abs=1e-5)


def test_of_a_long_pair_the_longer_text_moves():
    task = task_of("bert", "classification", ONE, length=48)
    (example,) = LONG
    windows = task.encode([replace(example, pair="two brothers")])
    (second,) = task.tokens.encode(["two brothers"])
    assert len(windows) > 1
    assert all(window.tokens[window.types == 1][: len(second)].tolist() == second for window in windows)
    with pytest.raises(UserError, match=r"t\.jsonl:9: the shorter text of this pair"):
        task.encode([replace(example, pair=example.text)])


def test_what_is_said_of_a_text_does_not_depend_on_its_neighbours():
    task = task_of("bert", "classification", ONE)
    together = task.predictions(ONE + LONG)
    for example, found in zip(ONE + LONG, together, strict=True):
        (by_itself,) = task.predictions([example])
        assert list(by_itself.probabilities.values()) == pytest.approx(list(found.probabilities.values()), abs=1e-5)


def test_a_task_is_learned_by_heart():
    task = task_of("bert", "classification", ONE, loud=False)
    assert learn(task, ONE, 80) < 0.1
    assert [one.label for one in task.eval().predictions(ONE)] == [example.label for example in ONE]
    assert task.appraise(ONE)["accuracy"] == 1


def test_labels_that_cannot_be_learned_are_refused():
    task = task_of("bert", "classification", ONE)
    with pytest.raises(UserError, match=r"t\.jsonl:1: label 'new' is none of those that the model knows: bad, good, so-so"):
        task.appraise([replace(ONE[0], label="new")])
    with pytest.raises(UserError, match=r"1 label .* nothing to tell apart"):
        task_of("bert", "classification", ONE[:1])
    with pytest.raises(UserError, match="the same number"):
        task_of("bert", "regression", NUMBERS[:1])


@pytest.mark.parametrize("several", [False, True])
def test_the_weights_are_chosen_by_a_figure_that_there_is(several):
    task = task_of("bert", "classification", MANY if several else ONE, several=several)
    found = task.appraise(MANY if several else ONE)
    assert task.deciding == ("micro_f1" if several else "accuracy")
    assert task.merit(found) == -found[task.deciding]
