"""Files of labelled data as records with the lines they begin at: JSON, tables, columns of words and tags, SQuAD, Parquet.

What a file holds is seen from its beginning, and from its name where that is not enough.
"""

from __future__ import annotations

import csv
import io
import json
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from yanmo.corpus.encodings import detect_encoding
from yanmo.corpus.opening import File, opened
from yanmo.errors import UserError
from yanmo.labelled.fields import BadExample, Names, kind_of

SAMPLE = 1 << 18
"""Bytes from which an encoding is guessed."""
FEW = 0.05
"""Share of a file's lines that are not ASCII, and of its bytes, up to which bad bytes are damage and no other encoding."""
CERTAIN = 8
"""Bad bytes from which another encoding is guessed, in files where they are not a tenth: a single one fits into many."""
GROUP = 10
"""Lines from which, together, an encoding is guessed."""
SWALLOWED = 10
"""Lines, each a row by itself, from which a cell that holds them is a quotation mark that nothing closes."""


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
    text, encoding = _decoded(data, file.name, encoding)
    found = _found(text, file, kind, names)
    return _undamaged(found, file.name, encoding) if _DAMAGE.search(text) else found


def _found(text: str, file: File, kind: str, names: Names) -> Found:
    if file.format == "jsonl" or (file.format == "txt" and _JSON.match(text)):
        return _json(text, file.name, kind)
    first = text.lstrip("\r\n").split("\n", 1)[0].rstrip("\r")
    if kind == "labelling" and not _is_header(first, names, file.format in ("csv", "tsv")):
        return _columns(text, file.name)
    if file.format in ("csv", "tsv") or any(sign in first for sign in "\t,;"):
        return _table(text, file.name)
    raise UserError(
        f"{file.name}: no format of labelled data begins like this: {first[:60]!r}; give JSON lines, a JSON list, CSV, TSV "
        "with names of columns in the first line, Parquet" + (", or CoNLL" if kind == "labelling" else "")
    )


_JSON = re.compile(r'\s*(?:\{\s*["}]|\[\s*[\[{"])')
_DAMAGE = re.compile("[\udc80-\udcff]")
"""What Python's surrogateescape makes of bytes that do not fit into an encoding: 0xdc00 and the byte. A line of a format that is
read by lines becomes a Raw as it is where it has some, of which _undamaged says what is wrong."""


def _decoded(data: bytes, name: str, encoding: str | None) -> tuple[str, str]:
    """(text, encoding) of a file: in the encoding that is given, in UTF-8, or in the one it seems to have.

    Bytes that do not fit are in it as _DAMAGE has them. Raises BadExample where lines cannot be told from each other then.
    """
    if encoding is None and data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    if encoding is None:
        try:
            return data.decode().removeprefix("\ufeff"), "utf-8"
        except UnicodeDecodeError:
            encoding = _encoding(data)
    try:
        return data.decode(encoding).removeprefix("\ufeff"), encoding
    except LookupError:
        raise UserError(f"{name}: no encoding is called {encoding!r}; try utf-8, gb18030, big5, utf-16") from None
    except UnicodeDecodeError as error:
        fault = error
    try:
        return data.decode(encoding, "surrogateescape").removeprefix("\ufeff"), encoding
    except UnicodeDecodeError:
        line = 1 + data.count(b"\n", 0, fault.start)
        sentence = f"bytes that are not {encoding.upper()} ({fault.reason}), and the file cannot be read; save it as UTF-8"
        raise BadExample(f"{name}:{line}", "file", sentence) from None


def _encoding(data: bytes) -> str:
    """What a file is in that is not all UTF-8: another encoding, or this one with damage."""
    lines = [line for line in data.split(b"\n") if not line.isascii()]
    broken = _unfit(lines, "utf-8")
    bad = len(_DAMAGE.findall(data.decode("utf-8", "surrogateescape")))
    certain = bad >= CERTAIN or bad > len(data) / 10
    if certain and broken > FEW * len(lines) and bad > FEW * (len(data) - len(data.decode("ascii", "ignore"))):
        guess = _guessed(data[:SAMPLE])
        if guess is not None and (guess.startswith("utf-16") or _unfit(lines, guess) <= FEW * len(lines)):
            return guess
    return "utf-8"


