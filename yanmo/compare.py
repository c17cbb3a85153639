"""Several recipes on the same text with the same budget, over several seeds, in one table.

A comparison is a YAML file: `base` is a recipe, `sides` are what each one changes in it, `seeds` say how often, and `texts`,
where there are several, what each text changes: it has a table of its own. Every text, side and seed is a run of its own below
`runs/NAME/` (or `runs/NAME/TEXT/`), in a process of its own, and goes on where it stopped; clean text, tokenizers and shards
that are the same are shared between them. The sides take turns, seed after seed, so that a slow hour hits all of them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from yanmo.corpus.opening import fingerprints
from yanmo.display import note, number
from yanmo.errors import UserError
from yanmo.files import link, write_atomically
from yanmo.recipe import Recipe, Section, apply_override, parse_recipe, parse_yaml, unread, write_yaml
from yanmo.run import RECORD

SHARED = ("corpus", "tokenizer", "shards")
"""Stages whose work is taken over from another run where their inputs are the same; which they are, the run itself decides."""
OWN = ("seeds", "texts", "sides", "notes")
"""Parts of a comparison that the command line may change; what else it says is of every recipe."""
CODES = {
    "likelihood": "token by token from left to right",
    "bound": "a bound, by samples of the latent",
    "permutation": "the mean over random orders of its tokens",
    "gap": "written into a single gap, which is all that is given: no task that was learned",
}
"""How bits per byte were found that are lengths of codes, and compare with one another; see yanmo.scoring.Manner."""
PSEUDO = "pseudo-likelihood gives each token all the others: the length of no code, it compares with its like only"
Key = tuple[int, str, str]
"""A run of a comparison: its seed, text ("" where there is only one) and side."""


class Comparison(Section):
    """A comparison as it is written."""

    name: str = Field(pattern=r"^[\w][\w.\-]*$")
    """The folder below `runs`."""
    seeds: tuple[int, ...] = Field(default=(0, 1), min_length=1)
    base: dict[str, Any] = Field(default_factory=dict)
    """A recipe: what all sides have in common."""
    texts: dict[Annotated[str, Field(pattern=r"^[\w][\w.\-]*$")], dict[str, Any]] = Field(default_factory=dict)
    """By name: what recipes have besides on this text, where there are several; each has a table of its own."""
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
        shown, least, most = number(mean(found)), number(min(found)), number(max(found))
        return shown if least == most else f"{shown} ({least}-{most})"

    @property
    def order(self) -> tuple[int, float]:
        """Codes of text first, then pseudo-likelihoods, then what only has a measure of its own; the best of each first."""
        manner = str(_dig(self.evaluations[0], "bits_per_byte_by")) if self.evaluations else ""
        kind = 0 if manner in CODES else 1 if manner == "pseudo-likelihood" else 2 if manner else 3
        name = "bits_per_byte" if self.spread("sentence_bits_per_byte") == "–" else "sentence_bits_per_byte"
        bits = [value for one in self.evaluations if (value := _dig(one, name)) is not None]
        return kind, mean(bits) if bits else 0.0


def compare(path: Path, overrides: list[str]) -> tuple[str, Path]:
    """Do what is not done yet and write results.md and results.json; returns the tables and the folder.

    overrides: of the comparison's OWN parts (texts.NAME.corpus.sources=[FILE]), all others of every recipe. Raises UserError,
    before anything is run, for a file that is no comparison, a side whose recipe does not fit together and a text that is not
    there; and for a run that fails.
    """
    comparison = _read(path, [one for one in overrides if _is_own(one)])
    overrides = [one for one in overrides if not _is_own(one)]
    texts = comparison.texts or {"": {}}
    planned = [(seed, text, side) for seed in comparison.seeds for text in texts for side in comparison.sides]
    runs = {(seed, text, side): _recipe(comparison, side, seed, overrides, path, text) for seed, text, side in planned}
    folder = _folder(next(iter(runs.values())))
    folder = folder.parents[1] if comparison.texts else folder.parent
    for (_, text, _), recipe in runs.items():
        if not (_folder(recipe) / RECORD).exists():
            _refuse_missing(recipe, text, path)
    folder.mkdir(parents=True, exist_ok=True)
    for (seed, text, side), recipe in runs.items():
        if not _finished(recipe):
            note(", ".join(filter(None, (text, side, f"seed {seed}"))), "bold")
            _carry_out(recipe, list(runs.values()))
        _write(comparison, runs, folder)
    return _write(comparison, runs, folder), folder


def _is_own(override: str) -> bool:
    return override.split("=")[0].split(".")[0].strip() in OWN


def _read(path: Path, overrides: Sequence[str] = ()) -> Comparison:
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"), str(path))
        for override in overrides if isinstance(tree, dict) else ():
            apply_override(tree, override)
        return Comparison.model_validate(tree)
    except FileNotFoundError:
        raise UserError(f"{path}: no such comparison; `recipes/compare-zh.yaml` is one to copy") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as a comparison: {error}") from None
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'file'}: {one['msg']}" for one in error.errors())
        raise UserError(f"{path}: {wrong}; a comparison has name, seeds, base, texts, sides and notes") from None


def _refuse_missing(recipe: Recipe, text: str, path: Path) -> None:
    """Raises UserError where a text is not there."""
    try:
        fingerprints(recipe.corpus.sources)
    except UserError as error:
        setting = f"texts.{text}.corpus.sources" if text else "corpus.sources"
        raise UserError(f"{error}; say where it is: yanmo compare {path} '{setting}=[FILE]'") from None


def _recipe(comparison: Comparison, side: str, seed: int, overrides: list[str], path: Path, text: str = "") -> Recipe:
    tree = deepcopy(_merged(_merged(comparison.base, comparison.texts.get(text, {})), comparison.sides[side]))
    for override in overrides:
        apply_override(tree, override)
    for section, key in (name.split(".") for name in unread(_dig(tree, "model", "family"), _dig(tree, "model", "version"))):
        if _dig(tree, section, key) is not None and _dig(comparison.sides[side], section, key) is None:
            del tree[section][key]                        # what is common to all sides is left out where a side has no use for it
    runs = str(Path(tree.get("runs", "runs")) / comparison.name / text)
    return parse_recipe({**tree, "name": f"{side}-seed{seed}", "seed": seed, "runs": runs}, f"{path}: side {side}")


def _folder(recipe: Recipe) -> Path:
    return Path(recipe.runs) / recipe.name


def _merged(tree: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """`other` laid over `tree`, section by section."""
    both = dict(tree)
    for key, value in other.items():
        old = both.get(key)
        both[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return both


def _finished(recipe: Recipe) -> bool:
    """Whether the run has come to its end with this very recipe; with another one the run itself says what differs."""
    folder = _folder(recipe)
    return (folder / "report.html").exists() and (folder / "recipe.yaml").read_text(encoding="utf-8") == write_yaml(recipe)


def _carry_out(recipe: Recipe, others: list[Recipe]) -> None:
    """One run in a process of its own, with what others have made already."""
    folder = _folder(recipe)
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
        source = _folder(other)
        record = _json(source / RECORD)
        if record.keys() >= set(SHARED):
            for stage in SHARED:
                shutil.copytree(source / stage, folder / stage, copy_function=link, dirs_exist_ok=True)
            shared = {stage: record[stage] for stage in SHARED}
            write_atomically(folder / RECORD, json.dumps(shared, indent=1, ensure_ascii=False))
            return


def _write(comparison: Comparison, runs: Mapping[Key, Recipe], folder: Path) -> str:
    """results.json with every figure, results.md with a table for each text; returns the tables."""
    found: dict[str, Any] = {}
    for (_, text, _), recipe in runs.items():
        part = found.setdefault(text, {}) if text else found
        part[recipe.name] = _json(_folder(recipe) / "evaluation" / "report.json")
    write_atomically(folder / "results.json", json.dumps(found, indent=1, ensure_ascii=False))
    tables = []
    for text in comparison.texts or ("",):
        rows = [_row(comparison, side, text, runs, found[text] if text else found) for side in comparison.sides]
        tables += [*([f"## {text}", ""] if text else []), *_lines(sorted(rows, key=lambda row: row.order)), ""]
    table = "\n".join(tables).rstrip()
    write_atomically(folder / "results.md", f"# {comparison.name}\n\n{table}\n")
    return table


def _row(comparison: Comparison, side: str, text: str, runs: Mapping[Key, Recipe], found: Mapping[str, Any]) -> Row:
    recipe = runs[comparison.seeds[0], text, side]
    evaluations = tuple(one for seed in comparison.seeds if (one := found[f"{side}-seed{seed}"]))
    return Row(side, recipe.model.family, recipe.objective.kind, evaluations, comparison.notes.get(side, ""))


def _lines(rows: list[Row]) -> Iterator[str]:
    """The table as Markdown: means over the seeds, in brackets the range; and what is to be known of its figures."""
    heads = ["", "family, objective", "bits per byte of documents", "of sentences", "by", "own loss (nats a target)", "tokens/s"]
    heads += ["parameters", "seconds of training", "seeds", ""]
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for row in rows:
        first = row.evaluations[0] if row.evaluations else {}
        loss, manner = next(iter(first.get("losses", {})), ""), first.get("bits_per_byte_by")
        shown = f"{loss} {row.spread('losses', loss)}" if loss else "not run yet"
        cells = [row.side, f"{row.family}, {row.objective}", row.spread("bits_per_byte") if manner == "likelihood" else "–"]
        cells += [row.spread("sentence_bits_per_byte"), manner or "–", shown, row.spread("speed", "tokens_per_second")]
        cells += [row.spread("parameters"), row.spread("speed", "seconds"), str(len(row.evaluations)), row.note]
        yield f"| {' | '.join(cells)} |"
    yield from _legend([one for row in rows for one in row.evaluations])


def _legend(evaluations: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Of what the bits per byte of sentences are, and how they were found."""
    manners = {one.get("bits_per_byte_by") for one in evaluations}
    measured = [one["counts"] for one in evaluations if one.get("sentence_bits_per_byte") is not None]
    samples = sorted({(counts["sentences"], counts["sentence_bytes"]) for counts in measured})
    if not samples:
        return
    sizes = " or ".join(f"{count} with {size:,} bytes" for count, size in samples)
    unlike = "" if len(samples) == 1 else " NOT THE SAME for all: some have no room for the longest."
    codes = "; ".join(f"{name}: {meaning}" for name, meaning in CODES.items() if name in manners)
    pseudo = PSEUDO[0].upper() + PSEUDO[1:] if "pseudo-likelihood" in manners else ""
    known = "".join(f" {sentence}." for sentence in (codes, pseudo) if sentence)
    yield ""
    yield f"Sentences: {sizes}, held out.{unlike} What counts is all of their tokens, and not their ends.{known}"


def _dig(tree: Any, *keys: str) -> Any:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
