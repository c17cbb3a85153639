"""Figures of labels, numbers, entities, relations and ranks, from what is right and what was predicted; of texts: text_metrics.

Shares and F1 are from 0 to 1. Where libraries are what people compare by, the figures are theirs: scikit-learn's for labels,
seqeval's for entities. What has no gold and no prediction at all counts as 0, as it does there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from yanmo.errors import UserError
from yanmo.labelled.tags import Scheme, scheme_of, standard

BINS = 15
"""Of the calibration error, as in Guo et al. 2017, section 4."""
CUTOFFS = (1, 5, 10)
"""Ranks up to which recall is counted."""
DEPTH = 10
"""Ranks up to which nDCG and mrr@10 look."""


def check_pairs(gold: Sequence[object] | np.ndarray, predicted: Sequence[object] | np.ndarray) -> None:
    """Raises UserError where there is nothing to measure; that each example has a prediction is for us to see to."""
    assert len(gold) == len(predicted), f"{len(predicted)} predictions of {len(gold)} examples"
    if not len(gold):
        raise UserError("no examples to measure: the file is empty, or none of its examples has a label")


def _check_known(found: set[str], labels: Sequence[str]) -> None:
    unknown = sorted(found - {*labels})
    if unknown:
        raise UserError(f"the label {unknown[0]!r} is not one that the model knows; it knows {', '.join(labels)}")


def classification(gold: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    """Accuracy, macro and weighted F1, and the F1 of each label, of those that occur in gold or predictions (scikit-learn)."""
    check_pairs(gold, predicted)
    labels = sorted({*gold, *predicted})
    each = _f1(gold, predicted, None, labels)
    found = {
        "accuracy": float(np.mean([one == other for one, other in zip(gold, predicted, strict=True)])),
        "macro_f1": float(each.mean()),
        "weighted_f1": float(_f1(gold, predicted, "weighted", labels)),
    }
    return found | {f"f1/{label}": float(f1) for label, f1 in zip(labels, each, strict=True)}


def confusion(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """(labels, labels) counts: how many examples of a row's label were predicted to have a column's (scikit-learn). Raises
    UserError for a label that is not among these."""
    from sklearn.metrics import confusion_matrix

    check_pairs(gold, predicted)
    _check_known({*gold, *predicted}, labels)
    return confusion_matrix(gold, predicted, labels=list(labels))


def multilabel(
    gold: Sequence[Collection[str]], predicted: Sequence[Collection[str]], labels: Sequence[str]
) -> dict[str, float]:
    """Micro and macro F1 over all labels that there are, 0 for one that nothing has, and how often the whole set of an example is
    right. By definition and not by scikit-learn, which takes a single label for two. Raises UserError for a label that is not
    among these."""
    check_pairs(gold, predicted)
    _check_known(set().union(*gold, *predicted), labels)
    place = {label: number for number, label in enumerate(labels)}
    both = np.zeros((2, len(gold), len(labels)), np.int8)
    for side, sets in zip(both, (gold, predicted), strict=True):
        for row, names in enumerate(sets):
            side[row, [place[name] for name in names]] = 1
    right, all_ = (both[0] & both[1]).sum(0), both.sum((0, 1), dtype=np.int64)
    return {
        "micro_f1": float(2 * right.sum() / max(all_.sum(), 1)),
        "macro_f1": float((2 * right / np.maximum(all_, 1)).mean()),
        "subset_accuracy": float((both[0] == both[1]).all(1).mean()),
    }


def calibration_error(sure: Sequence[float] | np.ndarray, right: Sequence[bool] | np.ndarray, bins: int = BINS) -> float:
    """How far the probability of what was predicted lies from the share that is right: the mean over bins of equal width, weighed
    by how many predictions each has (Guo et al. 2017, arXiv:1706.04599, equation 3)."""
    check_pairs(sure, right)
    sure, right = np.asarray(sure, np.float64), np.asarray(right, np.float64)
    of_bin = np.clip(np.ceil(sure * bins) - 1, 0, bins - 1).astype(np.int64)      # a bin has its upper border, not its lower one
    return float(np.abs(np.bincount(of_bin, right - sure, bins)).sum() / len(sure))


def regression(gold: Sequence[float], predicted: Sequence[float]) -> dict[str, float]:
    """Pearson's and Spearman's correlation and the mean squared error. A correlation is 0 where one side is constant."""
    check_pairs(gold, predicted)
    one, two = np.asarray(gold, np.float64), np.asarray(predicted, np.float64)
    return {
        "pearson": _correlation(one, two),
        "spearman": _correlation(_ranks(one), _ranks(two)),
        "mse": float(((one - two) ** 2).mean()),
    }


def _correlation(one: np.ndarray, two: np.ndarray) -> float:
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        return 0.0
    one, two = one - one.mean(), two - two.mean()
    return float(one @ two / np.sqrt((one @ one) * (two @ two)))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[which]


def entities(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], scheme: Scheme | None = None
) -> dict[str, float]:
    """Precision, recall and F1 of entities, which are right when borders and type are; also macro F1, and F1 by type (seqeval).

    Illegal tags are read in seqeval's strict mode where the scheme is BIOES, in its default mode (that of conlleval) otherwise;
    see yanmo.labelled.tags.entities. scheme: by default found from the gold tags.
    """
    from seqeval.metrics import classification_report
    from seqeval.scheme import IOBES

    check_pairs(gold, predicted)
    mode = {"mode": "strict", "scheme": IOBES} if (scheme or scheme_of(gold)) == "BIOES" else {}
    ours, theirs = ([standard(tags) for tags in side] for side in (gold, predicted))
    if all(tag == "O" for tags in (*ours, *theirs) for tag in tags):      # seqeval divides by the number of types
        return dict.fromkeys(("precision", "recall", "f1", "macro_f1"), 0.0)
    settings: dict[str, Any] = {"output_dict": True, "zero_division": 0, **mode}
    report: Any = classification_report(ours, theirs, **settings)
    micro, macro = report["micro avg"], report["macro avg"]
    found = {"precision": micro["precision"], "recall": micro["recall"], "f1": micro["f1-score"], "macro_f1": macro["f1-score"]}
    kinds = [kind for kind in report if kind not in ("micro avg", "macro avg", "weighted avg")]
    return {name: float(figure) for name, figure in (found | {f"f1/{kind}": report[kind]["f1-score"] for kind in kinds}).items()}


def relations(gold: Sequence[str], predicted: Sequence[str], none: str | None = None) -> dict[str, float]:
    """Micro and macro F1 over all relations; where one of them says that there is none, also without it: then a pair that has
    none counts only where a relation was found, as in TACRED (Zhang et al. 2017)."""
    check_pairs(gold, predicted)
    labels = sorted({*gold, *predicted})
    sides = {"": labels} | ({"_without_none": [label for label in labels if label != none]} if none is not None else {})
    found = {}
    for suffix, counted in sides.items():
        for average in ("micro", "macro"):
            found[f"{average}_f1{suffix}"] = float(_f1(gold, predicted, average, counted)) if counted else 0.0
    return found


def _f1(gold: Any, predicted: Any, average: str | None, labels: Sequence[str] | None = None) -> np.ndarray:
    """scikit-learn's: of each label, (labels,), or one averaged figure."""
    from sklearn.metrics import f1_score

    settings: dict[str, Any] = {"labels": labels, "average": average, "zero_division": 0}
    return np.asarray(f1_score(gold, predicted, **settings))


