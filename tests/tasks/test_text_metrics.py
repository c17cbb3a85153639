"""Figures of texts: those of sacreBLEU and rouge-score, and the official scripts' definitions for answers."""

import difflib
import json
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from yanmo.errors import UserError
from yanmo.tasks import text_metrics
from yanmo.tasks.text_metrics import answer_em, answer_f1, answers, cmrc_units, language_of, rouge, translation, variety

DATA = Path(__file__).parents[2].parent / "shared" / "data"
ENGLISH = ["The cat sat on the mat, didn't it?", "Two dogs run through U.S. snow 3.5 times.", "A man reads."]
THEIRS = ["The cat is on the mat, isn't it?", "Two dogs ran through deep snow 3.5 times.", "A woman reads a book."]
CHINESE = ["研究生命的起源。", "他在北京大学读BERT的论文", "今天天气很好，我们去公园。"]
PREDICTED = ["研究生物的起源。", "她在北京大学看BERT论文", "今天天气好，去公园。"]


def test_languages_are_seen_from_characters() -> None:
    assert language_of(CHINESE) == language_of(["用BERT做实体识别", "2008年"]) == "zh"
    assert language_of(ENGLISH) == language_of(["Der Mann liest"]) == language_of(["2008", "", "Она читает"]) == "en"
    assert language_of(["これはひらがなのぶんです", "東京"]) == "spaceless"
    assert language_of([]) == "en"


@pytest.mark.parametrize(
    ("references", "predicted", "language", "tokenizer"),
    [
        (THEIRS, ENGLISH, None, "13a"),
        (THEIRS, ENGLISH, "de", "13a"),
        (CHINESE, PREDICTED, None, "zh"),
        (CHINESE, PREDICTED, "zh", "zh"),
        (["これはひらがなのぶんです"], ["これはかなのぶんです"], None, "char"),
        (["これはひらがなのぶんです"], ["これはかなのぶんです"], "ja", "char"),
    ],
)
def test_translation(references: list[str], predicted: list[str], language: str | None, tokenizer: str) -> None:
    found, signatures = translation([[one] for one in references], predicted, language)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(predicted, [references], tokenize=tokenizer).score)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(predicted, [references]).score)
    assert signatures["bleu"] == f"nrefs:1|case:mixed|eff:no|tok:{tokenizer}|smooth:exp|version:{sacrebleu.__version__}"
    assert signatures["chrf"] == f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{sacrebleu.__version__}"


def test_translation_with_several_references() -> None:
    """Some texts have two references, some one: the corpus's counts are the sums of the texts' own."""
    references = [[THEIRS[0], ENGLISH[0]], [THEIRS[1]], [THEIRS[2]]]
    found, signatures = translation(references, ENGLISH)
    each = [sacrebleu.BLEU(effective_order=True).sentence_score(text, own) for text, own in zip(ENGLISH, references, strict=True)]
    counts, totals = (np.sum([getattr(one, name) for one in each], axis=0).tolist() for name in ("counts", "totals"))
    lengths = (sum(getattr(one, name) for one in each) for name in ("sys_len", "ref_len"))
    assert found["bleu"] == pytest.approx(sacrebleu.BLEU.compute_bleu(counts, totals, *lengths, smooth_method="exp").score)
    assert signatures["bleu"].startswith("nrefs:var|")


def test_rouge_of_english_is_that_of_rouge_score() -> None:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    each = [scorer.score(reference, text) for reference, text in zip(THEIRS, ENGLISH, strict=True)]
    found = rouge([[one] for one in THEIRS], ENGLISH)
    for ours, own in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        assert found[ours] == pytest.approx(np.mean([scores[own].fmeasure for scores in each]))
    assert rouge([[THEIRS[0], ENGLISH[0]]], [ENGLISH[0]]) == {"rouge_1": 1, "rouge_2": 1, "rouge_l": 1}


def test_rouge_of_chinese_is_of_characters() -> None:
    """她 在 北 京 大 学 看 bert 论 文 against 他 在 北 京 大 学 读 bert 的 论 文, 。 and case not counted."""
    found = rouge([["他在北京大学读BERT的论文。"]], ["她在北京大学看bert论文"])
    precision, recall = 8 / 10, 8 / 11                                 # 在北京大学 bert 论文, in this order in both
    expected = 2 * precision * recall / (precision + recall)
    assert found["rouge_1"] == found["rouge_l"] == pytest.approx(expected)
    assert found["rouge_2"] == pytest.approx(2 * (5 / 9) * (5 / 10) / (5 / 9 + 5 / 10))   # 在北 北京 京大 大学, 论文
    assert rouge([["Füße"]], ["Fuße"]) == {"rouge_1": 0, "rouge_2": 0, "rouge_l": 0}


