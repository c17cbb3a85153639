"""One adaptation of a pretrained network to a task, with one method and one seed: a model folder and its figures."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from yanmo import checkpoint, models, recipe
from yanmo.adapt import RANK, WIDTH, Lora, add_bottlenecks, add_lora, freeze, learn_rows, usual_rank
from yanmo.batch import Order
from yanmo.card import named
from yanmo.errors import UserError
from yanmo.feed import Rows
from yanmo.files import new_folder, sha256_of, write_atomically
from yanmo.labelled.data import Data
from yanmo.labelled.examples import Example
from yanmo.memory import keep_freed_memory
from yanmo.models.family import multiple
from yanmo.models.heads import build_head
from yanmo.models.network import Network
from yanmo.objectives import Objective
from yanmo.optim import at_width
from yanmo.parallel import Ranks, choose_device
from yanmo.progress import Progress, silent
from yanmo.recipe.tasks import EPOCHS, MOST_EPOCHS, few_steps
from yanmo.tasks import TASKS, Task
from yanmo.tasks.folder import known_tokens, open_base, save_task
from yanmo.tasks.judged import keep_judged
from yanmo.tasks.task import MULTIPLE
from yanmo.tasks.windows import SHORTEST
from yanmo.tokenizer import Tokens, load_tokenizer
from yanmo.train import Outcome, Trainer

RESULT = "result.json"
VALIDATING_SHARE, FORWARD_SHARE = 0.2, 0.4
"""How much of the time may go into validations; and what a text costs that is only read, of what it costs to learn from it."""
BASE = ("*.safetensors", "config.json", "tokenizer*.json")
"""The files of a pretrained folder that a trial depends on."""
RATES = {"full": 1e-3, "scratch": 1e-3, "frozen": 1e-2, "adapter": 5e-3, "lora": 2e-3}
"""Peaks of the learning rate at width 256, by method; they fall with the root of the width, as in pretraining."""
OF_TEXTS = {"adapter": 2e-3, "lora": 1e-3}
"""The same for tasks that say one thing of a whole text: a step of thirty texts has thirty labels and not thousands, and what is
learned beside the network is lost again at the rates above."""
LORA_SCALE = 2.0
"""What a change of low rank is multiplied by, where the recipe names no alpha."""
UNHEARD = {"trackers", "keep", "save_every", "loader_workers"}
"""Settings of training that no figure depends on."""


@dataclass(frozen=True)
class Trial:
    """One way of adapting. method: of the adaptation, or `scratch`: all of a network that has learned nothing yet. share: of the
    section's budget, or of the usual one, that it has."""

    section: Any
    base: Path
    method: recipe.Method
    seed: int
    share: float = 1.0


def finetune(
    trial: Trial, data: Data, folder: Path, progress: Progress = silent, say: Callable[[str], None] = print
) -> tuple[Task, dict[str, Any]] | None:
    """Adapt, or go on where it stopped: the task with its best weights in fp32, and what was measured, which also lies in
    `folder`, with model/. None where it was interrupted.

    Raises UserError where task, network and examples do not fit together.
    """
    keep_freed_memory()
    began = time.perf_counter()
    known = identity(trial, data.sums)
    task = start(trial, data.train)
    order, held_out = task.order(data.train, trial.seed), task.order(data.valid, trial.seed, shuffle=False)
    for part, windows in (("train", order.windows), ("valid", held_out.windows)):
        for note in task.notes(windows):
            say(f"{part}: {note}")
    for sentence in task.shown(order.windows):
        say(sentence)
    trainer = Trainer(
        task,
        order,
        held_out,
        _training(trial, task, order, held_out),
        folder,
        trial.seed,
        ranks=Ranks(device=choose_device()),
        identity={"task": known},
        appraise=lambda: task.check(data.valid),
        progress=progress,
        say=say,
    )
    for note in task.beside(order.pieces / order.rows_per_epoch * trainer.share.micro):
        say(note)
    if trial.section.metric is not None:
        task.merit(task.check(data.valid))                # a name that it does not find is said now
    prepared = time.perf_counter() - began
    outcome = trainer.fit()
    if outcome.interrupted:
        return None
    minutes = (prepared + outcome.seconds) / 60
    checkpoint.restore(task, outcome.best or outcome.last)
    found = {"method": trial.method, "seed": trial.seed, "minutes": minutes, "identity": known}
    found |= {**measure(task, data, folder), **spent(task, outcome)}
    found["parameters"] = sum(one.numel() for one in task.parameters())
    with new_folder(folder / "model") as model:
        facts = about(task, trial.section, None if trial.method == "scratch" else trial.base, found)
        save_task(task, model, trial.base, facts | {"method": trial.method, "seed": trial.seed})
    write_atomically(folder / RESULT, json.dumps(found, indent=1, ensure_ascii=False))
    return task, found


