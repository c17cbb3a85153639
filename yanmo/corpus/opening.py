"""Finding files (files, folders, globs, fsspec URLs) and opening them (plain, .gz, .bz2, .xz, .zst)."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

from yanmo.corpus.samples import PREFIX
from yanmo.errors import UserError
from yanmo.recipe import Format, Source

FORMATS: dict[str, Format] = {
    ".txt": "txt", ".text": "txt",
    ".md": "markdown", ".markdown": "markdown",
    ".html": "html", ".htm": "html", ".xhtml": "html",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
    ".csv": "csv", ".tsv": "tsv",
    ".parquet": "parquet",
}  # fmt: skip
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, OSError)


@dataclass(frozen=True)
class File:
    """One file to read: where it is, how to read it, its size in bytes (None where the store does not say)."""

    system: Any
    path: str
    name: str
    format: Format
    source: Source
    size: int | None

    @property
    def compression(self) -> str | None:
        return _compression(self.path)


def find_files(source: Source, notes: list[str] | None = None) -> list[File]:
    """The files a source stands for, in the order of their names; what is left out is said in `notes`.

    Raises UserError for a source that is not there, and for a folder or glob with no file that can be read.
    """
    import fsspec

    remote = "://" in source.path
    try:
        system, root = fsspec.core.url_to_fs(source.path)
        pattern = any(sign in source.path for sign in "*?[") and not system.exists(root)
        folder = not pattern and not source.path.startswith("http") and system.isdir(root)
        if pattern:
            found = [path for path in system.glob(root) if "/." in root or not _hidden(PurePosixPath(path).name)]
            paths = [path for path in found if not system.isdir(path)]
        elif folder:
            paths = [path for path in system.find(root) if not _hidden(path.removeprefix(root))]
        else:
            paths = [root] if remote or system.exists(root) else []
    except ImportError as error:
        raise UserError(f"{source.path}: {error}; install the package it names") from None
    except ValueError as error:
        raise UserError(f"{source.path}: {error}") from None
    except Exception as error:                       # stores raise what they like: botocore's, aiohttp's errors are no OSError
        if not remote and not isinstance(error, OSError):
            raise
        raise UserError(f"{source.path}: cannot be read: {_reason(error)}") from None
    if not paths:
        what = "no file matches" if pattern else "no file in this folder" if folder else "no such file or folder"
        raise UserError(f"{source.path}: {what}")
    many = pattern or folder
    chosen = [path for path in sorted(map(str, paths)) if not many or source.format or _format(path)]
    if not chosen:
        raise UserError(
            f"{source.path}: none of its {len(paths)} files can be read (endings known: {' '.join(FORMATS)}, each also as "
            f"{' '.join(COMPRESSIONS)}); for text files with another ending set `format: txt` on the source"
        )
    if notes is not None and len(chosen) < len(paths):
        notes.append(f"{source.path}: {len(paths) - len(chosen)} of {len(paths)} files left out: their endings are not known")
    return [_file(system, path, source, many, root) for path in chosen]


def fingerprints(sources: Iterable[Source]) -> dict[str, str]:
    """What tells whether the files of sources have changed: by name the size and, where the store says it, the last change."""
    found = {}
    for source in sources:
        if source.path.startswith(PREFIX):
            continue
        for file in find_files(source):
            try:
                changed = file.system.modified(file.path)
            except (OSError, NotImplementedError, KeyError):
                changed = "unknown"
            found[file.name] = f"{file.size} bytes, changed {changed}"
    return found


def _file(system: Any, path: str, source: Source, many: bool, root: str) -> File:
    name = source.path
    if many:
        inner = path.removeprefix(root).lstrip("/")
        name = f"{source.path.rstrip('/')}/{inner}" if path.startswith(root) else _shown(path)
    try:
        size = system.size(path)
    except (OSError, ValueError, NotImplementedError):
        size = None
    return File(system, path, name, source.format or _format(path) or "txt", source, size)


def _shown(path: str) -> str:
    """A path as the user would write it: relative to the working folder where it lies below it."""
    from pathlib import Path

    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path


def _hidden(inner: str) -> bool:
    return any(part.startswith(".") for part in inner.split("/") if part)


def _compression(path: str) -> str | None:
    ending = PurePosixPath(path).suffix.lower()
    return ending if ending in COMPRESSIONS else None


def _format(path: str) -> Format | None:
    name = PurePosixPath(path)
    if name.suffix.lower() in COMPRESSIONS:
        name = name.with_suffix("")
    return FORMATS.get(name.suffix.lower())


@contextmanager
def opened(file: File) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """A file's bytes, decompressed, and the raw stream, whose position tells how far reading is.

    Raises UserError for what cannot be read, and for a compressed file that is damaged or ends too early.
    """
    try:
        with file.system.open(file.path, "rb") as raw:
            yield _decompressed(raw, file.compression), raw
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{file.name}: {error}; install the package it names") from None
    except DAMAGED as error:
        if file.compression and not isinstance(error, FileNotFoundError | PermissionError):
            raise UserError(
                f"{file.name}: damaged {file.compression} file ({_reason(error)}); was it downloaded to its end?"
            ) from None
        raise UserError(f"{file.name}: cannot be read: {_reason(error)}") from None
    except Exception as error:
        if "://" not in file.source.path:
            raise
        raise UserError(f"{file.name}: cannot be read: {_reason(error)}") from None


def _decompressed(raw: BinaryIO, compression: str | None) -> BinaryIO:
    match compression:
        case ".gz":
            return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
        case ".bz2":
            return cast(BinaryIO, bz2.BZ2File(raw))
        case ".xz":
            return cast(BinaryIO, lzma.LZMAFile(raw))
        case ".zst":
            return io.BufferedReader(_Zstandard(raw), 1 << 18)
    return raw


class _Zstandard(io.RawIOBase):
    """A .zst stream that notices where it was cut off; zstandard's own reader ends there in silence."""

    def __init__(self, raw: BinaryIO):
        import zstandard

        self._raw, self._new = raw, zstandard.ZstdDecompressor().decompressobj
        self._frame, self._begun = self._new(), False
        self._input, self._output = b"", memoryview(b"")
        self._damage = zstandard.ZstdError

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            data = self._input or self._raw.read(1 << 14)     # small, so that a bomb cannot fill the memory at once
            if not data:
                if self._begun:
                    raise EOFError("it ends in the middle of a frame")
                return 0
            try:
                self._output, self._begun, self._input = memoryview(self._frame.decompress(data)), True, b""
            except self._damage as error:
                raise OSError(str(error)) from None
            if self._frame.eof:
                self._input, self._frame, self._begun = self._frame.unused_data, self._new(), False
        count = min(len(buffer), len(self._output))
        buffer[:count], self._output = self._output[:count], self._output[count:]
        return count


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
