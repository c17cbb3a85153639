"""Labelled files of every form: what they become, and what is said of what is wrong in them."""

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from yanmo.errors import UserError
from yanmo.labelled.examples import Asked, Classified, Conversation, Message, Related, Retrieved, Rewritten, Span, Tagged
from yanmo.labelled.fields import BadExample
from yanmo.labelled.reading import find_parts, read_examples, read_record, split

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
Written = Callable[..., str]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """A file with something in it: text, bytes, or values as JSON lines."""

    def write(content: Any, name: str = "train.jsonl") -> str:
        if isinstance(content, list):
            content = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in content)
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def said(path: str, kind: str = "classification", **options: Any) -> str:
    """What is said of a file, without the folder it is in."""
    with pytest.raises(UserError) as caught:
        read_examples(path, kind, **options)
    return str(caught.value).replace(str(Path(path).parent) + "/", "")


def labels(path: str, **options: Any) -> list[Any]:
    return [(one.text, one.pair, one.label) for one in read_examples(path, "classification", **options)]


TWO = [{"text": "好", "label": "p"}, {"text": "坏", "label": 1}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "好", "label": "p"}\n\n{"text": "坏", "label": 1}\n'),
        ("a.json", '[{"text": "好", "label": "p"}, {"text": "坏", "label": 1}]'),
        ("a.json", '[\n  {"text": "好",\n   "label": "p"},\n  {"text": "坏", "label": 1}\n]\n'),
        ("a.json", '{"version": 1, "data": [{"text": "好", "label": "p"}, {"text": "坏", "label": 1}]}'),
        ("a.csv", "label,text\np,好\n1,坏\n"),
        ("a.csv", 'label;text\np;"好"\n1;坏\n'),
        ("a.tsv", "text\tlabel\r\n好\tp\r\n坏\t1\r\n"),
        ("a.txt", '{"text": "好", "label": "p"}\n{"text": "坏", "label": 1}\n'),
        ("a.txt", "text_a\tlabel\n好\tp\n坏\t1\n"),
    ],
)
def test_one_content_in_every_format(written: Written, name: str, content: str) -> None:
    assert labels(written(content, name)) == [("好", None, "p"), ("坏", None, "1")]


def test_compressed_parquet_and_other_encodings(written: Written) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    plain = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in TWO).encode()
    packed = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstandard.ZstdCompressor().compress}
    for ending, press in packed.items():
        assert len(labels(written(press(plain), f"a.jsonl.{ending}"))) == 2
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"text": "好", "label": True}]), table)
    assert labels(written(table.getvalue(), "a.parquet")) == [("好", None, "true")]
    review = "这个宾馆比较陈旧了，特价的房间也很一般。总体来说一般。我的孩子不喜欢这本书。"
    assert labels(written(f"text,label\n{review},0\n{review},1\n".encode("gb18030"), "a.csv"))[0] == (review, None, "0")
    assert labels(written(f"text,label\n{review},0\n".encode("utf-16"), "b.csv"))[0] == (review, None, "0")


def test_quotation_marks_in_tables(written: Written) -> None:
    glue = 'sentence\tlabel\n"hello there\t1\nhe said "no"\t0\nworld"\t0\n'
    assert [text for text, _, _ in labels(written(glue, "a.tsv"))] == ['"hello there', 'he said "no"', 'world"']
    quoted = 'text\tlabel\n"a ""b"" c"\t1\n"two\nlines"\t0\n'
    assert [text for text, _, _ in labels(written(quoted, "b.tsv"))] == ['a "b" c', "two\nlines"]


def test_names_of_fields(written: Written) -> None:
    assert labels(written("text_a\ttext_b\tlabel\nx\ty\t0\n", "a.tsv")) == [("x", "y", "0")]
    assert labels(written([{"premise": "x", "hypothesis": "y", "gold_label": "n"}])) == [("x", "y", "n")]
    assert labels(written([{"question": "x", "sentence": "y", "label": 0}])) == [("x", "y", "0")]
    assert labels(written([{"sentence": "x", "label": 0}])) == [("x", None, "0")]
    renamed = written([{"review": "x", "stars": 5, "text": "no", "label": "no"}])
    assert labels(renamed, fields={"text": "review", "label": "stars"}) == [("x", None, "5")]
    assert "fields.txt: classification has the fields text, pair, label; did you mean 'text'?" in said(
        renamed, fields={"txt": "a"}
    )


