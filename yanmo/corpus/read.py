"""Reading: sources become batches of raw pieces, which workers parse into documents.

The reader cuts files only where a document ends, and never splits or parses more than it must, so that one process feeds
many. A batch holds about BATCH bytes, or one document where that is longer.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from yanmo.corpus.encodings import detect_encoding
from yanmo.corpus.opening import File, find_files, opened
from yanmo.corpus.samples import PREFIX, find_sample
from yanmo.corpus.units import joined
from yanmo.errors import UserError
from yanmo.recipe import Source

BATCH = 1 << 20
BLOCK = 1 << 18
SAMPLE = 1 << 18
CUTS = {"line": re.compile(rb"\n"), "blank-line": re.compile(rb"\n[ \t\r]*\n")}


@dataclass
class Piece:
    """Raw text of one file: bytes in UTF-8 that `parse` splits, or texts that are documents already, or an error.

    `line` is the line (or row) of the file at which the bytes begin; `lines` those of the texts.
    """

    name: str
    kind: str
    line: int = 1
    data: bytes = b""
    texts: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    key: str = "text"
    error: str = ""

    @property
    def size(self) -> int:
        return len(self.data) or sum(map(len, self.texts)) + 1


@dataclass
class Reader:
    """All sources of a recipe. `encodings` fills while reading; `position` and `total` are bytes on disk."""

    sources: tuple[Source, ...]
    skip: bool = False
    any_text: bool = False
    """Take every string of a record that has no text key (files to decontaminate against)."""
    encodings: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    position: int = 0
    total: int | None = 0

    def __post_init__(self) -> None:
        if not self.sources:
            raise UserError("corpus.sources is empty: name files, folders, globs, URLs, or sample:peoples-daily to try")
        self.files: list[File | Source] = []
        for source in self.sources:
            if source.path.startswith(PREFIX):
                find_sample(source.path)
                self.files.append(source)
            else:
                self.files += find_files(source, self.notes)
        sizes = [file.size if isinstance(file, File) else find_sample(file.path).bytes for file in self.files]
        self.total = None if None in sizes else sum(size or 0 for size in sizes)

    def batches(self) -> Iterator[list[Piece]]:
        """Lists of pieces of about BATCH bytes, in reading order."""
        batch: list[Piece] = []
        size = 0
        for piece in self._pieces():
            batch.append(piece)
            size += piece.size
            if size >= BATCH:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _pieces(self) -> Iterator[Piece]:
        done = 0
        for file in self.files:
            if isinstance(file, Source):
                sample = find_sample(file.path)
                for piece in _group(sample.documents(), Piece(file.path, "texts")):
                    yield piece
                    self.position = min(done + sample.bytes, self.position + sum(len(text.encode()) for text in piece.texts))
                done += sample.bytes
                self.position = done
                continue
            try:
                with opened(file) as (stream, raw):
                    for piece in self._read(file, stream):
                        yield piece
                        self.position = done + _tell(raw)
            except UserError as error:
                if not self.skip:
                    raise
                yield Piece(file.name, "error", error=str(error).removeprefix(f"{file.name}: "))
            done += file.size or 0
            self.position = done

    def _read(self, file: File, stream: BinaryIO) -> Iterator[Piece]:
        if file.format == "parquet":
            yield from _read_parquet(file, stream)
            return
        text = _Utf8(file, stream)
        if file.format in ("csv", "tsv"):
            yield from _read_table(file, text, self.any_text)
        elif file.format in ("html", "markdown") or (file.format == "txt" and file.source.document == "file"):
            data = b"".join(text.blocks())
            yield Piece(file.name, file.format if file.format != "txt" else "file", data=data)
        else:
            kind = "jsonl" if file.format == "jsonl" else file.source.document
            key = "" if self.any_text else file.source.text
            for line, data in _chunks(text.blocks(), CUTS["line" if kind == "jsonl" else kind]):
                yield Piece(file.name, kind, line, data, key=key)
                if kind == "blank-line" and len(data) > 64 * BATCH:
                    self.notes.append(f"{file.name}: {len(data) >> 20} MB without a blank line; did you mean `document: line`?")
        self.encodings[file.name] = text.encoding


class _Utf8:
    """A text file's blocks as UTF-8, whatever its encoding; what cannot be decoded stays as it is and fails in `parse`."""

    def __init__(self, file: File, stream: BinaryIO):
        self.file, self.stream = file, stream
        self.encoding = file.source.encoding or "utf-8"

    def blocks(self) -> Iterator[bytes]:
        head = self.stream.read(SAMPLE)
        if self.file.source.encoding is None:
            self.encoding = self._detect(head)
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise UserError(f"{self.file.name}: no encoding is called {self.encoding!r}; try gb18030, big5, utf-16") from None
        plain = self.encoding == "utf-8"
        decoder = None if plain else codecs.getincrementaldecoder(self.encoding)("surrogateescape")
        ascii_so_far = plain and head.isascii()
        block = head
        while block or decoder:
            if ascii_so_far and not block.isascii():
                ascii_so_far = False
                self.encoding = self.file.source.encoding or self._detect(block)
                if self.encoding != "utf-8":
                    decoder = codecs.getincrementaldecoder(self.encoding)("surrogateescape")
            if decoder is None:
                yield block
            else:
                try:
                    yield decoder.decode(block, not block).encode("utf-8", "surrogateescape")
                except UnicodeError as error:
                    raise UserError(f"{self.file.name}: not {self.encoding} ({error}); set `encoding` on the source") from None
                if not block:
                    return
            block = self.stream.read(BLOCK)

    def _detect(self, sample: bytes) -> str:
        found = detect_encoding(sample, self.file.format == "html")
        if found is None:
            raise UserError(
                f"{self.file.name}: this is not text (binary, or in an unknown encoding); "
                "leave it out, or set `format` or `encoding` on the source"
            )
        return found


