"""Files with damage: only what is damaged is lost, and it is said where it stands."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from yanmo.errors import UserError
from yanmo.labelled.fields import BadExample
from yanmo.labelled.reading import read_examples

Read = Callable[..., tuple[list[Any], list[str]]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """The examples of a file with this in it, and what is said of what cannot be read, without the folder."""

    def reads(name: str, content: str | bytes, kind: str = "classification", **options: Any) -> tuple[list[Any], list[str]]:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        faults: list[BadExample] = []
        examples = read_examples(str(path), kind, faults=faults, **options)
        return examples, [str(fault).replace(f"{tmp_path}/", "") for fault in faults]

    return reads


def places(examples: list[Any]) -> list[str]:
    """LINE and mark of each."""
    return [one.origin.rsplit("/", 1)[1].split(":", 1)[1] for one in examples]


@pytest.mark.parametrize("text", ["hello", "你好"])
def test_a_bad_byte_costs_its_line(read: Read, text: str) -> None:
    lines = [json.dumps({"text": f"{text} {number}", "label": "a"}, ensure_ascii=False).encode() for number in range(200)]
    content = b"\n".join([*lines[:100], b'{"text": "caf\xe9", "label": "a"}', *lines[100:]])
    examples, faults = read("a.jsonl", content)
    assert (len(examples), len(faults)) == (200, 1)
    assert faults[0].startswith("a.jsonl:101: bytes that are not UTF-8 (0xe9); mend the line, or save the file as UTF-8")
    assert len(read("b.json", b"[" + content.replace(b"\n", b",\n") + b"]")[0]) == 200
    one_line = b'[{"text": "caf\xe9", "label": "a"}, {"text": "x", "label": "b"}]'
    assert read("c.json", one_line)[1][0].startswith("c.json:1 (record 1): bytes that are not UTF-8 (0xe9)")
    rows = [f"{text} {number}{{0}}a".encode() for number in range(200)]
    for name, sign in (("a.csv", b","), ("a.tsv", b"\t"), ("a.txt", b";")):
        table = b"\n".join(row.replace(b"{0}", sign) for row in [b"text{0}label", *rows, b"caf\xe9{0}a", *rows])
        examples, faults = read(name, table)
        assert (len(examples), [fault.split(" (")[0] for fault in faults]) == (400, [f"{name}:202: bytes that are not UTF-8"])
        examples, faults = read(name, b"te\xe9t," + table)
        assert (examples, [fault.split(" (")[0] for fault in faults]) == ([], [f"{name}:1: bytes that are not UTF-8"])
    examples, faults = read("a.conll", "好 O\n好 O\n\n".encode() * 50 + b"x O\ncaf\xe9 O\n\n" + b"x O\n\n", "labelling")
    assert (len(examples), [fault.split(" (")[0] for fault in faults]) == (51, ["a.conll:152: bytes that are not UTF-8"])


def test_other_encodings_are_still_seen_and_may_have_damage(read: Read) -> None:
    review = "这个宾馆比较陈旧了，特价的房间也很一般。总体来说一般。我的孩子不喜欢这本书。"
    table = "text,label\n" + f"{review},0\n" * 50
    for encoding in ("gb18030", "utf-16", "big5"):
        text = table if encoding != "big5" else table.replace(review, "這個的人是不了，在我們大家的中國上來說到時")
        examples, faults = read("a.csv", text.encode(encoding))
        assert (len(examples), faults) == (50, [])
        assert examples[0].text == text.split("\n")[1].split(",")[0]
    assert read("a.csv", "text,label\n好,1\n坏,0\n".encode("gb18030"), encoding="gb18030")[0][0].text == "好"
    assert read("a.csv", "text,label\n好,1\n坏,0\n".encode("gb18030"))[0][1].text == "坏"
    assert len(read("c.csv", b"text,label\rx,1\ry,2\r")[0]) == 2
    examples, faults = read("b.csv", table.encode("gb18030") + b"\xff,1\n")
    assert len(examples) == 50
    assert faults[0].startswith("b.csv:52: bytes that are not GB18030 (0xff)")


def test_a_stray_quotation_mark_costs_its_line(read: Read) -> None:
    rows = [f"text {number},{number % 2}" for number in range(1000)]
    for stray in ('"oops" he said 3,1', '"oops,1', '"oops"",1'):
        examples, faults = read("a.csv", "\n".join(["text,label", *rows[:1], stray, *rows[2:]]))
        assert (len(examples), len(faults)) == (999, 1)
        assert faults[0].startswith("a.csv:3: no row of a table: ")
    two = ["text,label", *rows[:10], '"oops,1', *rows[11:500], 'he said "hi",1', *rows[501:], '"two\nlines, more",1']
    examples, faults = read("b.csv", "\n".join(two))
    assert (len(examples), len(faults), examples[-1].text) == (1000, 1, "two\nlines, more")
    closed = ["text,label", *rows[:10], '"oops,1', *rows[11:500], 'x",1', *rows[501:]]
    examples, faults = read("c.csv", "\n".join(closed))
    assert (len(examples), len(faults)) == (999, 1)
    assert faults[0].startswith("c.csv:12: ")


def test_cells_between_tabs_stay_as_they_are_beside_a_short_line(read: Read) -> None:
    rows = [f"text {number}\t{number % 2}" for number in range(1000)]
    examples, faults = read("a.tsv", "\n".join(["text\tlabel", *rows[:2], '"hello there\t1', *rows[3:989], "short", *rows[990:]]))
    assert (len(examples), examples[2].text) == (999, '"hello there')
    assert faults == ["a.tsv:991: 1 cell, and the first line names 2 columns: text, label; mend or delete the line"]
    closed = "\n".join(["text\tlabel", *rows[:2], '"hello there\t1', *rows[3:500], 'x"\t1', "short", *rows[500:]])
    examples, faults = read("c.tsv", closed)
    assert (len(examples), len(faults)) == (1001, 1)
    examples, faults = read("b.tsv", 'text\tlabel\n"two\nlines"\t1\nshort\n"three\nmore\nlines"\t0\n')
    assert [one.text for one in examples] == ["two\nlines", "three\nmore\nlines"]
    assert [fault.split(" cell")[0] for fault in faults] == ["b.tsv:4: 1"]


def test_columns_of_one_name(read: Read) -> None:
    for name, content in (("a.csv", "text,label,label\nx,1,2\n"), ("a.tsv", "text\tlabel\tlabel\nx\t1\t2\n")):
        with pytest.raises(UserError, match=rf"{name}:1: 2 columns are called 'label'; rename or delete all but one"):
            read(name, content)
    assert len(read("b.csv", "text,label,,\nx,1,,\n")[0]) == 1


def test_what_follows_a_list(read: Read) -> None:
    one, two = '{"text": "x", "label": "a"}', '{"text": "y", "label": "b"}'
    for layout in (f"[{one}]\n[{two}]", f"[\n{one}\n]\n[\n{two}\n]\n", f"[{one}][{two}]"):
        examples, faults = read("a.json", layout)
        assert ([example.text for example in examples], faults) == (["x", "y"], [])
    examples, faults = read("b.json", f"[\n{one}\n] garbage\nmore\n")
    assert len(examples) == 1
    assert faults == [
        "b.json:3: not JSON: a list ends before 'garbage\\nmore\\n', which begins no other; "
        "the list is not read on (lines after this one: 1)"
    ]
    assert read("c.json", f"[{one}] x")[1][0].startswith("c.json:1: not JSON: a list ends before 'x'")


def test_lines_and_numbers_of_records(read: Read) -> None:
    one = {"text": "x", "label": "a"}
    for content in (json.dumps([one] * 3), json.dumps({"data": [one] * 3})):
        assert places(read("a.json", content)[0]) == ["1 (record 1)", "1 (record 2)", "1 (record 3)"]
    for content in (f"[\n{json.dumps(one)},\n{json.dumps(one)}\n]", json.dumps({"data": [one] * 2}, indent=0)):
        first = 2 if content.startswith("[") else 3
        assert places(read("b.json", content)[0]) == [str(first), str(first + (1 if content.startswith("[") else 4))]
    tree = '{\n"data": [\n{"text": "x", "label": "a"},\n{"text": "y" "label": "b"}\n]\n}'
    assert read("d.json", tree)[1] == ["d.json:4: not JSON: Expecting ',' delimiter (column 14); nothing of the file is read"]
    faults = read("c.jsonl", f"{json.dumps(one)}\n{json.dumps(one)} x\n")[1]
    assert faults == ["c.jsonl:2: not JSON: Extra data (column 29)"]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", [None, "é", 7])
def test_lines_of_questions_with_and_without_names(read: Read, indent: int | None, name: Any) -> None:
    given = {} if name is None else {"id": name}
    asked = [{"question": f'"id": {number}', "answers": [], **given} for number in range(3)]
    tree = {"data": [{"title": "é 7", "paragraphs": [{"context": "7", "qas": asked}]}]}
    text = json.dumps(tree, indent=indent)
    found = places(read("a.json", text, "answering")[0])
    sought = '"id": "\\u00e9"' if name == "é" else '"id": 7' if name == 7 else '"question"'
    lines = [number for number, line in enumerate(text.split("\n"), 1) if line.strip().startswith(sought)]
    if indent is None:
        lines = [1, 1, 1]
    marks = ["", "", ""] if name is not None or indent else [f" (record {number})" for number in (1, 2, 3)]
    marks = marks if name is None else [f" ({name})"] * 3
    assert found == [f"{line - (name is None and indent is not None)}{mark}" for line, mark in zip(lines, marks, strict=True)]


def test_many_questions_without_names_are_read_in_seconds(read: Read) -> None:
    asked = [{"question": f"q {number}", "answers": []} for number in range(8000)]
    tree = {"data": [{"paragraphs": [{"context": "c " * 2000, "qas": asked[begin : begin + 4]}]} for begin in range(0, 8000, 4)]}
    began = time.process_time()
    assert len(read("a.json", json.dumps(tree), "answering")[0]) == 8000
    assert time.process_time() - began < 5


def test_comments_and_odd_lines_between_columns(read: Read) -> None:
    examples, faults = read("a.conll", "# id 1\na B-X\nb O\n\n# id 2\n# O\nc O\n", "labelling")
    assert ([one.tokens for one in examples], faults) == ([("a", "b"), ("#", "c")], [])
    examples, faults = read("b.conll", "# id\na\tO\n#\tO\n\n# x\nc\tO\n", "labelling")
    assert ([one.tokens for one in examples], faults) == ([("a", "#"), ("c",)], [])
    examples, faults = read("c.conll", "a odd line\n\na O\nb O\n\nc O\n", "labelling")
    assert [one.tokens for one in examples] == [("a", "b"), ("c",)]
    assert [fault.split(";")[0] for fault in faults] == ["c.conll:1: 3 columns, and most lines have 2"]
    faults = read("d.conll", "a,O\nb,O\n", "labelling")[1]
    assert faults == ["d.conll:1: only one column was found; tokens and tags are separated by blanks or tabs"]


def test_a_second_text_is_one_by_its_name(read: Read) -> None:
    def pair(**fields: str) -> str | None:
        return read("a.jsonl", json.dumps({**fields, "label": "a"}))[0][0].pair

    assert pair(text="x", sentence="17") is None
    assert pair(text="x", passage="12") is None
    assert read("a.csv", "text,passage,label\nx,12,a\n")[0][0].pair is None
    assert pair(sentence="x", passage="12") is None
    for first, second in (("question", "passage"), ("question", "sentence"), ("text", "pair"), ("text", "text_b")):
        assert pair(**{first: "x", second: "y"}) == "y"
    for first, second in (("text", "text2"), ("text1", "text2"), ("text", "sentence2"), ("sentence1", "sentence2")):
        assert pair(**{first: "x", second: "y"}) == "y"
    named = '{"text": "x", "sentence": "y", "review": "z", "label": "a"}'
    assert read("b.jsonl", named, fields={"pair": "sentence"})[0][0].pair == "y"
    assert read("b.jsonl", named, fields={"text": "review"})[0][0].pair is None


def test_words_about_numbers_and_names(read: Read) -> None:
    assert read("a.jsonl", '{"text": "x", "label": NaN}', "regression")[1] == [
        "a.jsonl:1: field 'label' must be a finite number and is nan"
    ]
    assert "must be a finite number" in read("a.jsonl", f'{{"text": "x", "label": 1{"0" * 400}}}', "regression")[1][0]
    assert "did you mean" not in read("a.jsonl", '{"source": "x", "text": "y"}', "translation")[1][0]
    assert "did you mean 'taget'?" in read("a.jsonl", '{"source": "x", "taget": "y"}', "translation")[1][0]
