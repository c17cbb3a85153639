"""What lint says that a network can read of examples is what the tasks do with them; and what a model cannot do is said."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from small_tasks import network_of, task_of, tokens_of

from yanmo import models
from yanmo.errors import UserError
from yanmo.labelled.examples import Asked, Classified, Conversation, Message, Related, Retrieved, Rewritten, Span, Tagged
from yanmo.labelled.lint import lint
from yanmo.labelled.subject import CONTEXT
from yanmo.predict import _reading, linted
from yanmo.recipe import parse_task
from yanmo.tasks.answering import LEAST
from yanmo.tasks.folder import save_task
from yanmo.tokenizer import save_tokenizer

LONG = "the company that sells bread was founded by two brothers in a small town"
REWRITTEN = [
    Rewritten(origin="f:1", source="a baker", targets=("the baker", "bread")),
    Rewritten(origin="f:2", source=f"{LONG} {LONG}", targets=("bread",)),
    Rewritten(origin="f:3", source="a baker", targets=(f"{LONG} {LONG}",)),
    Rewritten(origin="f:4", source="a baker makes bread", targets=("bread is made",)),
]
RETRIEVED = [
    Retrieved(origin="f:1", query="who makes bread", positive="a baker", negatives=("a town",)),
    Retrieved(origin="f:2", query="who sells bread", positive=f"{LONG} {LONG}"),
    Retrieved(origin="f:3", query="when", positive="in 1863", negatives=("in 1998", f"{LONG} {LONG}")),
]
PAIRS = [
    Classified(origin="f:1", text="a baker", pair="bread", label="yes"),
    Classified(origin="f:2", text=LONG, pair=f"{LONG} {LONG}", label="no"),
    Classified(origin="f:3", text="bread", pair=f"{LONG} {LONG}", label="no"),
]
ASKED = [
    Asked(origin="f:1", id="1", context=LONG, question="who", answers=(Span("two brothers", LONG.index("two")),)),
    Asked(origin="f:2", id="2", context=LONG, question=LONG, answers=(Span("bread", LONG.index("bread")),)),
    Asked(origin="f:3", id="3", context="in", question="who founded the company that sells bread", answers=()),
]


@cache
def pretrained(family: str) -> Path:
    """The folder of a small network."""
    folder, tokens = Path(mkdtemp()), tokens_of(family)
    models.save(network_of(family, tokens, 32), folder)
    save_tokenizer(tokens, folder, 192)
    return folder


def looked(family: str, kind: str, examples: list[Any], **given: Any) -> Any:
    section = parse_task({"kind": kind, **given})
    return lint(kind, examples, **_reading(section, pretrained(family)))


def test_a_question_must_leave_as_much_room_as_answering_asks_for() -> None:
    assert CONTEXT == LEAST


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "lstm"])
@pytest.mark.parametrize(
    ("kind", "examples", "given"),
    [
        ("translation", REWRITTEN, {}),
        ("translation", REWRITTEN, {"prompt": "translate this text: "}),
        ("retrieval", RETRIEVED, {}),
        ("retrieval", RETRIEVED, {"negatives": 2}),
        ("classification", PAIRS, {}),
        ("answering", ASKED, {}),
    ],
)
def test_an_example_takes_the_places_that_its_task_gives_it(
    family: str, kind: str, examples: list[Any], given: dict[str, Any]
) -> None:
    if (family, kind) in {("bert", "translation"), ("t5", "retrieval"), ("lstm", "answering")}:
        pytest.skip("families that cannot do it")
    task = task_of(family, kind, examples, length=192, **given)
    for number, example in enumerate(examples):
        places = max(window.places for window in task.encode(examples) if window.example == number)
        alone = looked(family, kind, [example], training={"length": 192}, **given)["lengths"]
        assert alone.figures["longest"] == places, example


def test_what_is_cut_is_said_with_the_length_that_would_do() -> None:
    for family in ("gpt2", "t5"):
        task = task_of(family, "translation", REWRITTEN, length=40)
        cut = {window.example for window in task.encode(REWRITTEN) if window.unread or window.unlearned}
        section = looked(family, "translation", REWRITTEN, training={"length": 40})["lengths"]
        assert section.figures["longer"] == len(cut) == 2
        assert section.advice == f"training.length={section.figures['longest']} reads all of them at once"
    found = looked("gpt2", "translation", REWRITTEN, training={"length": 40})["lengths"].found
    assert "source and target share a row" in found[1]
    section = looked("bert", "retrieval", RETRIEVED, training={"length": 40})["lengths"]
    assert (section.verdict, section.figures["longer"]) == ("look at", 1)
    positions = models.load(pretrained("gpt2")).config.length
    whole = [Rewritten(source=f"{LONG} " * positions, targets=("bread",))]
    advice = looked("gpt2", "translation", whole, training={"length": positions})["lengths"].advice
    assert advice == "shorten them, leave them out, or take a longer network"
    advice = looked("gpt2", "translation", whole)["lengths"].advice
    assert advice.startswith(f"training.length={positions} is as far as this network goes")


@pytest.mark.parametrize(("kind", "examples"), [("classification", PAIRS), ("answering", ASKED)])
def test_examples_that_leave_no_room_are_those_at_which_reading_stops(kind: str, examples: list[Any]) -> None:
    for length in range(8, 64, 3):
        stops = []
        for example in examples:
            task = task_of("bert", kind, PAIRS if kind == "classification" else ASKED, length=192)
            task.length = length
            try:
                task.encode([example])
            except UserError:
                stops.append(example.origin)
        section = looked("bert", kind, examples, training={"length": length})["room"]
        assert section.figures["count"] == len(stops)
        assert [one.origin for one in section.examples] == stops
        assert section.verdict == ("do not train" if stops else "ok")
        assert not stops or f"training.length={section.figures['needed']} has room for all" in section.advice


def test_answers_and_targets_that_are_too_long_to_be_given() -> None:
    section = looked("bert", "answering", ASKED, longest=2)["lost labels"]
    assert (section.verdict, section.figures["unsaid"], section.examples[0].origin) == ("look at", 2, "f:1")
    assert section.advice.startswith("longest=")
    assert "unsaid" not in looked("bert", "answering", ASKED)["lost labels"].figures
    found = looked("t5", "translation", REWRITTEN, longest=8)["lengths"].found
    assert found[-1] == "2 (40.0%) of the targets are longer than the 8 tokens that are written at most (longest)"


def test_every_kind_of_task_can_be_looked_at_with_a_model() -> None:
    talk = Conversation(messages=(Message("user", "who makes bread"), Message("assistant", "a baker")))
    related = Related(text=LONG, head=(4, 11), tail=(23, 28), relation="sells")
    tagged = Tagged(tokens=("a", "baker"), tags=("O", "B-PER"))
    for kind, example in (("dialogue", talk), ("relation", related), ("labelling", tagged)):
        assert looked("gpt2", kind, [example])["lengths"].figures["longer"] == 0
    assert looked("t5", "dialogue", [talk])["lengths"].verdict == "ok"


def test_models_that_cannot_do_the_task_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text("\n".join(f'{{"text": "bread {number}", "label": "{"ab"[number % 2]}"}}' for number in range(40)))
    section = {"kind": "classification", "train": str(file)}
    assert linted(parse_task(section), pretrained("bert"))["labels"].verdict == "ok"
    for kind in ("translation", "dialogue"):
        with pytest.raises(UserError, match=f"{kind} does not fit family bert"):
            linted(parse_task({**section, "kind": kind}), pretrained("bert"))
    with pytest.raises(UserError, match=r"training\.length 5000 is longer than the \d+ positions"):
        linted(parse_task({**section, "training": {"length": 5000}}), pretrained("bert"))
    save_task(task_of("bert", "classification", PAIRS), tmp_path / "task", pretrained("bert"))
    measured = linted(parse_task(section), tmp_path / "task")["new labels"]
    assert (measured.verdict, "yanmo evaluate" in measured.advice) == ("look at", True)
    with pytest.raises(UserError, match="a classification model, which neither learns labelling nor is measured by it"):
        linted(parse_task({**section, "kind": "labelling"}), tmp_path / "task")
