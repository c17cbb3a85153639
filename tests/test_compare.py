"""Comparisons: what is the same is shared, the table says how far seeds are apart, mistakes are found before anything runs."""

import json
from pathlib import Path

import pytest
import yaml
from short_runs import some_text

from yanmo import compare as module
from yanmo.compare import Row, compare
from yanmo.errors import UserError


def comparison(folder: Path, **sides: dict) -> Path:
    text = some_text(folder, "en")
    tree = {
        "name": "pair",
        "seeds": [0, 1],
        "base": {
            "runs": str(folder / "runs"),
            "corpus": {"sources": [{"path": str(text), "document": "line"}], "workers": 1, "validation": 0.1},
            "tokenizer": {"vocabulary": 600},
            "model": {"layers": 1, "width": 32},
            "training": {"steps": 2, "rows": 2, "length": 64, "validation_rows": 4},
            "evaluation": {"pseudo_likelihood": 1},
        },
        "sides": sides,
        "notes": {"gpt2": "goes on"},
    }
    path = folder / "pair.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def test_sides_and_seeds_become_runs_and_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = comparison(tmp_path, gpt2={"model": {"family": "gpt2"}}, bert={"model": {"family": "bert"}})
    table, folder = compare(path, ["training.steps=1"])
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert found.keys() == {"gpt2-seed0", "gpt2-seed1", "bert-seed0", "bert-seed1"}
    assert all(one["bits_per_byte"] > 0 and one["speed"]["steps"] == 1 for one in found.values())
    lines = (folder / "results.md").read_text(encoding="utf-8").splitlines()
    assert table.splitlines() == lines[2:]
    assert lines[4].startswith("| gpt2 | gpt2, causal |")  # a code of the text comes before what is none
    assert "| likelihood | causal " in lines[4]
    assert lines[4].endswith("| 2 | goes on |")
    assert "| pseudo-likelihood | masked " in lines[5]
    first, second = (folder / f"gpt2-seed{seed}" / "corpus" / "train-00000.parquet" for seed in (0, 1))
    assert first.stat().st_ino == second.stat().st_ino  # one corpus for all
    monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: pytest.fail("all is done"))
    assert compare(path, ["training.steps=1"])[0] == table


def test_a_side_that_does_not_fit_is_named_before_anything_runs(tmp_path: Path) -> None:
    path = comparison(tmp_path, odd={"model": {"family": "gpt2"}, "objective": {"kind": "masked"}})
    with pytest.raises(UserError, match=r"side odd.*objective masked does not fit family gpt2"):
        compare(path, [])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [("sides: {}\nname: x", "sides"), ("name: x\nside: {}", "side"), ("[1", "cannot be read as a comparison")],
)
def test_what_is_no_comparison_says_why(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        compare(tmp_path / "x.yaml", [])
    with pytest.raises(UserError, match="no such comparison"):
        compare(tmp_path / "y.yaml", [])


def test_a_spread_is_the_mean_and_the_range() -> None:
    row = Row("a", "gpt2", "causal", ({"bits_per_byte": 2.0}, {"bits_per_byte": 3.0}, {}), "")
    assert row.spread("bits_per_byte") == "2.5 (2-3)"
    assert row.spread("speed", "tokens_per_second") == "–"


def test_overrides_are_those_of_a_run(tmp_path: Path) -> None:
    path = comparison(tmp_path, gpt2={"model": {"family": "gpt2"}})
    read = module._read(path)
    training = module._recipe(read, "gpt2", 0, ["training.minutes=1"], path).training
    assert (training.minutes, training.steps) == (1, None)  # one budget replaces another
    assert read.base["training"]["steps"] == 2  # and only in this side
    with pytest.raises(UserError, match="is not an override"):
        module._recipe(read, "gpt2", 0, ["training"], path)
