"""Comparisons: what is the same is shared, the table says how far seeds are apart, mistakes are found before anything runs."""

import json
from pathlib import Path

import pytest
import yaml
from short_runs import ROOT, some_text

from yanmo import compare as module
from yanmo.compare import Row, compare
from yanmo.errors import UserError
from yanmo.run import carry_out


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
    assert "| – | " in lines[5], "an encoder has no likelihood of documents"
    assert "| pseudo-likelihood | masked " in lines[5]
    cells = [cell.strip() for cell in lines[4].split("|")]
    first, *_ = figures = [found[f"gpt2-seed{seed}"] for seed in (0, 1)]
    for place, key in ((3, "bits_per_byte"), (4, "sentence_bits_per_byte"), (8, "parameters")):
        assert cells[place] == Row("", "", "", tuple(figures), "").spread(key) != "–"
    assert cells[9] == Row("", "", "", tuple(figures), "").spread("speed", "seconds")
    assert len({(one["counts"]["sentences"], one["counts"]["sentence_bytes"]) for one in found.values()}) == 1
    assert lines[7].startswith(f"Sentences: 1 with {first['counts']['sentence_bytes']} bytes, held out. What counts")
    assert "likelihood: token by token" in lines[7]
    assert "the length of no code" in lines[7]
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


def test_a_side_has_of_the_base_what_it_reads(tmp_path: Path) -> None:
    path = comparison(tmp_path, ngram={"model": {"family": "ngram"}}, odd={"model": {"family": "ngram", "width": 64}})
    read = module._read(path)
    recipe = module._recipe(read, "ngram", 0, ["training.minutes=1"], path)
    assert (recipe.model.width, recipe.training.minutes, recipe.tokenizer.vocabulary) == (None, None, 600)
    assert read.base["training"]["steps"] == 2
    with pytest.raises(UserError, match=r"side odd: recipe: model.width: nothing in ngram reads it"):
        module._recipe(read, "odd", 0, [], path)


def test_every_text_has_a_table_and_runs_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = comparison(tmp_path, gpt2={"model": {"family": "gpt2"}})
    tree = yaml.safe_load(path.read_text())
    sources = tree["base"]["corpus"].pop("sources")
    tree["texts"] = {"one": {"corpus": {"sources": sources}}, "two": {"corpus": {"sources": [str(tmp_path / "nowhere.txt")]}}}
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    with pytest.raises(UserError, match=r"nowhere.txt: no such file.*'texts.two.corpus.sources=\[FILE\]'"):
        compare(path, [])
    assert not (tmp_path / "runs").exists()
    other = tmp_path / "other.txt"
    other.write_text((tmp_path / Path(sources[0]["path"]).name).read_text(encoding="utf-8").upper(), encoding="utf-8")
    given = [f"texts.two.corpus.sources=[{{path: {json.dumps(str(other))}, document: line}}]", "seeds=[3]", "training.steps=1"]
    table, folder = compare(path, given)
    assert folder == tmp_path / "runs" / "pair"
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert {text: list(runs) for text, runs in found.items()} == {"one": ["gpt2-seed3"], "two": ["gpt2-seed3"]}
    assert found["one"]["gpt2-seed3"]["bits_per_byte"] != found["two"]["gpt2-seed3"]["bits_per_byte"]
    assert [line for line in table.splitlines() if line.startswith(("##", "| gpt2"))][::2] == ["## one", "## two"]
    assert {one.name for one in (folder / "two").iterdir()} == {"gpt2-seed3", "gpt2-seed3.yaml"}
    monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: pytest.fail("all is done"))
    assert compare(path, given)[0] == table


def test_families_on_other_sentences_are_told_apart() -> None:
    def one(manner: str | None, bits: float, count: int) -> dict:
        sentences = {"sentences": count, "sentence_bytes": 10 * count}
        return {"bits_per_byte_by": manner, "sentence_bits_per_byte": bits, "counts": sentences}

    rows = [Row(name, "", "", (given,), "") for name, given in (
        ("pseudo", one("pseudo-likelihood", 1.0, 9)), ("gap", one("gap", 3.0, 9)), ("left", one("likelihood", 2.0, 8)),
        ("none", {"bits_per_byte_by": None}),
    )]
    assert [row.side for row in sorted(rows, key=lambda row: row.order)] == ["left", "gap", "pseudo", "none"]
    assert "8 with 80 bytes or 9 with 90 bytes, held out. NOT THE SAME" in list(module._lines(rows))[-1]
    assert not any("NOT THE SAME" in line for line in module._lines(rows[:2]))


def test_the_comparison_of_all_families_reads(tmp_path: Path) -> None:
    path = Path(__file__).parents[1] / "recipes" / "compare-zh.yaml"
    read = module._read(path, ["texts.wikitext-2.corpus.sources=[my.txt]"])
    made = {(text, side): module._recipe(read, side, 0, [], path, text) for text in read.texts for side in read.sides}
    assert len({(one.runs, one.name) for one in made.values()}) == len(made) == 2 * len(read.notes)
    assert made["wikitext-2", "vae"].corpus.sources[0].path == "my.txt"
    assert made["peoples-daily", "vae"].corpus.sources[0].path == "sample:peoples-daily"
    assert {one.training.minutes for (_, side), one in made.items() if side != "ngram"} == {5}
    assert {one.evaluation.pseudo_likelihood for one in made.values()} == {200}


def test_the_newspaper_supports_the_vocabulary_that_the_recipe_asks_for(tmp_path: Path) -> None:
    path = ROOT / "recipes" / "compare-zh.yaml"
    recipe = module._recipe(module._read(path), "bert", 0, [f"runs={tmp_path}"], path, "peoples-daily")
    folder = carry_out(recipe, until="tokenizer").folder
    assert (folder / "tokenizer" / "tokenizer.json").is_file()
