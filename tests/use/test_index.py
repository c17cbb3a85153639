"""An index finds what a search of all texts one by one finds, knows its model, and is whole or not there."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import yanmo
from yanmo import cli, index
from yanmo.errors import UserError
from yanmo.files import check_manifest
from yanmo.index import embedded_lines
from yanmo.models import build, save
from yanmo.recipe import Model, parse_recipe
from yanmo.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from yanmo.vectors import embed_parts
from yanmo.verify import verify

torch.set_num_threads(1)
WORDS = ["bread", "baker", "town", "war", "port", "north", "company", "brothers", "small", "old", "eats", "sells"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_model(tmp_path_factory.mktemp("model"), seed=0)


def a_model(folder: Path, seed: int) -> Path:
    recipe = parse_recipe({"model": {"family": "bert"}, "tokenizer": {"vocabulary": 80}}, "test")
    train_tokenizer([" ".join(WORDS)] * 9, recipe, folder)
    tokens = load_tokenizer(folder)
    torch.manual_seed(seed)
    sizes = Model(family="bert", layers=1, width=32, heads=2, feedforward=32, positions=32)
    network = build(sizes, vocabulary=tokens.size, length=32)
    save(network, folder)
    save_tokenizer(tokens, folder, 32)
    return folder


def texts_of(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, size=60 if number % 50 == 7 else rng.integers(2, 9))) for number in range(count)]


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_the_search_is_exact(model: Path, tmp_path: Path, precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "BLOCK", 64)
    texts = texts_of(200)
    (tmp_path / "one.txt").write_text("\n\n".join(texts[:90]) + "\n")
    (tmp_path / "two.jsonl").write_text("".join(json.dumps({"said": text}) + "\n" for text in texts[90:]))
    files = [str(tmp_path / "one.txt"), str(tmp_path / "two.jsonl")]
    facts = yanmo.build_index(model, files, tmp_path / "index", text="said", precision=precision)
    assert (facts.texts, facts.vector, facts.width) == (200, "mean", 32)
    assert check_manifest(tmp_path / "index") == []
    assert verify(tmp_path / "index") == ([f"index {tmp_path / 'index'}"], [])
    opened = yanmo.open_index(tmp_path / "index")
    assert len(opened) == 200
    queries = ["old baker", " ".join(["bread town port"] * 30), texts[7]]
    network, tokens = yanmo.load(model)
    asked, there = embed_parts(network, tokens, queries), embed_parts(network, tokens, texts)
    assert facts.parts == len(there.vectors) > 200
    cosines = asked.vectors @ there.vectors.T
    best = torch.tensor([
        [float(cosines[asked.firsts[q] : asked.firsts[q + 1], there.firsts[t] : there.firsts[t + 1]].max()) for t in range(200)]
        for q in range(3)
    ])  # fmt: skip
    for hits, own in zip(opened.search(queries, 20), best, strict=True):
        assert len(hits) == 20
        for hit, score in zip(hits, own.sort(descending=True).values.tolist(), strict=False):
            assert hit.score == pytest.approx(score, abs=2e-3 if precision == "float16" else 1e-5)
            assert float(own[hit.number]) == pytest.approx(score, abs=2e-3 if precision == "float16" else 1e-5)
            assert hit.text == texts[hit.number]
            line = 1 + 2 * hit.number if hit.number < 90 else hit.number - 89
            assert hit.origin == f"{files[hit.number >= 90]}:{line}"
    assert [hits[0].number for hits in opened.search([texts[7]], 1)] == [7]
    assert len(opened.search(["old"], 1000)[0]) == 200, "all where there are fewer"
    assert opened.search([], 5) == []
    alone = [opened.search([query], 3)[0] for query in queries]
    together = opened.search(queries, 3)
    assert [[hit.number for hit in hits] for hits in alone] == [[hit.number for hit in hits] for hits in together]


def test_what_cannot_be_found_or_made(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("old bread\nsmall town\n")
    out = tmp_path / "index"
    yanmo.build_index(model, [str(file)], out)
    opened = yanmo.open_index(out)
    for k in (0, -1):
        with pytest.raises(UserError, match=f"k {k}: how many texts are to be found must be at least 1"):
            opened.search(["old"], k)
    with pytest.raises(UserError, match="query 2 is empty"):
        opened.search(["old", "  "])
    with pytest.raises(UserError, match="give a list"):
        opened.search("old")
    other = a_model(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"index: its vectors are of another model: .* make the index again"):
        yanmo.open_index(out, other)
    with pytest.raises(UserError, match=r"no index here \(it has no index.json\)"):
        yanmo.open_index(tmp_path)
    before = (out / "index.json").read_bytes()
    bad = tmp_path / "bad.jsonl"
    for text, message in (
        ('{"text": "a"}\n{"text": " "}\n', r"bad.jsonl:2: an empty text"),
        ('{"text": "a"}\n{"text": 7}\n', r"bad.jsonl:2: 'text' is a int and no string, nor a list of strings"),
        ("\n", "there is no text in it"),
    ):
        bad.write_text(text)
        with pytest.raises(UserError, match=message):
            yanmo.build_index(model, [str(bad)], out)
        assert (out / "index.json").read_bytes() == before, "what was there is unchanged"
        assert check_manifest(out) == []
    with pytest.raises(UserError, match="no such file"):
        yanmo.build_index(model, [str(tmp_path / "nothing.txt")], out)
    with pytest.raises(UserError, match="is there already and is no index"):
        yanmo.build_index(model, [str(file)], other)
    assert (other / "config.json").exists()
    data = (out / "vectors.arrow").read_bytes()
    (out / "vectors.arrow").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"vectors.arrow: not whole"):
        yanmo.open_index(out)
    with pytest.raises(UserError, match="does not read both ways"):
        yanmo.build_index(a_decoder(tmp_path / "gpt2", model), [str(file)], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_text_without_a_vector_is_named_by_its_line(model: Path) -> None:
    network, tokens = yanmo.load(model)
    lines = ["old bread", "", *["small town"] * 70, "port " * 200, "a port"]
    said = embedded_lines(network, tokens, lines)
    found = []
    with pytest.raises(UserError, match=r"line 73: text 1 has \d+ tokens"):  # noqa: PT012  # what comes before it is kept
        for line in said:
            found.append(json.loads(line)["text"])
    assert found == ["old bread", *["small town"] * 70]
    with pytest.raises(UserError, match=r"line 2: text 1: character 4 is none \(U\+DCE9\), as bytes become that are no UTF-8"):
        list(embedded_lines(network, tokens, ["fine", "caf\udce9"]))
    with pytest.raises(UserError, match="texts are a list"):
        yanmo.embed(network, tokens, "old bread")


def a_decoder(folder: Path, like: Path) -> Path:
    tokens = load_tokenizer(like)
    save(build(Model(family="gpt2", layers=1, width=32, heads=2), vocabulary=tokens.size, length=32), folder)
    save_tokenizer(tokens, folder, 32)
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.app([str(one) for one in arguments])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_the_verbs(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["old bread", "small town", "a port"]
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([*texts, "", ""])))
    lines = [json.loads(line) for line in run(capsys, "embed", model).splitlines()]
    assert [line["text"] for line in lines] == texts
    network, tokens = yanmo.load(model)
    expected = yanmo.embed(network, tokens, texts).numpy()
    np.testing.assert_allclose([line["vector"] for line in lines], expected, atol=2e-6)
    run(capsys, "embed", model, *texts, "--out", tmp_path / "v.npy")
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, atol=1e-6)
    run(capsys, "embed", model, *texts, "--out", tmp_path / "v.safetensors")
    from safetensors.numpy import load_file

    np.testing.assert_allclose(load_file(tmp_path / "v.safetensors")["vectors"], expected, atol=1e-6)
    with pytest.raises(UserError, match=r"v.txt: vectors are written as .npy or .safetensors"):
        cli.app(["embed", str(model), "a", "--out", str(tmp_path / "v.txt")])
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    out = run(capsys, "index", model, tmp_path / "texts.txt", "--out", tmp_path / "index")
    assert "3 of 32 numbers, float16" in out
    out = run(capsys, "search", tmp_path / "index", "small town", "-k", 2)
    assert out.splitlines()[1].startswith("1.000  small town")
    assert len(out.splitlines()) == 3
    found = json.loads(run(capsys, "search", tmp_path / "index", "small town", "--json"))
    assert found["hits"][0]["number"] == 1
    assert len(found["hits"]) == 3
