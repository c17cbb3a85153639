"""The recipe: defaults, then the file, then the command line; what is wrong is named, with the nearest thing that is right."""

from pathlib import Path

import pytest
import yaml

from yanmo.errors import UserError
from yanmo.recipe import Model, Recipe, Training, parse_recipe, parse_task, read_recipe, write_yaml

FOLDER = Path(__file__).parent.parent / "recipes"
RECIPES = sorted(path for path in FOLDER.glob("*.yaml") if not path.stem.startswith("compare"))
MEASURED = sorted((FOLDER.parent / "benchmarks").glob("*.yaml"))


@pytest.mark.parametrize("path", [*RECIPES, *MEASURED], ids=lambda path: path.stem)
def test_shipped_recipes_read_and_write_back(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    assert parse_recipe(yaml.safe_load(write_yaml(recipe)), "written") == recipe


def test_the_command_line_wins_over_the_file_and_replaces_its_budget(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("name: a\ntraining: {minutes: 3, rows: 8}\n")
    recipe = read_recipe(file, ["training.steps=5", "name=b", "corpus.sources=[x, {path: y, text: body}]"])
    assert (recipe.name, recipe.training.steps, recipe.training.minutes, recipe.training.rows) == ("b", 5, None, 8)
    assert [(source.path, source.text) for source in recipe.corpus.sources] == [("x", "text"), ("y", "body")]


def test_the_objective_follows_the_family() -> None:
    assert read_recipe(None, ["model.family=llama"]).objective.kind == "causal"
    assert read_recipe(None, ["model.family=roberta", "objective.rate=0.2"]).objective.kind == "masked"
    assert Recipe(model=Model(family="gpt2")).objective.kind == "causal"
    assert read_recipe(None, ["model.family=bart"]).objective.kind == "denoising"


def test_what_an_objective_leaves_open_is_as_the_family_has_it() -> None:
    def masked(*overrides: str) -> tuple[float, str, str]:
        objective = read_recipe(None, list(overrides)).objective
        return objective.rate, objective.replace, objective.unit

    assert masked() == (0.15, "80-10-10", "word")
    for said in ((), ("objective.kind=masked",)):
        assert masked("model.family=modernbert", *said) == (0.3, "mask", "word")
    assert masked("model.family=modernbert", "objective.rate=0.2", "objective.unit=token") == (0.2, "mask", "token")
    assert read_recipe(None, ["model.family=modernbert", "objective.kind=contrast"]).objective.kind == "contrast"


def test_with_a_start_the_folder_says_what_is_read() -> None:
    overrides = ["model.start=folder", "evaluation.prompts=[once]", "evaluation.fill=['a <mask>']"]
    recipe = read_recipe(None, overrides)
    assert parse_recipe(yaml.safe_load(write_yaml(recipe)), "written") == recipe


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.minuts=10"], "training.minuts: no such key; did you mean minutes?"),
        (["corpus.clean.mojibak=true"], "corpus.clean.mojibak: no such key; did you mean mojibake?"),
        (["corpus.sources=[{path: a, tex: b}]"], "corpus.sources.0.tex: no such key; did you mean text?"),
        (["objective.rat=0.2"], "objective.rat: no such key; did you mean rate?"),
        (["model.family=bret"], "'bret' is not known; did you mean bert?"),
        (["training.schedule=cosin"], "did you mean cosine?"),
        (["training.steps=3", "training.rows=many"], "training.rows: "),
        (["model.width=100", "model.heads=3"], "width 100 is not divisible by heads 3"),
        (["model.family=llama", "model.heads=4", "model.kv_heads=3"], "heads 4 is not divisible by kv_heads 3"),
        (["model.family=gpt2", "objective.kind=masked"], "objective masked does not fit family gpt2, a decoder: it is for"),
        (["model.positions=64", "training.length=128"], "training.length 128 is longer than model.positions 64"),
        (["training.optimizer=adamw", "training.matrix_learning_rate=0.1"], "matrix_learning_rate belongs to optimizer muon"),
        (["model.family=lstm", "training.matrix_learning_rate=0.1"], "training.matrix_learning_rate: nothing in lstm reads it"),
        (["model.family=vae", "model.version=lstm", "training.matrix_learning_rate=0.1"], "nothing in vae lstm reads it"),
        (["model.family=vae", "model.version=lstm", "model.heads=2"], "model.heads: nothing in vae lstm reads it; leave it out"),
        (["model.family=ngram", "training.minutes=5"], "training.minutes: nothing in ngram reads it: all text is"),
        (["model.family=ngram", "model.size=small", "training.rows=8"], "model.size, training.rows: nothing in ngram"),
        (["model.family=roberta", "objective.sentences=next"], "sentences"),
        (["objective.kind=mask"], "objective.kind: 'mask' is not known; did you mean masked?"),
        (["training"], "is not an override"),
        (["name=b", "name.first=a"], "name is not a section"),
        (["seed=-1"], "seed"),
        (["evaluation.fill=[no gap here]"], "'no gap here' has no gap; write [MASK]"),
        (["model.family=llama", "evaluation.fill=['a [MASK]']"], "evaluation.fill does not fit family llama"),
        (["evaluation.prompts=[once]"], "evaluation.prompts does not fit family bert: it reads evaluation.fill"),
        (["model.start=folder", "model.layers=2", "model.dropout=0.1"], "layers, dropout: these are the folder's"),
        (["training.decay=0.2"], "decay belongs to schedule constant-decay; linear does not read it"),
        (["training.schedule=constant-decay", "training.warmup=0.8"], "warmup 0.8 and decay 0.3 are shares of the steps"),
        (["training.minutes=.inf"], "training.minutes: "),
        (["training.epochs=.nan"], "training.epochs: "),
    ],
)
def test_what_is_wrong_is_named(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_recipe(None, overrides)
    assert message in str(caught.value)


def test_what_counts_reads_no_setting_of_training_but_where_figures_go() -> None:
    values = {"beta2": "0.9", "clip": "null", "warmup": "0.1", "decay": "0.2", "optimizer": "adamw", "precision": "fp32",
              "compile": "true", "checkpoint_activations": "true", "schedule": "cosine"}
    for name in Training.model_fields:
        overrides = ["model.family=ngram", f"training.{name}={values.get(name, 9)}"]
        overrides += ["training.schedule=constant-decay"] * (name == "decay")
        if name == "trackers":
            assert read_recipe(None, ["model.family=ngram", "training.trackers=[wandb]"]).training.trackers == ("wandb",)
        else:
            with pytest.raises(UserError, match=f"training.{name}.*: nothing in ngram reads"):
                read_recipe(None, overrides)


def test_two_budgets_in_a_file_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("training: {minutes: 3, steps: 8}\n")
    with pytest.raises(UserError, match="budgets given: steps, minutes"):
        read_recipe(file)


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not YAML"), ("- a", "a recipe is a tree"), (None, "no such recipe")]
)
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "r.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_recipe(file)


