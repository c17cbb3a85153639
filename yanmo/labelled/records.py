"""Files of labelled data as records with the lines they begin at: JSON, tables, columns of words and tags, SQuAD, Parquet.

What a file holds is seen from its beginning, and from its name where that is not enough.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from yanmo.corpus.encodings import detect_encoding
from yanmo.corpus.opening import File, opened
from yanmo.errors import UserError
from yanmo.labelled.fields import BadExample, Names, kind_of

SAMPLE = 1 << 18
"""Bytes from which an encoding is guessed."""
FEW = 0.05
"""Share of a file's lines that are not ASCII up to which bad bytes are damage in a UTF-8 file, and no other encoding."""


@dataclass(frozen=True)
class Raw:
    """What stands at a line of a file. table: values are cells. columns: words and tags under our own names. mark: what tells it
    from others on that line."""

    line: int
    value: Any
    table: bool = False
    columns: bool = False
    mark: str = ""

    def origin(self, name: str) -> str:
        """FILE:LINE, and the mark."""
        return f"{name}:{self.line}" + (f" ({self.mark})" if self.mark else "")


Found = Iterator[Raw | BadExample]


def read_records(file: File, kind: str, names: Names, encoding: str | None = None) -> Found:
    """The records of a file in their order; BadExample stands for one that cannot be read.

    Raises UserError for a file that cannot be opened or has none of the formats.
    """
    with opened(file) as (stream, _):
        data = stream.read()
    if file.format == "parquet":
        return _parquet(data, file.name)
    if file.format in ("html", "markdown"):
        raise UserError(f"{file.name}: labelled data is JSON, CSV, TSV, Parquet or (labelling) CoNLL, not {file.format}")
    text = _decoded(data, file.name, encoding)
    if file.format == "jsonl" or (file.format == "txt" and _JSON.match(text)):
        return _json(text, file.name, kind)
    first = text.lstrip("\r\n").split("\n", 1)[0].rstrip("\r")
    if kind == "labelling" and not _is_header(first, names, file.format in ("csv", "tsv")):
        return _columns(text, file.name)
    if file.format in ("csv", "tsv") or "\t" in first or "," in first:
        return _table(text, file.name)
    raise UserError(
        f"{file.name}: no format of labelled data begins like this: {first[:60]!r}; give JSON lines, a JSON list, CSV, TSV "
        "with names of columns in the first line, Parquet" + (", or CoNLL" if kind == "labelling" else "")
    )


_JSON = re.compile(r'\s*(?:\{\s*["}]|\[\s*[\[{"])')


