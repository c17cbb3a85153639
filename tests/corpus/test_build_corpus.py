"""The whole stage: figures that add up, the same corpus for any number of workers, bad input, interruption."""

from __future__ import annotations

import errno
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from yanmo.corpus import CorpusReport, build_corpus, iterate_texts
from yanmo.corpus.build import Gather
from yanmo.errors import UserError
from yanmo.files import check_manifest
from yanmo.recipe import Recipe, parse_recipe


def recipe_of(*sources: object, **corpus) -> Recipe:
    return parse_recipe({"corpus": {"sources": [*sources], "workers": 1, "validation": 0.2} | corpus}, "test")


def sentence(seed: int, length: int = 60) -> str:
    return "".join(chr(code) for code in np.random.default_rng(seed).integers(0x4E00, 0x9000, length)) + "。"


def jsonl(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
    return str(path)


def dropped_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "dropped.jsonl").read_text(encoding="utf-8").splitlines()]


MIXED = [
    *[sentence(seed) for seed in range(40)],
    sentence(3),                                           # the same text
    " ".join(sentence(4)),                                 # the same but for spaces
    sentence(5, 400), sentence(5, 400)[:-1] + "呀。",        # nearly the same
    "短", "哈" * 200, "★☆♪♫→←■□◆◇●○◎△▲▽▼※〓", "  \n ",
    "ＡＢＣ１２３" + sentence(50) + "　　\n\n\n\n©2020 All rights reserved",
]  # fmt: skip


def test_every_document_is_kept_or_listed_with_its_reason(tmp_path: Path) -> None:
    report = build_corpus(recipe_of(jsonl(tmp_path / "a.jsonl", MIXED)), tmp_path / "corpus")
    rows = dropped_of(tmp_path / "corpus")
    assert sorted((row["line"], row["reason"]) for row in rows) == [
        (41, "exact"), (42, "exact"), (44, "near"), (45, "length"), (46, "repetition"), (47, "symbols"), (48, "empty"),
    ]  # fmt: skip
    assert rows[0]["source"] == str(tmp_path / "a.jsonl")
    assert report.documents == len(MIXED) - len(rows) == report.train + report.validation
    assert report.dropped == {"length": 1, "repetition": 1, "symbols": 1, "empty": 1, "exact": 2, "near": 1}
    for before, after in zip(report.funnel, report.funnel[1:], strict=False):
        assert (before.documents_out, before.bytes_out) == (after.documents_in, after.bytes_in)
    assert (report.funnel[0].documents_in, report.funnel[-1].documents_out) == (len(MIXED), report.documents)
    texts = [*iterate_texts(tmp_path / "corpus", "train"), *iterate_texts(tmp_path / "corpus", "validation")]
    assert report.funnel[-1].bytes_out == report.bytes == sum(len(text.encode()) for text in texts)
    assert report.characters == sum(map(len, texts))
    assert "ABC123" + sentence(50) in texts
    assert report.switches["width"]["documents"] == report.switches["boilerplate"]["lines"] == 1
    assert report.scripts["Han"] > 0.9
    assert sum(report.scripts.values()) == pytest.approx(1)
    assert sum(report.lengths) == report.documents
    assert report.lengths[5] == sum(32 <= len(text) < 64 for text in texts)
    assert CorpusReport.read(tmp_path / "corpus" / "report.json") == report
    assert check_manifest(tmp_path / "corpus") == []


