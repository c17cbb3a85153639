"""Token shards: what the networks read. Arrow IPC files with one document a row, memory-mapped, open to DuckDB and Polars.

Columns: tokens (the smallest unsigned integers that hold the vocabulary, without special tokens), sentences and words
(where each begins among the tokens, the first at 0), bytes (of the document's text in UTF-8). The schema's metadata has the
tokenizer's hash; manifest.json beside the files has the sha256 of each.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from yanmo.corpus.workers import ordered_map, start_pool, workers_for
from yanmo.corpus.write import texts_of
from yanmo.errors import UserError
from yanmo.files import check_manifest, new_folder, writing
from yanmo.progress import Progress, silent
from yanmo.tokenizer.encoding import EncodedBatch, Ragged, encoder_of
from yanmo.tokenizer.tokens import Tokens

SPLITS = ("train", "validation")
HASH_KEY, COUNT_KEY, VERSION_KEY = b"yanmo.tokenizer", b"yanmo.vocabulary", b"yanmo.version"
VERSION = b"1"
TASK = 1 << 20
"""Characters of text that a worker is given at a time."""
FILE_TOKENS = 256 << 20
"""Tokens after which another file is begun."""


@dataclass
class SplitReport:
    """What was written for one split. bytes: of text in UTF-8."""

    documents: int = 0
    tokens: int = 0
    bytes: int = 0
    words: int = 0
    sentences: int = 0
    files: int = 0

    @property
    def tokens_per_byte(self) -> float:
        return self.tokens / self.bytes if self.bytes else 0.0


@dataclass
class ShardReport:
    """What was written, by split, and how long it took."""

    seconds: float = 0.0
    splits: dict[str, SplitReport] = field(default_factory=dict)


def write_shards(
    corpus_folder: Path | str,
    tokens: Tokens,
    folder: Path | str,
    progress: Progress = silent,
    workers: int | None = None,
) -> ShardReport:
    """Tokenize train-*.parquet and validation-*.parquet of a corpus into shards, in their order.

    The files are the same whatever the number of workers. Memory: a few megabytes of text for each worker and one batch
    of tokens. Raises UserError when the corpus has no documents or the disk is full.
    """
    began = time.monotonic()
    report = ShardReport()
    sources = {split: sorted(Path(corpus_folder).glob(f"{split}*.parquet")) for split in SPLITS}
    if not sources["train"]:
        raise UserError(f"{corpus_folder}: no train-*.parquet here; make the corpus first (`yanmo corpus RECIPE`)")
    parts = [pq.read_metadata(path) for paths in sources.values() for path in paths]
    total = sum(part.num_rows for part in parts)
    size = sum(part.row_group(group).total_byte_size for part in parts for group in range(part.num_row_groups))
    done = 0
    with new_folder(Path(folder)) as temporary, writing(Path(folder)), _Pool(tokens, workers_for(size, workers)) as pool:
        for split, paths in sources.items():
            part = report.splits[split] = SplitReport()
            with _Writer(temporary, split, tokens, part) as writer:
                for batch, sizes in pool.encode(_tasks(paths)):
                    writer.write(batch, sizes)
                    done += len(sizes)
                    seconds = max(time.monotonic() - began, 1e-9)
                    figures = {"megabytes/s": round(sum(s.bytes for s in report.splits.values()) / 1e6 / seconds, 2)}
                    progress(done, total, "documents", **figures)
        report.seconds = round(time.monotonic() - began, 3)
        splits = {split: {**asdict(part), "tokens_per_byte": part.tokens_per_byte} for split, part in report.splits.items()}
        (temporary / "report.json").write_text(json.dumps({"seconds": report.seconds, "splits": splits}, indent=1))
    return report


class Shards:
    """One split of a shard folder, memory-mapped: a document is read from the disk when it is looked at.

    lengths, text_bytes: (documents,) int64, tokens and bytes of text of each document.
    """

    def __init__(self, columns: Sequence[_File], folder: Path, split: str):
        self.folder, self.split = folder, split
        self._files = columns
        counts = [len(file) for file in columns]
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        empty = np.zeros(0, np.int64)
        self.lengths = np.concatenate([np.diff(file.tokens.offsets) for file in columns] or [empty])
        self.text_bytes = np.concatenate([file.bytes for file in columns] or [empty]).astype(np.int64)
        self.token_total = int(self.lengths.sum())
        self.tokenizer_hash = columns[0].metadata[HASH_KEY].decode() if columns else ""
        self.vocabulary = int(columns[0].metadata[COUNT_KEY]) if columns else 0

    @classmethod
    def open(cls, folder: Path | str, split: str = "train", tokenizer_hash: str | None = None, check: bool = True) -> Shards:
        """Map the files of a split.

        check: read every file once and compare its sha256. Raises UserError for a folder that has no such split, for an
        altered file, and for shards of another tokenizer than `tokenizer_hash` (where it is given).
        """
        folder = Path(folder)
        broken = check_manifest(folder) if check else []
        if broken:
            raise UserError("; ".join(broken) + "; make the shards again (`yanmo corpus RECIPE`)")
        paths = sorted(folder.glob(f"{split}-*.arrow"))
        if not paths:
            raise UserError(f"{folder}: no {split}-*.arrow here; splits are {', '.join(SPLITS)}")
        shards = cls([_File(path) for path in paths], folder, split)
        if tokenizer_hash is not None and tokenizer_hash != shards.tokenizer_hash:
            raise UserError(
                f"{folder}: these shards were made with another tokenizer ({shards.tokenizer_hash[:12]}, not "
                f"{tokenizer_hash[:12]}); make them again with this one"
            )
        return shards

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(tokens, sentences, words) of a document, as views of the mapped file."""
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        file, row = self._files[number], index - int(self._starts[number])
        return file.tokens[row], file.sentences[row], file.words[row]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        return (self[index] for index in range(len(self)))


