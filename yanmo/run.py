"""A recipe carried out: corpus, tokenizer, shards, pretraining, evaluation, report, each in a folder of the run.

A stage that is finished and whose inputs have not changed is not run again; pretraining that was interrupted goes on where
it stopped. When something changes under a network that has begun to train, the run is refused and says what differs:
what was trained is never thrown away for a changed line.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yanmo import display
from yanmo.errors import Interrupted, UserError
from yanmo.files import MANIFEST, lock_folder, new_folder, sha256_of, write_atomically
from yanmo.progress import Progress, silent
from yanmo.recipe import Recipe, Source, write_yaml

RECORD = "stages.json"
"""In the run folder: for every finished stage its inputs and how long it took."""


@dataclass(frozen=True)
class Run:
    """A recipe and its folder. data: examples of its tasks, as far as they have been read."""

    recipe: Recipe
    folder: Path
    data: dict[str, Any] = field(default_factory=dict)

    def sum_of(self, stage: str) -> str:
        """What a stage made, as one number: a hash of its files' sums, the report apart, which has times in it.

        Raises UserError when it has not been made.
        """
        manifest = self.folder / stage / MANIFEST
        if not manifest.exists():
            raise UserError(f"{manifest.parent} is not there; `yanmo run RECIPE` makes it again, in a run of another name")
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        sums = sorted((name, entry["sha256"]) for name, entry in files.items() if name != "report.json")
        return hashlib.sha256(json.dumps(sums).encode()).hexdigest()


@dataclass(frozen=True)
class Stage:
    """One step of a run. inputs: all that its result depends on, or None for a stage that is always done; work: do it."""

    name: str
    inputs: Callable[[Run], Mapping[str, Any]] | None
    work: Callable[[Run, Progress], None]


def carry_out(recipe: Recipe, until: str = "report") -> Run:
    """Every stage up to `until` that is not finished yet; returns the run, whose folder holds what was made.

    Raises UserError for whatever a person can mend and Interrupted after Ctrl-C, when all is saved.
    """
    run = Run(recipe, Path(recipe.runs) / recipe.name)
    with lock_folder(run.folder) if is_first() else nullcontext():
        record = _read_record(run.folder)
        known = _refuse_changes(run, record)
        stages = recipe_stages(recipe, until)
        if not are_several() and "pretrain" not in record and _named("pretrain") in stages:
            from yanmo.pretrain import check_early

            check_early(recipe)
        if not are_several() and _named("tasks") in stages:
            _read_early(run)
        if is_first():
            write_atomically(run.folder / "recipe.yaml", write_yaml(recipe))
        for stage in stages:
            _do(run, stage, record, known)
    return run


def _read_early(run: Run) -> None:
    """Read and look at the examples of tasks without results: what is wrong with them is said before anything is trained."""
    from yanmo.labelled.data import read_data

    for name, section in run.recipe.tasks.items():
        if not (run.folder / "tasks" / name / "results.json").exists():
            run.data[name] = read_data(section, name, display.note)


def recipe_stages(recipe: Recipe, until: str = "report") -> list[Stage]:
    """The stages that a recipe has, up to one of them: that of tasks where it names any, and then, where it names no text, none
    of those that pretrain."""
    tasks, last = STAGES.index(_named("tasks")), STAGES.index(_named(until))
    first = tasks if recipe.tasks and not recipe.corpus.sources and last >= tasks else 0
    absent = {name for name, section in (("tasks", recipe.tasks), ("together", recipe.together)) if not section}
    return [stage for stage in STAGES[first : last + 1] if stage.name not in absent]


def is_first() -> bool:
    """Whether this is the process that writes and speaks; torchrun numbers them."""
    return os.environ.get("RANK", "0") == "0"


def are_several() -> bool:
    """Whether torchrun started more processes than this one."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def _do(run: Run, stage: Stage, record: dict[str, Any], known: dict[str, dict[str, Any]]) -> None:
    """One stage, unless it is finished. Of several processes the first one writes the record.

    known: inputs of stages that were looked at in this pass; they hold until a stage makes something.
    """
    if are_several() and STAGES.index(stage) > STAGES.index(_named("pretrain")):
        return
    inputs = known.get(stage.name) or _inputs(run, stage, record)
    finished = record.get(stage.name, {})
    if inputs is not None and finished.get("inputs") == inputs and (run.folder / stage.name).exists():
        if is_first():
            display.note(f"✓ {stage.name:<10} done before", "dim")
        return
    if are_several() and stage.name != "pretrain":
        raise UserError(f"stage {stage.name} is for one process: run `yanmo shards RECIPE` first, then torchrun with `pretrain`")
    started = time.time()
    with display.stage(stage.name) if is_first() else nullcontext(silent) as progress:
        known.clear()
        stage.work(run, progress)
    if is_first() and inputs is not None:
        seconds = finished.get("seconds", 0) if stage.name == "pretrain" else 0
        record[stage.name] = {"inputs": inputs, "seconds": round(seconds + time.time() - started, 1)}
        write_atomically(run.folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False))