def test_types_of_labels(written: Written) -> None:
    many = written([{"text": "x", "label": one} for one in (["b", "a", "b"], "a|b", "a, b", [], "c", [1, True])])
    assert [label for *_, label in labels(many, several=True)] == [("b", "a"), ("a", "b"), ("a", "b"), (), ("c",), ("1", "true")]
    assert labels(written("text,label\nx,\n", "a.csv"), several=True) == [("x", None, ())]
    numbers = read_examples(written("text,label\nx,0.5\ny,-1e3\n", "b.csv"), "regression")
    assert [one.label for one in numbers] == [0.5, -1000.0]
    assert "train.jsonl:1: field 'label' must be a number and is true/false" in said(
        written([{"text": "x", "label": True}]), "regression"
    )
    assert "must be a finite number and is nan" in said(written('{"text": "x", "label": NaN}\n'), "regression")
    assert "for numbers take kind regression" in said(written([{"text": "x", "label": 0.5}]))


def test_labels_may_be_missing_for_prediction(written: Written) -> None:
    path = written([{"text": "x"}, {"text": "y", "label": "p"}])
    assert labels(path, labelled=False) == [("x", None, None), ("y", None, "p")]
    assert "train.jsonl:1: no field 'label'" in said(path)
    assert read_record("你好", "line 1", "classification")[0].text == "你好"
    assert read_record({"question": "q", "context": "c"}, "line 1", "answering")[0].answers is None
    assert read_record({"text": "北京"}, "line 1", "labelling")[0].tokens == ("北", "京")


def test_columns_of_words_and_tags(written: Written) -> None:
    conll = "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\nPeter NNP B-NP I-PER\n"
    first, second = read_examples(written(conll, "a.conll"), "labelling")
    assert (first.tokens, first.tags, first.origin[-7:]) == (("EU", "rejects"), ("B-ORG", "O"), "conll:3")
    assert (second.tokens, second.tags, second.origin[-7:]) == (("Peter",), ("I-PER",), "conll:6")
    bmes = read_examples(written("浙\tB-LOC\n江\tM-LOC\n省\tE-LOC\n[\tO\n李\tS-PER\n\n", "b.tsv"), "labelling")
    assert bmes[0].tags == ("B-LOC", "I-LOC", "E-LOC", "O", "S-PER")
    assert read_examples(written("x B-A\ny L-A\nz U-A", "c.txt"), "labelling")[0].tags == ("B-A", "E-A", "S-A")
    uer = read_examples(written("text_a\tlabel\n我 在 京\tO O B-LOC\n", "d.tsv"), "labelling")
    assert (uer[0].tokens, uer[0].tags) == (("我", "在", "京"), ("O", "O", "B-LOC"))
    assert read_examples(written("x\ny\n\nz\n", "e.txt"), "labelling", labelled=False)[0].tags is None
    faults: list[BadExample] = []
    path = written("a O\nb\nc O\n\nd B-X\n", "f.txt")
    assert "f.txt:2: 1 column, and most lines have 2" in said(path, "labelling")
    assert [one.tokens for one in read_examples(path, "labelling", faults=faults)] == [("d",)]


