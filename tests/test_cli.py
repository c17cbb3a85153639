"""The command line: every verb says what it does, and a person's mistake ends with one message and no traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from short_runs import ROOT, short_recipe

from yanmo import cli
from yanmo.recipe import Recipe

VERBS = ["run", "corpus", "tokenizer", "shards", "pretrain", "evaluate"]
VERBS += ["finetune", "lint", "merge", "predict", "chat", "embed", "index", "search", "compare", "fill", "generate", "score"]
VERBS += ["sample", "interpolate", "verify", "samples", "schema", "env"]


def yanmo(*words: str, lines: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "yanmo", *words], capture_output=True, text=True, input=lines, cwd=ROOT)


def in_process(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["yanmo", *words])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_every_verb_has_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert in_process(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    for verb in VERBS:
        assert verb in shown
        assert in_process(monkeypatch, verb, "--help") == 0
        page = capsys.readouterr().out
        assert f" {verb} [OPTIONS]" in page
        assert max(map(len, page.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "nowhere.yaml"), "nowhere.yaml: no such recipe"),
        (("run", "recipes/own-text.yaml", "training.minuts=3"), "did you mean minutes?"),
        (("fill", "nowhere", "[MASK]"), "nowhere: no such folder"),
        (("verify", "nowhere"), "nowhere: no such folder"),
        (("verify", "docs"), "holds nothing of Yanmo"),
    ],
)
def test_a_mistake_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(ROOT)
    assert in_process(monkeypatch, *words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_a_mistake_in_a_process_of_its_own() -> None:
    done = yanmo("run", "nowhere.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("yanmo: nowhere.yaml: no such recipe")


def test_looking_things_up(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert in_process(monkeypatch, "schema") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Recipe"
    assert in_process(monkeypatch, "samples") == 0
    assert "sample:peoples-daily" in capsys.readouterr().out
    assert in_process(monkeypatch, "env") == 0
    assert "torch" in capsys.readouterr().out
    assert in_process(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith("yanmo ")


def test_using_a_model(
    finished: tuple[Path, Recipe], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(finished[0] / "pretrain" / "model")
    assert in_process(monkeypatch, "fill", model, "这家[MASK]店很好", "--best", "3") == 0
    assert capsys.readouterr().out.count("%") == 3
    assert in_process(monkeypatch, "score", model, "这家酒店很好") == 0
    assert float(capsys.readouterr().out.split("\t")[0]) < 0
    assert in_process(monkeypatch, "generate", model, "--prompt", "这家") == 2
    assert "fill" in capsys.readouterr().err


def test_generate_shows_one_prompt_as_it_grows_and_lists_several(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from yanmo.run import carry_out

    folder = carry_out(short_recipe(ROOT / "recipes" / "gpt2-en.yaml", tmp_path), until="pretrain").folder
    words = ["generate", str(folder / "pretrain" / "model"), "--tokens", "8", "--temperature", "0", "--prompt", "The statement"]
    capsys.readouterr()
    assert in_process(monkeypatch, *words) == 0
    alone = capsys.readouterr().out.rstrip("\n")
    assert alone.startswith("The statement")
    assert len(alone) > len("The statement")
    assert in_process(monkeypatch, *words, "--prompt", "A class is") == 0
    several = capsys.readouterr().out
    assert several.startswith(f"— {alone}\n— A class is")


def test_ctrl_c_outside_training_says_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", stop)
    assert in_process(monkeypatch) == 130
    assert "finished stages are kept, the same command goes on" in capsys.readouterr().err


def test_verify_says_all_whole_or_what_is_broken(
    finished: tuple[Path, Recipe], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert in_process(monkeypatch, "verify", str(finished[0])) == 0
    assert "all whole" in capsys.readouterr().out
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert in_process(monkeypatch, "verify", str(tmp_path)) == 1
    assert "BROKEN" in capsys.readouterr().out
