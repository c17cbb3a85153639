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
from short_runs import ROOT, short_recipe

from yanmo.corpus.opening import fingerprints
from yanmo.errors import UserError
from yanmo.files import lock_folder
from yanmo.recipe import KIND_OF, USES, Recipe, read_recipe, write_yaml
from yanmo.run import STAGES, Run, carry_out
from yanmo.summary import summary

OF_TASKS = ("tasks-zh", "together-zh", "translate-en-de")
RECIPES = sorted(path for path in (ROOT / "recipes").glob("*.yaml") if not path.stem.startswith(("compare", *OF_TASKS)))
OWN = [path for path in RECIPES if path.stem in ("lstm-en", "ngram-zh", "moe-zh", "gan-en")]
VAE = ROOT / "recipes" / "vae-en.yaml"


@pytest.mark.parametrize("path", [path for path in RECIPES if path not in [*OWN, VAE]], ids=lambda path: path.stem)
def test_every_recipe_runs_and_transformers_loads_what_it_made(path: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    recipe = short_recipe(path, tmp_path)
    run = carry_out(recipe)
    lines = [json.loads(line) for line in (run.folder / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) == 2
    assert "<svg" in (run.folder / "report.html").read_text(encoding="utf-8")
    model = run.folder / "pretrain" / "model"
    kind = getattr(transformers, USES[KIND_OF[recipe.model.family]].auto)
    theirs, tokenizer = kind.from_pretrained(model).eval(), transformers.AutoTokenizer.from_pretrained(model)
    ids = tokenizer("这家酒店 The statement is fine.", return_tensors="pt")["input_ids"]

    import yanmo
    from yanmo.batch import Packed

    ours, tokens = yanmo.load(model)
    places = torch.arange(ids.shape[1])[None]
    with torch.no_grad():
        row, names = Packed(ids, torch.ones_like(ids), places, whole=True), ("input_ids", "decoder_input_ids")
        texts = names[: 2 if KIND_OF[recipe.model.family] == "encoder-decoder" else 1]
        mine = ours.logits(ours(*(row for _ in texts)))
        torch.testing.assert_close(mine, theirs(**dict.fromkeys(texts, ids)).logits, atol=1e-5, rtol=1e-5)
    read = [*tokens.prefix, *tokens.encode(["这家酒店 The statement is fine."])[0]]
    whole, after = ids[0].tolist(), len(tokens.suffix)
    assert read == (whole[:-after] if after and whole[-after:] == list(tokens.suffix) else whole)


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_what_transformers_does_not_know_is_used_as_others_are(path: Path, tmp_path: Path) -> None:
    import yanmo
    from yanmo import models

    recipe = short_recipe(path, tmp_path)
    run = carry_out(recipe)
    metrics = (run.folder / "pretrain" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(metrics[-1])["step"] == (1 if recipe.model.family == "ngram" else 2)
    assert json.loads((run.folder / "pretrain" / "speed.json").read_text())["tokens_per_second"] > 0
    assert "bits per byte" in dict(summary(recipe, run.folder, "report"))
    found = json.loads((run.folder / "evaluation" / "report.json").read_text())
    network, tokens = yanmo.load(run.folder / "pretrain" / "model")
    assert f"A {recipe.model.family} of" in (run.folder / "pretrain" / "model" / "README.md").read_text(encoding="utf-8")
    if recipe.model.family == "ngram":                    # the others have made two steps
        assert found["perplexity"] < network.config.tokens / 4, "a blind guess"
    assert len(found["generations"]) == len(recipe.evaluation.prompts)
    models.save(network, tmp_path / "again")
    again = models.load(tmp_path / "again").eval()
    texts = ["这家酒店很好。", "The statement is fine."]
    assert yanmo.score(again, tokens, texts) == yanmo.score(network, tokens, texts)
    written = [yanmo.generate(one, tokens, texts, max_new_tokens=8, seed=1) for one in (network, again)]
    assert written[0] == written[1]


def test_a_game_keeps_all_three_networks_and_says_who_has_won(tmp_path: Path) -> None:
    import yanmo

    run = carry_out(short_recipe(ROOT / "recipes" / "gan-en.yaml", tmp_path, "objective.start=0.5", "objective.warm=0"))
    lines = [json.loads(line) for line in (run.folder / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "norm" in line]
    assert "causal" in steps[0]
    assert steps[1].keys() >= {"adversarial", "discriminator", "discriminator_accuracy"}
    assert steps[1].keys().isdisjoint({"causal"})
    found = json.loads((run.folder / "evaluation" / "report.json").read_text())["frontiers"]
    assert len(found["likelihood"]) == len(found["adversarial"])
    assert found["verdict"]["outcome"] in ("better", "not better", "not comparable")
    model = run.folder / "pretrain" / "model"
    (after, _), (before, _) = yanmo.load(model), yanmo.load(model / "likelihood")
    assert any(not torch.equal(one, other) for one, other in zip(after.parameters(), before.parameters(), strict=True))
    judge, tokens = yanmo.load(model / "discriminator")
    assert judge.logits(judge(torch.randint(tokens.size, (2, 32)))).shape == (2, judge.config.representations)


def test_the_vae_runs_and_its_folder_writes_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import yanmo
    from yanmo import cli, models

    run = carry_out(short_recipe(VAE, tmp_path, "model.heads=2"))
    found = json.loads((run.folder / "evaluation" / "report.json").read_text())
    assert found["figures"].keys() == {"active_units", "mutual_information", "perplexity"}
    assert found["losses"].keys() >= {"kl", "kl_per_text", "reconstruction", "bound"}
    assert len(found["samples"]) == 8
    lines = [json.loads(line) for line in (run.folder / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    validations = [line["validation"] for line in lines if "validation" in line]
    assert all(one.keys() >= {"active_units", "mutual_information", "kl", "bound"} for one in validations)
    folder = run.folder / "pretrain" / "model"
    network, tokens = yanmo.load(folder)
    models.save(network, tmp_path / "again")
    again = models.load(tmp_path / "again").eval()
    assert yanmo.sample(again, tokens, 2, seed=1) == yanmo.sample(network, tokens, 2, seed=1)
    capsys.readouterr()
    cli.app(["sample", str(folder), "-n", "2", "--tokens", "5"], standalone_mode=False)
    cli.app(["interpolate", str(folder), "a string", "an error is raised", "--steps", "3"], standalone_mode=False)
    cli.app(["score", str(folder), "an error is raised"], standalone_mode=False)
    assert len(capsys.readouterr().out.splitlines()) >= 3


def test_what_is_done_is_not_done_again(finished: tuple[Path, Recipe], capsys: pytest.CaptureFixture[str]) -> None:
    folder, recipe = finished
    weights = folder / "pretrain" / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns, (folder / "corpus" / "manifest.json").stat().st_mtime_ns
    carry_out(recipe)
    assert before == (weights.stat().st_mtime_ns, (folder / "corpus" / "manifest.json").stat().st_mtime_ns)
    assert capsys.readouterr().err.count("done before") == 5


def test_sources_are_looked_at_once_in_a_pass(finished: tuple[Path, Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    monkeypatch.setattr("yanmo.corpus.opening.fingerprints", lambda read: looked.append(read) or fingerprints(read))
    carry_out(finished[1])
    assert len(looked) == 1


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


def test_a_source_that_has_gone_does_not_stop_what_is_trained(finished: tuple[Path, Recipe]) -> None:
    _, recipe = finished
    source = Path(recipe.corpus.sources[0].path)
    away = source.rename(source.with_suffix(".away"))
    try:
        carry_out(recipe, until="evaluation")
    finally:
        away.rename(source)


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


def figures(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    return [line["validation"]["loss"] if "validation" in line else line["loss"] for line in lines]


def test_two_processes_make_what_one_does_and_it_is_remembered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["training.precision=fp32", "model.dropout=0", "training.steps=3"]
    one = short_recipe(ROOT / "recipes" / "bert-zh.yaml", tmp_path, *more, "name=one")
    two = one.model_copy(update={"name": "two"})
    carry_out(one, until="shards")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    carry_out(one, until="pretrain")
    file = tmp_path / "recipe.yaml"
    file.write_text(write_yaml(two), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m", "yanmo", "pretrain"]
    made = subprocess.run([*command, str(file)], capture_output=True, text=True, cwd=ROOT, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    assert made.stderr.count("done before") == 3
    card = (tmp_path / "two" / "pretrain" / "model" / "README.md").read_text(encoding="utf-8")
    assert "| weights of step | 3 of 3 |" in card or "the model is that of step" in " ".join(made.stderr.split())
    assert figures(tmp_path / "two") == pytest.approx(figures(tmp_path / "one"), abs=1e-5)
    model = tmp_path / "two" / "pretrain" / "model" / "model.safetensors"
    before = model.stat().st_mtime_ns
    capsys.readouterr()
    carry_out(two, until="evaluation")
    assert capsys.readouterr().err.count("done before") == 4
    assert model.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.trackers=[wandb]"], "wandb is not installed"),
        (["model.width=null", "model.heads=5"], "model.width 256 is not divisible by 5 heads"),
        (["model={start: nowhere}"], "model.start: nowhere: no model folder there"),
    ],
)
def test_what_can_be_known_at_once_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], message: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    recipe = short_recipe(ROOT / "recipes" / "quickstart.yaml", tmp_path, *overrides)
    with pytest.raises(UserError, match=message):
        carry_out(recipe)
    assert not (tmp_path / recipe.name / "corpus").exists()


def test_a_changed_test_file_makes_the_corpus_anew(tmp_path: Path) -> None:
    forbidden = tmp_path / "forbidden.txt"
    forbidden.write_text("这是一个不应该出现在训练文本里的很长的句子,谁也不许读。\n", encoding="utf-8")
    files = f"corpus.decontaminate.files=[{json.dumps(str(forbidden))}]"
    recipe = short_recipe(ROOT / "recipes" / "quickstart.yaml", tmp_path, files)
    inputs = STAGES[0].inputs(Run(recipe, tmp_path))
    forbidden.write_text("换了一个不应该出现在训练文本里的句子。\n", encoding="utf-8")
    assert STAGES[0].inputs(Run(recipe, tmp_path)) != inputs


@pytest.mark.slow
def test_the_quick_start_as_it_is(tmp_path: Path) -> None:
    run = carry_out(read_recipe(ROOT / "recipes" / "quickstart.yaml", ["training.minutes=1", f"runs={tmp_path}"]))
    found = json.loads((run.folder / "evaluation" / "report.json").read_text())
    assert found["masked_accuracy"] > found["baseline_accuracy"]


@pytest.mark.parametrize(("minutes", "said"), [(None, False), (4.0, True), (5.0, False)])
def test_a_run_that_took_longer_than_asked_for_says_so(tmp_path: Path, minutes: float | None, said: bool) -> None:
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "shards").mkdir()
    speed = {"steps": 1, "tokens": 2, "seconds": 310, "tokens_per_second": 1, "share_of_matrix_rate": 0.4}
    (tmp_path / "pretrain" / "speed.json").write_text(json.dumps(speed))
    part = {"documents": 1, "tokens": 2, "bytes": 3}
    (tmp_path / "shards" / "report.json").write_text(json.dumps({"splits": {"train": part}}))
    recipe = Recipe.model_validate({"training": {"minutes": minutes}})
    assert any("were asked for" in text for _, text in summary(recipe, tmp_path, "report")) is said