def test_the_schema_says_something_of_every_setting() -> None:
    schema = Recipe.model_json_schema()
    sections = [schema, *schema["$defs"].values()]
    plain = {"layers", "width", "heads", "dropout", "seed", "kind"}          # their names say it
    silent = [
        name
        for section in sections
        for name, field in section["properties"].items()
        if "description" not in field and name not in plain and "$ref" not in field
    ]
    assert not silent


def test_taking_one_budget_away_leaves_another() -> None:
    training = read_recipe(None, ["training.steps=20", "training.minutes=null"]).training
    assert (training.steps, training.minutes) == (20, None)


@pytest.mark.parametrize(("examples", "epochs"), [(200, 20), (3_200, 5), (16_000, 3), (1_000_000, 3)])
def test_few_examples_are_passed_over_more_often(examples: int, epochs: float) -> None:
    training = parse_task({"kind": "classification", "train": "x.jsonl"}).training
    rows = examples // 4                                   # four examples in a row, eight rows in a step
    assert training.resolved(8, 128, 1e-3, rows).epochs == epochs
    assert training.resolved(8, 128, 1e-3, rows, "lora").epochs == min(20, max(3, 32_000 / examples))  # a thousand steps
    assert (training.resolved(8, 128, 1e-3, rows).beta2, Training().beta2) == (0.999, 0.95)
    named = training.model_copy(update={"steps": 7})
    assert (named.resolved(8, 128, 1e-3, rows).epochs, named.resolved(8, 128, 1e-3, rows).steps) == (None, 7)
