"""What a run folder says. A missing file is an empty answer; one that cannot be read is named, never an error."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import yaml

from yanmo.report.numbers import real

Tree = dict[str, Any]
PLAIN = ("step", "tokens", "norm", "learning_rate", "tokens_per_second", "seconds", "skipped")  # not means over targets
MEASURES = (
    "expert_load", "dropped_tokens", "assignment_optimum",
    "active_units", "mutual_information", "kl_per_text", "perplexity", "alignment", "uniformity",
)  # fmt: skip
"""Neither means over targets nor accuracies."""


@dataclass(frozen=True)
class TaskFindings:
    """folder: of its trials. results: of them all. validation: of each, by method and seed. confusion, errors: of the best."""

    folder: Path
    results: Tree
    validation: dict[tuple[str, int], list[Tree]] = field(default_factory=dict)
    confusion: Tree = field(default_factory=dict)
    errors: list[Tree] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.folder.resolve().name


@dataclass(frozen=True)
class Findings:
    folder: Path
    recipe: Tree = field(default_factory=dict)
    recipe_text: str = ""
    corpus: Tree = field(default_factory=dict)
    tokenizer: Tree = field(default_factory=dict)
    shards: Tree = field(default_factory=dict)
    training: list[Tree] = field(default_factory=list)
    validation: list[Tree] = field(default_factory=list)
    model: Tree = field(default_factory=dict)
    parameters: int | None = None
    evaluation: Tree = field(default_factory=dict)
    environment: Tree = field(default_factory=dict)
    speed: Tree = field(default_factory=dict)
    tasks: list[TaskFindings] = field(default_factory=list)
    together: Tree = field(default_factory=dict)
    joint: dict[str, tuple[list[Tree], list[Tree]]] = field(default_factory=dict)
    """Training and validation of several tasks at once, by weighting and seed."""
    together_tasks: list[TaskFindings] = field(default_factory=list)
    """What the best of these trials gets wrong, task by task."""
    seconds: dict[str, float] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()


def read_findings(folder: Path) -> Findings:
    """Read the small files of a run; of the weights only the header is read."""
    unreadable: list[str] = []

    def tree(name: str) -> Tree:
        try:
            value = json.loads((folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            value = None
        if not isinstance(value, dict):
            unreadable.append(name)
            return {}
        return value

    try:
        recipe_text = (folder / "recipe.yaml").read_text(encoding="utf-8")
        recipe = yaml.safe_load(recipe_text)
    except FileNotFoundError:
        recipe_text, recipe = "", {}
    except (OSError, ValueError, yaml.YAMLError):
        recipe_text, recipe = "", None
    if not isinstance(recipe, dict):
        unreadable.append("recipe.yaml")
        recipe = {}

    training, validation = _metrics(folder / "pretrain" / "metrics.jsonl")
    trials = sorted((folder / "together" / "trials").glob("*/metrics.jsonl"))
    together = tree("together/results.json")
    return Findings(
        folder=folder,
        recipe=recipe,
        recipe_text=recipe_text,
        corpus=tree("corpus/report.json"),
        tokenizer=tree("tokenizer/report.json"),
        shards=tree("shards/report.json"),
        training=training,
        validation=validation,
        model=tree("pretrain/model/config.json"),
        parameters=count_parameters(folder / "pretrain" / "model"),
        evaluation=tree("evaluation/report.json"),
        environment=tree("environment.json"),
        speed=tree("pretrain/speed.json"),
        tasks=[_task(folder, inside, tree) for inside in _task_folders(folder, recipe)],
        together=together,
        joint={path.parent.name: _metrics(path) for path in trials},
        together_tasks=_together_tasks(folder, together, tree),
        seconds=_seconds(tree("stages.json")),
        unreadable=tuple(unreadable),
    )


def _task_folders(folder: Path, recipe: Tree) -> list[Path]:
    """Of all tasks that have results, in the recipe's order, as they lie in the run folder; itself where it is a task's."""
    found = sorted(path.parent.name for path in (folder / "tasks").glob("*/results.json"))
    order = list(mapping(recipe.get("tasks")))
    ordered = sorted(found, key=lambda name: order.index(name) if name in order else len(order))
    return [*([Path()] if (folder / "results.json").exists() else []), *(Path("tasks") / name for name in ordered)]


def _task(run: Path, inside: Path, tree: Callable[[str], Tree]) -> TaskFindings:
    """tree: reads a JSON file of the run folder."""
    folder = run / inside
    results = tree(f"{inside}/results.json")
    validation = {}
    for trial in listing(results.get("trials")):
        method, seed = trial.get("method"), trial.get("seed")
        if isinstance(method, str) and isinstance(seed, int):
            validation[method, seed] = _metrics(folder / f"{method}-seed{seed}" / "metrics.jsonl")[1]
    best = mapping(results.get("best"))
    trial = f"{best.get('method')}-seed{best.get('seed')}"
    return TaskFindings(folder, results, validation, **_judged(run, f"{inside}/{trial}", tree))


def _together_tasks(run: Path, together: Tree, tree: Callable[[str], Tree]) -> list[TaskFindings]:
    """The best trial's own figures of each task stand for its results."""
    best = mapping(together.get("best"))
    for trial in listing(together.get("trials")):
        if all(trial.get(name) == best.get(name) for name in ("weighting", "seed")):
            judged = f"together/trials/{trial.get('weighting')}-seed{trial.get('seed')}/judged"
            return [
                TaskFindings(
                    Path("together") / name,
                    mapping(results) | {"method": trial.get("weighting"), "seed": trial.get("seed")},
                    **_judged(run, f"{judged}/{name}", tree),
                )
                for name, results in mapping(trial.get("tasks")).items()
            ]
    return []


