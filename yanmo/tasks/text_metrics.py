"""Figures of texts that a model wrote or marked: BLEU, chrF, ROUGE, answers to questions, variety.

BLEU and chrF are from 0 to 100, as sacreBLEU gives them; all else is from 0 to 1. Chinese and English alike: where a figure
depends on the language, it can be said, and is seen by default from the characters of all texts that are right: see language_of.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from yanmo.bleu import words
from yanmo.corpus.units import DIGIT, HAN, SPACELESS, WINDOW, classes, units_of
from yanmo.tasks.metrics import check_pairs

BLEU_TOKENIZERS = {"zh": "zh", "spaceless": "char"}
"""sacreBLEU's; 13a for all other languages."""
CHINESE = ("zh", "spaceless")
"""Languages whose answers are compared by characters."""
CHINESE_MARKS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
"""What CMRC 2018 leaves out of answers. Its list has …… as one entry, which no single character equals: … stays."""
ARTICLES = re.compile(r"\b(a|an|the)\b")
REPEATED = 4
"""Words of an n-gram that counts as repeated."""


def language_of(texts: Sequence[str]) -> str:
    """ "zh" where most units of the texts together are characters of a script without spaces, and most of those Chinese ones;
    "spaceless" where they are others (kana, Thai ...); "en", for all languages with spaces, where most units are words."""
    units = units_of(["\n".join(texts)[:WINDOW]])
    if not units.spaceless[0]:
        return "en"
    return "zh" if units.counts[0, HAN] * 2 > units.counts[0, : SPACELESS + 1].sum() else "spaceless"