def _inputs(run: Run, stage: Stage, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a stage depends on, as JSON has it; None for one that is always done.

    A finished stage whose sources have gone (a disk that is not mounted, a file that was moved) counts as unchanged.
    """
    if stage.inputs is None:
        return None
    try:
        return json.loads(json.dumps(stage.inputs(run)))
    except UserError as error:
        if stage.name not in record or not (run.folder / stage.name).exists():
            raise
        display.note(f"{stage.name} is taken as it is: {error}")
        return record[stage.name]["inputs"]


def _refuse_changes(run: Run, record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Once a network has begun to train, what it stands on must stay. Raises UserError that names what differs.

    Returns the inputs that were looked at, by stage.
    """
    known: dict[str, dict[str, Any]] = {}
    if not (run.folder / "pretrain" / "checkpoints").exists():
        return known
    from yanmo.checkpoint import differences, flatten

    for stage in STAGES[: STAGES.index(_named("pretrain"))]:
        if stage.name in record:
            known[stage.name] = _inputs(run, stage, record) or {}
            before, now = flatten(record[stage.name]["inputs"]), flatten(known[stage.name])
            if changed := differences(before, now):
                raise UserError(
                    f"{run.folder / 'pretrain'} was trained on another {stage.name}: {'; '.join(changed[:5])}. "
                    "Set that back, give the run another name (name=...), or delete the run folder"
                )
    return known


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise UserError(f"{folder / RECORD} is damaged; delete it, and the stages are run again") from None


# The stages


def _corpus_inputs(run: Run) -> Mapping[str, Any]:
    from yanmo.corpus.opening import fingerprints

    settings = run.recipe.corpus
    read = [*settings.sources, *(Source(path=path) for path in settings.decontaminate.files)]
    return {"corpus": settings.model_dump(mode="json", exclude={"workers"}), "files": fingerprints(read)}


def _corpus(run: Run, progress: Progress) -> None:
    from yanmo.corpus import build_corpus

    build_corpus(run.recipe, run.folder / "corpus", progress)


def _tokenizer_inputs(run: Run) -> Mapping[str, Any]:
    recipe = run.recipe
    inputs = {"tokenizer": recipe.tokenizer.model_dump(mode="json"), "family": recipe.model.family}
    inputs["special"] = list(recipe.objective.special)
    given = run.recipe.tokenizer.file or next(iter(run.recipe.model.starts.values()), None)
    if given is None or recipe.tokenizer.extend:
        inputs["corpus"] = run.sum_of("corpus")
    if given is None:
        return inputs
    from yanmo.tokenizer import load_tokenizer

    return {**inputs, "given": load_tokenizer(given).hash}


def _tokenizer(run: Run, progress: Progress) -> None:
    from yanmo import tokenizer
    from yanmo.corpus import iterate_texts

    given = run.recipe.tokenizer.file or next(iter(run.recipe.model.starts.values()), None)
    texts = iterate_texts(run.folder / "corpus", "train")
    if given is None:
        tokenizer.train_tokenizer(texts, run.recipe, run.folder / "tokenizer", progress)
    else:
        tokenizer.adopt_tokenizer(given, texts, run.recipe, run.folder / "tokenizer", progress)


def _shards_inputs(run: Run) -> Mapping[str, Any]:
    from yanmo.tokenizer import load_tokenizer

    return {"corpus": run.sum_of("corpus"), "tokenizer": load_tokenizer(run.folder / "tokenizer").hash}


def _shards(run: Run, progress: Progress) -> None:
    from yanmo.shards import write_shards
    from yanmo.tokenizer import load_tokenizer

    tokens = load_tokenizer(run.folder / "tokenizer")
    write_shards(run.folder / "corpus", tokens, run.folder / "shards", progress, run.recipe.corpus.workers)


def _pretrain_inputs(run: Run) -> Mapping[str, Any]:
    recipe = run.recipe
    parts = {name: getattr(recipe, name).model_dump(mode="json") for name in ("model", "objective", "training")}
    inputs = {**parts, "seed": recipe.seed, "shards": run.sum_of("shards")}
    for name, start in recipe.model.starts.items():
        inputs[name] = {path.name: sha256_of(path) for path in sorted(Path(start).glob("*.safetensors"))}
    return inputs


def _pretrain(run: Run, progress: Progress) -> None:
    from yanmo.pretrain import pretrain

    outcome = pretrain(run.recipe, run.folder, progress, display.note)
    if outcome.interrupted:
        raise Interrupted


def _evaluation_inputs(run: Run) -> Mapping[str, Any]:
    model = run.folder / "pretrain" / "model"
    if not (model / MANIFEST).exists():
        raise UserError(f"{model} is not there; pretrain first (`yanmo pretrain RECIPE`)")
    return {"evaluation": run.recipe.evaluation.model_dump(mode="json"), "model": sha256_of(model / MANIFEST)}


def _evaluation(run: Run, progress: Progress) -> None:
    from yanmo.pretrain import evaluate_run

    with new_folder(run.folder / "evaluation") as folder:
        findings = evaluate_run(run.recipe, run.folder, progress)
        (folder / "report.json").write_text(json.dumps(findings, indent=1, ensure_ascii=False), encoding="utf-8")


def _tasks(run: Run, progress: Progress) -> None:
    from yanmo.trials import Trials, carry_out

    bases = {name: _base_of(run, name) for name in run.recipe.tasks}
    for name, section in run.recipe.tasks.items():
        carry_out(Trials(section, bases[name], run.folder / "tasks" / name, run.data.get(name)), progress, display.note)


def _together(run: Run, progress: Progress) -> None:
    from yanmo.multitask import Joint, carry_out

    section, folder = run.recipe.together, run.folder / "together"
    assert section is not None, "a recipe without it has no such stage"
    sections = {name: run.recipe.tasks[name] for name in section.tasks}
    first = section.tasks[0]
    base = folder / "blank" if sections[first].is_new else _base_of(run, first)
    joint = Joint(section, sections, base, folder, run.folder / "tasks", run.folder / "shards", run.data)
    carry_out(joint, progress, display.note)


def _base_of(run: Run, name: str) -> Path:
    """The model folder that a task begins with. Raises UserError where there will be none."""
    section = run.recipe.tasks[name]
    if section.is_new:
        return run.folder / "tasks" / name / "blank"
    if section.model is not None and section.model.start is not None:
        return Path(section.model.start)
    if not run.recipe.corpus.sources:
        raise UserError(
            f"tasks.{name}.model: the recipe names no text to pretrain on (corpus.sources): the task needs a model folder "
            "(model: FOLDER) or a new network (model: {family: t5})"
        )
    return run.folder / "pretrain" / "model"


def _report(run: Run, progress: Progress) -> None:
    from yanmo.environment import environment
    from yanmo.report import write_report

    write_atomically(run.folder / "environment.json", json.dumps(environment(), indent=1, ensure_ascii=False))
    write_report(run.folder)


STAGES: Sequence[Stage] = (
    Stage("corpus", _corpus_inputs, _corpus),
    Stage("tokenizer", _tokenizer_inputs, _tokenizer),
    Stage("shards", _shards_inputs, _shards),
    Stage("pretrain", _pretrain_inputs, _pretrain),
    Stage("evaluation", _evaluation_inputs, _evaluation),
    Stage("tasks", None, _tasks),
    Stage("together", None, _together),
    Stage("report", None, _report),
)


def _named(name: str) -> Stage:
    return next(stage for stage in STAGES if stage.name == name)
