"""A task's model folder: what transformers loads, with task.json beside it, which says how the task is read and written.

Where something was added to a frozen network, the folder holds what was added and the head, and names its base.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from yanmo import adapt, models, recipe
from yanmo.card import TaskFacts, task_card
from yanmo.errors import UserError
from yanmo.files import new_folder
from yanmo.models import Network, heads
from yanmo.models.heads import TaskKind
from yanmo.models.mixture import EXPERTS_KEY
from yanmo.recipe import KIND_OF, USES
from yanmo.tasks import TASKS
from yanmo.tasks.task import Task
from yanmo.tokenizer import Tokens, load_tokenizer, save_tokenizer

TASK_FILE, OWN_FILE, CARD = "task.json", "task.safetensors", "README.md"
AUTO: dict[TaskKind, str] = {
    "sequence": "AutoModelForSequenceClassification",
    "token": "AutoModelForTokenClassification",
    "span": "AutoModelForQuestionAnswering",
}
"""transformers' classes by the kind of head."""
READ = ("kind", "fields", "stride", "metric")
"""What a folder keeps of the recipe's section for every task; the rest is what the section has besides a TaskSection."""


def save_task(task: Task, folder: Path, base: Path, about: Mapping[str, Any] | None = None) -> None:
    """Write the network, the head, the tokenizer, task.json and the card into `folder`; of an adapted network what was added to
    `base`. Rows of another that are learned beside its tables are folded into them first (yanmo.adapt.rows). about: what the card
    says besides, fields of yanmo.card.TaskFacts, which is kept."""
    network = task.network
    if adapt.is_adapted(network):
        adapt.save_adapter(network, folder, base, task.head, _labels(task))
    else:
        adapt.fold_rows(network)
        if task.head is None:
            models.save(network, folder)
        else:
            heads.save_task(network, task.head, folder, settings=_labels(task))
    if own := _own_parameters(task):
        save_file({name: parameter.detach().cpu() for name, parameter in own.items()}, folder / OWN_FILE)
    save_tokenizer(task.tokens, folder, network.config.length)
    own = type(task.section).model_fields.keys() - recipe.TaskSection.model_fields.keys()
    section = task.section.model_dump(mode="json", include={*READ, *own})
    tree = {"section": section, "labels": list(task.labels), "length": task.length, "kept": task.kept, "about": dict(about or {})}
    (folder / TASK_FILE).write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / CARD).write_text(task_card(_facts(task, folder, about or {})), encoding="utf-8")


def _facts(task: Task, folder: Path, about: Mapping[str, Any]) -> TaskFacts:
    """What the card of a written folder says."""
    network, kind = task.network, task.head_of(task.section)
    family, added = network.config.family, is_adapter(folder)
    auto = AUTO[kind] if kind else "AutoModel" if task.kind == "retrieval" else USES[KIND_OF[family]].auto
    own = EXPERTS_KEY in network.config.settings or (kind is not None and models.FAMILIES[family].tasks[kind].own)
    if added:                                              # what rows of new tokens ask of peft besides, adapter.json says
        own = own or not (folder / adapt.THEIRS).is_file() or bool(adapt.rows_of(network))
    return TaskFacts(
        task.kind,
        family,
        sum(one.numel() for one in task.parameters()),
        auto=None if own else auto,
        added=added,
        labels=task.labels if task.names_labels else (),
        outputs=task.outputs(task.section, task.labels) if kind else 0,
        **about,
    )


def load_task(folder: str | Path, base: str | Path | None = None) -> Task:
    """The task of a folder that `save_task` wrote, in eval mode. base: of an adapter, where that is not where it was.

    Raises UserError for a folder that has no task, or whose parts do not fit.
    """
    folder = Path(folder)
    tree = read_task_file(folder)
    try:
        section = TypeAdapter(recipe.Task).validate_python(tree["section"])
        labels, length = list(map(str, tree["labels"])), int(tree["length"])
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise UserError(f"{folder / TASK_FILE}: not what yanmo writes: {error}") from None
    made = TASKS[section.kind]
    tokens = load_tokenizer(folder)
    if is_adapter(folder):
        network, head, _ = adapt.load_adapter(folder, base, lambda begun: open_base(begun, tokens))
    elif made.head_of(section) is None:
        network, head = models.load(folder), None
    else:
        network, head, settings = heads.load_task(folder)
        _refuse_other_labels(folder, settings, labels, made.outputs(section, labels))
    task = made(network, head, tokens, section, labels, length)
    task.kept = dict(tree.get("kept", {}))
    if own := _own_parameters(task):
        try:
            read = load_file(folder / OWN_FILE)
            with torch.no_grad():
                for name, parameter in own.items():
                    parameter.copy_(read[name])
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise UserError(f"{folder / OWN_FILE}: missing, broken, or of another model: {error}") from None
    return task.eval()