def _chunks(blocks: Iterator[bytes], cut: re.Pattern[bytes]) -> Iterator[tuple[int, bytes]]:
    """(line, bytes) that end where a document ends. Linear, however long a document is."""
    held: list[bytes] = []
    size, line = 0, 1
    try:
        for block in blocks:
            held.append(block)
            size += len(block)
            if size < BATCH:
                continue
            tail = b"".join(held[-2:])                 # a cut may lie across the border of two blocks
            end = _last_end(tail, cut)
            if not end:
                continue
            data = b"".join((*held[:-2], tail[:end]))
            yield line, data
            line += data.count(b"\n")
            held = [tail[end:]]
            size = len(held[0])
    except Exception:                                  # the file is damaged: what is whole before that is good
        data = b"".join(held)
        if end := _last_end(data, cut):
            yield line, data[:end]
        raise
    if size:
        yield line, b"".join(held)


def _last_end(data: bytes, cut: re.Pattern[bytes]) -> int:
    return data.rfind(b"\n") + 1 if cut is CUTS["line"] else max((match.end() for match in cut.finditer(data)), default=0)


def _group(documents: Iterator[tuple[int, str]], like: Piece) -> Iterator[Piece]:
    """Documents that are texts already, in pieces of about a third of BATCH characters."""
    piece, size = Piece(like.name, like.kind), 0
    try:
        for line, text in documents:
            piece.lines.append(line)
            piece.texts.append(text)
            size += len(text)
            if size > BATCH // 3:
                yield piece
                piece, size = Piece(like.name, like.kind), 0
    except Exception:                                  # the file is damaged: the rows before that are good
        if piece.texts:
            yield piece
        raise
    if piece.texts:
        yield piece


def _read_table(file: File, text: _Utf8, any_text: bool) -> Iterator[Piece]:
    csv.field_size_limit(2**31 - 1)
    lines = _lines(text.blocks())
    rows = csv.reader(lines, delimiter="\t" if file.format == "tsv" else ",", strict=True)
    try:
        names = next(rows, None)
        if names is None:
            return
        names[0] = names[0].removeprefix("\ufeff")
        column = names.index(file.source.text) if file.source.text in names else -1
        if column < 0 and not any_text:
            raise UserError(
                f"{file.name}: no column {file.source.text!r}; its columns: {', '.join(names)}; set `text` on the source"
            )
        yield from _group(_cells(rows, column), Piece(file.name, "texts"))
    except csv.Error as error:
        raise UserError(f"{file.name}, line {rows.line_num}: not {file.format}: {error}") from None


def _cells(rows: Any, column: int) -> Iterator[tuple[int, str]]:
    line = rows.line_num
    for row in rows:
        if row:
            text = "\n".join(row) if column < 0 else row[column] if column < len(row) else ""
            yield line + 1, text
        line = rows.line_num


def _lines(blocks: Iterator[bytes]) -> Iterator[str]:
    """Lines that end at a line feed and nowhere else: the csv module joins those of one quoted cell."""
    for _, data in _chunks(blocks, CUTS["line"]):
        yield from io.StringIO(data.replace(b"\0", b"").decode("utf-8", "surrogateescape"), newline="\n")


def _read_parquet(file: File, stream: BinaryIO) -> Iterator[Piece]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryFile() as temporary:
        handle: Any = stream
        if file.compression:
            shutil.copyfileobj(stream, temporary)
            handle = temporary
        try:
            table = pq.ParquetFile(handle)
            names = table.schema_arrow.names
            if file.source.text not in names:
                raise UserError(
                    f"{file.name}: no column {file.source.text!r}; its columns: {', '.join(names)}; set `text` on the source"
                )
            kind = table.schema_arrow.field(file.source.text).type
            words = pa.types.is_list(kind) or pa.types.is_large_list(kind)
            inner = kind.value_type if words or pa.types.is_dictionary(kind) else kind
            if not re.fullmatch("(large_)?(string|binary)(_view)?", str(inner)):
                raise UserError(
                    f"{file.name}: column {file.source.text!r} is of type {kind}, and text is string or binary, or a list of "
                    "them; set `text` on the source to the column that has it"
                )
            yield from _group(_values(table, file.source.text, words), Piece(file.name, "texts"))
        except pa.ArrowException as error:
            raise UserError(f"{file.name}: damaged or not parquet: {error}") from None