def test_variety_by_its_definition() -> None:
    found = variety(["a b a b a b", "a c"])
    assert found["distinct_1"] == pytest.approx(3 / 8)
    assert found["distinct_2"] == pytest.approx(3 / 6)                 # ab ba ac; ab ba ab ba ab, ac
    assert found["repetition"] == pytest.approx(1 / 3)                 # abab baba abab; the second text has none
    assert variety(["好好好好好", "天气"])["repetition"] == pytest.approx(1 / 2)
    assert variety([""]) == {"distinct_1": 0, "distinct_2": 0, "repetition": 0}


@pytest.mark.parametrize(
    ("text", "right", "em", "f1"),
    [
        ("the Eiffel Tower!", ["Eiffel tower"], True, 1),
        ("in Paris, France", ["Paris", "paris france"], False, 2 * (2 / 3) * 1 / (2 / 3 + 1)),
        ("a b b", ["b b b"], False, 1 * 2 * (2 / 3) / (1 + 2 / 3)),   # "a" is an article; two of three b
        ("an", ["the"], True, 1),                                       # nothing is left of either
        ("", ["the one"], False, 0),
        ("", [], True, 1),
        ("the", [], True, 1),
        ("Paris", [], False, 0),
    ],
)
def test_english_answers_as_in_squad(text: str, right: list[str], em: bool, f1: float) -> None:
    assert answer_em(text, right, "en") == em
    assert answer_f1(text, right, "en") == pytest.approx(f1)


@pytest.mark.parametrize(
    ("text", "right", "em", "f1"),
    [
        ("《三国演义》", ["三国演义"], True, 1),
        ("在1998年", ["1998年"], False, 2 * (2 / 3) * 1 / (2 / 3 + 1)),          # 在 1998 年: a number is one unit
        ("Nexon公司，韩国", ["韩国nexon公司"], False, 2 * (3 / 5) * (3 / 5) / (6 / 5)),   # nexon 公 司: the longest run
        ("甲乙丙", ["丁", "甲乙"], False, 2 * (2 / 3) * 1 / (2 / 3 + 1)),
        ("，。", ["！"], True, 0),                                                # nothing is left: so the script counts
        ("天……", ["天…"], False, 1 / 2),                                         # … is not among its marks
        ("", [], True, 1),
        ("有", [], False, 0),
    ],
)
def test_chinese_answers_as_in_cmrc_2018(text: str, right: list[str], em: bool, f1: float) -> None:
    assert answer_em(text, right, "zh") == em
    assert answer_f1(text, right, "zh") == pytest.approx(f1)


def test_units_of_chinese_answers() -> None:
    expected = ["它", "在", "u.s", ".", "卖", "$", "3.5", "约", "do", "n't", "stopnow"]
    assert cmrc_units(" 它在U.S.卖$3.5（约）Don't stop-now ") == expected


def test_answers_of_a_file() -> None:
    gold = [["the cat"], ["a dog", "dogs"], [], []]
    found = answers(gold, ["Cat", "two dogs", "", "mouse"])
    assert found == {
        "em": pytest.approx(2 / 4),
        "f1": pytest.approx((1 + 2 / 3 + 1 + 0) / 4),
        "answerable_em": pytest.approx(1 / 2),
        "answerable_f1": pytest.approx((1 + 2 / 3) / 2),
        "unanswerable": pytest.approx(1 / 2),
    }
    assert answers([["北京大学"]], ["北京"]) == answers([["北京大学"]], ["北京"], "zh") == {"em": 0, "f1": pytest.approx(2 / 3)}
    assert answers([["北京大学"]], ["北京"], "en") == {"em": 0, "f1": 0}
    with pytest.raises(UserError, match="no examples to measure"):
        answers([], [])


def test_longest_runs_are_difflibs_on_real_answers() -> None:
    path = DATA / "qa-cmrc2018-zh" / "valid.json"
    if not path.exists():
        pytest.skip(f"needs {path}")
    paragraphs = [one for article in json.loads(path.read_text(encoding="utf-8"))["data"] for one in article["paragraphs"]]
    rng = np.random.default_rng(0)
    for paragraph in paragraphs[:60]:
        for question in paragraph["qas"]:
            start = question["answers"][0]["answer_start"] + int(rng.integers(-3, 4))
            text = paragraph["context"][max(start, 0) : start + int(rng.integers(1, 20))]
            right = [one["text"] for one in question["answers"]]
            expected = 0.0
            for own, found in ((cmrc_units(one), cmrc_units(text)) for one in right):
                run = difflib.SequenceMatcher(None, own, found, autojunk=False).find_longest_match().size
                precision, recall = run / max(len(found), 1), run / max(len(own), 1)
                expected = max(expected, 2 * precision * recall / (precision + recall) if run else 0.0)
            assert text_metrics.answer_f1(text, right, "zh") == pytest.approx(expected)
