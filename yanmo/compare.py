"""Several recipes on the same text with the same budget, over several seeds, in one table.

A comparison is a YAML file: `base` is a recipe, `sides` are what each one changes in it, `seeds` say how often. Every side and
seed is a run of its own below `runs/NAME/`, in a process of its own, and goes on where it stopped; clean text, tokenizers and
shards that are the same are shared between them. The sides take turns, seed after seed, so that a slow hour hits all of them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import yaml
from pydantic import Field, ValidationError

from yanmo.display import note, number
from yanmo.errors import UserError
from yanmo.files import write_atomically
from yanmo.recipe import Recipe, Section, apply_override, parse_recipe, write_yaml
from yanmo.run import RECORD

SHARED = ("corpus", "tokenizer", "shards")
"""Stages whose work is taken over from another run where their inputs are the same; which they are, the run itself decides."""


class Comparison(Section):
    """A comparison as it is written."""

    name: str = Field(pattern=r"^[\w][\w.\-]*$")
    """The folder below `runs`."""
    seeds: tuple[int, ...] = Field(default=(0, 1), min_length=1)
    base: dict[str, Any] = Field(default_factory=dict)
    """A recipe: what all sides have in common."""
    sides: dict[str, dict[str, Any]] = Field(min_length=1)
    """By name: what a side's recipe has besides, or instead."""
    notes: dict[str, str] = Field(default_factory=dict)
    """By side: what it is good at, for the table."""


@dataclass(frozen=True)
class Row:
    """A side's figures, one for each seed that is finished."""

    side: str
    family: str
    objective: str
    evaluations: tuple[Mapping[str, Any], ...]
    note: str

    def spread(self, *keys: str) -> str:
        """The mean over the seeds and, in brackets, the smallest and the largest; nothing where it is not defined."""
        found = [value for one in self.evaluations if (value := _dig(one, *keys)) is not None]
        if not found:
            return "–"
        shown = number(mean(found))
        return shown if len(found) == 1 else f"{shown} ({number(min(found))}-{number(max(found))})"

    @property
    def order(self) -> tuple[int, float]:
        """Codes of text first, then pseudo-likelihoods, then what only has a measure of its own; the best of each first."""
        kinds = {"likelihood": 0, "bound": 1, "pseudo-likelihood": 2}
        kind = kinds.get(str(_dig(self.evaluations[0], "bits_per_byte_by")), 3) if self.evaluations else 4
        bits = [value for one in self.evaluations if (value := _dig(one, "bits_per_byte")) is not None]
        return kind, mean(bits) if bits else 0.0


def compare(path: Path, overrides: list[str]) -> tuple[str, Path]:
    """Do what is not done yet and write results.md and results.json; returns the table and the folder.

    overrides: of every side's recipe. Raises UserError for a file that is no comparison, a side whose recipe does not fit
    together (before anything is run) and a run that fails.
    """
    comparison = _read(path)
    planned = [(seed, side) for seed in comparison.seeds for side in comparison.sides]
    runs = {(seed, side): _recipe(comparison, side, seed, overrides, path) for seed, side in planned}
    folder = Path(next(iter(runs.values())).runs)
    folder.mkdir(parents=True, exist_ok=True)
    for (seed, side), recipe in runs.items():
        if not _finished(recipe):
            note(f"{side}, seed {seed}", "bold")
            _carry_out(recipe, list(runs.values()))
        _write(comparison, runs, folder)
    return _write(comparison, runs, folder), folder


def _read(path: Path) -> Comparison:
    try:
        return Comparison.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path}: no such comparison; `recipes/compare-zh.yaml` is one to copy") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as a comparison: {error}") from None
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'file'}: {one['msg']}" for one in error.errors())
        raise UserError(f"{path}: {wrong}; a comparison has name, seeds, base, sides and notes") from None


