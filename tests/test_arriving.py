"""What comes in slowly is not held back for what comes later; what is there already is taken together."""

import gzip
import os
import sys
import threading

from yanmo.arriving import in_blocks


def test_lists_are_cut_into_blocks():
    assert list(in_blocks(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(in_blocks([], 3)) == []


def test_a_line_is_given_out_while_the_writer_is_silent(monkeypatch):
    reads, writes = os.pipe()
    with os.fdopen(reads, encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdin", file)
        blocks = in_blocks(file, 4)
        os.write(writes, "一\n二\n三".encode())
        assert next(blocks) == ["一", "二"], "the third has no end yet"
        os.write(writes, "四\n".encode())
        assert next(blocks) == ["三四"]
        os.close(writes)
        assert list(blocks) == []


def test_what_is_written_at_once_comes_in_whole_blocks(monkeypatch):
    lines = [f"line {number} 山" for number in range(20_000)]
    reads, writes = os.pipe()

    def write():
        with os.fdopen(writes, "w", encoding="utf-8") as file:
            file.write("\n".join(lines))

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(reads, encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdin", file)
        blocks = list(in_blocks(file, 256))
    writer.join()
    assert [line for block in blocks for line in block] == lines
    assert all(len(block) == 256 for block in blocks[:-1])


def test_bytes_that_are_no_text_are_kept_apart(tmp_path, monkeypatch):
    (tmp_path / "bad.txt").write_bytes(b"good\nb\xffad\n\n")
    with (tmp_path / "bad.txt").open(encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert list(in_blocks(file, 8)) == [["good", "b\udcffad", ""]]


def test_a_file_that_is_no_input_is_read_as_its_lines(tmp_path):
    with gzip.open(tmp_path / "lines.gz", "wt", encoding="utf-8") as file:
        file.write("one\ntwo\n")
    with gzip.open(tmp_path / "lines.gz", "rt", encoding="utf-8") as file:
        assert list(in_blocks(file, 8)) == [["one\n", "two\n"]]
