"""Lint: every section finds what was put into the examples, and is quiet where there is nothing."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from yanmo import cli, display
from yanmo.errors import UserError
from yanmo.labelled.examples import Asked, Classified, Conversation, Example, Message, Related, Retrieved, Rewritten, Span, Tagged
from yanmo.labelled.findings import LintReport, shortened
from yanmo.labelled.lint import lint, lint_files
from yanmo.tokenizer import Tokens

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    """Every small letter and a few Chinese characters, one token each; [CLS] and [SEP] around a text."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz好坏书"]
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")])
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return Tokens.from_json(tokenizer.to_str().encode())


def looked(kind: str, *train: Example, **options: Any) -> LintReport:
    return lint(kind, train, **options)


def classified(*pairs: tuple[str, Any]) -> list[Classified]:
    return [Classified(origin=f"f:{number}", text=text, label=label) for number, (text, label) in enumerate(pairs, 1)]


def good(count: int = 40) -> list[Classified]:
    """Texts of letters only, all different, with two labels."""
    words = ["".join(chr(97 + (number * 7 + place * place) % 26) for place in range(9)) for number in range(count)]
    return classified(*((f"{word} {number * 'x'}", "ja" if number % 2 else "nein") for number, word in enumerate(words)))


def test_nothing_stands_against_good_examples(tokens: Tokens) -> None:
    examples = good(60)
    report = lint(
        "classification", examples[:40], examples[40:50], examples[50:], tokens=tokens, length=128, labels=["ja", "nein"]
    )
    assert report.verdict == "ok", [section for section in report.sections if section.verdict != "ok"]
    assert report.parts == {"train": 40, "valid": 10, "test": 10}
    assert report["labels"].figures["counts"]["train"] == {"nein": 20, "ja": 20}
    assert report.closing() == ("ok", "nothing stands against training")


def test_rare_and_single_labels() -> None:
    report = lint("classification", [*good(), *classified(("qqq", "selten"), ("rrr", "selten"))])
    assert (report["labels"].verdict, report["labels"].figures["rare"]) == ("look at", ["selten"])
    assert report["labels"].examples[0].text == "selten: qqq"
    assert lint("classification", classified(("a", "x"), ("b", "x")))["labels"].verdict == "do not train"
    one_sided = classified(*((f"t {number}", "a" if number % 20 else "b") for number in range(400)))
    assert "weigh the classes" in lint("classification", one_sided)["labels"].advice


def test_duplicates_contradictions_and_overlap() -> None:
    train = classified(("a", "x"), ("a ", "x"), ("a", "y"), ("b", "y"), *((f"c {number}", "x") for number in range(16)))
    test = [*classified(("b", "y"), ("new", "x"))]
    report = lint("classification", train, test=test)
    assert report["duplicates"].figures["count"] == 1
    assert report["duplicates"].examples[0].origin == "f:2"
    assert report["contradictions"].figures == {"count": 3, "texts": 1, "outvoted": 1}
    assert report["contradictions"].examples[0].origin == "f:1 x and f:3 y"
    assert report["overlap"].figures["test in train"] == {"inputs": 1, "of": 2, "texts": 1}
    assert report["overlap"].verdict == "do not train"
    many = classified(*((f"t {number // 2}", "ab"[number % 2]) for number in range(40)))
    assert lint("classification", many)["contradictions"].verdict == "do not train"


def test_new_labels() -> None:
    report = lint("classification", good(), test=classified(("zz", "vielleicht")))
    assert report["new labels"].verdict == "do not train"
    assert report["new labels"].examples[0].text == "vielleicht: zz"
    assert lint("classification", good(), labels=["ja", "no"])["new labels"].found == (
        "not among the model's labels: nein", "labels of the model that train does not have: no",
    )  # fmt: skip
    tagged = Tagged(tokens=("a",), tags=("B-PER",))
    assert lint("labelling", [tagged] * 10, labels=["O", "B-PER", "I-PER"])["new labels"].verdict == "ok"


