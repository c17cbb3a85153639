"""Questions about texts: which windows hold the answer, what is learned from them, and which span is said."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_tasks import alone, batches_of, learn, task_of

from yanmo.errors import UserError
from yanmo.labelled.examples import Asked, Span
from yanmo.tasks import task as task_room
from yanmo.tasks.answering import AskedBatch, best_threshold
from yanmo.tasks.folder import load_task, save_task

ENGLISH = (
    "The port of Antwerp was founded in 1863 by Willem van Rijn, who had been a baker in Ghent before the war. "
    "A baker makes bread; the bread is eaten, and the company that sells it was founded by two brothers in a small town."
)
CHINESE = "北京是中国的首都，位于华北平原的北部。该公司由王小明于１９９８年在上海创立，主要生产面包、饼干与糖果，后来搬到南京。"
FAMILIES = ("bert", "roberta", "modernbert", "electra", "xlnet", "gpt2", "llama", "t5", "bart", "lstm")
CMRC = Path(__file__).parents[3] / "shared" / "data" / "qa-cmrc2018-zh" / "train_trial.json"


def asked(context: str, question: str, *answers: str, name: str = "") -> Asked:
    spans = tuple(Span(text, context.index(text)) for text in answers)
    return Asked(origin=f"train.json:{name or question}", id=name or question, context=context, question=question, answers=spans)


EXAMPLES = [
    asked(ENGLISH, "who founded the port?", "Willem van Rijn"),
    asked(ENGLISH, "in a small town, who?", "two brothers", "brothers"),
    asked(CHINESE, "公司在哪里创立？", "上海"),
    asked(CHINESE, "哪一年？", "１９９８年", "１９９８"),
    asked(ENGLISH, "who ate the war?"),
    asked(CHINESE, "生产什么？", "面包、饼干与糖果"),
]
ANSWERED = [example for example in EXAMPLES if example.answers]


def windows_of(task, examples):
    windows = task.encode(examples)
    return [[window for window in windows if window.example == number] for number in range(len(examples))]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [88, 101, 192])
def test_every_answer_is_learned_whole_and_counts_once(family, length):
    task = task_of(family, "answering", EXAMPLES, length=length, longest=24)
    for example, windows in zip(EXAMPLES, windows_of(task, EXAMPLES), strict=True):
        assert all(len(window.tokens) <= length for window in windows)
        assert sum(window.share for window in windows) == pytest.approx(1)
        assert {tuple(span) for window in windows for span in window.offsets.tolist()} == {
            tuple(span) for span in task._contexts([example])[example.context].offsets.tolist()
        }
        assert bool(example.answers) == any(window.target for window in windows)
        for window in windows:
            if window.target is None:
                continue
            begin, end = window.offsets[window.target[0], 0], window.offsets[window.target[1], 1]
            said = [answer for answer in example.answers if answer.text in example.context[begin:end]]
            assert said
            assert len(example.context[begin:end]) <= len(said[0].text) + 12


@pytest.mark.parametrize(("longest", "stride"), [(5, 0.5), (5, 1.0), (12, 0.25), (40, 1.0)])
def test_what_can_be_predicted_is_whole_in_a_window(longest, stride):
    task = task_of("bert", "answering", ANSWERED[:1], length=192, longest=longest, stride=stride)
    for task.length, size in itertools.product((24, 31, 60), (5, 30, 77, 140)):
        room = task.length - 3 - 4                                    # [CLS] and two [SEP], and the question
        parts = task._parts(ANSWERED[0], [1, 2, 3, 4], size)
        assert parts[0][0] == 0
        assert parts[-1][1] == size
        assert all(end - begin <= room for begin, end in parts)
        for width in range(1, min(longest, room // 2, size) + 1):
            assert all(any(a <= at and at + width <= b for a, b in parts) for at in range(size - width + 1))


def test_the_first_answer_that_is_whole_in_a_window_is_its_own():
    example = asked(ENGLISH, "who?", "two brothers", "Willem van Rijn")
    task = task_of("bert", "answering", [example], length=48, longest=8)
    found = {
        example.context[window.offsets[window.target[0], 0] : window.offsets[window.target[1], 1]]
        for window in task.encode([example]) if window.target
    }  # fmt: skip
    whole = task_of("bert", "answering", [example], length=192, longest=8)
    (window,) = whole.encode([example])
    assert found == {"two brothers", "Willem van Rijn"}
    assert example.context[window.offsets[window.target[0], 0] : window.offsets[window.target[1], 1]] == "two brothers"


@pytest.mark.parametrize("family", FAMILIES)
def test_no_answer_has_the_place_that_has_read_the_text(family):
    """The first where there is one and it sees what follows, else the last."""
    task = task_of(family, "answering", EXAMPLES, length=192)
    last = family in ("xlnet", "gpt2", "llama", "t5", "lstm")
    for window in task.encode(EXAMPLES):
        assert window.nowhere == (len(window.tokens) - 1 if last else 0)
        assert window.tokens[window.nowhere] == (task.tokens.suffix[-1] if last else task.tokens.prefix[0])
        assert window.types is not None
        assert window.types[window.begin - 1] == 0
        assert window.types[window.begin] == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_losses_are_those_of_each_window_alone(family):
    task = task_of(family, "answering", EXAMPLES, length=64, longest=8)
    found = [task(batch)["answering"] for batch in batches_of(task, EXAMPLES)]
    total = torch.zeros(())
    for window in task.encode(EXAMPLES):
        scores = task.head(task.network.states(alone(window), "span"), alone(window))[0]
        solid = [place for place, (begin, end) in enumerate(window.offsets) if begin < end]
        places = [window.nowhere, *(window.begin + place for place in solid)]
        target = (-1, -1) if window.target is None else window.target
        answers = torch.tensor([0 if place < 0 else 1 + solid.index(place) for place in target])
        total = total + F.cross_entropy(scores[places].T, answers) * window.share
    assert sum(loss.total for loss in found).item() == pytest.approx(total.item(), rel=1e-5)
    assert sum(loss.count for loss in found) == pytest.approx(len(EXAMPLES))


@pytest.mark.parametrize("longest", [1, 3, 100])
def test_the_best_span_is_that_of_an_enumeration(longest):
    task = task_of("roberta", "answering", ANSWERED, length=56, longest=longest)
    for batch in batches_of(task, ANSWERED):
        scores = task._scores(batch)
        for number, one in enumerate(task.found(batch)):
            begins, ends = scores[number].T.tolist()
            pairs = itertools.combinations_with_replacement(range(1, len(begins)), 2)
            legal = [(begins[i] + ends[j], i, j) for i, j in pairs if j - i < longest]
            best, first, last = max(legal, key=lambda one: one[0])
            assert (one.first, one.last) == (first - 1, last - 1)
            assert one.score == pytest.approx(best)
            assert one.nothing == pytest.approx(begins[0] + ends[0])
            norm = torch.logsumexp(torch.tensor(begins), 0) + torch.logsumexp(torch.tensor(ends), 0)
            assert one.chance == pytest.approx(math.exp(best - norm), rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_parts_of_the_context_and_depend_on_nothing_else(family, monkeypatch):
    task = task_of(family, "answering", ANSWERED, length=96, longest=8)
    together = task.predictions(EXAMPLES)
    for example, answer in zip(EXAMPLES, together, strict=True):
        assert answer.text
        assert answer.text == answer.text.strip() == example.context[answer.start : answer.end]
    monkeypatch.setattr(task_room, "PLACES", 96)
    unknown = [replace(example, answers=None) for example in reversed(EXAMPLES)]
    apart = [task.predictions([example])[0] for example in unknown][::-1]
    for one, other in zip(together, apart, strict=True):
        assert (one.text, one.start, one.end) == (other.text, other.start, other.end)
        assert one.score == pytest.approx(other.score, rel=1e-3)


def test_windows_are_compared_by_their_scores_and_absence_by_the_surest():
    task = task_of("bert", "answering", EXAMPLES, length=40, longest=8)
    windows = task.encode(EXAMPLES[:1])
    found = [one for batch in batches_of(task, EXAMPLES[:1]) for one in task.found(batch)]
    order = [window.document for batch in [task.order(EXAMPLES[:1], 3, shuffle=False)] for row in range(batch.rows_per_epoch)
             for window in batch.row(row).pieces]  # fmt: skip
    found = [found[order.index(number)] for number in range(len(windows))]
    best = max(range(len(found)), key=lambda number: found[number].score)
    task.kept["threshold"] = math.inf
    (said,) = task.predictions(EXAMPLES[:1])
    assert (said.start, said.end) == (windows[best].offsets[found[best].first, 0], windows[best].offsets[found[best].last, 1])
    assert said.absence == pytest.approx(min(one.nothing for one in found) - found[best].score, abs=1e-4)
    task.kept["threshold"] = said.absence - 0.1
    (none,) = task.predictions(EXAMPLES[:1])
    assert (none.text, none.start, none.end) == ("", 0, 0)


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_is_better_than_the_chosen_one(seed):
    rng = np.random.default_rng(seed)
    absences = rng.integers(-3, 4, 12) * 1.0                         # some are equal
    worth, none = rng.random(12), (rng.random(12) < 0.5) * 1.0

    def total(threshold: float) -> float:
        return float(np.where(absences > threshold, none, worth).sum())

    chosen = best_threshold(absences, worth, none)
    assert total(chosen) == pytest.approx(max(total(threshold) for threshold in np.arange(-5, 5, 0.25)))


def test_questions_are_learned_by_heart_and_kept_in_a_folder(tmp_path):
    if not CMRC.exists():
        pytest.skip("no CMRC")
    articles = json.loads(CMRC.read_text(encoding="utf-8"))["data"][:2]
    examples = []
    for paragraph in (paragraph for article in articles for paragraph in article["paragraphs"]):
        for one in paragraph["qas"][:2]:
            answers = tuple(Span(answer["text"], answer["answer_start"]) for answer in one["answers"])
            examples.append(Asked(id=one["id"], context=paragraph["context"][:200], question=one["question"], answers=answers))
    examples = [one for one in examples if all(answer.start + len(answer.text) < 200 for answer in one.answers)]
    examples += [replace(examples[0], id="none", question="谁知道？", answers=())]
    task = task_of("bert", "answering", examples, length=128, width=64, loud=False)
    assert task.kept == {"threshold": 0.0}
    learn(task, examples, steps=50)
    task.settle(examples)
    figures = task.appraise(examples)
    assert figures["f1"] > 0.95
    assert figures["unanswerable"] == 1
    predictions = task.predictions(examples)
    save_task(task, tmp_path, tmp_path)
    again = load_task(tmp_path)
    assert again.kept == task.kept
    assert again.predictions(examples) == predictions


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_transformers_gives_the_same_scores(family, tmp_path):
    transformers = pytest.importorskip("transformers")
    task = task_of(family, "answering", EXAMPLES, length=64)
    save_task(task, tmp_path, tmp_path)
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path).eval()
    assert theirs.config.id2label == {0: "start", 1: "end"}
    for window in task.encode(EXAMPLES[:3]):
        packed = alone(window)
        types = {"token_type_ids": packed.types} if family == "bert" else {}
        with torch.no_grad():
            ours, found = task.scores(packed), theirs(input_ids=packed.tokens, **types)
        torch.testing.assert_close(ours[..., 0], found.start_logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours[..., 1], found.end_logits, atol=1e-5, rtol=1e-5)


def test_answers_inside_of_tokens_take_the_whole_token_and_are_counted():
    example = asked(ENGLISH, "what?", "ntwer")                        # a part of Antwerp
    task = task_of("gpt2", "answering", [example], length=192)
    (window,) = task.encode([example])
    begin, end = window.offsets[window.target[0], 0], window.offsets[window.target[1], 1]
    assert "ntwer" in example.context[begin:end]
    inside = example.context[begin:end] != "ntwer"
    assert len(task.inexact([example, *ANSWERED])) >= inside
    assert not task_of("bert", "answering", ANSWERED[2:3]).inexact(ANSWERED[2:3])


def test_what_cannot_be_learned_is_said():
    with pytest.raises(UserError, match="none of 1 questions to learn from has an answer"):
        task_of("bert", "answering", EXAMPLES[4:5])
    moved = replace(EXAMPLES[0], origin="train.json:7", answers=(Span("Willem van Rijn", 40),))
    with pytest.raises(UserError, match=r"^train.json:7: question .* is not at character 40 .* it begins at 43$"):
        task_of("bert", "answering", [moved])
    gone = replace(EXAMPLES[0], origin="train.json:8", answers=(Span("William", 40),))
    with pytest.raises(UserError, match=r"^train.json:8: .* the context has it nowhere$"):
        task_of("bert", "answering", [gone])
    long = replace(EXAMPLES[0], origin="train.json:9", question="why " * 60)
    with pytest.raises(UserError, match=r"^train.json:9: the question has \d+ tokens and leaves no room .* rows of 64"):
        task_of("bert", "answering", [long])


def test_an_answer_longer_than_windows_overlap_teaches_nothing():
    example = asked(ENGLISH, "what?", ENGLISH[4:190])
    with pytest.warns(UserWarning, match=r"1 of 2 questions are not learned from.*\(the first: train.json:what\?\)"):
        task = task_of("bert", "answering", [EXAMPLES[0], example], length=64, longest=8)
    batch = batches_of(task, [example], at_once=100)[0]
    assert isinstance(batch, AskedBatch)
    assert batch.counts["answering"] == 0
    assert task.predictions([example])[0].text