def _values(table: Any, column: str, words: bool) -> Iterator[tuple[int, str]]:
    """(row, text), null as an empty text. words: a row has a list of them, to be joined. A few rows at a time: each may be a
    book."""
    import pyarrow as pa

    def text_of(value: bytes | None) -> str:
        return (value or b"").decode("utf-8", "surrogateescape")

    kind = pa.list_(pa.large_binary()) if words else pa.large_binary()
    row = 0
    for batch in table.iter_batches(batch_size=32, columns=[column]):
        for value in batch.column(0).cast(kind).to_pylist():
            row += 1
            yield row, joined([text_of(word) for word in value or ()]) if words else text_of(value)


def _tell(raw: BinaryIO) -> int:
    try:
        return raw.tell()
    except (OSError, ValueError):
        return 0


@dataclass(frozen=True)
class Unreadable:
    """A record that could not be read, and why."""

    line: int
    detail: str
    text: str = ""


def parse(piece: Piece) -> Iterator[tuple[int, str | Unreadable]]:
    """(line, text) of each document in a piece; Unreadable stands for a record that is not one."""
    match piece.kind:
        case "error":
            yield 0, Unreadable(0, piece.error)
        case "texts":
            for line, text in zip(piece.lines, piece.texts, strict=True):
                yield line, _not_utf8(line, text) if _ESCAPED.search(text) else text
        case "jsonl":
            yield from _parse_jsonl(piece)
        case "line" | "blank-line":
            yield from _parse_lines(piece)
        case _:
            yield 1, _whole(piece)


_ESCAPED = re.compile("[\udc80-\udcff]")


def _not_utf8(line: int, text: str) -> Unreadable:
    return Unreadable(line, "bytes that do not fit its encoding; set `encoding` on the source", text)


def _whole(piece: Piece) -> str | Unreadable:
    from yanmo.corpus.markup import html_to_text, markdown_to_text

    try:
        text = piece.data.decode()
    except UnicodeDecodeError as error:
        return _not_utf8(1 + piece.data.count(b"\n", 0, error.start), piece.data[:200].decode(errors="replace"))
    match piece.kind:
        case "html":
            return html_to_text(text)
        case "markdown":
            return markdown_to_text(text.replace("\r\n", "\n"))
    return text


def _parse_lines(piece: Piece) -> Iterator[tuple[int, str | Unreadable]]:
    line = piece.line
    documents = piece.data.split(b"\n") if piece.kind == "line" else CUTS["blank-line"].split(piece.data)
    gaps = None if piece.kind == "line" else CUTS["blank-line"].finditer(piece.data)
    for data in documents:
        if data.strip():
            lead = 0 if gaps is None else data[: len(data) - len(data.lstrip())].count(b"\n")
            try:
                yield line + lead, data.decode()
            except UnicodeDecodeError as error:
                place = line + data.count(b"\n", 0, error.start)
                yield place, _not_utf8(place, data.decode(errors="replace"))
        gap = next(gaps, None) if gaps is not None else None
        line += data.count(b"\n") + (gap[0].count(b"\n") if gap else 1)


def _parse_jsonl(piece: Piece) -> Iterator[tuple[int, str | Unreadable]]:
    for line, data in enumerate(piece.data.split(b"\n"), piece.line):
        if not data.strip():
            continue
        try:
            record = json.loads(data.decode())
        except UnicodeDecodeError:
            yield line, _not_utf8(line, data.decode(errors="replace"))
            continue
        except (ValueError, RecursionError) as error:
            hint = "; write one object a line" if line == 1 and data.lstrip()[:1] in b"[{" else ""
            yield line, Unreadable(line, f"invalid JSON ({error}){hint}", data.decode(errors="replace"))
            continue
        text = record.get(piece.key) if isinstance(record, dict) else None
        if not piece.key:
            text = "\n".join(_strings(record))
        if isinstance(text, list) and all(isinstance(word, str) for word in text):
            text = joined(text)
        yield line, text if isinstance(text, str) else _no_text(line, record, piece.key, data)


def _no_text(line: int, record: Any, key: str, data: bytes) -> Unreadable:
    shown = data[:800].decode(errors="replace")
    if not isinstance(record, dict):
        return Unreadable(line, f"a JSON {type(record).__name__} and not an object; write one object a line", shown)
    if key in record:
        return Unreadable(line, f"{key!r} is a {type(record[key]).__name__} and no string, nor a list of strings", shown)
    keys = ", ".join(list(record)[:20]) or "none"
    return Unreadable(line, f"no key {key!r}; its keys: {keys}; set `text` on the source", shown)


def _strings(record: Any) -> Iterator[str]:
    """Every string in a JSON value."""
    if isinstance(record, str):
        yield record
    elif isinstance(record, dict | list):
        for value in record.values() if isinstance(record, dict) else record:
            yield from _strings(value)