def test_spans_of_raw_text(written: Written) -> None:
    text = "Mr. Müller's Café\u0301 in 北京市, 3km"
    spans: list[Any] = [
        {"start": 4, "end": 10, "type": "PER"},
        {"start_offset": 12, "end_offset": 19, "label": "X"},
        [22, 25, "LOC"],
    ]
    for name in ("entities", "spans", "label"):
        one = read_examples(written([{"text": text, name: spans}]), "labelling")[0]
        assert one.tokens == ("Mr", ".", "Müller", "'", "s", "Café\u0301", "in", "北", "京", "市", ",", "3km")
        assert [tag for tag in one.tags if tag != "O"] == ["B-PER", "B-X", "B-LOC", "I-LOC", "I-LOC"]
        assert tuple(text[begin:end] for begin, end in one.offsets) == one.tokens
    hindi = read_examples(written([{"text": "हिन्दी भाषा", "spans": []}]), "labelling")[0]
    assert hindi.tokens == ("हिन्दी", "भाषा")

    def wrong(*spans: Any) -> str:
        return said(written([{"text": "两个mRNAs here", "spans": list(spans)}]), "labelling")

    assert "train.jsonl:1: spans[0] (G, 2 to 6) begins or ends inside of a word: '两个[mRNA]s here'" in wrong([2, 6, "G"])
    assert "overlaps" in wrong([0, 2, "A"], [1, 2, "B"])
    assert "goes from 3 to 99, and the text has 12 characters" in wrong([3, 99, "A"])
    assert "must be two whole numbers" in wrong({"start": "0", "end": 2, "type": "A"})
    assert "needs a type" in wrong([0, 2, None])


def test_relations(written: Written) -> None:
    forms = [
        {"text": "A met B.", "head": [0, 1], "tail": [6, 7], "relation": "met"},
        {"text": "A met B.", "h": {"name": "A", "pos": [0, 1]}, "t": {"start": 6, "end": 7}, "label": "met"},
    ]
    for number, one in enumerate(read_examples(written(forms), "relation"), 1):
        assert one == Related(origin=one.origin, text="A met B.", head=(0, 1), tail=(6, 7), relation="met")
        assert one.origin.endswith(f"train.jsonl:{number}")
    assert "tail goes from 6 to 9" in said(written([{**forms[0], "tail": [6, 9]}]), "relation")


SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "paragraphs": [
                {
                    "context": "Tesla was born in Smiljan.",
                    "qas": [
                        {"id": "q1", "question": "Who?", "answers": [{"text": "Tesla", "answer_start": 0}] * 2},
                        {"id": "q2", "question": "Why?", "is_impossible": True, "answers": []},
                    ],
                }
            ]
        }
    ],
}


def test_questions(written: Written) -> None:
    for layout in (None, 1):
        text = json.dumps(SQUAD, indent=layout)
        read = read_examples(written(text, "dev.json"), "answering")
        lines = {name: number for number, line in enumerate(text.split("\n"), 1) for name in ("q1", "q2") if f'"{name}"' in line}
        assert [one.origin.rsplit("dev.json:")[1] for one in read] == [f"{lines[name]} ({name})" for name in ("q1", "q2")]
        assert [one.answers for one in read] == [(Span("Tesla", 0),), ()]
        assert {one.context for one in read} == {"Tesla was born in Smiljan."}
    flat = {"context": "ab", "question": "q", "id": 7, "answers": {"text": ["b"], "answer_start": [1]}}
    one = read_examples(written([flat]), "answering")[0]
    assert isinstance(one, Asked)
    assert (one.id, one.answers) == ("7", (Span("b", 1),))
    assert "answer_start 5 lies outside of the 2 characters" in said(
        written([{**flat, "answers": [{"text": "b", "answer_start": 5}]}]), "answering"
    )
    assert "an answer's text must be a string and is a number: 3" in said(
        written([{**flat, "answers": [{"text": 3, "answer_start": 0}]}]), "answering"
    )
    assert "an answer is an object with text and answer_start, not a string" in said(
        written([{**flat, "answers": ["b"]}]), "answering"
    )