def verify(folder: Path | str) -> list[str]:
    """What is broken in a shard folder, one sentence each; empty when all is well."""
    broken = check_manifest(folder)
    if not any(Path(folder).glob("train-*.arrow")):
        broken.append(f"{folder}: no train-*.arrow here")
    return broken


class _File:
    """One Arrow file as numpy views. Its record batches are joined into whole columns where there are several."""

    def __init__(self, path: Path):
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            self.metadata = reader.schema.metadata or {}
            batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path} cannot be read as a shard: {error}") from None
        if self.metadata.get(VERSION_KEY) != VERSION:
            raise UserError(f"{path} is not a shard that this version of yanmo reads; make the shards again")
        self.tokens, self.sentences, self.words = (_Lists(batches, name) for name in ("tokens", "sentences", "words"))
        counts = [batch.column("bytes").to_numpy() for batch in batches]
        self.bytes = np.concatenate(counts) if counts else np.zeros(0, np.uint32)

    def __len__(self) -> int:
        return len(self.bytes)


class _Lists:
    """A column of lists over several record batches: offsets are joined (8 bytes a document), values stay mapped."""

    def __init__(self, batches: Sequence[pa.RecordBatch], name: str):
        columns = [batch.column(name) for batch in batches]
        self._values = [column.values.to_numpy(zero_copy_only=True) for column in columns]
        self._locals = [column.offsets.to_numpy(zero_copy_only=True) for column in columns]
        self._rows = np.concatenate([[0], np.cumsum([len(column) for column in columns], dtype=np.int64)])
        lengths = np.concatenate([np.diff(local) for local in self._locals] or [np.zeros(0, np.int64)])
        self.offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])

    def __getitem__(self, row: int) -> np.ndarray:
        number = int(np.searchsorted(self._rows, row, side="right")) - 1
        offsets, at = self._locals[number], row - int(self._rows[number])
        return self._values[number][offsets[at] : offsets[at + 1]]


