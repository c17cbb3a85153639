"""Heads of tasks on pretrained networks: made, saved and loaded as transformers' task models are.

A head stands beside its network, so that several tasks can stand on one. A folder holds one task: the head, and the network
without what only predicts tokens, both under the names of transformers' class (`...ForSequenceClassification`,
`...ForTokenClassification`, `...ForQuestionAnswering`), or of a class of ours where transformers has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yanmo.errors import UserError
from yanmo.models.absent import Absent
from yanmo.models.family import Family
from yanmo.models.folder import (
    EXPERTS_KEY,
    FAMILIES,
    OWN_TYPE,
    architectures,
    family_of,
    fill,
    parameters,
    read_settings,
    read_weights,
    write_folder,
)
from yanmo.models.names import Names, layer
from yanmo.models.network import Network
from yanmo.models.taskhead import TaskForm, TaskHead, TaskKind
from yanmo.recipe import article

DOES: dict[TaskKind, str] = {"sequence": "classifies whole texts", "token": "labels tokens", "span": "finds where answers stand"}
LABELS = ("id2label", "label2id", "num_labels")
"""What config.json says of a head's outputs."""
OF_TASKS = ("architectures", "problem_type", *LABELS)
"""What belongs to the task and not to the network below it."""


def build_head(network: Network, kind: TaskKind, outputs: int) -> TaskHead:
    """A new head, drawn as the family starts its weights. A layer that transformers takes over from the pretrained model (BERT's
    pooler, ModernBERT's dense layer and norm) begins as the network has it, before `keep_for`. Raises UserError for a family
    without such a head.
    """
    config = network.config
    form = _form(FAMILIES[config.family], kind)
    head = _head(kind, outputs, network)
    head.start(getattr(config, "layers", 1), config.start)
    names = FAMILIES[config.family].names(config)
    pretrained = {theirs: tensor for name, tensor in parameters(network).items() for theirs in names.find(name)[1]}
    with torch.no_grad():
        for name, parameter in parameters(head).items():
            (theirs,) = _names(form).find(name)[1]
            if theirs in pretrained:
                parameter.copy_(pretrained[theirs])
    return head.to(next(network.parameters()))


def save_task(
    network: Network, head: TaskHead, folder: str | Path, *, settings: Mapping[str, Any], dtype: torch.dtype = torch.float32
) -> None:
    """Write config.json and model.safetensors into `folder`: what transformers loads.

    settings: what the task adds to config.json, such as problem_type and id2label, numbers to labels; by default these are
    LABEL_0, LABEL_1..., as in transformers. Raises UserError where there are not as many labels as outputs, and for a network
    that was reduced to what another task needs.
    """
    family = FAMILIES[network.config.family]
    form, unread = _form(family, head.kind), network.unread(head.kind)
    for name, part in network.named_children():
        if isinstance(part, Absent) and name not in unread:
            raise UserError(part.reason)
    ours = {name: tensor for name, tensor in parameters(network).items() if name.split(".")[0] not in unread}
    theirs = family.names(network.config).write(ours, network.config)
    theirs = {_renamed(name, family.prefix, form.prefix): tensor for name, tensor in theirs.items()} | head_weights(network, head)
    model_type = family.model_type
    if EXPERTS_KEY in network.config.settings or (form.own and not model_type.startswith(OWN_TYPE)):
        model_type = OWN_TYPE + model_type
    own = {key: value for key, value in network.config.settings.items() if key not in OF_TASKS}
    added = {key: value for key, value in settings.items() if key not in LABELS}
    if head.kind != "span" or "id2label" in settings:
        added |= _labels(settings, head.outputs, "settings")
    named = {"architectures": [form.architecture], "model_type": model_type}
    write_folder(Path(folder), {**own, **added, **named}, theirs, dtype)