def test_rewriting_and_retrieval(written: Written) -> None:
    one = read_examples(written([{"document": "长", "summary": ["短", "矮"]}]), "summarisation")[0]
    assert (one.source, one.targets) == ("长", ("短", "矮"))
    named = read_examples(written([{"abst": "长", "title": "短"}]), "rewriting", {"source": "abst", "target": "title"})[0]
    assert isinstance(named, Rewritten)
    assert named.targets == ("短",)
    found = read_examples(written('["q", "p"]\n["q", "p", "n", "m"]\n'), "retrieval")
    assert [(one.query, one.positive, one.negatives) for one in found] == [("q", "p", ()), ("q", "p", ("n", "m"))]
    bge = read_examples(written([{"query": "q", "pos": ["a", "b"], "neg": "c"}]), "retrieval")
    assert [one.positive for one in bge] == ["a", "b"]
    assert all(isinstance(one, Retrieved) and one.negatives == ("c",) for one in bge)


def test_conversations(written: Written) -> None:
    expected = (Message("system", "s"), Message("user", "u"), Message("assistant", "a"))
    forms = [
        {"messages": [{"role": one.role, "content": one.content} for one in expected]},
        {"system": "s", "conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]},
        {"system": "s", "instruction": "u", "input": "", "output": "a"},
    ]
    assert [one.messages for one in read_examples(written(forms), "dialogue")] == [expected] * 3
    alpaca = {"instruction": "i", "input": "x", "output": "o", "history": [["p", "q"]]}
    one = read_examples(written([alpaca]), "dialogue")[0]
    assert isinstance(one, Conversation)
    assert [message.content for message in one.messages] == ["p", "q", "i\nx", "o"]
    assert "train.jsonl:1: message 0: role 'robot' is not known; the roles are system, user" in said(
        written([{"messages": [{"role": "robot", "content": "x"}]}]), "dialogue"
    )
    assert "no message is by the assistant" in said(written([{"messages": [{"role": "user", "content": "x"}]}]), "dialogue")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"txt": "x", "label": "a"}', "train.jsonl:1: no field 'text' or 'text_a'"),
        ('{"txt": "x", "label": "a"}', "its fields: txt, label; did you mean 'txt'?; name it with `fields: {text: NAME}`"),
        ('{"text": "x", "label": "a"}\n{"text": " ", "label": "a"}', "train.jsonl:2: field 'text' is empty"),
        ('{"text": 3, "label": "a"}', "train.jsonl:1: field 'text' must be a string and is a number: 3"),
        ('{"text": "x", "label": null}', "train.jsonl:1: field 'label' is null"),
        ('{"text": "x", "label": {"a": 1}}', "must be a string, a whole number or true/false and is an object"),
        ('{"text": "x", "label": "a"}\n{"text": ', "train.jsonl:2: not JSON"),
        ('[\n{"text": "x", "label": "a"}\n{"text"', "train.jsonl:3: not JSON: a comma or ] is missing here"),
        ('[\n{"text": "x", "label": "a"},\n{"text"', "train.jsonl:3: not JSON"),
        ('"x"', "train.jsonl:1: an example is an object with text, pair, label, not a string"),
        ('{"text": "\\ud800", "label": "a"}', "half of a surrogate pair"),
        ("", "there is no example in it"),
        (
            '{"text": "好的好的", "label": "a"}\n'.encode() * 30 + b'{"text": "\xff", "label": "a"}',
            "train.jsonl:31: bytes that are not UTF-8",
        ),
    ],
)
def test_what_is_wrong_is_said(written: Written, content: Any, sentence: str) -> None:
    assert sentence in said(written(content))


