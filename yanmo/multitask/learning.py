"""One training of several tasks at once: with one weighting and one seed, to a model folder for each task and their figures."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from yanmo import checkpoint, recipe
from yanmo.batch import Order
from yanmo.errors import UserError
from yanmo.files import MANIFEST, new_folder, sha256_of, write_atomically
from yanmo.finetune import (
    RATES,
    RESULT,
    UNHEARD,
    about,
    measure,
    spent,
    sums_of_base,
    task_on,
    usual_training,
    validates_every,
)  # fmt: skip
from yanmo.labelled.data import Data
from yanmo.memory import keep_freed_memory
from yanmo.models.network import Network
from yanmo.multitask.objective import MultiTask
from yanmo.multitask.order import MixedOrder, shares_of
from yanmo.multitask.weighting import build_weighting
from yanmo.objectives import Objective, objective_on
from yanmo.optim import at_width
from yanmo.parallel import Ranks, choose_device
from yanmo.progress import Progress, silent
from yanmo.shards import Shards
from yanmo.tasks import TASKS, Task
from yanmo.tasks.folder import open_base, save_task
from yanmo.tokenizer import load_tokenizer
from yanmo.train import Trainer

MODELS, JUDGED = "models", "judged"
"""In a trial's folder: a model folder for each task, and a folder with what it gets wrong."""


@dataclass(frozen=True)
class JointTrial:
    """section: what is learned together. sections: of its tasks, by name. base: the model folder that the network is from, whose
    weights count unless `is_new`. shards: the folder of the text that the section's objective learns from."""

    section: recipe.Together
    sections: Mapping[str, Any]
    base: Path
    shards: Path
    weighting: recipe.WeightingName
    seed: int

    @property
    def is_new(self) -> bool:
        return next(iter(self.sections.values())).is_new

    @property
    def method(self) -> recipe.Method:
        """All of the network is learned, with what it knows or without."""
        return "scratch" if self.is_new else "full"


@dataclass(frozen=True)
class Parts:
    """What learns together, by name, and the orders of rows to learn from and to choose by."""

    objectives: dict[str, Objective]
    train: dict[str, Order]
    valid: dict[str, Order]
    length: int

    @property
    def tasks(self) -> dict[str, Task]:
        return {name: one for name, one in self.objectives.items() if isinstance(one, Task)}


def learn(
    trial: JointTrial, data: Mapping[str, Data], folder: Path, progress: Progress = silent, say: Callable[[str], None] = print
) -> dict[str, Any] | None:
    """Learn, or go on where it stopped: what was measured, which also lies in `folder`, with models/TASK and judged/TASK. None
    where it was interrupted. Raises UserError, with the task's name, where tasks, network and examples do not fit together.
    """
    keep_freed_memory()
    began = time.perf_counter()
    known_as = identity(trial, {name: one.sums for name, one in data.items()})
    parts = start(trial, data)
    section, seed = trial.section, trial.seed
    order, held_out = mixed(section, parts, seed)
    for name, one in parts.tasks.items():
        for note in one.notes(getattr(parts.train[name], "windows", ())):
            say(f"{name}: {note}")
    squares = [one.squares for one in parts.objectives.values()]
    objective = MultiTask(
        next(iter(parts.tasks.values())).network,
        parts.objectives,
        {name: [one.row(0)] for name, one in parts.train.items()},
        parts.length,
        build_weighting(trial.weighting, squares, section.alpha),
        section.weights,
        section.main,
    ).to(choose_device())
    valid = {name: data[name].valid for name in parts.tasks}
    trainer = Trainer(
        objective,
        order,
        held_out,
        _training(trial, objective, parts, order),
        folder,
        seed,
        ranks=Ranks(device=choose_device()),
        identity={"together": known_as},
        appraise=lambda: objective.check(valid),
        progress=progress,
        say=say,
    )
    prepared = time.perf_counter() - began
    outcome = trainer.fit()
    if outcome.interrupted:
        return None
    minutes = (prepared + outcome.seconds) / 60
    checkpoint.restore(objective, outcome.best or outcome.last)
    found: dict[str, Any] = {"weighting": trial.weighting, "seed": seed, "minutes": minutes, **spent(objective, outcome)}
    found["tasks"] = {name: measure(task, data[name], folder / JUDGED / name) for name, task in objective.tasks.items()}
    valid_figures = {f"{name}/{key}": value for name, one in found["tasks"].items() for key, value in one["valid"].items()}
    found["merit"] = objective.merit(valid_figures)
    found["weights"] = dict(zip(objective.parts, objective.weighting.now(), strict=True))
    found["identity"] = known_as
    for name, task in objective.tasks.items():
        with new_folder(folder / MODELS / name) as model:
            known = about(task, trial.sections[name], None if trial.is_new else trial.base, found["tasks"][name])
            save_task(task, model, trial.base, known | {"method": f"together, {trial.weighting}", "seed": trial.seed})
    write_atomically(folder / RESULT, json.dumps(found, indent=1, ensure_ascii=False))
    return found