def load_task(folder: str | Path) -> tuple[Network, TaskHead, dict[str, Any]]:
    """The network and the head of a task's folder, ours or transformers', in fp32 and in training mode, and what `save_task` was
    told: id2label with numbers as keys, label2id, and problem_type where it is known.

    The network has only what the task reads, see Network.keep_for; of ELECTRA's two networks transformers does not say which it
    is, and they read alike: it is an electra. Raises UserError for a folder of no task, and for what does not fit.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    family, named = family_of(settings, folder), architectures(settings)
    kind = family.task_of(named)
    if kind is None:
        known = ", ".join(form.architecture for form in family.tasks.values()) or "none"
        raise UserError(
            f"{folder}: no model of a task: it is {', '.join(named) or family.name}; task models of {family.name}: {known}. "
            "Train one on it (`yanmo finetune MODEL`; from Python build_head on what models.load gives)"
        )
    form, weights = family.tasks[kind], read_weights(folder)
    own = family.complete({key: value for key, value in settings.items() if key not in OF_TASKS}, weights)
    config = family.understand(own, pair=False, where=f"{folder}/config.json")
    network = family.network(config).keep_for(kind)
    rows = weights.get(f"{form.out}.weight", torch.empty(2, 0))
    labels = _labels(settings, len(settings.get("id2label") or rows), f"{folder}/config.json")
    head = _head(kind, len(labels["id2label"]), network)
    of_head = {theirs for name in parameters(head) for theirs in _names(form).find(name)[1]}
    fill(head, _names(form), config, {name: weights[name] for name in of_head & weights.keys()}, folder)
    below = {_renamed(name, form.prefix, family.prefix): weights[name] for name in weights if name not in of_head}
    fill(network, family.names(config), config, below, folder)
    return network, head, labels | {key: settings[key] for key in ("problem_type",) if settings.get(key)}


def head_weights(network: Network, head: TaskHead) -> dict[str, Tensor]:
    """A head's weights, as transformers' task model of the network's family calls them."""
    return _names(_form(FAMILIES[network.config.family], head.kind)).write(parameters(head), network.config)


def set_head(network: Network, head: TaskHead, weights: Mapping[str, Tensor], where: Path) -> None:
    """Give a head what `head_weights` gave. Raises UserError where names or shapes differ."""
    fill(head, _names(_form(FAMILIES[network.config.family], head.kind)), network.config, weights, where)


def name_in_task(network: Network, kind: TaskKind, theirs: str) -> str:
    """What transformers' task model of the network's family calls one of the network's own weights."""
    family = FAMILIES[network.config.family]
    return _renamed(theirs, family.prefix, _form(family, kind).prefix)


def _form(family: Family, kind: TaskKind) -> TaskForm:
    if kind not in family.tasks:
        able = ", ".join(other.name for other in FAMILIES.values() if kind in other.tasks)
        raise UserError(f"{article(family.name)} has no head that {DOES[kind]}; families that have one: {able}")
    return family.tasks[kind]


def _head(kind: TaskKind, outputs: int, network: Network) -> TaskHead:
    family = FAMILIES[network.config.family]
    form = _form(family, kind)
    steps = form.steps({**family.defaults, **network.config.settings})
    return TaskHead(kind, network.config.width, outputs, form, steps)


def _names(form: TaskForm) -> Names:
    """What the head's layers are called."""
    own = (("inner", form.inner), ("norm", form.norm), ("out", form.out))
    return Names(tuple(layer(ours, theirs) for ours, theirs in own if theirs is not None), {})


def _renamed(name: str, old: str | None, new: str | None) -> str:
    """With another prefix, where both are given."""
    return name if old is None or new is None or not name.startswith(old) else new + name.removeprefix(old)


def _labels(settings: Mapping[str, Any], outputs: int, where: str) -> dict[str, Any]:
    """id2label with numbers as keys, and label2id. Raises UserError where these are not as many as the outputs."""
    given = settings.get("id2label") or {number: f"LABEL_{number}" for number in range(outputs)}
    try:
        labels = {int(number): label for number, label in given.items()}
    except (AttributeError, ValueError):
        raise UserError(f"{where}: id2label: {given!r} is no map from numbers to labels") from None
    if sorted(labels) != list(range(outputs)):
        raise UserError(f"{where}: id2label names {sorted(labels)}; the head has {outputs} outputs, 0 to {outputs - 1}")
    labels = dict(sorted(labels.items()))
    return {"id2label": labels, "label2id": {label: number for number, label in labels.items()}}


__all__ = ["TaskHead", "TaskKind", "build_head", "head_weights", "load_task", "name_in_task", "save_task", "set_head"]