def test_what_is_wrong_in_tables_tags_and_paths(written: Written, tmp_path: Path) -> None:
    assert "a.csv:3: 3 cells, and the first line names 2 columns: text, label" in said(
        written("text,label\nx,1\ny,2,3\n", "a.csv")
    )
    bad = written([{"tokens": ["a", "b"], "tags": ["O"]}])
    assert "train.jsonl:1: 2 tokens and 1 tags" in said(bad, "labelling")
    assert "tags[1] is 'NN', of token 'b'; a tag is O, or B, I" in said(
        written([{"tokens": ["a", "b"], "tags": ["O", "NN"]}]), "labelling"
    )
    assert "tags[0] is 3" in said(written([{"tokens": ["a"], "tags": [3]}]), "labelling")
    assert "tokens[1]' is empty" in said(written([{"tokens": ["a", ""], "tags": ["O", "O"]}]), "labelling")
    assert "no such file or folder" in said(str(tmp_path / "no.jsonl"))
    assert "did you mean 'labelling'?" in said(bad, "labeling")
    assert "no encoding is called 'utf-9'" in said(bad, encoding="utf-9")
    (tmp_path / "more").mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / "more" / name).write_text('{"text": "x", "label": "a"}')
    assert "this is a folder; name a file of it (a.jsonl, b.jsonl)" in said(str(tmp_path / "more"))
    assert len(read_examples(str(tmp_path / "more" / "*.jsonl"), "classification")) == 2


def test_faults_are_collected(written: Written) -> None:
    faults: list[BadExample] = []
    read = read_examples(written('{"text": "x", "label": "a"}\n{\n{"text": "", "label": "a"}\n'), "classification", faults=faults)
    assert [one.text for one in read] == ["x"]
    assert [(one.problem, one.origin[-2:]) for one in faults] == [("file", ":2"), ("empty", ":3")]


def test_parts_of_a_folder(tmp_path: Path) -> None:
    for name in ("train.jsonl.gz", "dev.jsonl", "test.jsonl", "test_unseen.jsonl", "README.md"):
        (tmp_path / name).write_text("")
    assert {part: Path(name).name for part, name in find_parts(str(tmp_path)).items()} == {
        "train": "train.jsonl.gz", "valid": "dev.jsonl", "test": "test.jsonl",
    }  # fmt: skip
    (tmp_path / "train.csv").write_text("")
    with pytest.raises(UserError, match="both its train part"):
        find_parts(str(tmp_path))


def test_a_text_is_on_one_side_of_a_split() -> None:
    examples = [Classified(text=f"text {number % 50} ", pair=str(number), label="a") for number in range(500)]
    kept, held_out = split(examples, 0.1, seed=1)
    assert len(held_out) == 50  # five texts of fifty, ten times each
    assert not {one.text for one in kept} & {one.text for one in held_out}
    assert split(examples, 0.1, seed=1) == (kept, held_out)
    assert split(examples, 0.1, seed=2) != (kept, held_out)
    assert set(split(examples[::-1], 0.1, seed=1)[1]) == set(held_out)
    asked = [Asked(id=str(number), context=f"c{number // 5}", question=str(number)) for number in range(20)]
    assert len(split(asked, 0.01)[1]) == 5
    with pytest.raises(UserError, match="the same text"):
        split(examples[:1] * 3, 0.5)
    with pytest.raises(UserError, match="share 1"):
        split(examples, 1)


COUNTS = {
    "cls-chnsenticorp-zh": ("classification", 9600), "cls-sst2-en": ("classification", 6920),
    "ner-resume-zh": ("labelling", 3821),
    "re-semeval2010-en": ("relation", 7200), "sum-csl-title-zh": ("summarisation", 1000), "dlg-crosswoz-zh": ("dialogue", 500),
}  # fmt: skip


@pytest.mark.parametrize("folder", COUNTS)
def test_real_files(folder: str) -> None:
    """As many examples as each folder's README counts."""
    if not (DATA / folder).exists():
        pytest.skip(f"{DATA / folder} is not there")
    kind, count = COUNTS[folder]
    assert len(read_examples(find_parts(str(DATA / folder))["train"], kind)) == count


def test_real_questions() -> None:
    folder = DATA / "qa-xquad-en-zh"
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    for one in read_examples([str(folder / "en.json"), str(folder / "zh.json")], "answering"):
        assert all(one.context.startswith(answer.text, answer.start) for answer in one.answers)


def test_tags_are_kept_as_they_are(written: Written) -> None:
    one = read_examples(written([{"tokens": ["a"], "tags": ["I-X"]}]), "labelling")[0]
    assert one == Tagged(origin=one.origin, tokens=("a",), tags=("I-X",))
