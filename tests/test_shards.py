"""Shards hold what was encoded, are plain Arrow files, do not depend on the workers, and refuse what is broken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from yanmo import shards
from yanmo.corpus import build_corpus
from yanmo.errors import UserError
from yanmo.files import lock_folder
from yanmo.recipe import parse_recipe
from yanmo.shards import Shards, verify, write_shards
from yanmo.tokenizer import Tokens, encode_documents

TEXTS = [f"第{index}篇：北京清华大学的学生。A dog, {index} cats!\n" + "再来一句。" * (index % 7) for index in range(300)]


def tokens_of(texts: list[str], size: int = 0) -> Tokens:
    """A character-level tokenizer of the texts, its vocabulary padded to `size`."""
    characters = sorted({character for text in texts for character in text})
    vocabulary = {name: index for index, name in enumerate(["<unk>", *characters])}
    vocabulary |= {f"unused {index}": index for index in range(len(vocabulary), size)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return Tokens.from_json(tokenizer.to_str().encode())


def corpus(folder: Path, train: list[str], validation: list[str]) -> Path:
    folder.mkdir(parents=True)
    half = len(train) // 2
    parts = {"train-00000": train[:half], "train-00001": train[half:], "validation-00000": validation}
    for name, texts in parts.items():
        columns = {
            "text": pa.array(texts, pa.string()),
            "source": ["a"] * len(texts),
            "id": pa.array(range(len(texts)), pa.uint64()),
        }
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Tokens]:
    tokens = tokens_of(TEXTS)
    write_shards(corpus(tmp_path / "corpus", TEXTS[:280], TEXTS[280:]), tokens, tmp_path / "shards", workers=1)
    return tmp_path / "shards", tokens


def test_documents_come_back_in_their_order(written: tuple[Path, Tokens]) -> None:
    folder, tokens = written
    for split, texts in (("train", TEXTS[:280]), ("validation", TEXTS[280:])):
        opened = Shards.open(folder, split, tokens.hash)
        encoded = encode_documents(tokens, texts)
        assert len(opened) == len(texts)
        for row, one in zip(opened, encoded, strict=True):
            for found, expected in zip(row, (one.tokens, one.sentences, one.words), strict=True):
                assert found.tolist() == expected.tolist()
        assert opened.lengths.tolist() == [len(one.tokens) for one in encoded]
        assert opened.text_bytes.tolist() == [len(text.encode()) for text in texts]
        assert opened.token_total == sum(len(one.tokens) for one in encoded)
        with pytest.raises(IndexError):
            opened[len(texts)]


def test_they_are_plain_arrow_files_and_mapped(written: tuple[Path, Tokens]) -> None:
    folder, tokens = written
    table = pa.ipc.open_file(pa.memory_map(str(folder / "train-00000.arrow"))).read_all()
    assert table.column_names == ["tokens", "sentences", "words", "bytes"]
    assert table.schema.field("tokens").type.value_type == pa.uint16()
    assert table.schema.field("words").type.value_type == pa.uint16()
    assert table.schema.metadata[b"yanmo.tokenizer"].decode() == tokens.hash
    ids = table.column("tokens")[0].as_py()
    assert tokens.decode(ids).replace(" ", "") == TEXTS[0].replace(" ", "")
    view = Shards.open(folder)[0][0]
    assert view.dtype == np.uint16
    assert not view.flags.owndata
    assert not view.flags.writeable


def test_workers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "TASK", 500)
    tokens = tokens_of(TEXTS)
    source = corpus(tmp_path / "corpus", TEXTS[:280], TEXTS[280:])
    reports = [write_shards(source, tokens, tmp_path / f"{count}", workers=count) for count in (1, 2)]
    assert reports[0].splits == reports[1].splits
    assert reports[0].splits["train"].documents == 280
    for name in ("train-00000.arrow", "validation-00000.arrow"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert len(Shards.open(tmp_path / "2")) == 280


def test_types_grow_with_the_vocabulary_and_the_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "FILE_TOKENS", 1000)
    monkeypatch.setattr(shards, "TASK", 500)
    long = "长。" * 40_000
    texts = [*TEXTS[:50], long, *TEXTS[50:80]]
    tokens = tokens_of(texts, size=70_000)
    write_shards(corpus(tmp_path / "corpus", texts, TEXTS[:5]), tokens, tmp_path / "shards", workers=1)
    kinds = set()
    for path in sorted((tmp_path / "shards").glob("train-*.arrow")):
        schema = pa.ipc.open_file(str(path)).schema
        kinds.add((schema.field("tokens").type.value_type, schema.field("words").type.value_type))
    assert kinds == {(pa.uint32(), pa.uint32())}
    opened = Shards.open(tmp_path / "shards")
    assert opened.lengths.tolist() == [len(text) for text in texts]
    assert opened[50][1].tolist() == list(range(0, len(long), 2))
    assert verify(tmp_path / "shards") == []
    small = pa.ipc.open_file(str(tmp_path / "shards" / "validation-00000.arrow")).schema
    assert small.field("words").type.value_type == pa.uint16()


def test_a_flipped_byte_is_refused(written: tuple[Path, Tokens]) -> None:
    folder, _ = written
    path = folder / "train-00000.arrow"
    assert verify(folder) == []
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"train-00000\.arrow"):
        Shards.open(folder)
    assert [line for line in verify(folder) if "train-00000.arrow" in line]


def test_what_is_missing_or_of_another_tokenizer(written: tuple[Path, Tokens], tmp_path: Path) -> None:
    folder, tokens = written
    with pytest.raises(UserError, match="another tokenizer"):
        Shards.open(folder, "train", tokenizer_hash="0" * 64)
    with pytest.raises(UserError, match=r"no test-\*\.arrow"):
        Shards.open(folder, "test")
    with pytest.raises(UserError, match=r"no train-\*\.parquet"):
        write_shards(tmp_path / "nothing", tokens, tmp_path / "other")
    (folder / "train-00000.arrow").unlink()
    assert verify(folder)
    with pytest.raises(UserError, match="missing"):
        Shards.open(folder)


def test_progress_counts_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "TASK", 500)
    seen: list[tuple[float, float | None]] = []
    show: Callable[..., None] = lambda done, total, unit, **figures: seen.append((done, total))  # noqa: E731
    source = corpus(tmp_path / "corpus", TEXTS[:40], TEXTS[280:])
    write_shards(source, tokens_of(TEXTS), tmp_path / "shards", show, workers=1)
    assert seen[-1] == (60, 60)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


KILLED = """
import sys
from pathlib import Path
from yanmo import shards
from yanmo.files import lock_folder
from yanmo.tokenizer import load_tokenizer