def _recipe(comparison: Comparison, side: str, seed: int, overrides: list[str], path: Path) -> Recipe:
    tree = deepcopy(_merged(comparison.base, comparison.sides[side]))
    for override in overrides:
        apply_override(tree, override)
    runs = str(Path(tree.get("runs", "runs")) / comparison.name)
    return parse_recipe({**tree, "name": f"{side}-seed{seed}", "seed": seed, "runs": runs}, f"{path}: side {side}")


def _merged(tree: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """`other` laid over `tree`, section by section."""
    both = dict(tree)
    for key, value in other.items():
        old = both.get(key)
        both[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return both


def _finished(recipe: Recipe) -> bool:
    """Whether the run has come to its end with this very recipe; with another one the run itself says what differs."""
    folder = Path(recipe.runs) / recipe.name
    return (folder / "report.html").exists() and (folder / "recipe.yaml").read_text(encoding="utf-8") == write_yaml(recipe)


def _carry_out(recipe: Recipe, others: list[Recipe]) -> None:
    """One run in a process of its own, with what others have made already."""
    folder = Path(recipe.runs) / recipe.name
    if not (folder / RECORD).exists():
        _share([other for other in others if other.corpus == recipe.corpus], recipe.model.family, folder)
    file = folder.with_suffix(".yaml")
    write_atomically(file, write_yaml(recipe))
    done = subprocess.run([sys.executable, "-m", "yanmo", "run", str(file)], stdout=subprocess.DEVNULL, check=False)
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode:
        raise UserError(f"{file}: the run failed, see above; the others are kept, and the same command goes on")


def _share(others: list[Recipe], family: str, folder: Path) -> None:
    """Take over what another run on the same text has made, one of the same family if there is one, as links. The run then looks
    by itself whether a stage's inputs are the same, and makes it anew where they are not."""
    for other in sorted(others, key=lambda other: other.model.family != family):
        source = Path(other.runs) / other.name
        record = _json(source / RECORD)
        if record.keys() >= set(SHARED):
            for stage in SHARED:
                shutil.copytree(source / stage, folder / stage, copy_function=_link, dirs_exist_ok=True)
            shared = {stage: record[stage] for stage in SHARED}
            write_atomically(folder / RECORD, json.dumps(shared, indent=1, ensure_ascii=False))
            return


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:                                       # other disks, and those without links
        shutil.copy2(source, target)


def _write(comparison: Comparison, runs: Mapping[tuple[int, str], Recipe], folder: Path) -> str:
    """results.json with every figure, results.md with the table; returns the table."""
    found = {recipe.name: _json(folder / recipe.name / "evaluation" / "report.json") for recipe in runs.values()}
    write_atomically(folder / "results.json", json.dumps(found, indent=1, ensure_ascii=False))
    rows = [_row(comparison, side, runs, found) for side in comparison.sides]
    table = "\n".join(_lines(sorted(rows, key=lambda row: row.order)))
    write_atomically(folder / "results.md", f"# {comparison.name}\n\n{table}\n")
    return table


def _row(comparison: Comparison, side: str, runs: Mapping[tuple[int, str], Recipe], found: Mapping[str, Any]) -> Row:
    recipe = runs[comparison.seeds[0], side]
    evaluations = tuple(one for seed in comparison.seeds if (one := found[f"{side}-seed{seed}"]))
    return Row(side, recipe.model.family, recipe.objective.kind, evaluations, comparison.notes.get(side, ""))


def _lines(rows: list[Row]) -> Iterator[str]:
    """The table as Markdown: means over the seeds, in brackets the range."""
    yield "| | family, objective | bits per byte | by | own loss (nats a target) | tokens/s | seeds | |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        first = row.evaluations[0] if row.evaluations else {}
        loss = next(iter(first.get("losses", {})), "")
        shown = f"{loss} {row.spread('losses', loss)}" if loss else "not run yet"
        cells = [row.side, f"{row.family}, {row.objective}", row.spread("bits_per_byte"), first.get("bits_per_byte_by") or "–"]
        cells += [shown, row.spread("speed", "tokens_per_second"), str(len(row.evaluations)), row.note]
        yield f"| {' | '.join(cells)} |"


def _dig(tree: Any, *keys: str) -> Any:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
