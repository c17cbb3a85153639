"""Files that are whole or not there: atomic writes, folders that appear at once with a manifest, locks on folders.

A folder is made beside its final place, every file is summed and synced, and one rename puts it there: a process
killed at any moment, a full disk or a read-only folder leaves what was there before as it was.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yanmo.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no flock: there a second process is not noticed
    fcntl = None

MANIFEST = "manifest.json"
LOCK = ".lock"

ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EROFS: "the disk is mounted read-only; choose another folder",
    errno.EACCES: "no permission to write there; choose another folder or change its permissions",
    errno.EPERM: "no permission to write there; choose another folder or change its permissions",
    errno.EEXIST: "a file stands where a folder is to be; choose another name",
    errno.ENOTDIR: "a file stands where a folder is to be; choose another name",
}


def sha256_of(path: Path | str) -> str:
    """The sha256 sum of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn a full disk, a read-only disk and missing permission, met while `path` is written, into one UserError."""
    try:
        yield
    except Exception as error:
        advice = ADVICE.get(_number_of(error) or 0)
        if advice is None:
            raise
        raise UserError(f"{path} cannot be written: {advice}. What was there before is unchanged.") from error


def write_atomically(path: Path | str, data: bytes | str) -> None:
    """Write a file (text as UTF-8) so that it is the old one or the new one and never a part; makes the folder.

    Raises UserError when the disk is full or read-only.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync(path.parent)


@contextmanager
def new_folder(final: Path | str) -> Iterator[Path]:
    """A temporary folder that becomes `final`, with a manifest, when the block ends; on an error it is removed.

    An existing `final` is moved aside and removed only when the new one is in place. Raises UserError when the disk is
    full or read-only, and where something stands that was not written so.
    """
    final = Path(final)
    _spare_foreign(final)
    temporary = final.with_name(f".{final.name}.partial-{os.getpid()}")
    replaced = final.with_name(f".{final.name}.old-{os.getpid()}")
    with writing(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        _clear_remains(final)
        temporary.mkdir()
        try:
            yield temporary
            write_manifest(temporary)
            if final.exists():
                final.rename(replaced)
            temporary.rename(final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            if replaced.exists() and not final.exists():
                replaced.rename(final)
            raise
        _sync(final.parent)
        shutil.rmtree(replaced, ignore_errors=True)


def _spare_foreign(final: Path) -> None:
    """Raises UserError where a folder or a file stands that nobody here has written."""
    ours = final.is_dir() and ((final / MANIFEST).exists() or all(path.name.startswith(".") for path in final.iterdir()))
    if final.exists() and not ours:
        raise UserError(f"{final} is there already, and nothing that yanmo has written; choose another name, or move it away")


def link(source: str, target: str) -> None:
    """The same file under another name, or a copy of it where a disk has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def copy_folder(source: Path, final: Path) -> None:
    """A copy that is there whole or not at all; what was there before is replaced."""
    with new_folder(final) as temporary:
        shutil.copytree(source, temporary, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))


def write_manifest(folder: Path) -> None:
    """Sync every file below `folder` and write manifest.json: the sha256 sum and the size in bytes of each."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST):
        files[path.relative_to(folder).as_posix()] = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        _sync(path)
    for inner in [path for path in folder.rglob("*") if path.is_dir()]:
        _sync(inner)
    write_atomically(folder / MANIFEST, json.dumps({"files": files}, indent=1, ensure_ascii=False))


def check_manifest(folder: Path | str) -> list[str]:
    """What is broken in a folder that has a manifest, one sentence each; empty when every file is as it was written."""
    folder = Path(folder)
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        expected = {name: (entry["sha256"], entry["bytes"]) for name, entry in files.items()}
    except FileNotFoundError:
        return [f"{folder / MANIFEST} is missing: the folder was not written to its end"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"{folder / MANIFEST} is damaged"]
    broken = []
    for name, (digest, size) in expected.items():
        path = folder / name
        if not path.is_file():
            broken.append(f"{path} is missing")
        elif path.stat().st_size != size:
            broken.append(f"{path} has {path.stat().st_size} bytes instead of {size}")
        elif sha256_of(path) != digest:
            broken.append(f"{path} has been altered: its sha256 is not the one in {MANIFEST}")
    return broken


@contextmanager
def lock_folder(folder: Path | str) -> Iterator[None]:
    """Hold a folder for this process; the operating system lets go of it when the process ends, however it ends.

    Raises UserError, naming the process, when another one holds it.
    """
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
                raise UserError(
                    f"{folder} is in use by {holder}; wait until it has finished, stop it, or choose another folder"
                ) from None
        with writing(folder):
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        os.close(handle)


def _number_of(error: Exception) -> int | None:
    """The error number of the operating system. Libraries in Rust (safetensors) give it only in the text."""
    if isinstance(error, UserError):
        return None
    if isinstance(error, OSError):
        return error.errno
    match = re.search(r"\(os error (\d+)\)", str(error))
    return int(match[1]) if match else None


def _clear_remains(final: Path) -> None:
    """Remove what killed processes left of `final`, and bring back a folder whose replacement never came."""
    for path in final.parent.glob(f".{final.name}.*-*"):
        match = re.fullmatch(r"\.(?:partial|old)-(\d+)", path.name.removeprefix(f".{final.name}"))
        if match is None or (_alive(int(match[1])) and int(match[1]) != os.getpid()):
            continue
        if ".old-" in path.name and not final.exists():
            path.rename(final)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _alive(process: int) -> bool:
    if os.name == "nt":  # there os.kill ends the process that it asks about
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _sync(path: Path) -> None:
    """Have the disk hold what was written; a folder's entries need it as well as a file's bytes."""
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows syncs only what may be written
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