class _Writer:
    """Writes batches into numbered files of a split. Starts take 16 bits unless a document of the split needs more."""

    def __init__(self, folder: Path, split: str, tokens: Tokens, report: SplitReport):
        self.folder, self.split, self.report, self.tokens = folder, split, report, tokens
        self.starts = pa.uint16()
        self.file: pa.RecordBatchFileWriter | None = None
        self.in_file = 0
        self.narrow: list[Path] = []

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.file is not None:
            self.file.close()
        if kind is None and self.starts == pa.uint32():
            for path in self.narrow:
                _widen(path, self._schema())

    def write(self, batch: EncodedBatch, sizes: np.ndarray) -> None:
        widest = max((int(part.values.max(initial=0)) for part in (batch.sentences, batch.words)), default=0)
        if widest >= 1 << 16 and self.starts == pa.uint16():
            self.starts = pa.uint32()
            self._close()
        if self.file is None or self.in_file >= FILE_TOKENS:
            self._next_file()
        assert self.file is not None, "a file was just begun"
        schema = self._schema()
        parts = (batch.tokens, batch.sentences, batch.words)
        columns = [_list_array(part, column.type) for part, column in zip(parts, schema, strict=False)]
        columns.append(pa.array(sizes, pa.uint32()))
        self.file.write_batch(pa.record_batch(columns, schema=schema))
        self.in_file += len(batch.tokens.values)
        self.report.documents += len(sizes)
        self.report.tokens += len(batch.tokens.values)
        self.report.words += len(batch.words.values)
        self.report.sentences += len(batch.sentences.values)
        self.report.bytes += int(sizes.sum())

    def _schema(self) -> pa.Schema:
        ids = pa.uint16() if self.tokens.size <= 1 << 16 else pa.uint32()
        columns = [("tokens", ids), ("sentences", self.starts), ("words", self.starts)]
        fields = [(name, pa.list_(pa.field("item", kind, nullable=False))) for name, kind in columns]
        size = str(self.tokens.size).encode()
        metadata = {HASH_KEY: self.tokens.hash.encode(), COUNT_KEY: size, VERSION_KEY: VERSION}
        return pa.schema([*fields, ("bytes", pa.uint32())], metadata=metadata)

    def _close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    def _next_file(self) -> None:
        self._close()
        path = self.folder / f"{self.split}-{self.report.files:05d}.arrow"
        if self.starts == pa.uint16():
            self.narrow.append(path)
        self.file = pa.ipc.new_file(str(path), self._schema())
        self.report.files += 1
        self.in_file = 0


def _widen(path: Path, schema: pa.Schema) -> None:
    """Write a file anew with the types of its split."""
    wide = path.with_suffix(".wide")
    with pa.ipc.open_file(pa.memory_map(str(path))) as reader, pa.ipc.new_file(str(wide), schema) as writer:
        for index in range(reader.num_record_batches):
            writer.write_batch(reader.get_batch(index).cast(schema))
    wide.replace(path)


class _Pool:
    """Workers that encode texts, each with its own tokenizer; none for one worker."""

    def __init__(self, tokens: Tokens, workers: int):
        self.tokens, self.workers = tokens, workers
        self.pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> _Pool:
        if self.workers > 1:
            self.pool = start_pool(self.workers, _start_worker, self.tokens)
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def encode(self, tasks: Iterable[list[str]]) -> Iterator[tuple[EncodedBatch, np.ndarray]]:
        """Batches in the order of the tasks; at most two tasks for each worker wait."""
        if self.pool is None:
            return (_encode(self.tokens, texts) for texts in tasks)
        return ordered_map(self.pool, _encode_in_worker, tasks, 2 * self.workers)


_worker_tokens: list[Tokens] = []


def _start_worker(tokens: Tokens) -> None:
    _worker_tokens[:] = [tokens]


def _encode_in_worker(texts: list[str]) -> tuple[EncodedBatch, np.ndarray]:
    return _encode(_worker_tokens[0], texts)


def _encode(tokens: Tokens, texts: list[str]) -> tuple[EncodedBatch, np.ndarray]:
    """The texts as one batch, with the smallest types that hold them, and the bytes of each text."""
    parts = list(encoder_of(tokens).batches(texts))
    ids = np.uint16 if tokens.size <= 1 << 16 else np.uint32
    joined = EncodedBatch(
        _join([part.tokens for part in parts], ids),
        _join([part.sentences for part in parts], np.uint32),
        _join([part.words for part in parts], np.uint32),
    )
    sizes = np.fromiter((len(text.encode()) for text in texts), np.uint32, len(texts))
    return joined, sizes


def _join(parts: Sequence[Ragged], dtype: type) -> Ragged:
    values = np.concatenate([part.values.astype(dtype) for part in parts])
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    return Ragged(values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))


def _list_array(part: Ragged, kind: pa.ListType) -> pa.ListArray:
    values = pa.array(part.values, kind.value_type)
    return pa.ListArray.from_arrays(pa.array(part.offsets, pa.int32()), values, type=kind)


def _tasks(paths: Iterable[Path]) -> Iterator[list[str]]:
    """The texts of parquet files, about TASK characters at a time."""
    texts: list[str] = []
    size = 0
    for text in texts_of(paths):
        texts.append(text)
        size += len(text)
        if size >= TASK:
            yield texts
            texts, size = [], 0
    if texts:
        yield texts