def _guessed(sample: bytes) -> str | None:
    """What most groups of lines seem to be in, for a bad line leaves only encodings that take any byte for the group it is in."""
    lines = [line for line in sample.split(b"\n") if not line.isascii()]
    if b"\0" in sample or len(lines) < 2 * GROUP:
        return detect_encoding(sample)
    count = min(len(lines) // GROUP, 25)
    return Counter(detect_encoding(b"\n".join(lines[first::count])) for first in range(count)).most_common(1)[0][0]


def _unfit(lines: Iterable[bytes], encoding: str) -> int:
    """How many of some lines are not in an encoding."""
    count = 0
    for line in lines:
        try:
            line.decode(encoding)
        except UnicodeDecodeError:
            count += 1
    return count


def _undamaged(found: Found, name: str, encoding: str) -> Found:
    """The records; BadExample for those with bytes that do not fit into the file's encoding."""
    for one in found:
        bad = _DAMAGE.search(json.dumps(one.value, ensure_ascii=False)) if isinstance(one, Raw) else None
        if isinstance(one, Raw) and bad:
            byte = f"0x{ord(bad[0]) - 0xDC00:x}"
            sentence = f"bytes that are not {encoding.upper()} ({byte}); mend the line, or save the file as UTF-8"
            yield BadExample(one.origin(name), "file", sentence)
        else:
            yield one


def _json(text: str, name: str, kind: str) -> Found:
    """JSON lines, a list over one line or many, or several of them, one object, or SQuAD's tree."""
    lines = text.split("\n")
    number = next((index for index, line in enumerate(lines) if line.strip()), None)
    if number is None:
        return
    first = _loaded(lines[number])
    alone = not any(line.strip() for line in lines[number + 1 :])
    records = isinstance(first, list) and first and all(isinstance(one, dict | list) for one in first)
    if records or (first is None and lines[number].lstrip().startswith("[")):
        yield from _told_apart(_json_lists(text, name))
    elif (whole := first if alone else _loaded(text) if first is None else None) is not None:
        yield from _told_apart(_json_tree(whole, text, name, kind))
    elif first is None and lines[number].rstrip().endswith(("{", "[", ",")):
        yield _no_tree(text, name)
    else:
        yield from _json_lines(lines, name)


def _no_tree(text: str, name: str) -> BadExample:
    """What is wrong with one object over many lines."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return BadExample(f"{name}:{error.lineno}", "file", f"not JSON: {_reason(error)}; nothing of the file is read")
    except (ValueError, RecursionError) as error:
        return BadExample(f"{name}:1", "file", f"not JSON: {error}; nothing of the file is read")
    raise AssertionError("what can be read is no fault")


def _told_apart(found: Found) -> Found:
    """The records, with their number in its line where several begin there."""
    records = list(found)
    on_line = Counter(one.line for one in records if isinstance(one, Raw))
    before: Counter[int] = Counter()
    for one in records:
        if isinstance(one, Raw):
            before[one.line] += 1
            if on_line[one.line] > 1 and not one.mark:
                one = replace(one, mark=f"record {before[one.line]}")
        yield one


def _json_lines(lines: list[str], name: str) -> Found:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield Raw(number, line if _DAMAGE.search(line) else json.loads(line))
            except (ValueError, RecursionError) as error:
                yield BadExample(f"{name}:{number}", "file", f"not JSON: {_reason(error)}")


def _json_lists(text: str, name: str) -> Found:
    """The elements of a list that goes over several lines, each with the line it begins at; another list may follow it."""
    line_of = _lines_of(text)
    place, fault = _blanks(text, 0), ""
    while text[place : place + 1] == "[" and not fault:
        place = _blanks(text, place + 1)
        while text[place : place + 1] != "]":
            try:
                value, after = _DECODE(text, place)
            except (ValueError, RecursionError) as error:
                place, fault = getattr(error, "pos", place), _reason(error)
                break
            yield Raw(line_of(place), value)
            place = _blanks(text, after)
            if text[place : place + 1] == ",":
                place = _blanks(text, place + 1)
            elif text[place : place + 1] != "]":
                fault = "a comma or ] is missing here"
                break
        else:
            place = _blanks(text, place + 1)
    if fault or place < len(text):
        fault = fault or f"a list ends before {text[place : place + 20]!r}, which begins no other"
        more = text.rstrip().count("\n", place)
        rest = "the list is not read on" + (f" (lines after this one: {more:,})" if more else "")
        yield BadExample(f"{name}:{line_of(place)}", "file", f"not JSON: {fault}; {rest}")


_BLANKS = re.compile(r"\s*")
_DECODE = json.JSONDecoder().raw_decode


def _blanks(text: str, place: int) -> int:
    """The first place from one on that is not blank."""
    return _BLANKS.match(text, place).end()  # pyright: ignore[reportOptionalMemberAccess]


def _lines_of(text: str) -> Callable[[int], int]:
    """The number of the line that a place of a text lies in."""
    ends = [found.start() for found in re.finditer("\n", text)]
    return lambda place: 1 + bisect_left(ends, place)


def _reason(error: Exception) -> str:
    return f"{error.msg} (column {error.colno})" if isinstance(error, json.JSONDecodeError) else str(error)


def _inside(text: str, place: int) -> dict[Any, tuple[int, Any]]:
    """What the list or object that begins at a place of good JSON holds, by number or name: (place, value)."""
    found: dict[Any, tuple[int, Any]] = {}
    named = text[place] == "{"
    place = _blanks(text, place + 1)
    while text[place] not in "]}":
        key: Any = len(found)
        if named:
            key, place = _DECODE(text, place)
            place = _blanks(text, _blanks(text, place) + 1)
        value, after = _DECODE(text, place)
        found[key] = place, value
        place = _blanks(text, after)
        if text[place] == ",":
            place = _blanks(text, place + 1)
    return found


def _json_tree(value: Any, text: str, name: str, kind: str) -> Found:
    begin, line_of = _blanks(text, 0), _lines_of(text)
    articles = None
    if isinstance(value, dict) and "paragraphs" in value:
        articles = [(begin, value)]
    elif isinstance(value, dict) and isinstance(value.get("data"), list):
        articles = list(_inside(text, _inside(text, begin)["data"][0]).values())
    if articles is None:
        yield Raw(line_of(begin), value)
    elif kind == "answering" and any(isinstance(article, dict) and "paragraphs" in article for _, article in articles):
        yield from _squad(articles, text, name)
    else:
        yield from (Raw(line_of(place), one) for place, one in articles)


def _squad(articles: list[tuple[int, Any]], text: str, name: str) -> Found:
    """The questions of SQuAD's tree (data > paragraphs > qas), each with its context and the line its id stands at, or that it
    begins at where it has none.

    Rajpurkar et al. 2016, arXiv:1606.05250; version 2: Rajpurkar et al. 2018, arXiv:1806.03822.
    """
    line_of = _lines_of(text)
    for article in articles:
        for paragraph in _listed(article, "paragraphs", text, name):
            context = paragraph[1].get("context") if isinstance(paragraph[1], dict) else None
            for place, question in _listed(paragraph, "qas", text, name):
                if not isinstance(question, dict):
                    yield Raw(line_of(place), question)
                    continue
                named = _inside(text, place).get("id", (place, None))
                mark = "" if named[1] is None else str(named[1])
                yield Raw(line_of(named[0]), {"context": context, **question}, mark=mark)


def _listed(holder: tuple[int, Any], key: str, text: str, name: str) -> list[tuple[int, Any]]:
    """What a list holds that the object at a place has under a name: (place, value). Raises UserError where there is none."""
    place, value = holder
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise UserError(f"{name}: SQuAD's JSON is data > paragraphs > qas, each a list; {key!r} is {kind_of(found)} here")
    return list(_inside(text, _inside(text, place)[key][0]).values())


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
    """Rows under the names in the first line. Cells between tabs are taken as they are, as in GLUE's files, unless more rows fit
    when quotation marks hold a cell together, as they do between commas."""
    csv.field_size_limit(2**31 - 1)
    text = text.replace("\r\n", "\n").replace("\0", "")
    lines = text.split("\n" if "\n" in text else "\r")
    head = next((index for index, line in enumerate(lines) if line.strip()), None)
    if head is None:
        return
    if _DAMAGE.search(lines[head]):
        yield Raw(head + 1, lines[head])
        return
    table = _Table(name, lines, head, max("\t,;", key=lines[head].count))
    if table.delimiter != "\t":
        yield from table.quoted()
        return
    plain = list(table.plain())
    if lost := sum(isinstance(row, BadExample) for row in plain):
        quoted = list(table.quoted())
        plain = quoted if sum(map(_lost, quoted)) < lost else plain
    yield from plain


def _lost(row: Raw | BadExample) -> int:
    """Rows that are none, as a table between tabs is read: one that is bad, and those that a quotation mark holds together."""
    return 1 if isinstance(row, BadExample) else sum(cell.count("\n") for cell in row.value.values() if "\t" in cell)


class _Table:
    """The lines of a table from that of its names on. Raises UserError for two columns of one name."""

    def __init__(self, name: str, lines: list[str], head: int, delimiter: str):
        self.name, self.lines, self.head, self.delimiter = name, lines, head, delimiter
        cells = map(_unquoted, lines[head].split("\t")) if delimiter == "\t" else self.cells(lines[head])
        self.names = [cell.strip() for cell in cells]
        for column, count in Counter(filter(None, self.names)).items():
            if count > 1:
                raise UserError(f"{name}:{head + 1}: {count} columns are called {column!r}; rename or delete all but one")

    def cells(self, line: str) -> list[str]:
        """The cells of a line by itself, whatever its quotation marks."""
        return next(csv.reader([line.replace("\r", " ")], delimiter=self.delimiter), [])

    def plain(self) -> Found:
        """Rows of a line each, quotation marks as they are."""
        for number, line in enumerate(self.lines[self.head + 1 :], self.head + 2):
            if line.strip():
                yield self.row(number, [_unquoted(cell) for cell in line.split(self.delimiter)])

    def quoted(self) -> Found:
        """Rows whose cells may stand between quotation marks, over several lines; after a bad row it goes on at the next line."""
        begin = self.head + 1
        while begin < len(self.lines):
            first = begin
            lines = (f"{self.lines[number]}\n" for number in range(first, len(self.lines)))
            rows = csv.reader(lines, delimiter=self.delimiter, strict=True)
            try:
                for cells in rows:
                    end = first + rows.line_num
                    if self.swallows(begin, end, len(cells)):
                        raise csv.Error(f"a quotation mark holds {end - begin} lines together")
                    if cells:
                        yield self.row(begin + 1, cells)
                    begin = end
            except csv.Error as error:
                advice = "a quotation mark of a text is written twice, and its cell between quotation marks"
                yield BadExample(f"{self.name}:{begin + 1}", "file", f"no row of a table: {error}; {advice}")
                begin += 1

    def swallows(self, begin: int, end: int, cells: int) -> bool:
        """Whether a row over several lines holds others: it does not fit and the next does, or too many fit by themselves."""
        inner = range(begin + 1, end - 1 if cells == len(self.names) else end)
        if not inner or (cells == len(self.names) and len(inner) < SWALLOWED):
            return False
        fits = sum(len(self.cells(self.lines[number])) == len(self.names) for number in inner)
        return fits == len(inner) if cells == len(self.names) else 2 * fits >= len(inner)

    def row(self, line: int, cells: list[str]) -> Raw | BadExample:
        if len(cells) == len(self.names):
            return Raw(line, dict(zip(self.names, cells, strict=True)), table=True)
        has = f"{len(cells)} cell{'s' * (len(cells) != 1)}, and the first line names {len(self.names)} columns"
        return BadExample(f"{self.name}:{line}", "file", f"{has}: {', '.join(self.names)}; mend or delete the line")


def _unquoted(cell: str) -> str:
    if len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', ""):
        return cell[1:-1].replace('""', '"')
    return cell


def _is_header(line: str, names: Names, table: bool) -> bool:
    """Whether a line names the columns of a table with words and tags, or with raw texts."""
    cells = {cell.strip().strip('"') for cell in re.split("[\t,;]", line)}
    words = cells & {*names["tokens"], *names["text"]}
    return bool(words) and (bool(cells & {*names["tags"], *names["spans"]}) or (table and len(cells) == 1))


def _columns(text: str, name: str) -> Found:
    """Sentences of a CoNLL file: a word a line, its tag in the last column, a blank line after each sentence.

    Tjong Kim Sang and De Meulder 2003, section 3; documents begin with -DOCSTART-, which is no word, and comments with a # that
    has not as many columns as words have. Without a second column there are no tags.
    """
    lines = [line.rstrip("\r") for line in text.split("\n")]
    rows = [None if not line.strip() or line.startswith("-DOCSTART-") else _cells(line) for line in lines]
    width = Counter(len(cells) for cells in rows if cells).most_common(1)[0][0] if any(rows) else 0
    tabs = 2 * sum("\t" in line for line in lines) > sum(map(bool, rows))
    tokens: list[str] = []
    tags: list[str] = []
    first, broken = 0, False
    for number, cells in enumerate([*rows, None], 1):
        if cells is None:
            if tokens and not broken:
                yield Raw(first, {"tokens": tokens, "tags": tags if width > 1 else None}, columns=True)
            tokens, tags, first, broken = [], [], 0, False
            continue
        line = lines[number - 1]
        if line.startswith("# ") and (len(cells) != width or (tabs and "\t" not in line)):
            continue
        damaged, fault = _DAMAGE.search(line), _misfit(cells, width)
        if damaged or fault:
            yield Raw(number, line) if damaged else BadExample(f"{name}:{number}", "file", fault)
            broken = True
            continue
        tokens.append(cells[0])
        tags.append(cells[-1].strip())
        first = first or number


def _cells(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else line.split()


def _misfit(cells: list[str], width: int) -> str:
    """What is wrong with the columns of a word, empty where nothing is."""
    what = "" if cells[0].strip() else "no word before the tag"
    if len(cells) != width and not what:
        what = f"{len(cells)} column{'s' * (len(cells) != 1)}, and most lines have {width}"
    return f"{what}; a line is a word and its tag, separated by a tab or blanks" if what else ""
