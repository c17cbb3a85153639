"""Tasks without pretraining: a recipe that names no text, a new network and its own tokenizer."""

import json

import pytest

from yanmo.errors import UserError
from yanmo.files import MANIFEST
from yanmo.predict import load
from yanmo.recipe import parse_recipe
from yanmo.run import carry_out, recipe_stages

WORDS = {"one": "eins", "two": "zwei", "three": "drei", "dog": "Hund", "dogs": "Hunde", "house": "Haus", "red": "rot"}


def pairs(path, numbers):
    names = list(WORDS)
    lines = []
    for number in numbers:
        chosen = [names[(number * step + step) % len(names)] for step in (1, 3, 5)]
        lines.append({"source": " ".join(chosen), "target": " ".join(WORDS[name] for name in chosen)})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


def recipe_of(tmp_path, **section):
    files = {name: pairs(tmp_path / f"{name}.jsonl", numbers) for name, numbers in (("train", range(60)), ("valid", range(3)))}
    sizes = {"family": "bart", "layers": 1, "width": 32, "heads": 2, "feedforward": 32, "positions": 64, "dropout": 0.1}
    training = {"steps": 4, "batch": 16, "precision": "fp32"}
    tokenizer = {"kind": "bpe", "vocabulary": 310}
    task = {"kind": "translation", **files, "lint": False, "model": sizes, "tokenizer": tokenizer, "training": training}
    tree = {"name": "new", "runs": str(tmp_path / "runs"), "tasks": {"translate": {**task, "longest": 8, "beams": 2, **section}}}
    return parse_recipe(tree, "test")


def test_a_recipe_without_text_has_only_tasks(tmp_path):
    recipe = recipe_of(tmp_path, test=str(tmp_path / "valid.jsonl"))
    assert [stage.name for stage in recipe_stages(recipe)] == ["tasks", "report"]
    assert [stage.name for stage in recipe_stages(recipe, "shards")] == ["corpus", "tokenizer", "shards"]
    run = carry_out(recipe)
    assert (run.folder / "report.html").exists()
    assert not {"corpus", "tokenizer", "shards", "pretrain"} & {path.name for path in run.folder.iterdir()}
    folder = run.folder / "tasks" / "translate"
    results = json.loads((folder / "results.json").read_text())
    (trial,) = results["trials"]
    assert trial["method"] == "scratch"
    assert trial["learned"] == trial["parameters"]
    assert trial["measured_by"]["bleu"].startswith("nrefs:1|case:mixed")
    assert results["table"][0]["bleu (test)"] == f"{trial['test']['bleu']:.1f} (1 seed)"
    model = load(folder / "model")
    assert model.tokenizer.size <= 310
    (written,) = model.predict(["red dog"])
    assert isinstance(written.text, str)
    assert model.network.config.length == 64

    files = folder / "blank" / MANIFEST, folder / "scratch-seed0" / "result.json"
    made = [file.stat().st_mtime_ns for file in files]
    carry_out(recipe)
    assert made == [file.stat().st_mtime_ns for file in files], "what is there is not made again"
    with pytest.raises(UserError, match="was made for another network, tokenizer or other texts"):
        carry_out(recipe_of(tmp_path, tokenizer={"kind": "bpe", "vocabulary": 305}), "tasks")


def test_the_tokenizer_knows_what_is_learned_from_and_nothing_else(tmp_path):
    recipe = recipe_of(tmp_path, tokenizer={"kind": "character", "vocabulary": 40}, training={"steps": 1, "batch": 16})
    (tmp_path / "valid.jsonl").write_text('{"source": "Ж dog", "target": "Ж Hund"}\n', encoding="utf-8")
    run = carry_out(recipe, "tasks")
    known = load(run.folder / "tasks" / "translate" / "model").tokenizer.tokenizer.get_vocab()
    assert set("".join([*WORDS, *WORDS.values()])) <= known.keys()
    assert "Ж" not in known


def test_a_task_without_any_network_is_refused_before_anything_is_done(tmp_path):
    recipe = recipe_of(tmp_path, model=None, tokenizer={})
    with pytest.raises(UserError, match=r"tasks\.translate\.model: the recipe names no text to pretrain on"):
        carry_out(recipe)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"model": {"family": "bert"}, "tokenizer": {}}, "translation does not fit family bert: it is for gpt2, .*t5, bart"),
        ({"methods": ["lora"]}, "a new network .* has learned nothing that could be adapted"),
        ({"adaptation": {"method": "frozen"}}, "a new network .* has learned nothing that could be adapted"),
        ({"model": "folder"}, "tokenizer: a pretrained network has its own"),
        ({"beam": 3}, "tasks.translate.beam: no such key; did you mean beams"),
        ({"model": {"famly": "t5"}}, "tasks.translate.model.famly: no such key; did you mean family"),
    ],
)
def test_what_does_not_belong_together_is_refused_when_the_recipe_is_read(tmp_path, section, message):
    with pytest.raises(UserError, match=message):
        recipe_of(tmp_path, **section)


def test_a_family_that_cannot_do_a_task_is_refused_before_it_is_pretrained():
    tree = {"corpus": {"sources": ["text.txt"]}, "tasks": {"short": {"kind": "summarisation", "train": "a.jsonl"}}}
    with pytest.raises(UserError, match=r"tasks\.short: summarisation does not fit family bert"):
        parse_recipe(tree, "test")
    assert parse_recipe({**tree, "model": {"family": "gpt2"}}, "test").tasks["short"].tried == ("full",)


def test_a_folder_is_a_model_that_starts_from_it():
    recipe = parse_recipe({"tasks": {"t": {"kind": "translation", "train": "a.jsonl", "model": "some/folder"}}}, "test")
    assert recipe.tasks["t"].model is not None
    assert recipe.tasks["t"].model.start == "some/folder"
    assert not recipe.tasks["t"].is_new