shards.TASK = 500
folder = Path(sys.argv[1])
with lock_folder(folder):
    show = lambda done, total, unit, **figures: (print(done, flush=True), sys.stdin.readline())
    shards.write_shards(folder / "corpus", load_tokenizer(folder / "tokenizer.json"), folder / "shards", show, workers=2)
"""


def test_a_killed_parent_frees_the_lock(tmp_path: Path) -> None:
    corpus(tmp_path / "corpus", TEXTS[:280], TEXTS[280:])
    (tmp_path / "tokenizer.json").write_bytes(tokens_of(TEXTS).json)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdin=pipe, stdout=pipe, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().strip().isdigit(), "the workers have begun, and the parent waits"
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) >= 2
        with pytest.raises(UserError, match=f"process {parent.pid}"), lock_folder(tmp_path):
            pass
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        with lock_folder(tmp_path):
            pass
    assert psutil.wait_procs(children, timeout=20)[1] == []


def test_little_text_starts_no_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = corpus(tmp_path / "corpus", TEXTS[:40], TEXTS[280:])
    monkeypatch.setattr(shards, "start_pool", lambda *_: pytest.fail("workers for a few kilobytes"))
    assert write_shards(source, tokens_of(TEXTS), tmp_path / "shards").splits["train"].documents == 40


@pytest.mark.slow
def test_100_mb_on_one_line(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0x4E00, 0x9000, (680_000, 50), np.uint16)
    codes[:, -1] = ord("。")
    long = codes.astype("<u2").tobytes().decode("utf-16-le")
    short = [f"第{index}篇。" + long[index * 50 : index * 50 + 50] for index in range(1000, 1200)]
    (tmp_path / "a.txt").write_text("\n".join([long, *short]), encoding="utf-8")
    assert (tmp_path / "a.txt").stat().st_size > 100_000_000
    source = {"path": str(tmp_path / "a.txt"), "document": "line"}
    recipe = parse_recipe({"corpus": {"sources": [source], "workers": 1, "validation": 0.2}}, "test")
    kept = build_corpus(recipe, tmp_path / "corpus")
    characters = sorted(set(long[:1_000_000]))
    vocabulary = {name: index for index, name in enumerate(["[UNK]", *characters])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(lowercase=False), pre_tokenizers.BertPreTokenizer()
    tokens = Tokens.from_json(tokenizer.to_str().encode())
    report = write_shards(tmp_path / "corpus", tokens, tmp_path / "shards", workers=1)
    assert sum(part.documents for part in report.splits.values()) == kept.documents
    (split,) = (name for name in ("train", "validation") if Shards.open(tmp_path / "shards", name).lengths.max() > 1_000_000)
    opened = Shards.open(tmp_path / "shards", split)
    ids, sentences, _ = opened[int(opened.lengths.argmax())]
    assert len(ids) == len(long)
    assert sentences.tolist() == list(range(0, len(long), 50))
    assert ids[-50:].tolist() == [vocabulary[character] for character in long[-50:]]
