"""What the README shows works: its recipe reads, its verbs exist, its Python runs."""

import json
import re
from pathlib import Path

import pytest
import yaml
from short_runs import ROOT, SHORT, SIZES
from test_cli import VERBS
from test_house import LEVELS

from yanmo.recipe import Recipe, parse_recipe

PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_the_recipe_reads() -> None:
    (text,) = blocks(PAGES[0], "yaml")
    assert parse_recipe(yaml.safe_load(text), "README").training.minutes == 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for block in blocks(page, "sh"):
        for verbs in re.findall(r"(?:^|; )(?:\.venv/bin/)?yanmo ([\w|]+)", block, re.MULTILINE):
            assert set(verbs.split("|")) <= set(VERBS)
        for target in re.findall(r"^make (\w[\w-]*)", block, re.MULTILINE):
            assert f"\n{target}:" in makefile
    for recipe in re.findall(r"recipes/[\w-]+\.yaml", page.read_text(encoding="utf-8")):
        assert (ROOT / recipe).exists()


def test_every_room_has_its_line_and_every_picture_is_there() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    for room in set().union(*LEVELS):
        assert f"`{room}`" in text or f"`{room}/`" in text, f"the README's layout does not say where {room} stands"
    for page in PAGES:
        for target in re.findall(r"\]\((?!#)([^)]+)\)", page.read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), f"{page.name} points at {target}"


def test_the_python_runs(finished: tuple[Path, Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    folder, recipe = finished
    with_task(folder / "pretrain" / "model", tmp_path)
    sources = json.dumps([source.model_dump() for source in recipe.corpus.sources])
    settings = [f"runs={folder.parent}", f"corpus.sources={sources}", "tokenizer.vocabulary=1200", *SHORT, *SIZES]
    for block in blocks(PAGES[0], "python"):
        block = block.replace("runs/quickstart/tasks", str(tmp_path)).replace("runs/quickstart", str(folder))
        block = block.replace('["training.minutes=10"]', repr(settings))
        exec(compile(block.replace('"recipes/', f'"{ROOT}/recipes/'), "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def with_task(base: Path, folder: Path) -> None:
    """The quick start's first task, on a few examples."""
    from yanmo.recipe import parse_task
    from yanmo.trials import Trials, carry_out

    rows = [{"text": f"很{sign}{number}", "label": sign} for number in range(10) for sign in ("好", "差")]
    (folder / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    task = {"kind": "classification", "train": str(folder / "train.jsonl"), "training": {"steps": 1, "length": 32}}
    carry_out(Trials(parse_task(task), base, folder / "sentiment"))