def start(trial: JointTrial, data: Mapping[str, Data]) -> Parts:
    """All parts on one network as it is before the first step; a function of the seed."""
    plain = load_tokenizer(trial.base)
    tokens = plain
    for section in trial.sections.values():
        tokens = TASKS[section.kind].tokens_for(section, tokens)
    network = open_base(trial.base, tokens)
    torch.manual_seed(trial.seed)
    if trial.is_new:
        network.start()
    made: dict[str, Objective] = {}
    for name, section in trial.sections.items():
        rows = section.training.model_copy(update={"length": trial.section.training.length})
        with _named(name):
            made[name] = task_on(network, tokens, section.model_copy(update={"training": rows}), data[name].train)
    tasks = {name: one for name, one in made.items() if isinstance(one, Task)}
    length = max(task.length for task in tasks.values())
    for task in tasks.values():
        task.length = length
    train, valid = dict[str, Order](), dict[str, Order]()
    for name, task in tasks.items():
        with _named(name):
            train[name] = task.order(data[name].train, trial.seed)
            valid[name] = task.order(data[name].valid, trial.seed, shuffle=False)
    own = trial.section.objective
    if own is not None:
        with _named(own.kind):
            made[own.kind] = objective_on(network, tokens, own, trial.base)
            for orders, split in ((train, "train"), (valid, "validation")):
                text = Shards.open(trial.shards, split, plain.hash, split == "train")
                orders[own.kind] = Order(text, length, made[own.kind], trial.seed, shuffle=split == "train")
    _let_go(network, [task.head_of(task.section) for task in tasks.values()], own is not None)
    return Parts(made, train, valid, length)


def _let_go(network: Network, kinds: Sequence[Any], pretrains: bool) -> None:
    """Drop what no part reads; a task without a head of its own, and an objective, read all."""
    if not pretrains and None not in kinds:
        network.keep_for(*dict.fromkeys(kinds))


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Says whose an error is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"together: {name}: {error}") from None


def mixed(section: recipe.Together, parts: Parts, seed: int) -> tuple[MixedOrder, MixedOrder]:
    """The order of all rows to learn from, in which an epoch is one of all tasks (and the objective's share besides), and that of
    the held-out ones, in which all parts have as many."""
    tasks = [parts.train[name].rows_per_epoch for name in parts.tasks]
    shares = shares_of(tasks, section.sampling, section.temperature)
    rest = 1.0
    if len(parts.objectives) > len(tasks):
        rest = 1 - section.share
        shares = [*(share * rest for share in shares), section.share]
    held_out = [one.rows_per_epoch for one in parts.valid.values()]
    even = [1 / len(held_out)] * len(held_out)
    train = MixedOrder([parts.train[name] for name in parts.objectives], shares, round(sum(tasks) / rest), seed)
    return train, MixedOrder([parts.valid[name] for name in parts.objectives], even, sum(held_out), seed)


def _training(trial: JointTrial, objective: MultiTask, parts: Parts, order: MixedOrder) -> recipe.Training:
    """The trainer's settings, with what the recipe leaves open: about `batch` examples a step, of all parts together."""
    given = trial.section.training
    each = [one.pieces / one.rows_per_epoch for one in order.orders if isinstance(one, Order)]
    pieces = sum(count * many for count, many in zip(order.counts.tolist(), each, strict=True)) / order.block
    rows = given.rows or max(len(parts.objectives), round(given.batch / pieces))
    rate = at_width(RATES[trial.method], objective.network.config.width)
    training = given.resolved(rows, parts.length, rate, order.rows_per_epoch)
    held_out = sum(parts.valid[name].rows_per_epoch for name in parts.tasks)
    every = training.validate_every or validates_every(training, order, held_out)
    return training.model_copy(update={"validate_every": every})


def identity(trial: JointTrial, sums: Mapping[str, Mapping[str, str]]) -> str:
    """What a trial depends on, as one number: the sections, the base, the examples, of each task's files the sums, the text."""
    left_out = {"seeds": True, "weighting": True, "parallel": True, "training": UNHEARD}
    section = trial.section.model_dump(mode="json", exclude=left_out)
    own = {"seeds", "methods", "tune", "training", "adaptation", "lint", "parallel"}
    sections = {name: one.model_dump(mode="json", exclude=own) for name, one in trial.sections.items()}
    text = sha256_of(trial.shards / MANIFEST) if trial.section.objective is not None else None
    tree = {"section": section, "sections": sections, "base": sums_of_base(trial.base), "weighting": trial.weighting}
    tree |= {"data": {name: dict(sums[name]) for name in trial.sections}, "text": text}
    tree |= {"usual": usual_training(RATES[trial.method], trial.method)}
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