def merge_task(folder: Path, into: Path, base: Path | None = None) -> adapt.Merged:
    """Fold the LoRA of a folder, a task's or one that peft has saved, into its base, as a new folder that needs none.

    Raises UserError where there is no LoRA, where merged and unmerged outputs differ, where the merged network is the base, and
    where `into` is there already: then nothing is written.
    """
    if into.exists():
        raise UserError(f"{into} is there already; name a new folder, or move it away")
    if not is_adapter(folder):
        raise UserError(f"{folder}: no adapter here; what is merged is the folder of a task that was learned with method lora")
    if not (folder / TASK_FILE).exists():
        return adapt.merge_adapter(folder, into, base)
    task = load_task(folder, base)
    kind = task.head_of(task.section)
    outputs = adapt.hidden_states if kind is None else lambda network, probes: network.states(probes, kind)
    found = adapt.merge(task.network, adapt.probes_of(task.tokens, task.network.config.length), outputs)
    with new_folder(into) as made:
        save_task(task, made, into, read_task_file(folder).get("about"))
    return found


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds what was added to another, its base."""
    return (folder / adapt.OURS).is_file() or (folder / adapt.THEIRS).is_file()


def open_base(folder: Path, tokens: Tokens) -> Network:
    """The network of a pretrained folder, with rows for the tokens that a task's tokenizer has besides, always the same."""
    return adapt.grown(models.load(folder), tokens.size, known_tokens(folder))


def known_tokens(folder: Path) -> int:
    """How many tokens the network of a pretrained folder knows; those after them are new to it."""
    return min(load_tokenizer(folder).size, adapt.sizes_of(folder)[1])


def _own_parameters(task: Task) -> dict[str, nn.Parameter]:
    """What a task learns besides the network and the head: transitions between tags."""
    return {name: one for name, one in task.named_parameters() if name.partition(".")[0] not in ("network", "head")}


def read_task_file(folder: Path) -> dict[str, Any]:
    """task.json. Raises UserError where there is none."""
    try:
        return json.loads((folder / TASK_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        pretrained = (folder / "config.json").exists()
        hint = "a model folder without a task; adapt it with `yanmo finetune`" if pretrained else "no model"
        raise UserError(f"{folder}: {hint} (it has no {TASK_FILE})") from None
    except ValueError as error:
        raise UserError(f"{folder / TASK_FILE}: not JSON: {error}") from None


def _labels(task: Task) -> dict[str, Any]:
    """What transformers' configuration says of a head's outputs."""
    count = task.outputs(task.section, task.labels)
    names = task.labels if len(task.labels) == count else [f"LABEL_{number}" for number in range(count)]
    problem = "regression" if count == 1 else "multi_label_classification" if getattr(task, "several", False) else None
    settings: dict[str, Any] = {"id2label": {str(number): name for number, name in enumerate(names)}}
    settings["label2id"] = {name: number for number, name in enumerate(names)}
    if task.head_of(task.section) == "sequence":
        settings["problem_type"] = problem or "single_label_classification"
    return settings


def _refuse_other_labels(folder: Path, settings: Mapping[str, Any], labels: list[str], count: int) -> None:
    named = settings.get("id2label") or {}
    theirs = [named[key] for key in sorted(named, key=int)]
    if len(labels) == count and theirs != labels:
        raise UserError(
            f"{folder}: config.json and {TASK_FILE} name other labels ({', '.join(map(str, theirs[:5]))} and "
            f"{', '.join(labels[:5])}); take both files from one save"
        )