def _decoded(data: bytes, name: str, encoding: str | None) -> str:
    """The text of a file: in the encoding that is given, in UTF-8, or in the one it seems to have. Raises BadExample."""
    if encoding is not None or data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _strictly(data, name, encoding or "utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fault = error
    lines = [line for line in data.split(b"\n") if not line.isascii()]
    broken = sum(1 for line in lines if not _is_utf8(line))
    guess = detect_encoding(data[:SAMPLE]) if broken > FEW * len(lines) or len(lines) == 1 else None
    if guess is not None and guess != "utf-8":
        return _strictly(data, name, guess)
    line = 1 + data.count(b"\n", 0, fault.start)
    raise BadExample(
        f"{name}:{line}", "file", f"bytes that are not UTF-8 ({fault.reason}); mend the line, or name the file's encoding"
    )


def _strictly(data: bytes, name: str, encoding: str) -> str:
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except LookupError:
        raise UserError(f"{name}: no encoding is called {encoding!r}; try utf-8, gb18030, big5, utf-16") from None
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        raise BadExample(f"{name}:{line}", "file", f"bytes that are not {encoding} ({error.reason})") from None


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _json(text: str, name: str, kind: str) -> Found:
    """JSON lines, a list over one line or many, one object, or SQuAD's tree."""
    lines = text.split("\n")
    number = next((index for index, line in enumerate(lines) if line.strip()), None)
    if number is None:
        return
    first = _loaded(lines[number])
    alone = not any(line.strip() for line in lines[number + 1 :])
    if isinstance(first, list) and first and alone and all(isinstance(one, dict | list) for one in first):
        yield from (Raw(number + 1, one) for one in first)
    elif first is None and lines[number].lstrip().startswith("["):
        yield from _json_list(text, name)
    elif (whole := first if alone else _loaded(text) if first is None else None) is not None:
        yield from _json_tree(whole, text, number + 1, name, kind)
    else:
        yield from _json_lines(lines, name)


def _json_lines(lines: list[str], name: str) -> Found:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield Raw(number, json.loads(line))
            except (ValueError, RecursionError) as error:
                yield BadExample(f"{name}:{number}", "file", f"not JSON: {error}")


def _json_list(text: str, name: str) -> Found:
    """The elements of a list that goes over several lines, each with the line it begins at."""
    decode = json.JSONDecoder().raw_decode
    place, line, seen = text.index("[") + 1, 1, 0
    while True:
        place = _BLANKS.match(text, place).end()  # pyright: ignore[reportOptionalMemberAccess]
        line, seen = line + text.count("\n", seen, place), place
        if text[place : place + 1] == "]":
            return
        try:
            value, place = decode(text, place)
        except (ValueError, RecursionError) as error:
            at = line + text.count("\n", place, getattr(error, "pos", place))
            yield BadExample(f"{name}:{at}", "file", f"not JSON: {getattr(error, 'msg', error)}; the list is not read on")
            return
        yield Raw(line, value)
        place = _BLANKS.match(text, place).end()  # pyright: ignore[reportOptionalMemberAccess]
        if text[place : place + 1] == ",":
            place += 1
        elif text[place : place + 1] != "]":
            at = line + text.count("\n", seen, place)
            yield BadExample(f"{name}:{at}", "file", "not JSON: a comma or ] is missing here; the list is not read on")
            return


_BLANKS = re.compile(r"\s*")


def _json_tree(value: Any, text: str, line: int, name: str, kind: str) -> Found:
    articles = value.get("data") if isinstance(value, dict) else None
    if isinstance(value, dict) and "paragraphs" in value:
        articles = [value]
    if not isinstance(articles, list):
        yield Raw(line, value)
    elif kind == "answering" and any(isinstance(article, dict) and "paragraphs" in article for article in articles):
        yield from _squad(articles, text, line, name)
    else:
        yield from (Raw(line, one) for one in articles)


def _squad(articles: list[Any], text: str, line: int, name: str) -> Found:
    """The questions of SQuAD's tree (data > paragraphs > qas), each with its context and the line its id stands at.

    Rajpurkar et al. 2016, arXiv:1606.05250; version 2: Rajpurkar et al. 2018, arXiv:1806.03822.
    """
    place = 0
    for article in articles:
        for paragraph in _listed(article, "paragraphs", name):
            for question in _listed(paragraph, "qas", name):
                if not isinstance(question, dict):
                    yield Raw(line, question)
                    continue
                found = text.find(json.dumps(question.get("id"), ensure_ascii=False), place)
                if found >= 0:
                    line, place = line + text.count("\n", place, found), found
                yield Raw(line, {"context": paragraph.get("context"), **question}, mark=str(question.get("id", "")))


def _listed(value: Any, key: str, name: str) -> list[Any]:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise UserError(f"{name}: SQuAD's JSON is data > paragraphs > qas, each a list; {key!r} is {kind_of(found)} here")
    return found


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _parquet(data: bytes, name: str) -> Found:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(io.BytesIO(data)).to_pylist()
    except pa.ArrowException as error:
        raise UserError(f"{name}: damaged or not parquet: {error}") from None
    yield from (Raw(number, row) for number, row in enumerate(rows, 1))


def _table(text: str, name: str) -> Found:
    """Rows under the names in the first line. Cells between tabs are taken as they are, as in GLUE's files, where every line
    then has as many as the first; else quotation marks hold a cell together."""
    csv.field_size_limit(2**31 - 1)
    text = text.replace("\r\n", "\n").replace("\0", "")
    first = text.lstrip("\n").split("\n", 1)[0]
    delimiter = max("\t,;", key=first.count)
    if delimiter == "\t":
        lines = [(number, line.split("\t")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        if all(len(cells) == len(lines[0][1]) for _, cells in lines):
            names = [_unquoted(cell) for cell in lines[0][1]]
            yield from (Raw(line, dict(zip(names, map(_unquoted, cells), strict=True)), table=True) for line, cells in lines[1:])
            return
    rows = csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter, strict=True)
    names, line = [], 1
    try:
        for cells in rows:
            if names and cells and len(cells) != len(names):
                sentence = f"{len(cells)} cells, and the first line names {len(names)} columns: {', '.join(names)}"
                yield BadExample(f"{name}:{line}", "file", sentence)
            elif names and cells:
                yield Raw(line, dict(zip(names, cells, strict=True)), table=True)
            names, line = names or [cell.strip() for cell in cells], rows.line_num + 1
    except csv.Error as error:
        yield BadExample(f"{name}:{line}", "file", f"no table from here on: {error}")


def _unquoted(cell: str) -> str:
    if len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', ""):
        return cell[1:-1].replace('""', '"')
    return cell


def _is_header(line: str, names: Names, table: bool) -> bool:
    """Whether a line names the columns of a table with words and tags, or with raw texts."""
    cells = {cell.strip().strip('"') for cell in re.split("[\t,]", line)}
    words = cells & {*names["tokens"], *names["text"]}
    return bool(words) and (bool(cells & {*names["tags"], *names["spans"]}) or (table and len(cells) == 1))


def _columns(text: str, name: str) -> Found:
    """Sentences of a CoNLL file: a word a line, its tag in the last column, a blank line after each sentence.

    Tjong Kim Sang and De Meulder 2003, section 3; documents begin with -DOCSTART-, which is no word. Without a second column
    there are no tags.
    """
    tokens: list[str] = []
    tags: list[str] = []
    first, width, broken = 0, 0, False
    for number, line in enumerate([*text.split("\n"), ""], 1):
        line = line.rstrip("\r")
        if not line.strip() or line.startswith("-DOCSTART-"):
            if tokens and not broken:
                yield Raw(first, {"tokens": tokens, "tags": tags if width > 1 else None}, columns=True)
            tokens, tags, first, broken = [], [], 0, False
            continue
        cells = line.split("\t") if "\t" in line else line.split()
        width = width or len(cells)
        if len(cells) != width or not cells[0].strip():
            what = f"{len(cells)} columns, and the lines before have {width}" if cells[0].strip() else "no word before the tag"
            yield BadExample(f"{name}:{number}", "file", f"{what}; a line is a word and its tag, separated by a tab or blanks")
            broken = True
            continue
        tokens.append(cells[0])
        tags.append(cells[-1].strip())
        first = first or number
