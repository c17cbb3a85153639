"""Files: whole or not there, whatever goes wrong."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from yanmo import files
from yanmo.errors import UserError
from yanmo.files import check_manifest, lock_folder, new_folder, sha256_of, write_atomically


def test_sha256_is_the_standard_one(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "note.txt"
    write_atomically(path, "墨")
    write_atomically(path, b"ink")
    assert path.read_bytes() == b"ink"
    assert os.listdir(path.parent) == ["note.txt"]


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "permission"), (errno.EDQUOT, "quota")],
)
def test_disk_errors_are_one_sentence_and_the_old_file_stays(tmp_path, monkeypatch, number, words):
    path = tmp_path / "note.txt"
    write_atomically(path, "old")

    def fail(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(UserError, match=words):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["note.txt"]


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(IsADirectoryError), files.writing(tmp_path):
        tmp_path.write_bytes(b"")


def test_an_error_number_inside_the_text_of_a_rust_library_is_understood(tmp_path):
    with pytest.raises(UserError, match="disk is full"), files.writing(tmp_path):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_a_new_folder_appears_with_its_manifest(tmp_path):
    with new_folder(tmp_path / "made") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a.bin").write_bytes(b"abc")
        assert not (tmp_path / "made").exists()
    manifest = json.loads((tmp_path / "made" / "manifest.json").read_text())
    assert manifest["files"] == {"inner/a.bin": {"sha256": sha256_of(tmp_path / "made/inner/a.bin"), "bytes": 3}}
    assert check_manifest(tmp_path / "made") == []
    assert os.listdir(tmp_path) == ["made"]


def make(final, text, error=None):
    with new_folder(final) as folder:
        (folder / "a.txt").write_text(text)
        if error is not None:
            raise error


def test_what_nobody_here_has_written_is_never_replaced(tmp_path):
    theirs, file = tmp_path / "theirs", tmp_path / "notes.txt"
    theirs.mkdir()
    (theirs / "notes.txt").write_text("mine", encoding="utf-8")
    file.write_text("mine too", encoding="utf-8")
    for place in (theirs, file):
        with pytest.raises(UserError, match="is there already, and nothing that yanmo has written"), new_folder(place):
            pass
    assert (theirs / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert file.read_text(encoding="utf-8") == "mine too"
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        (folder / "a").write_text("a", encoding="utf-8")
    with pytest.raises(UserError, match="a file stands where a folder is to be"), new_folder(file / "inside"):
        pass
    with pytest.raises(UserError, match="a file stands where a folder is to be"), lock_folder(file):
        pass


def test_a_folder_is_replaced_and_a_failure_leaves_the_old_one(tmp_path):
    final = tmp_path / "made"
    make(final, "one")
    make(final, "two")
    assert (final / "a.txt").read_text() == "two"
    with pytest.raises(RuntimeError, match="stop"):
        make(final, "three", RuntimeError("stop"))
    assert (final / "a.txt").read_text() == "two"
    assert os.listdir(tmp_path) == ["made"]


def test_a_full_disk_leaves_the_old_folder(tmp_path, monkeypatch):
    final = tmp_path / "made"
    make(final, "one")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(UserError, match=r"made cannot be written: the disk is full"):
            make(final, "two")
    assert (final / "a.txt").read_text() == "one"
    assert check_manifest(final) == []
    assert os.listdir(tmp_path) == ["made"]


def test_what_is_broken_is_named(tmp_path):
    final = tmp_path / "made"
    make(final, "one")
    (final / "a.txt").write_text("onE")
    assert "a.txt has been altered" in check_manifest(final)[0]
    (final / "a.txt").write_text("longer")
    assert "a.txt has 6 bytes instead of 3" in check_manifest(final)[0]
    (final / "a.txt").unlink()
    assert "a.txt is missing" in check_manifest(final)[0]
    (final / "manifest.json").write_text("{")
    assert "damaged" in check_manifest(final)[0]
    (final / "manifest.json").unlink()
    assert "not written to its end" in check_manifest(final)[0]


def test_remains_of_a_killed_process_are_cleared_and_a_folder_moved_aside_comes_back(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / f".made.partial-{gone.pid}").mkdir()
    (tmp_path / f".made.old-{gone.pid}").mkdir()
    (tmp_path / f".made.old-{gone.pid}" / "a.txt").write_text("one")
    with pytest.raises(RuntimeError, match="stop"), new_folder(tmp_path / "made"):
        raise RuntimeError("stop")
    assert os.listdir(tmp_path) == ["made"]
    assert (tmp_path / "made" / "a.txt").read_text() == "one"


HOLD = """
import sys, time
from yanmo.files import lock_folder
with lock_folder(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_killed_one_lets_go(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid} on "), lock_folder(tmp_path):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    time.sleep(0.01)
    with lock_folder(tmp_path):
        pass
    with lock_folder(tmp_path):
        pass


def test_on_windows_no_process_is_asked_whether_it_lives(monkeypatch):
    """There os.kill would end it."""
    with monkeypatch.context() as patched:
        patched.setattr(files.os, "name", "nt")
        patched.setattr(files.os, "kill", lambda process, signal: pytest.fail("it was killed"))
        alive = files._alive(os.getpid())
    assert not alive