def _training(trial: Trial, task: Task, order: Order, held_out: Rows) -> recipe.Training:
    """The trainer's settings, with what the recipe leaves open: about `batch` examples a step."""
    given = trial.section.training
    rows = given.rows or max(1, round(given.batch * order.rows_per_epoch / order.pieces))
    rate = at_width(rate_of(type(task), trial.method), task.network.config.width)
    training = given.resolved(rows, task.length, rate, order.rows_per_epoch, trial.method, trial.share)
    every = training.validate_every or validates_every(training, order, held_out.rows_per_epoch)
    return training.model_copy(update={"validate_every": every})


def start(trial: Trial, examples: Sequence[Example]) -> Task:
    """The task on its network as it is before the first step; a function of the seed."""
    section = trial.section
    tokens = TASKS[section.kind].tokens_for(section, load_tokenizer(trial.base))
    network = open_base(trial.base, tokens)
    torch.manual_seed(trial.seed)
    if trial.method == "scratch":
        network.start()
    task = task_on(network, tokens, section, examples)
    if (kind := task.head_of(section)) is not None:
        network.keep_for(kind)
    _adapt(network, trial.method, section.adaptation)
    if trial.method in ("frozen", "adapter", "lora") and (new := range(known_tokens(trial.base), tokens.size)):
        learn_rows(network, new)
    if not any(parameter.requires_grad for parameter in task.parameters()):
        raise UserError(f"method {trial.method}: {task.kind} has no head, so nothing would be learned; set adaptation.top")
    return task.to(choose_device())


def check_method(section: Any, base: Path, method: recipe.Method) -> None:
    """Raises UserError for a method that adds something which the base's network has no place for."""
    if method in ("adapter", "lora"):
        _adapt(models.load(base), method, section.adaptation)


def rate_of(task: type[Task], method: recipe.Method) -> float:
    """The peak of the learning rate at width 256 where the recipe names none."""
    return (RATES | OF_TEXTS if task.of_texts else RATES)[method]


def task_on(network: Network, tokens: Tokens, section: Any, examples: Sequence[Example]) -> Task:
    """A task with a new head on a network that has all its parts yet. Raises UserError where they do not fit together."""
    made = TASKS[section.kind]
    labels, kind = made.labels_of(section, examples), made.head_of(section)
    head = None if kind is None else build_head(network, kind, made.outputs(section, labels))
    length = section.training.length or min(made.longest, network.config.length)
    if length > network.config.length:
        raise UserError(
            f"training.length {length} is longer than the {network.config.length} positions of the network; shorten the rows"
        )
    task = made(network, head, tokens, section, labels, length)
    if section.training.length is None:
        longest = max(window.places for window in task.encode(examples))
        task.length = min(length, max(SHORTEST, multiple(longest, MULTIPLE)))
    task.prepare(examples)
    return task


def validates_every(training: recipe.Training, order: Rows, held_out: int) -> int | None:
    """Steps between validations: ten in a run, or as few as take VALIDATING_SHARE of its time; at least two. held_out: rows that
    are read in each."""
    epoch = order.rows_per_epoch / training.rows
    steps = training.steps or epoch * (training.epochs or 1)
    if training.tokens or training.minutes:
        return None
    affordable = VALIDATING_SHARE * steps * training.rows / (held_out * FORWARD_SHARE)
    return max(1, math.ceil(steps / min(10, max(2, int(affordable)))))


