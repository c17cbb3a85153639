"""Runs as a user has them: every shipped recipe, what is done twice, what is refused, what survives."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from yanmo.errors import UserError
from yanmo.files import lock_folder
from yanmo.recipe import Recipe, read_recipe
from yanmo.run import carry_out

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
SHORT = ["training.steps=2", "training.rows=2", "training.length=64", "model.layers=2", "model.width=64"]
SHORT += ["evaluation.pseudo_likelihood=2", "corpus.workers=1", "corpus.validation=0.1", "training.validation_rows=8"]


def some_text(folder: Path, language: str) -> Path:
    """Real text, little of it, one document a line."""
    from yanmo.corpus.samples import SAMPLES

    sample = SAMPLES["python-docs" if language == "en" else "reviews-zh"]
    texts = [text.replace("\n", " ")[:2000] for (_, text), _ in zip(sample.documents(), range(400), strict=False)]
    path = folder / "text.txt"
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


def short_recipe(path: Path, folder: Path, *more: str) -> Recipe:
    text = some_text(folder, "zh" if "zh" in path.stem or path.stem == "quickstart" else "en")
    source = f"corpus.sources=[{{path: {json.dumps(str(text))}, document: line}}]"
    return read_recipe(path, [*SHORT, f"runs={folder}", "tokenizer.vocabulary=1200", source, *more])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    """The quick start's recipe carried out on little text."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = short_recipe(ROOT / "recipes" / "quickstart.yaml", folder)
    return carry_out(recipe).folder, recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_runs_and_transformers_loads_what_it_made(path: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    recipe = short_recipe(path, tmp_path)
    run = carry_out(recipe)
    lines = [json.loads(line) for line in (run.folder / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) == 2
    assert "<svg" in (run.folder / "report.html").read_text(encoding="utf-8")
    model = run.folder / "pretrain" / "model"
    kind = transformers.AutoModelForCausalLM if recipe.objective.kind == "causal" else transformers.AutoModelForMaskedLM
    theirs, tokenizer = kind.from_pretrained(model).eval(), transformers.AutoTokenizer.from_pretrained(model)
    ids = tokenizer("这家酒店 The statement is fine.", return_tensors="pt")["input_ids"]

    import yanmo
    from yanmo.batch import Packed

    ours, tokens = yanmo.load(model)
    places = torch.arange(ids.shape[1])[None]
    with torch.no_grad():
        mine = ours.logits(ours(Packed(ids, torch.ones_like(ids), places, whole=True)))
        torch.testing.assert_close(mine, theirs(input_ids=ids).logits, atol=1e-5, rtol=1e-5)
    assert [*tokens.prefix, *tokens.encode(["这家酒店 The statement is fine."])[0]] == ids[0, : ids.shape[1] - (ids[0, -1] in tokens.suffix)].tolist()


def test_what_is_done_is_not_done_again(finished: tuple[Path, Recipe], capsys: pytest.CaptureFixture[str]) -> None:
    folder, recipe = finished
    weights = folder / "pretrain" / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns, (folder / "corpus" / "manifest.json").stat().st_mtime_ns
    carry_out(recipe)
    assert before == (weights.stat().st_mtime_ns, (folder / "corpus" / "manifest.json").stat().st_mtime_ns)
    assert capsys.readouterr().err.count("done before") == 5


def test_a_change_below_a_trained_network_is_refused_and_named(finished: tuple[Path, Recipe]) -> None:
    folder, recipe = finished
    changed = recipe.model_copy(update={"tokenizer": recipe.tokenizer.model_copy(update={"vocabulary": 900})})
    with pytest.raises(UserError, match=r"another tokenizer: tokenizer.vocabulary was 1200 and is 900"):
        carry_out(changed)
    other = recipe.model_copy(update={"training": recipe.training.model_copy(update={"learning_rate": 0.5})})
    with pytest.raises(UserError, match=r"training.learning_rate was None and is 0.5"):
        carry_out(other)
    assert (folder / "pretrain" / "model" / "model.safetensors").exists()


def test_a_changed_source_is_refused_after_training(finished: tuple[Path, Recipe]) -> None:
    _, recipe = finished
    source = Path(recipe.corpus.sources[0].path)
    text = source.read_text(encoding="utf-8")
    source.write_text(text + "\n又一条评论,写得比别的都晚。\n", encoding="utf-8")
    try:
        with pytest.raises(UserError, match="another corpus"):
            carry_out(recipe)
    finally:
        source.write_text(text, encoding="utf-8")


def test_a_second_process_is_turned_away(finished: tuple[Path, Recipe]) -> None:
    folder, recipe = finished
    with lock_folder(folder), pytest.raises(UserError, match="in use by process"):
        carry_out(recipe)


def test_verify_finds_one_flipped_byte(finished: tuple[Path, Recipe], tmp_path: Path) -> None:
    from yanmo.verify import verify

    folder, _ = finished
    looked, broken = verify(folder)
    assert not broken
    assert {line.split()[0] for line in looked} >= {"corpus", "shards", "checkpoint", "model"}
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for file in ("shards/train-00000.arrow", "pretrain/model/model.safetensors", "corpus/train-00000.parquet"):
        path = copy / file
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        assert any(file.split("/")[-1] in line for line in verify(copy)[1]), file


@pytest.mark.skipif(os.name != "posix", reason="signals are asked of the operating system")
def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    recipe = short_recipe(ROOT / "recipes" / "quickstart.yaml", tmp_path)
    carry_out(recipe, until="shards")
    file = tmp_path / "recipe.yaml"
    from yanmo.recipe import write_yaml

    file.write_text(write_yaml(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "yanmo", "pretrain", str(file), "training.steps=150", "training.save_every=50"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    metrics = tmp_path / recipe.name / "pretrain" / "metrics.jsonl"
    for _ in range(600):
        if metrics.exists() and len(metrics.read_text().splitlines()) > 5:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "To go on: yanmo pretrain" in " ".join(said.split())
    reached = json.loads(metrics.read_text().splitlines()[-1])["step"]
    assert 5 <= reached < 150
    again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert f"going on from step {reached} of 150" in " ".join(again.stderr.split())


@pytest.mark.slow
def test_the_quick_start_as_it_is(tmp_path: Path) -> None:
    run = carry_out(read_recipe(ROOT / "recipes" / "quickstart.yaml", ["training.minutes=1", f"runs={tmp_path}"]))
    found = json.loads((run.folder / "evaluation" / "report.json").read_text())
    assert found["masked_accuracy"] > found["baseline_accuracy"]