def test_lengths_and_windows(tokens: Tokens) -> None:
    examples = [*good(), Classified(origin="f:99", text="x" * 200, label="ja")]
    section = lint("classification", examples, tokens=tokens, length=100)["lengths"]
    assert (section.verdict, section.figures["longer"], section.figures["longest"]) == ("ok", 1, 202)
    assert section.examples[0].origin == "f:99"
    section = looked("translation", Rewritten(source="x" * 200, targets=("y",)), tokens=tokens, length=100)["lengths"]
    assert (section.verdict, "only their beginning is read" in section.found[1]) == ("do not train", True)
    assert lint("classification", examples, tokens=tokens)["lengths"].figures["longest"] == 202


def test_labels_that_would_be_lost(tokens: Tokens) -> None:
    words = (*"abcdefghij", "klm")
    one = Tagged(origin="f:1", tokens=words, tags=("O",) * 10 + ("B-X",))
    section = looked("labelling", one, tokens=tokens, length=12)["lost labels"]
    assert section.figures == {"lost": 0, "beyond": 1}
    whole = Tagged(origin="f:2", tokens=words, tags=("B-X", *("I-X",) * 10))
    assert looked("labelling", whole, tokens=tokens, length=12)["lost labels"].figures["lost"] == 1
    blank = Tagged(origin="f:3", tokens=("a", "\u3000"), tags=("O", "B-X"))
    assert looked("labelling", blank, tokens=tokens)["lost labels"].examples[0].origin == "f:3"
    asked = Asked(origin="f:4", id="1", context="x" * 50 + "abc", question="q", answers=(Span("abc", 50),))
    assert looked("answering", asked, tokens=tokens, length=20)["lost labels"].figures == {"lost": 0, "beyond": 1}
    far = Related(origin="f:5", text="a" + "x" * 50 + "b", head=(0, 1), tail=(1, 51), relation="r")
    assert looked("relation", far, tokens=tokens, length=20)["lost labels"].figures["lost"] == 1


def test_illegal_tags_in_both_schemes() -> None:
    bio = [
        Tagged(origin="f:1", tokens=("a", "b"), tags=("B-X", "I-X")),
        Tagged(origin="f:2", tokens=("a", "b"), tags=("B-X", "I-Y")),
    ]
    section = lint("labelling", bio)["tags"]
    assert (section.figures["scheme"], section.figures["illegal"], section.examples[0].origin) == ("BIO", 1, "f:2")
    bioes = [
        Tagged(origin="f:3", tokens=("a", "b"), tags=("B-X", "E-X")),
        Tagged(origin="f:4", tokens=("a", "b"), tags=("B-X", "O")),
    ]
    section = lint("labelling", bioes)["tags"]
    assert (section.figures["scheme"], section.figures["illegal"], section.examples[0].origin) == ("BIOES", 1, "f:4")


def test_answers_spans_and_negatives_that_are_not_where_they_should_be() -> None:
    asked = [
        Asked(origin="f:1", id="1", context="abc abd", question="q", answers=(Span("abd", 0),)),
        Asked(origin="f:2", id="2", context="abc", question="r", answers=(Span("abc", 0),)),
    ]
    section = lint("answering", asked)["places of answers"]
    assert (section.verdict, section.figures["count"], section.figures["elsewhere"]) == ("do not train", 1, 1)
    assert section.examples[0].text == "'abd' at 0, where the text goes 'abc'"
    near = Related(origin="f:1", text="abcdef", head=(0, 3), tail=(2, 4), relation="r")
    assert looked("relation", near)["heads and tails"].figures["count"] == 1
    both = Retrieved(origin="f:1", query="q", positive="p", negatives=("p",))
    assert looked("retrieval", both)["negatives"].verdict == "look at"