def _adapt(network: Network, method: recipe.Method, adaptation: recipe.Adaptation) -> None:
    """Freeze what is not learned, and add what is."""
    if method == "frozen":
        freeze(network, adaptation.top or None)
    elif method == "adapter":
        add_bottlenecks(network, adaptation.place or "parallel", adaptation.width)
    elif method == "lora":
        rank, variant = adaptation.rank or usual_rank(network), adaptation.variant
        settings = {"rs": variant == "rslora", "dora": variant == "dora", "dropout": adaptation.dropout or 0.0}
        divisor = math.sqrt(rank) if variant == "rslora" else rank
        add_lora(network, Lora(rank, adaptation.alpha or max(1, round(LORA_SCALE * divisor)), **settings))


def split_of(found: Mapping[str, Any]) -> str:
    """Which examples the figures that people compare are of: the test's, where there are any."""
    return "test" if found["test"] else "valid"


def about(task: Task, section: Any, base: Path | None, found: Mapping[str, Any]) -> dict[str, Any]:
    """What a model folder says of where it comes from and what it can do, see yanmo.card.TaskFacts. base: None for a network that
    had learned nothing before."""
    split = split_of(found)
    facts = {"sources": [named(source) for source in section.train], "split": split, "figures": task.readable(found[split])}
    return facts if base is None else facts | {"base": named(str(base), parts=3)}


def measure(task: Task, data: Data, folder: Path) -> dict[str, Any]:
    """A task's figures on its held-out examples, and what decides among models of it. Into `folder` goes what it gets wrong of
    the test examples, or else of those that weights were chosen by."""
    task.eval().settle(data.valid)
    figures, judged = task.judge(data.test or data.valid)
    keep_judged(judged, task.labels if task.exclusive else None, folder)
    found: dict[str, Any] = {"valid": figures, "test": {}}
    if data.test:
        found = {"valid": task.appraise(data.valid), "test": figures}
    found |= {"merit": task.merit(found["valid"]), **task.of_the_deciding()}
    found["examples"] = {name: len(getattr(data, name)) for name in ("train", "valid", "test")}
    return found | {"by_eye": task.by_eye, "judged": len(judged), "wrong": sum(one.wrong > 0 for one in judged)}


def spent(objective: Objective, outcome: Outcome) -> dict[str, Any]:
    """What a training took, and how many numbers it moved."""
    found: dict[str, Any] = {"steps": outcome.step, "best_step": outcome.best_step}
    found["tokens_per_second"] = outcome.tokens / max(outcome.seconds, 1e-9)
    return found | {"learned": sum(one.numel() for one in objective.parameters() if one.requires_grad)}


def identity(trial: Trial, sums: Mapping[str, str]) -> str:
    """What a trial depends on, as one number: the section and what it leaves to this version, the examples, and all of the base:
    what is frozen is read from there again when a trial goes on, for checkpoints have only what is learned."""
    left_out = {name: True for name in ("seeds", "methods", "tune", "lint", "parallel")} | {"training": UNHEARD}
    section = trial.section.model_dump(mode="json", exclude=left_out)
    usual = usual_training(rate_of(TASKS[trial.section.kind], trial.method), trial.method)
    usual += [{"adapter": WIDTH, "lora": [RANK, LORA_SCALE]}.get(trial.method)]
    tree = {"section": section, "usual": usual, "base": sums_of_base(trial.base), "method": trial.method, "data": dict(sums)}
    tree |= {"share": trial.share}
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def usual_training(rate: float, method: recipe.Method) -> list[Any]:
    """What this version of the code trains by where the recipe leaves it open. rate: at width 256."""
    return [rate, few_steps(method), EPOCHS, MOST_EPOCHS]


def sums_of_base(base: Path) -> dict[str, str]:
    """Of the files of a pretrained folder that what is learned on it depends on."""
    return {path.name: sha256_of(path) for kind in BASE for path in sorted(base.glob(kind))}
