"""Relations between two places of a text: where markers go, what is read at them, and that neither place is ever lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_tasks import alone, batches_of, learn, task_of, tokens_of

from yanmo.errors import UserError
from yanmo.labelled.examples import Related
from yanmo.tasks import task as task_room
from yanmo.tasks.folder import load_task, save_task
from yanmo.tasks.offsets import placed
from yanmo.tasks.relation import around, mark

FAMILIES = ("bert", "roberta", "modernbert", "electra", "xlnet", "gpt2", "llama", "t5", "bart", "lstm")
LOOKING_BACK = ("gpt2", "llama", "lstm")
SEMEVAL = Path(__file__).parents[3] / "shared" / "data" / "re-semeval2010-en" / "train.jsonl"
ENGLISH = "A baker makes bread; the bread is eaten, and the company was founded by two brothers in a small town."
CHINESE = "该公司由王小明于１９９８年在上海创立，主要生产面包。"


def related(text: str, head: str, tail: str, relation: str | None, line: int = 1) -> Related:
    places = [(text.index(part), text.index(part) + len(part)) for part in (head, tail)]
    return Related(origin=f"train.jsonl:{line}", text=text, head=places[0], tail=places[1], relation=relation)


EXAMPLES = [
    related(ENGLISH, "baker", "bread", "Product-Producer(e2,e1)"),
    related(ENGLISH, "bread", "baker", "Product-Producer(e1,e2)"),
    related(ENGLISH, "company", "two brothers", "Product-Producer(e1,e2)"),
    related(ENGLISH, "company", "bread", "Other"),
    related(CHINESE, "王小明", "公司", "Product-Producer(e2,e1)"),
    related(CHINESE, "上海", "面包", "Other"),
]


@pytest.mark.parametrize(
    ("head", "tail", "wanted"),
    [
        ((1, 2), (3, 5), "a<b>c{de}f"),
        ((3, 5), (1, 2), "a{b}c<de>f"),
        ((1, 2), (2, 3), "a<b>{c}def"),                               # what ends comes before what begins
        ((1, 5), (2, 3), "a<b{c}de>f"),                               # one inside of the other
        ((1, 5), (1, 3), "a<{bc}de>f"),                               # what ends last begins first
        ((1, 3), (1, 5), "a{<bc>de}f"),
        ((1, 5), (3, 5), "a<bc{de}>f"),                               # what began last ends first
        ((3, 5), (1, 5), "a{bc<de>}f"),
        ((1, 4), (2, 6), "a<b{cd>ef}"),                               # neither inside of the other
        ((2, 6), (1, 4), "a{b<cd}ef>"),
        ((0, 6), (0, 6), "<{abcdef}>"),                               # the same: the head is outside
    ],
)
def test_markers_go_around_parts_that_meet_overlap_or_are_the_same(head, tail, wanted):
    ids, (first, second) = mark([ord(letter) for letter in "abcdef"], head, tail, [ord(sign) for sign in "<>{}"])
    assert "".join(map(chr, ids)) == wanted
    assert (first, second) == (wanted.index("<"), wanted.index("{"))


def task_held(task, text, part):
    """The tokens that hold a part of a text."""
    (whole,) = placed(task.tokens, [text])
    return whole.tokens[slice(*whole.holding(*part))]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [44, 64, 192])
def test_both_parts_are_in_every_window_between_their_markers(family, length):
    task = task_of(family, "relation", EXAMPLES, length=length)
    windows = task.encode(EXAMPLES)
    opens = task.markers[0], task.markers[2]
    repeats = family in LOOKING_BACK
    for example, window in zip(EXAMPLES, windows, strict=True):
        ids = window.tokens.tolist()
        assert len(ids) <= length
        assert tuple(ids[place] for place in window.marks) == opens
        assert [ids.count(marker) for marker in task.markers] == [1 + repeats, 1, 1 + repeats, 1]
        for part, begin, end in ((example.head, *task.markers[:2]), (example.tail, *task.markers[2:])):
            inside = ids[ids.index(begin) + 1 : ids.index(end)]
            held = task_held(task, example.text, part)
            assert [token for token in inside if token not in task.markers] == held
        if length == 192:                                             # without the markers: the text as it always is
            kept = [token for token in ids if token not in task.markers]
            assert kept == [*task.tokens.prefix, *task.tokens.encode([example.text])[0], *task.tokens.suffix]


def test_parts_that_are_far_apart_are_read_with_an_ellipsis_between_them():
    text = f"The baker {'very ' * 40}slowly made {'much ' * 40}bread today"
    example = related(text, "baker", "bread", "Product-Producer(e2,e1)")
    task = task_of("bert", "relation", EXAMPLES, length=48)
    (window,) = task.encode([example])
    assert len(window.tokens) <= 48
    said = task.tokens.decode(window.tokens.tolist())
    ellipsis = task.tokens.encode(["..."])[0]
    middle = window.tokens.tolist().index(task.markers[1]), window.tokens.tolist().index(task.markers[2])
    between = window.tokens[middle[0] : middle[1]].tolist()
    assert any(between[at : at + len(ellipsis)] == ellipsis for at in range(len(between)))
    assert "[E1]" in said
    assert "[/E2]" in said


@pytest.mark.parametrize("part", [(0, 2), (5, 6), (3, 9), (17, 20)])
def test_a_window_has_the_part_in_its_middle(part):
    for room in range(part[1] - part[0], 25):
        begin, end = around(part, 20, room)
        assert 0 <= begin <= part[0]
        assert part[1] <= end <= 20
        assert end - begin == min(room, 20)
        if begin > 0 and end < 20:
            assert abs((part[0] - begin) - (end - part[1])) <= 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("reads", ["markers", "text"])
def test_packed_losses_are_those_of_each_text_alone(family, reads):
    """Of the markers: one linear layer on both states side by side (Baldini Soares et al. 2019, section 3.2)."""
    task = task_of(family, "relation", EXAMPLES, length=96, reads=reads)
    found = [task(batch)["relation"] for batch in batches_of(task, EXAMPLES)]
    total, outputs = torch.zeros(()), len(task.labels)
    for window in task.encode(EXAMPLES):
        states = task.network.states(alone(window), task.head.kind)
        if reads == "text":
            scores = task.head(states, alone(window))[0]
        elif family == "modernbert":                                  # it has a layer before the last one
            first, second = task.head(states, alone(window))[0][window.marks]
            scores = first[:outputs] + second[outputs:]
        else:
            both = torch.cat([states[0, window.marks[0]], states[0, window.marks[1]]])
            weight, bias = task.head.out.weight.chunk(2), task.head.out.bias
            bias = torch.zeros(outputs) if bias is None else bias.chunk(2)[0] + bias.chunk(2)[1]
            scores = F.linear(both, torch.cat(weight, 1), bias)
        total = total + F.cross_entropy(scores, torch.tensor(window.label))
    assert sum(loss.total for loss in found).item() == pytest.approx(total.item(), rel=1e-5)
    assert sum(loss.count for loss in found) == len(EXAMPLES)


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_predictions_depend_on_nothing_else(family, monkeypatch):
    task = task_of(family, "relation", EXAMPLES, length=64)
    together = task.predictions(EXAMPLES)
    monkeypatch.setattr(task_room, "PLACES", 64)
    for example, one in zip(EXAMPLES, together, strict=True):
        (other,) = task.predictions([replace(example, relation=None)])
        assert one.label == other.label
        assert one.probability == max(one.probabilities.values())
        np.testing.assert_allclose([*one.probabilities.values()], [*other.probabilities.values()], atol=1e-4)
        assert sum(one.probabilities.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_read_has_seen_the_whole_text(family):
    """Also in networks that only look back, which read the markers once more at the end."""
    task = task_of(family, "relation", EXAMPLES, length=96)
    (window,) = task.encode(EXAMPLES[:1])
    packed = alone(window)
    begin = 0 if family in LOOKING_BACK else window.marks.min()
    last = window.tokens.tolist().index(task.tokens.encode([ENGLISH])[0][-1], begin)
    other = packed.tokens.clone()
    other[0, last] = task.tokens.encode(["a"])[0][-1]
    states = [task.network.states(replace(packed, tokens=tokens), "token")[0, window.marks] for tokens in (packed.tokens, other)]
    assert (states[0] - states[1]).abs().amax(1).min() > 1e-4


def test_direction_is_learned_by_heart_and_kept_in_a_folder(tmp_path):
    if not SEMEVAL.exists():
        pytest.skip("no SemEval")
    lines = [json.loads(line) for line in SEMEVAL.read_text(encoding="utf-8").splitlines()[:16]]
    places = [{side: tuple(one[side]) for side in ("head", "tail")} for one in lines]
    examples = [Related(text=one["text"], relation=one["relation"], **place) for one, place in zip(lines, places, strict=True)]
    turned = {"(e1,e2)": "(e2,e1)", "(e2,e1)": "(e1,e2)"}
    examples += [                                                     # the same texts the other way round: only markers tell
        replace(one, head=one.tail, tail=one.head, relation=one.relation[:-7] + turned.get(one.relation[-7:], one.relation[-7:]))
        for one in examples[:6]
    ]
    task = task_of("bert", "relation", examples, length=128, width=64, loud=False)
    assert task.none == "Other"
    assert task.metric == "semeval_f1"
    learn(task, examples, steps=32)
    figures = task.appraise(examples)
    assert figures["semeval_f1"] == figures["micro_f1"] == figures["macro_f1_without_none"] == 1
    predictions = task.predictions(examples)
    save_task(task, tmp_path, tmp_path)
    again = load_task(tmp_path)
    assert again.none == task.none
    assert again.predictions(examples) == predictions


@pytest.mark.parametrize(("family", "reads"), [("bert", "markers"), ("bert", "text"), ("gpt2", "markers"), ("llama", "text")])
def test_transformers_gives_the_same_scores(family, reads, tmp_path):
    transformers = pytest.importorskip("transformers")
    task = task_of(family, "relation", EXAMPLES, length=96, reads=reads)
    save_task(task, tmp_path, tmp_path)
    kind = {"markers": "TokenClassification", "text": "SequenceClassification"}[reads]
    theirs = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(tmp_path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert [tokenizer.convert_tokens_to_ids(name) for name in ("[E1]", "[/E1]", "[E2]", "[/E2]")] == list(task.markers)
    for window, one in zip(task.encode(EXAMPLES), task.predictions(EXAMPLES), strict=True):
        with torch.no_grad():
            scores = theirs(input_ids=torch.tensor(window.tokens)[None]).logits[0]
        if reads == "markers":
            first, second = scores[window.marks]
            scores = first[: len(task.labels)] + second[len(task.labels) :]
        np.testing.assert_allclose(scores.softmax(-1).numpy(), [*one.probabilities.values()], atol=1e-5)
    if reads == "text":
        assert list(theirs.config.id2label.values()) == list(task.labels)
        ids = tokenizer("A [E1] baker [/E1] makes [E2] bread [/E2] .")["input_ids"]
        assert not set(task.markers) - set(ids)


@pytest.mark.parametrize(
    ("labels", "given", "none", "metric"),
    [
        (("Cause(e1,e2)", "Other"), None, "Other", "semeval_f1"),
        (("per:title", "no_relation", "Other"), None, "no_relation", "micro_f1_without_none"),
        (("NA", "born in"), None, "NA", "micro_f1_without_none"),
        (("无关系", "出生地"), None, "无关系", "micro_f1_without_none"),
        (("a", "b"), None, None, "micro_f1"),
        (("a", "Other"), "a", "a", "micro_f1_without_none"),
    ],
)
def test_the_label_without_relation_is_found_by_name_or_given(labels, given, none, metric):
    examples = [replace(EXAMPLES[0], relation=label) for label in labels]
    task = task_of("bert", "relation", examples, none=given)
    assert (task.none, task.metric) == (none, metric)
    figures = task.appraise(examples)
    assert metric in figures
    assert ("micro_f1_without_none" in figures) == (none is not None)


def test_what_cannot_be_learned_is_said():
    with pytest.raises(UserError, match=r"have 1 label \(Other\); there is nothing to tell apart"):
        task_of("bert", "relation", EXAMPLES[3:4])
    with pytest.raises(UserError, match="none 'nothing' is no label of the examples to learn from; they have Other"):
        task_of("bert", "relation", EXAMPLES, none="nothing")
    task = task_of("bert", "relation", EXAMPLES, length=32)
    with pytest.raises(UserError, match=r"^test.jsonl:4: relation 'Cause' is none of those that the model knows: Other, Product"):
        task.predictions([replace(EXAMPLES[0], origin="test.jsonl:4", relation="Cause")])
    long = replace(EXAMPLES[0], origin="test.jsonl:5", head=(0, len(ENGLISH) - 10), tail=(5, 9))
    with pytest.raises(UserError, match=r"^test.jsonl:5: head and tail do not fit into rows of 32"):
        task.predictions([long])
    dropped = Related(origin="test.jsonl:6", text="a\u200b\x00b c", head=(2, 3), tail=(5, 6), relation=None)
    with pytest.raises(UserError, match=r"^test.jsonl:6: head .* the tokenizer makes nothing of it"):
        task.predictions([dropped])
    with pytest.raises(UserError, match="has no markers"):
        type(task)(task.network, task.head, tokens_of("bert"), task.section, task.labels, 32)


def test_a_marker_that_a_text_spells_is_text():
    task = task_of("bert", "relation", EXAMPLES, length=96)
    example = related("The [E1] baker [/E2] makes bread.", "baker", "bread", None)
    (window,) = task.encode([example])
    assert [window.tokens.tolist().count(marker) for marker in task.markers] == [1, 1, 1, 1]