def _judged(run: Path, inside: str, tree: Callable[[str], Tree]) -> dict[str, Any]:
    """What a trial leaves of the examples that it was judged by, as yanmo/tasks/judged.py writes it."""
    return {"confusion": tree(f"{inside}/confusion.json"), "errors": list(records(run / inside / "errors.jsonl"))}


def records(path: Path) -> Iterator[Tree]:
    """The JSON objects of a file with one a line; a line cut off by a crash is passed over."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def _metrics(path: Path) -> tuple[list[Tree], list[Tree]]:
    """Training and validation records by step, each with `losses`, `accuracies` and `measures`; the last line of a step counts.

    As yanmo/train.py writes them: figures beside `step` for training, below `validation` for held-out text.
    """
    training: dict[float, Tree] = {}
    validation: dict[float, Tree] = {}
    for record in records(path):
        step = real(record.get("step"))
        if step is None:
            continue
        figures = mapping(record.get("validation")) or {key: record[key] for key in record if key not in PLAIN}
        means = {name: value for name, raw in figures.items() if (value := real(raw)) is not None}
        accuracies = {name: value for name, value in means.items() if name.endswith("accuracy")}
        measures = {name: value for name, value in means.items() if name in MEASURES}
        losses = {name: value for name, value in means.items() if name not in (*accuracies, *measures, "loss")}
        losses = losses or {name: value for name, value in means.items() if name == "loss"}
        kind = validation if "validation" in record else training
        kind[step] = {**record, "losses": losses, "accuracies": accuracies, "measures": measures}
    return [training[step] for step in sorted(training)], [validation[step] for step in sorted(validation)]


def _seconds(stages: Tree) -> dict[str, float]:
    """Stage -> seconds; the report itself, which is being written, is left out."""
    found = {stage: real(mapping(entry).get("seconds")) for stage, entry in stages.items() if stage != "report"}
    return {stage: seconds for stage, seconds in found.items() if seconds is not None}


def count_parameters(model: Path) -> int | None:
    """Numbers in the model's safetensors files, from their headers alone (8 bytes of length, then JSON)."""
    total = 0
    for path in sorted(model.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
            total += sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError, struct.error, MemoryError, OverflowError):
            return None
    return total or None


def dig(tree: Mapping[str, Any], *keys: str) -> Any:
    """tree[a][b][c], or None where the path ends early."""
    value: Any = tree
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def mapping(value: Any) -> Tree:
    """The value where it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def listing(value: Any) -> list[Tree]:
    """The mappings inside a list; nothing where it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