def test_unknown_characters(tokens: Tokens) -> None:
    examples = [*good(), Classified(origin="f:77", text="abc 龘龘", label="ja")]
    section = lint("classification", examples, tokens=tokens)["unknown characters"]
    assert section.figures["tokens"] == 2
    assert section.figures["characters"] == {"龘": 2}
    assert (section.examples[0].origin, section.examples[0].text) == ("f:77", "龘 in: abc 龘龘")
    assert (
        lint("classification", classified(("龘", "a"), ("龖", "b")), tokens=tokens)["unknown characters"].verdict
        == "do not train"
    )


def test_leakage() -> None:
    told = classified(
        *((f"text {number} is {'good' if number % 2 else 'bad'}", "good" if number % 2 else "bad") for number in range(40))
    )
    assert lint("classification", told)["leakage"].verdict == "do not train"
    untold = classified(*((f"text {number} good goodness bad", "good" if number % 2 else "bad") for number in range(40)))
    assert lint("classification", untold)["leakage"].figures["count"] == 0
    copied = [Rewritten(source=f"das ist {number} lang", targets=(f"das ist {number}",)) for number in range(20)]
    assert lint("translation", copied)["leakage"].verdict == "do not train"
    asked = Asked(id="1", context="Tesla", question="Where was Tesla born?", answers=(Span("Tesla", 0),))
    assert looked("answering", asked)["leakage"].figures["count"] == 1


def test_turns_targets_and_numbers() -> None:
    ask, tell = Message("user", "u"), Message("assistant", "a")
    talks = [Conversation(messages=(ask, tell)), Conversation(origin="f:2", messages=(ask, ask, tell, ask))]
    figures = lint("dialogue", talks)["turns"].figures
    assert (figures["unanswered"], figures["doubled"], figures["late system"]) == (1, 1, 0)
    pairs = [Rewritten(origin=f"f:{number}", source=f"{number:030}", targets=("y" * 30,)) for number in range(50)]
    section = lint("translation", [*pairs, Rewritten(origin="f:50", source="x" * 30, targets=("@@",))])["lengths of targets"]
    assert (section.verdict, section.figures["without a letter"], section.examples[0].origin) == ("look at", 1, "f:50")
    same = [Classified(text=str(number), label=1.0) for number in range(3)]
    assert lint("regression", same)["numbers"].verdict == "do not train"


def test_files_with_faults(tmp_path: Path) -> None:
    lines = [json.dumps({"text": one.text, "label": one.label}) for one in good()]
    (tmp_path / "train.jsonl").write_text("\n".join([*lines, '{"text": "", "label": "ja"}', '{"label": "ja"}']))
    (tmp_path / "dev.jsonl").write_text("\n".join(lines[:2]))
    report = lint_files(str(tmp_path), "classification")
    assert report.parts == {"train": 40, "valid": 2}
    assert report["empty fields"].examples[0].origin.endswith("train.jsonl:41")
    assert report["records"].examples[0].origin.endswith("train.jsonl:42")
    assert report.verdict == "do not train"
    assert report.closing()[1].startswith("mend first: records, empty fields")
    (tmp_path / "train.jsonl").write_text("\n")
    with pytest.raises(UserError, match="there is no example in it"):
        lint_files(str(tmp_path), "classification")