def translation(
    references: Sequence[Sequence[str]], predicted: Sequence[str], language: str | None = None
) -> tuple[dict[str, float], dict[str, str]]:
    """BLEU and chrF of a corpus (sacreBLEU: Post 2018; Popović 2015), from 0 to 100, and the signature of each.

    references: one or several for each prediction. language: of the references, as zh, de, ja; it decides how BLEU cuts them:
    Chinese by its zh tokenizer, other scripts without spaces by characters, all else by 13a.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    check_pairs(references, predicted)
    language = language or language_of([*chain.from_iterable(references)])
    if language in ("ja", "th", "lo", "km", "my"):
        language = "spaceless"
    several = max(map(len, references))
    streams: Any = [[own[number] if number < len(own) else None for own in references] for number in range(several)]
    found, signatures = {}, {}
    for name, metric in (("bleu", BLEU(tokenize=BLEU_TOKENIZERS.get(language, "13a"))), ("chrf", CHRF())):
        found[name] = float(metric.corpus_score(predicted, streams).score)
        signatures[name] = str(metric.get_signature())
    return found, signatures


class _Words:
    """Cuts texts for ROUGE: lower-case words and characters of scripts without spaces. Of ASCII text these are rouge-score's own
    words; its own tokenizer drops every other letter."""

    def tokenize(self, text: str) -> list[str]:
        kinds = classes()
        return [word for word in words(text.lower()) if kinds[ord(word[0])] <= DIGIT]


def rouge(references: Sequence[Sequence[str]], predicted: Sequence[str]) -> dict[str, float]:
    """F1 of ROUGE-1, -2 and -L (Lin 2004; rouge-score, without stemming), as means over examples, against the best reference of
    each. Chinese is cut into characters, words of other languages stay whole."""
    from rouge_score.rouge_scorer import RougeScorer

    check_pairs(references, predicted)
    names = {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeL": "rouge_l"}
    scorer = RougeScorer([*names], tokenizer=_Words())
    each = [scorer.score_multi(own, text) for own, text in zip(references, predicted, strict=True)]
    return {name: float(np.mean([scores[theirs].fmeasure for scores in each])) for theirs, name in names.items()}


def variety(texts: Sequence[str]) -> dict[str, float]:
    """distinct_1, distinct_2: different words and pairs of words over all that there are in all texts together (Li et al. 2016,
    arXiv:1510.03055). repetition: the share of a text's n-grams of four words that it had before, as a mean over texts that have
    any (Welleck et al. 2020, arXiv:1908.04319). Characters of scripts without spaces, and marks, are words.
    """
    check_pairs(texts, texts)
    cut = [words(text) for text in texts]
    found = {}
    for size in (1, 2):
        grams = [gram for own in cut for gram in _grams(own, size)]
        found[f"distinct_{size}"] = len(set(grams)) / max(len(grams), 1)
    repeated = [1 - len(set(grams)) / len(grams) for grams in (_grams(own, REPEATED) for own in cut) if grams]
    return found | {"repetition": float(np.mean(repeated)) if repeated else 0.0}


def _grams(own: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [*zip(*(own[place:] for place in range(size)), strict=False)]


def answers(gold: Sequence[Sequence[str]], predicted: Sequence[str], language: str | None = None) -> dict[str, float]:
    """em: the share of questions whose answer is exactly right; f1: how much of it is; both against the best right answer.

    gold: the right answers of each question, none where the text has none: then "" is right, and nothing else (SQuAD 2.0:
    Rajpurkar et al. 2018); figures of questions that have answers, and that have none, are then added. language: "zh" as CMRC
    2018 counts (Cui et al. 2019; cmrc2018_evaluate.py), in characters and words of other scripts; any other as SQuAD does
    (evaluate-v2.0.py), in words, without case, punctuation and English articles.
    """
    check_pairs(gold, predicted)
    language = language or language_of_answers(gold, predicted)
    pairs = [*zip(predicted, gold, strict=True)]
    em = np.array([answer_em(text, right, language) for text, right in pairs], np.float64)
    f1 = np.array([answer_f1(text, right, language) for text, right in pairs])
    found = {"em": float(em.mean()), "f1": float(f1.mean())}
    there = np.array([bool(right) for right in gold])
    if there.any() and not there.all():
        found |= {"answerable_em": float(em[there].mean()), "answerable_f1": float(f1[there].mean())}
        found |= {"unanswerable": float(em[~there].mean())}
    return found


def answer_em(text: str, right: Sequence[str], language: str | None = None) -> bool:
    """Whether an answer is one of the right ones; see answers."""
    exact = _cmrc_exact if (language or language_of_answers([right], [text])) in CHINESE else _squad_exact
    return any(exact(one, text) for one in right or ("",))


def answer_f1(text: str, right: Sequence[str], language: str | None = None) -> float:
    """How much of the best of the right answers an answer is; see answers."""
    if not right:
        return float(answer_em(text, right, language))
    overlap = _cmrc_overlap if (language or language_of_answers([right], [text])) in CHINESE else _squad_overlap
    return max(overlap(one, text) for one in right)


def language_of_answers(gold: Sequence[Sequence[str]], predicted: Sequence[str]) -> str:
    """Of all that is right, or of what is said where nothing is; see language_of."""
    return language_of([*chain.from_iterable(gold)] or predicted)


def squad_words(text: str) -> list[str]:
    """The words that SQuAD compares."""
    bare = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return ARTICLES.sub(" ", bare).split()


def _squad_exact(one: str, text: str) -> bool:
    return squad_words(one) == squad_words(text)


def _squad_overlap(one: str, text: str) -> float:
    right, found = squad_words(one), squad_words(text)
    if not right or not found:
        return float(right == found)
    return _f1((Counter(right) & Counter(found)).total(), len(right), len(found))


def cmrc_units(text: str) -> list[str]:
    """The units that CMRC 2018 compares: Chinese characters, and what nltk makes of all between them; without its marks. Other
    than there, text between is not split into sentences first, for which nltk needs a model that it does not bring along."""
    from nltk.tokenize.destructive import NLTKWordTokenizer

    cutter = NLTKWordTokenizer()
    parts = re.split("([\u4e00-\u9fa5])", _without_marks(text))
    return [unit for number, part in enumerate(parts) if part for unit in ([part] if number % 2 else cutter.tokenize(part))]


def _without_marks(text: str) -> str:
    return "".join(character for character in text.lower().strip() if character not in CHINESE_MARKS)


def _cmrc_exact(one: str, text: str) -> bool:
    return _without_marks(one) == _without_marks(text)


def _cmrc_overlap(one: str, text: str) -> float:
    right, found = cmrc_units(one), cmrc_units(text)
    return _f1(_longest_common(right, found), len(right), len(found))


def _longest_common(one: Sequence[str], two: Sequence[str]) -> int:
    """How long the longest run of units is that both have."""
    number = {unit: place for place, unit in enumerate(dict.fromkeys(two))}
    two_N = np.array([number[unit] for unit in two], np.int64)
    run_N, longest = np.zeros(len(two) + 1, np.int64), 0
    for unit in one:
        run_N[1:] = np.where(two_N == number.get(unit, -1), run_N[:-1] + 1, 0)
        longest = max(longest, int(run_N.max()))
    return longest


def _f1(common: int, right: int, found: int) -> float:
    """2pr / (p + r), where p is common / found and r is common / right."""
    return 2 * common / (right + found) if common else 0.0
