"""What a person is shown of predictions: both sides in one form, so that they differ where and only where one is wrong."""

from dataclasses import replace

import pytest
from small_tasks import task_of

from yanmo.card import INPUTS, PIPELINES, TaskFacts, command_of, named, task_card
from yanmo.labelled.content import given_of, right_of
from yanmo.labelled.examples import Asked, Classified, Conversation, Message, Related, Retrieved, Rewritten, Span, Tagged
from yanmo.tasks import TASKS
from yanmo.tasks.answering import Answer
from yanmo.tasks.classification import Label, Labels
from yanmo.tasks.judged import MOST, WIDE, Judged, mistakes, taken_for
from yanmo.tasks.labelling import Entities, NamedEntity
from yanmo.tasks.relation import Relation
from yanmo.tasks.retrieval import Ranked
from yanmo.tasks.writing import Written

NAMES = Tagged(tokens=tuple("王小明在上海。"), tags=("B-PER", "I-PER", "I-PER", "O", "B-LOC", "I-LOC", "O"))
MET = Related(text="Ada met Bob in Rome.", head=(0, 3), tail=(8, 11), relation="met")
LONG = f"{'x' * 200} Ada met Bob. {'y' * 200}"
WHO = Asked(id="1", context=LONG, question="Who?", answers=(Span("Ada", 201), Span("Bob", 209)))


@pytest.mark.parametrize(
    ("kind", "example", "prediction", "given", "gold", "told", "wrong"),
    [
        ("classification", Classified(text="a", pair="b", label="x"), Label("y", 0.9, {}), "a | b", "x", "y", 1),
        ("classification", Classified(text="a", label=("y", "x")), Labels(("x", "y"), {}), "a", "x, y", "x, y", 0),
        ("classification", Classified(text="a", label=()), Labels(("x",), {}), "a", "–", "x", 1),
        ("regression", Classified(text="a", label=2), 4.5, "a", "2", "4.5", 2.5),
        ("labelling", NAMES, Entities((NamedEntity("王小明", "PER", 0, 3, 1.0),), ()), "王小明在上海。", "王小明 PER · 上海 LOC",
         "王小明 PER", 1),
        ("relation", MET, Relation("met", 0.9, {}), "Ada → Bob: Ada met Bob in Rome.", "met", "met", 0),
        ("answering", WHO, Answer("the Bob.", 0, 0, 1.0, 0.0), None, "Ada / Bob", "the Bob.", 0),
        ("answering", replace(WHO, answers=()), Answer("", 0, 0, 1.0, 0.0), None, "–", "–", 0),
        ("answering", WHO, Answer("", 0, 0, 1.0, 0.0), None, "Ada / Bob", "–", 1),
        ("translation", Rewritten(source="a", targets=("b", "c")), Written("b", 0.0), "a", "b / c", "b", 1),
        ("retrieval", Retrieved(query="q", positive="p"), Ranked((4,), "z", 0.5), "q", "p", "z", 0.75),
        ("retrieval", Retrieved(query="q", positive="p"), Ranked((1,), "p", 0.5), "q", "p", "p", 0),
    ],
)  # fmt: skip
def test_both_sides_are_told_in_one_form(kind, example, prediction, given, gold, told, wrong):
    task = object.__new__(TASKS[kind])
    (one,) = task.judged([example], [prediction])
    assert (one.gold, one.predicted, one.wrong) == (gold, told, wrong)
    assert given is None or one.given == given


def test_of_a_context_what_is_around_the_answer_is_shown():
    shown = given_of(WHO)
    assert shown.startswith("Who? | … ")
    assert shown.endswith(" …")
    assert " Ada met Bob. " in shown
    assert len(shown) < 200


def test_of_a_conversation_all_before_the_last_turn_is_given():
    begun = Message("system", "s"), Message("user", "u"), Message("assistant", "a")
    talk = Conversation(messages=(*begun, Message("user", "v"), Message("assistant", "b")))
    assert given_of(talk) == "system: s | user: u | assistant: a | user: v"
    assert right_of(talk) == "b"


def test_gold_tags_and_the_same_predicted_are_told_alike():
    task = task_of("bert", "labelling", [NAMES])
    (found,) = task.predictions([NAMES])
    gold = replace(NAMES, tags=found.tags)
    assert task.told(found) == right_of(gold)
    assert task.judged([gold], [found])[0].wrong == 0


def test_the_worst_are_kept_and_of_equals_some_from_all_over():
    judged = [Judged(f"f:{number}", "g" * 1000, "a", "b", float(number % 3)) for number in range(300)]
    kept = mistakes(judged)
    assert len(kept) == MOST
    places = [int(one["origin"][2:]) for one in kept]
    assert all(place % 3 == 2 for place in places)
    assert max(places) > 200
    assert min(places) < 100
    assert kept == mistakes(judged)
    assert all(len(one["given"]) <= WIDE for one in kept)


def test_what_is_taken_for_what_is_scikit_learns():
    from yanmo.tasks.metrics import confusion

    gold, predicted = list("aabbca"), list("abbbab")
    judged = [Judged("", "", one, other, float(one != other)) for one, other in zip(gold, predicted, strict=True)]
    found = taken_for(judged, ["a", "b", "c", "never"])
    assert found == {"labels": ["a", "b", "c"], "counts": confusion(gold, predicted, ["a", "b", "c"]).tolist()}


def test_every_task_has_a_card_and_a_command():
    assert set(PIPELINES) == set(TASKS)
    for kind in TASKS:
        card = task_card(TaskFacts(kind, "bert", 5_000_000))
        assert f"pipeline_tag: {PIPELINES[kind]}" in card
        assert 'yanmo.load(".")' in card
        assert command_of(kind, "m").startswith("yanmo ")
    assert INPUTS["relation"] in command_of("relation", "m")


def test_inputs_of_the_card_are_such_as_tasks_read():
    import json

    from yanmo.labelled.reading import read_record

    for kind, given in INPUTS.items():
        assert read_record(json.loads(given), "card", kind)


def test_absolute_paths_are_not_told():
    assert named("/home/somebody/data/train.jsonl") == "train.jsonl"
    assert named("/home/somebody/runs/a/pretrain/model", parts=3) == "a/pretrain/model"
    assert named("data/train.jsonl") == "data/train.jsonl"
    assert named("sample:names-zh/train") == "sample:names-zh/train"