def test_numbers_of_several_people_are_no_contradictions_until_they_are_far_apart() -> None:
    train = classified(*((f"t {number // 2}", float(number // 2 % 5) + 0.2 * (number % 2)) for number in range(40)))
    section = lint("regression", train)["contradictions"]
    assert (section.verdict, section.figures["repeated"], section.figures["count"]) == ("ok", 20, 0)
    far = [*train, Classified(origin="f:9", text="t 0", label=4.0)]
    section = lint("regression", far)["contradictions"]
    assert (section.verdict, section.figures["count"], section.figures["texts"]) == ("look at", 3, 1)
    assert section.examples[0].origin == "f:1 0 and f:9 4"


def test_contradictions_of_questions_name_the_answers() -> None:
    spans = [("f:1", Span("abc", 0)), ("f:2", Span("abd", 4)), ("f:3", Span("abc", 0))]
    asked = [Asked(origin=origin, id=origin, context="abc abd", question="who", answers=(span,)) for origin, span in spans]
    section = lint("answering", asked)["contradictions"]
    assert (section.examples[0].origin, section.examples[0].text) == ("f:1 abc and f:2 abd", "who")


def test_questions_without_an_answer_are_no_labels_to_merge() -> None:
    asked = [Asked(id=str(n), context=f"abc {n}", question="q", answers=(Span("abc", 0),) if n else ()) for n in range(20)]
    section = lint("answering", asked)["labels"]
    assert (section.verdict, "no answer" in section.advice, "merge" in section.advice) == ("look at", True, False)
    assert lint("answering", asked[1:])["labels"].verdict == "ok"
    assert lint("answering", asked[:1])["labels"].verdict == "do not train"


def test_a_folder_and_a_test_beside_it(tmp_path: Path) -> None:
    for name, examples in (("train", good(20)), ("dev", good(8)), ("test", good(4)), ("other", good(2))):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": e.text, "label": e.label}) for e in examples))
    report = lint_files(str(tmp_path), "classification", test=str(tmp_path / "other.jsonl"))
    assert report.parts == {"train": 20, "valid": 8, "test": 2}


def test_what_would_mend_a_record_is_shown_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = [f"a_field_with_a_long_name_{number}" for number in range(8)]
    (tmp_path / "train.jsonl").write_text(json.dumps({**dict.fromkeys(names, 1), "txet": "x", "label": "ja"}))
    report = lint_files(str(tmp_path / "train.jsonl"), "classification", fields={"text": "text"})
    asked = "did you mean 'txet'?; name it with `fields: {text: NAME}`"
    assert report.as_json()["sections"][0]["examples"][0]["text"].endswith(asked)
    report.show()
    out = capsys.readouterr().out
    assert asked in " ".join(out.split())
    assert max(map(display_width, out.splitlines())) <= 80


def test_several_files_and_settings_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for number, name in enumerate(("a", "b c", "d=e")):
        lines = [json.dumps({"review": f"{one.text} {number}", "label": one.label}) for one in good(20)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        paths.append(str(tmp_path / f"{name}.jsonl"))
    words = ["yanmo", "lint", *paths, "--task", "classification", "fields.text=review", "--json"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    assert json.loads(capsys.readouterr().out)["parts"] == {"train": 60}


@pytest.mark.parametrize("width", [80, 160])
def test_what_is_shown_fits(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    train = classified(*((f"很长的评论{number // 2} " * 60, "ab"[number % 2]) for number in range(40)))
    report = lint("classification", train)
    report.show()
    out = capsys.readouterr().out
    assert display.MARKS["do not train"][0] in out
    assert "f:1 a and f:2 b" in out
    assert max(map(display_width, out.splitlines())) <= width
    assert json.loads(json.dumps(report.as_json()))["verdict"] == "do not train"


def display_width(line: str) -> int:
    from rich.cells import cell_len

    return cell_len(line)


def test_shortened_texts_end() -> None:
    for text in ("好" * 51, "a" * 101, "a好" * 40, "a" * 100, "好a" * 33 + "aa"):
        assert display_width(shortened(text, 100)) <= 100


def test_thirty_thousand_examples_in_seconds(tokens: Tokens) -> None:
    generator = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz好坏书"
    texts = ["".join(generator.choices(letters, k=20)) for _ in range(30_000)]
    train = classified(*((text, generator.choice("xyz")) for text in texts))
    began = time.process_time()
    report = lint("classification", train, test=train[:1000], tokens=tokens, length=20)
    assert time.process_time() - began < 6
    assert report["lengths"].figures["longer"] == 31_000


def test_what_is_known_of_real_data() -> None:
    """The leakage checks in the folder's README, which were counted by others."""
    folder = DATA / "cls-chnsenticorp-zh"
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    report = lint_files(str(folder), "classification")
    figures = report["overlap"].figures
    assert figures["test in train"]["inputs"] == 330
    assert figures["valid in train"]["inputs"] == 335
    assert report["labels"].figures["counts"]["train"] == {"negative": 4801, "positive": 4799}
