"""Figures of labels, numbers, entities, relations and ranks: those of the libraries that people compare by, and definitions."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as theirs
from scipy import stats
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOBES

from yanmo.errors import UserError
from yanmo.labelled.tags import mended
from yanmo.tasks import metrics

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def labels(seed: int, many: int = 200, kinds: int = 5) -> list[str]:
    return [f"kind {number}" for number in np.random.default_rng(seed).integers(kinds, size=many)]


def test_labels() -> None:
    gold, predicted = labels(0), labels(1, kinds=6)
    found = metrics.classification(gold, predicted)
    assert found["accuracy"] == pytest.approx(theirs.accuracy_score(gold, predicted))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for average in ("macro", "weighted"):
            assert found[f"{average}_f1"] == pytest.approx(theirs.f1_score(gold, predicted, average=average))
        report = theirs.classification_report(gold, predicted, output_dict=True)
    for number in range(6):
        assert found[f"f1/kind {number}"] == pytest.approx(report[f"kind {number}"]["f1-score"])


def test_confusion_counts_gold_in_rows() -> None:
    found = metrics.confusion(["a", "a", "b"], ["a", "b", "b"], ["a", "b", "c"])
    assert found.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_sets_of_labels() -> None:
    names, rng = ["a", "b", "c", "never"], np.random.default_rng(2)
    matrices = rng.random((2, 50, 4)) < 0.4
    matrices[:, :, 3] = False
    gold, predicted = ([{names[place] for place in np.flatnonzero(row)} for row in matrix] for matrix in matrices)
    found = metrics.multilabel(gold, predicted, names)
    for average in ("micro", "macro"):
        assert found[f"{average}_f1"] == pytest.approx(theirs.f1_score(*matrices, average=average, zero_division=0))
    assert found["subset_accuracy"] == pytest.approx(theirs.accuracy_score(*matrices))
    missed = metrics.multilabel([{"a"}, *[set()] * 9], [set()] * 10, ["a"])
    assert missed == {"micro_f1": 0, "macro_f1": 0, "subset_accuracy": 0.9}, "one label is no question of two"
    assert metrics.multilabel([set()], [set()], names) == {"micro_f1": 0, "macro_f1": 0, "subset_accuracy": 1}


def test_calibration_error_by_its_definition() -> None:
    rng = np.random.default_rng(3)
    sure = np.concatenate([rng.random(500), np.arange(16) / 15])       # borders of bins, too
    right = rng.random(516) < sure**2
    expected = 0.0
    for number in range(15):
        inside = (sure > number / 15) & (sure <= (number + 1) / 15) if number else sure <= 1 / 15
        expected += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    assert metrics.calibration_error(sure, right) == pytest.approx(expected)
    assert metrics.calibration_error([0.75] * 4, [True, True, True, False]) == pytest.approx(0)
    assert metrics.calibration_error([1.0, 1.0], [False, False]) == pytest.approx(1)


def test_numbers() -> None:
    rng = np.random.default_rng(4)
    for gold in (rng.normal(size=60), rng.integers(4, size=60)):       # with and without ties
        predicted = np.round(gold + rng.normal(size=60), 1)
        found = metrics.regression(gold.tolist(), predicted.tolist())
        assert found["pearson"] == pytest.approx(stats.pearsonr(gold, predicted).statistic)
        assert found["spearman"] == pytest.approx(stats.spearmanr(gold, predicted).statistic)
        assert found["mse"] == pytest.approx(theirs.mean_squared_error(gold, predicted))
    assert metrics.regression([1, 2, 3], [2, 2, 2]) == {"pearson": 0, "spearman": 0, "mse": pytest.approx(2 / 3)}


def drawn_tags(letters: str, seed: int, many: int = 60) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    names = ["O", *(f"{letter}-{kind}" for letter in letters for kind in ("A", "B"))]
    return [[str(name) for name in rng.choice(names, size=8)] for _ in range(many)]


@pytest.mark.parametrize(("letters", "strict"), [("BI", {}), ("BIES", {"mode": "strict", "scheme": IOBES})])
def test_entities(letters: str, strict: dict) -> None:
    gold, predicted = (drawn_tags(letters, seed) for seed in (5, 6))
    gold = [mended(tags, "BIOES" if strict else "BIO") for tags in gold]
    predicted = [right if place % 2 else own for place, (right, own) in enumerate(zip(gold, predicted, strict=True))]
    found = metrics.entities(gold, predicted)
    assert found["precision"] == pytest.approx(precision_score(gold, predicted, **strict))
    assert found["recall"] == pytest.approx(recall_score(gold, predicted, **strict))
    assert found["f1"] == pytest.approx(f1_score(gold, predicted, **strict))
    assert [found["f1/A"], found["f1/B"]] == pytest.approx(list(f1_score(gold, predicted, average=None, **strict)))
    assert found["macro_f1"] == pytest.approx((found["f1/A"] + found["f1/B"]) / 2)


def test_entities_in_bioes_are_read_strictly_and_in_other_letters() -> None:
    gold, cut_off = [["B-A", "I-A", "E-A", "S-A"]], [["B-A", "I-A", "I-A", "S-A"]]
    assert metrics.entities(gold, cut_off)["f1"] == pytest.approx(2 * 1 / (1 + 2))     # one right, one found, two there
    assert metrics.entities([["B-A", "M-A", "E-A", "S-A"]], cut_off) == metrics.entities(gold, cut_off)
    assert metrics.entities([["B-A", "L-A"]], [["B-A", "L-A"]])["f1"] == 1
    assert metrics.entities([["O"]], [["O"]]) == {"precision": 0, "recall": 0, "f1": 0, "macro_f1": 0}
    assert metrics.entities([["O", "O"]], [["O", "B-A"]], "BIO")["f1"] == 0


def test_relations_with_and_without_none() -> None:
    gold = ["born", "born", "none", "none", "works", "works"]
    predicted = ["born", "works", "none", "born", "works", "none"]
    found = metrics.relations(gold, predicted, none="none")
    assert found["micro_f1"] == pytest.approx(3 / 6)
    assert found["micro_f1_without_none"] == pytest.approx(2 * (2 / 4) * (2 / 4) / (2 / 4 + 2 / 4))   # right 2, found 4, there 4
    assert found["macro_f1"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 2) / 3)
    assert found["macro_f1_without_none"] == pytest.approx(1 / 2)
    assert metrics.relations(gold, predicted).keys() == {"micro_f1", "macro_f1"}
    assert metrics.relations(["none"], ["none"], none="none")["micro_f1_without_none"] == 0


def test_semeval_2010_task_8_by_hand() -> None:
    """Two relations. Cause-Effect: 5 in gold, of which 3 right, 1 the wrong way round, 1 as Other. Message-Topic: 4 in gold, of
    which 2 right, 1 as Cause-Effect, 1 as Other. Other: 2 in gold, of which 1 right, 1 as Message-Topic."""
    forth, back, topic = "Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)", "Message-Topic(e1,e2)"
    gold = [forth, forth, back, forth, back, topic, topic, topic, topic, "Other", "Other"]
    predicted = [forth, forth, back, back, "Other", topic, topic, forth, "Other", "Other", topic]
    cause = {"p": 3 / (3 + 1 + 1), "r": 3 / 5}                          # proposed: 3 right, 1 wrong way, 1 of Message-Topic
    message = {"p": 2 / (2 + 1), "r": 2 / 4}                            # proposed: 2 right, 1 of Other
    f1 = [2 * one["p"] * one["r"] / (one["p"] + one["r"]) for one in (cause, message)]
    found = metrics.semeval_2010_task_8(gold, predicted)
    assert found["semeval_precision"] == pytest.approx((cause["p"] + message["p"]) / 2)
    assert found["semeval_recall"] == pytest.approx((cause["r"] + message["r"]) / 2)
    assert found["semeval_f1"] == pytest.approx(sum(f1) / 2)
    assert found["semeval_f1"] == pytest.approx((0.6 + 4 / 7) / 2)


def test_semeval_2010_task_8_on_its_own_relations() -> None:
    path = DATA / "re-semeval2010-en" / "test.jsonl"
    if not path.exists():
        pytest.skip(f"needs {path}")
    gold = [json.loads(line)["relation"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert metrics.semeval_2010_task_8(gold, gold)["semeval_f1"] == 1
    turned = [label.translate(str.maketrans("12", "21")) for label in gold]
    assert metrics.semeval_2010_task_8(gold, turned)["semeval_f1"] == 0
    assert metrics.semeval_2010_task_8(gold, ["Other"] * len(gold))["semeval_f1"] == 0
    with pytest.raises(UserError, match="no example has another relation than Other"):
        metrics.semeval_2010_task_8(["Other"], ["Other"])


def test_ranks_and_what_is_made_of_them() -> None:
    rng = np.random.default_rng(7)
    scores_QD = rng.permuted(np.tile(np.arange(30.0), (40, 1)), axis=1)
    relevant = [rng.choice(30, size=rng.integers(1, 15), replace=False).tolist() for _ in range(40)]
    truth_QD = np.zeros((40, 30))
    for row, right in zip(truth_QD, relevant, strict=True):
        row[right] = 1
    ranks = metrics.ranks_of(scores_QD, relevant)
    found = metrics.ranking(ranks)
    assert found["ndcg@10"] == pytest.approx(theirs.ndcg_score(truth_QD, scores_QD, k=10))
    order = np.argsort(-scores_QD, axis=1)
    sorted_QD = np.take_along_axis(truth_QD, order, axis=1)
    best = sorted_QD.argmax(1) + 1
    assert found["mrr"] == pytest.approx((1 / best).mean())
    assert found["mrr@10"] == pytest.approx(np.where(best <= 10, 1 / best, 0).mean())
    for cutoff in (1, 5, 10):
        assert found[f"recall@{cutoff}"] == pytest.approx((sorted_QD[:, :cutoff].sum(1) / truth_QD.sum(1)).mean())


def test_equal_scores_are_no_hits() -> None:
    assert metrics.ranks_of(np.zeros((2, 5)), [[0], [1, 2]]) == [[5], [4, 5]]
    assert metrics.ranks_of(np.array([[3.0, 2.0, 2.0, 1.0]]), [[1, 3]]) == [[3, 4]]
    with pytest.raises(UserError, match="no relevant document"):
        metrics.ranking([[1], []])


def test_labels_that_the_model_does_not_know() -> None:
    for measure in (lambda: metrics.multilabel([{"a"}], [{"b"}], ["b"]), lambda: metrics.confusion(["a"], ["b"], ["b"])):
        with pytest.raises(UserError, match="the label 'a' is not one that the model knows; it knows b"):
            measure()


def test_nothing_to_measure() -> None:
    for measure in (metrics.classification, metrics.regression, metrics.entities, metrics.relations, metrics.semeval_2010_task_8):
        with pytest.raises(UserError, match="no examples to measure"):
            measure([], [])
    with pytest.raises(AssertionError, match="1 predictions of 2 examples"):
        metrics.classification(["a", "b"], ["a"])