DIRECTION = re.compile(r"\(e[12],e[12]\)$")


def semeval_2010_task_8(gold: Sequence[str], predicted: Sequence[str], other: str = "Other") -> dict[str, float]:
    """Macro-averaged precision, recall and F1 over relations, direction taken into account, Other left out: the official score of
    SemEval-2010 task 8 (Hendrickx et al. 2010; its scorer 1.2, evaluation iii). Labels are as Cause-Effect(e1,e2).

    A relation that was predicted the wrong way round counts as found for precision, as missed for recall, and never as right.
    The mean is over the relations that occur in gold. Raises UserError where there are none.
    """
    check_pairs(gold, predicted)
    whole, found = ([DIRECTION.sub("", label) for label in side] for side in (gold, predicted))
    there, proposed = Counter(whole), Counter(found)
    right = Counter(one for one, exact, guess in zip(whole, gold, predicted, strict=True) if exact == guess)
    names = sorted(there.keys() - {other})
    if not names:
        raise UserError(f"no example has another relation than {other}: the official score is over the others")
    precision = [right[name] / proposed[name] if proposed[name] else 0.0 for name in names]
    recall = [right[name] / there[name] for name in names]
    f1 = [2 * p * r / (p + r) if p + r else 0.0 for p, r in zip(precision, recall, strict=True)]
    figures = {"semeval_precision": precision, "semeval_recall": recall, "semeval_f1": f1}
    return {name: sum(each) / len(names) for name, each in figures.items()}


def ranks_of(scores_QD: np.ndarray, relevant: Sequence[Sequence[int]]) -> list[list[int]]:
    """Of each query, the ranks from 1 of its relevant documents, best first, when documents are sorted by score. One that is not
    relevant goes first where scores are equal, so that a model that gives everything one score finds nothing."""
    found = []
    for scores_D, right in zip(scores_QD, relevant, strict=True):
        wrong_D = np.ones(len(scores_D), bool)
        wrong_D[list(right)] = False
        wrong, own = np.sort(scores_D[wrong_D]), np.sort(scores_D[list(right)])[::-1]
        ahead = len(wrong) - np.searchsorted(wrong, own, side="left")
        found.append((ahead + np.arange(1, len(own) + 1)).tolist())
    return found


def ranking(ranks: Sequence[Sequence[int]], cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """Mean reciprocal rank of the best relevant document, also with 0 for ranks above 10, recall@k, and nDCG@10 with relevance 0
    or 1 (Järvelin and Kekäläinen 2002), as means over queries. ranks: of each query, the ranks from 1 of all of its relevant
    documents."""
    check_pairs(ranks, ranks)
    if not all(len(own) for own in ranks):
        raise UserError("a query has no relevant document: there is no rank to measure; leave it out, or say what it should find")
    gains = 1 / np.log2(np.arange(DEPTH) + 2)
    gained = [sum(gains[rank - 1] for rank in own if rank <= DEPTH) / gains[: len(own)].sum() for own in ranks]
    found = {"mrr": float(np.mean([1 / min(own) for own in ranks]))}
    found[f"mrr@{DEPTH}"] = float(np.mean([1 / min(own) if min(own) <= DEPTH else 0.0 for own in ranks]))
    for cutoff in cutoffs:
        found[f"recall@{cutoff}"] = float(np.mean([np.mean(np.asarray(own) <= cutoff) for own in ranks]))
    return found | {f"ndcg@{DEPTH}": float(np.mean(gained))}