def test_what_is_written_is_what_the_contract_says(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", [sentence(seed) for seed in range(200)])
    report = build_corpus(recipe_of(source), tmp_path / "corpus")
    ids = {}
    for split in ("train", "validation"):
        table = pq.read_table(tmp_path / "corpus" / f"{split}-00000.parquet")
        assert [str(kind) for kind in table.schema.types] == ["string", "string", "uint64"]
        assert table.column_names == ["text", "source", "id"]
        assert table["text"].to_pylist() == list(iterate_texts(tmp_path / "corpus", split))
        assert set(table["source"].to_pylist()) == {source}
        for text, number in zip(table["text"].to_pylist(), table["id"].to_pylist(), strict=True):
            ids[number] = split
            assert number == int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
            assert (number / 2**64 < 0.2) == (split == "validation")
    assert len(ids) == report.documents == 200
    assert 20 <= report.validation <= 60


def test_the_split_does_not_depend_on_what_else_is_there(tmp_path: Path) -> None:
    texts = [sentence(seed) for seed in range(120)]
    build_corpus(recipe_of(jsonl(tmp_path / "a.jsonl", texts)), tmp_path / "all")
    build_corpus(recipe_of(jsonl(tmp_path / "b.jsonl", texts[::-2])), tmp_path / "half")
    held_out = set(iterate_texts(tmp_path / "all", "validation"))
    assert set(iterate_texts(tmp_path / "half", "validation")) == held_out & set(texts[::-2])


def test_workers_change_nothing(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", MIXED + [sentence(seed, 3000) for seed in range(100, 500)] + MIXED)
    reports = []
    for workers in (1, 2):
        report = build_corpus(recipe_of(source, workers=workers), tmp_path / str(workers))
        assert report.workers == workers
        reports.append(report)
    for name in ("train-00000.parquet", "validation-00000.parquet", "dropped.jsonl"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name
    assert reports[0].switches == reports[1].switches
    assert [(row.step, row.documents_out, row.bytes_out) for row in reports[0].funnel] == [
        (row.step, row.documents_out, row.bytes_out) for row in reports[1].funnel
    ]


def test_switches_off(tmp_path: Path) -> None:
    off = {
        "clean": {
            "mojibake": False,
            "unicode": "none",
            "control": False,
            "whitespace": False,
            "width": False,
            "boilerplate": False,
        },
        "filter": {"min_characters": 0, "repetition": None, "symbols": None},
        "deduplicate": {"exact": False, "near": False},
    }
    report = build_corpus(recipe_of(jsonl(tmp_path / "a.jsonl", MIXED), **off), tmp_path / "corpus")
    texts = [*iterate_texts(tmp_path / "corpus", "train"), *iterate_texts(tmp_path / "corpus", "validation")]
    assert sorted(texts) == sorted(text for text in MIXED if text.strip())
    assert [row.step for row in report.funnel] == ["read", "clean", "length"]
    assert report.switches == {}


def test_language_and_scrub_and_decontaminate(tmp_path: Path) -> None:
    chinese = [
        "今天天气很好，我们在公园里走了一会儿，然后回家吃饭。",
        "请把简历寄到 a@example.com 这个邮箱，谢谢大家的支持。",
        "这是测试集里面的一句话，不应该出现在训练的语料里面。",
    ]
    (tmp_path / "test.txt").write_text("测试集里面的一句话，不应该出现", encoding="utf-8")
    english = "The weather was very fine today, so we went for a long walk in the park."
    more = [f"第{number}天的天气很好，我们在公园里走了一会儿，然后回家吃饭。" for number in range(30)]
    recipe = recipe_of(
        jsonl(tmp_path / "a.jsonl", [*chinese, english, *more]), clean={"scrub": ["email"]}, deduplicate={"near": False},
        filter={"languages": ["zh"]}, decontaminate={"files": [str(tmp_path / "test.txt")]},
    )  # fmt: skip
    report = build_corpus(recipe, tmp_path / "corpus")
    assert report.dropped == {"language": 1, "decontaminate": 1}
    assert report.languages == {"zh": 33, "en": 1}
    assert report.switches["scrub"] == {"documents": 1, "email": 1}
    assert any("[email]" in text for split in ("train", "validation") for text in iterate_texts(tmp_path / "corpus", split))


def test_unreadable_records_stop_or_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = [json.dumps({"text": sentence(seed)}, ensure_ascii=False) for seed in range(30)]
    path.write_text("\n".join([*good, "{broken", '{"body": "x"}', "17"]), encoding="utf-8")
    (tmp_path / "b.txt").write_bytes(b"\0\1\2" * 1000)
    with pytest.raises(UserError, match=r"a\.jsonl, line 31: invalid JSON"):
        build_corpus(recipe_of(str(path)), tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()
    assert list(tmp_path.glob(".corpus*")) == []
    report = build_corpus(recipe_of(str(path), str(tmp_path / "b.txt"), on_error="skip"), tmp_path / "corpus")
    assert (report.documents, report.dropped) == (30, {"unreadable": 4})
    assert [(row["line"], row["reason"]) for row in dropped_of(tmp_path / "corpus")] == [
        (n, "unreadable") for n in (31, 32, 33, 0)
    ]
    assert "not text" in dropped_of(tmp_path / "corpus")[-1]["detail"]


def test_errors_cross_from_workers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": sentence(1, 900_000)}, ensure_ascii=False) + "\nbroken\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 2: invalid JSON"):
        build_corpus(recipe_of(str(path), workers=2), tmp_path / "corpus")


def test_an_empty_corpus_says_what_dropped_most(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"of 3 documents none was kept; 2 were dropped by `length`; see corpus\.filter"):
        build_corpus(recipe_of(jsonl(tmp_path / "a.jsonl", ["一", "二", "哈" * 100])), tmp_path / "corpus")
    with pytest.raises(UserError, match="there is no text in its sources"):
        build_corpus(recipe_of(jsonl(tmp_path / "b.jsonl", [])), tmp_path / "corpus")
    with pytest.raises(UserError, match=r"corpus\.sources is empty"):
        build_corpus(recipe_of(), tmp_path / "corpus")


def test_a_split_that_would_be_empty(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", [sentence(seed) for seed in range(20)])
    with pytest.raises(UserError, match=r"validation split is empty.*set corpus\.validation to 0\.\d+ or more") as caught:
        build_corpus(recipe_of(source, validation=0.0001), tmp_path / "corpus")
    share = float(str(caught.value).split("to ")[-1].split(" or")[0])
    assert build_corpus(recipe_of(source, validation=share), tmp_path / "corpus").validation >= 1
    with pytest.raises(UserError, match=r"takes all 20 documents; set it to 0\.\d+ or less") as caught:
        build_corpus(recipe_of(source, validation=0.9999), tmp_path / "corpus")
    share = float(str(caught.value).split("to ")[-1].split(" or")[0])
    assert build_corpus(recipe_of(source, validation=share), tmp_path / "corpus").train >= 1
    with pytest.raises(UserError, match="one document"):
        build_corpus(recipe_of(jsonl(tmp_path / "b.jsonl", [sentence(1)])), tmp_path / "corpus")


def test_a_document_of_20_mb_on_one_line(tmp_path: Path) -> None:
    long = sentence(0, 6_700_000)  # 20 MB
    path = tmp_path / "a.txt"
    path.write_text("\n".join([long, *(sentence(seed) for seed in range(20_000, 20_020))]), encoding="utf-8")
    started = time.process_time()
    report = build_corpus(recipe_of({"path": str(path), "document": "line"}), tmp_path / "corpus")
    assert time.process_time() - started < 30
    assert report.documents == 21
    assert max(
        map(len, [*iterate_texts(tmp_path / "corpus", "train"), *iterate_texts(tmp_path / "corpus", "validation")])
    ) == len(long)


def test_what_was_there_survives_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(jsonl(tmp_path / "a.jsonl", [sentence(seed) for seed in range(50)]))
    build_corpus(recipe, tmp_path / "corpus")
    before = (tmp_path / "corpus" / "train-00000.parquet").read_bytes()

    def interrupt(self: Gather, batch: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Gather, "take", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_corpus(recipe, tmp_path / "corpus")
    assert (tmp_path / "corpus" / "train-00000.parquet").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "corpus"]


def test_what_was_there_survives_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(jsonl(tmp_path / "a.jsonl", [sentence(seed) for seed in range(50)]))
    build_corpus(recipe, tmp_path / "corpus")

    def full(self: object, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(UserError, match="full"):
        build_corpus(recipe, tmp_path / "corpus")
    assert check_manifest(tmp_path / "corpus") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "corpus"]


@pytest.mark.parametrize(("code", "nearest"), [("chinese", "zh"), ("zh-CN", "zh"), ("zhh", "zh")])
def test_an_unknown_language_is_refused_before_reading(tmp_path: Path, code: str, nearest: str) -> None:
    source = jsonl(tmp_path / "a.jsonl", [sentence(1)])
    with pytest.raises(UserError, match=f"has the code '{code.lower()}'; the nearest is '{nearest}'"):
        build_corpus(recipe_of(source, filter={"languages": ["en", code]}), tmp_path / "corpus")


def test_files_left_out_are_mentioned(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    jsonl(tmp_path / "in" / "a.jsonl", [sentence(seed) for seed in range(50)])
    (tmp_path / "in" / "b.png").write_bytes(b"x")
    report = build_corpus(recipe_of(str(tmp_path / "in")), tmp_path / "corpus")
    assert report.notes == [f"{tmp_path / 'in'}: 1 of 2 files left out: their endings are not known"]
    assert report.encodings == {"utf-8": 1}


def test_progress_ends_where_it_should(tmp_path: Path) -> None:
    seen = []
    source = jsonl(tmp_path / "a.jsonl", [sentence(seed) for seed in range(50)])
    build_corpus(
        recipe_of(source), tmp_path / "corpus", lambda done, total, unit, **figures: seen.append((done, total, unit, figures))
    )
    assert seen[-1][0] == seen[-1][1] == pytest.approx(Path(source).stat().st_size / 1e6)
    assert seen[-1][3] == {"documents": 50, "kept": 50}


def test_a_corpus_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no train split"):
        list(iterate_texts(tmp_path, "train"))


def test_importing_the_room_is_cheap() -> None:
    for room, unwanted in (
        ("yanmo.corpus", {"numpy", "pyarrow", "pandas", "torch", "fsspec", "trafilatura"}),
        ("yanmo.corpus.build", {"pandas", "torch", "tokenizers", "trafilatura"}),
    ):
        code = f"import sys, {room}; bad = {unwanted} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
        subprocess.run([sys.executable, "-c", code], check=True)
