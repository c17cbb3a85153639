"""The corpus on disk: Parquet parts, written as they come and read as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from yanmo.errors import UserError

if TYPE_CHECKING:
    from yanmo.corpus.refine import Refined

SCHEMA = pa.schema([("text", pa.string()), ("source", pa.string()), ("id", pa.uint64())])
GROUP = 8 << 20
"""Bytes of text in a row group: what a reader holds at a time."""
PART = 1 << 30
"""Bytes of text in a part file."""


class Writer:
    """train-NNNNN.parquet, validation-NNNNN.parquet and dropped.jsonl in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._parts = {name: _Part(folder, name) for name in ("train", "validation")}
        self._dropped: IO[str] = (folder / "dropped.jsonl").open("w", encoding="utf-8")

    def write(self, split: str, batch: Refined, places: np.ndarray) -> None:
        """The documents of a batch at `places`, in order."""
        if not len(places):
            return
        many = len(batch.ids)
        text = pa.LargeStringArray.from_buffers(many, pa.py_buffer(batch.offsets), pa.py_buffer(batch.text))
        chosen = pa.array(places)
        columns = [text.take(chosen).cast(pa.string()), pa.array(batch.names).take(chosen), pa.array(batch.ids[places])]
        self._parts[split].write(pa.table(columns, schema=SCHEMA), int(np.diff(batch.offsets)[places].sum()))

    def drop(self, row: dict[str, Any]) -> None:
        """A line of dropped.jsonl."""
        self._dropped.write(json.dumps(row, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Write what is held and close the files."""
        with self._dropped:
            for part in self._parts.values():
                part.close()


class _Part:
    """The part files of one split; rows are held until there are enough for a group."""

    def __init__(self, folder: Path, split: str):
        self.folder, self.split = folder, split
        self.number, self.size = 0, 0
        self._held: list[pa.Table] = []
        self._held_bytes = 0
        self._file: pq.ParquetWriter | None = None

    def write(self, table: pa.Table, size: int) -> None:
        self._held.append(table)
        self._held_bytes += size
        if self._held_bytes >= GROUP:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        if self._file is None:
            path = self.folder / f"{self.split}-{self.number:05}.parquet"
            columns: Any = ["source"]                      # pyarrow takes a list; its types say bool
            self._file = pq.ParquetWriter(
                path, SCHEMA, compression="zstd", compression_level=1, use_dictionary=columns, write_statistics=False
            )
        self._file.write_table(pa.concat_tables(self._held).combine_chunks())
        self.size += self._held_bytes
        self._held, self._held_bytes = [], 0
        if self.size >= PART:
            self._file.close()
            self._file, self.size, self.number = None, 0, self.number + 1

    def close(self) -> None:
        self._flush()
        if self._file is not None:
            self._file.close()
            self._file = None


def iterate_texts(folder: Path, split: Literal["train", "validation"]) -> Iterator[str]:
    """The texts of a split in order, a few at a time. Raises UserError where `folder` holds no such split."""
    parts = sorted(Path(folder).glob(f"{split}-*.parquet"))
    if not parts:
        raise UserError(f"{folder}: no {split} split of a corpus here; run `yanmo corpus` with your recipe first")
    yield from texts_of(parts)


def texts_of(parts: Iterable[Path]) -> Iterator[str]:
    """The texts of Parquet files in order; a row group is held at a time, however long its documents are."""
    for part in parts:
        with pq.ParquetFile(part) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group, columns=["text"]).column("text").to_pylist()
