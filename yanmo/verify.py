"""Whether what lies in a folder is what was written: corpora, shards, checkpoints, models, whole runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from yanmo.errors import UserError
from yanmo.files import MANIFEST, check_manifest

if TYPE_CHECKING:
    from torch import nn

INDEX_FILE = "index.json"
"""In an index, see yanmo.index, which stands above."""


def verify(path: Path) -> tuple[list[str], list[str]]:
    """What was looked at and what is broken, a sentence each.

    path: a corpus, shard, tokenizer, checkpoint or model folder, or a run folder, of which every part is looked at.
    Raises UserError for a path that is none of these.
    """
    if not path.exists():
        raise UserError(f"{path}: no such folder; give a run folder (runs/NAME) or one of its parts")
    if path.is_file():
        path = path.parent
    looked: list[str] = []
    broken: list[str] = []
    for folder in [path, *sorted(inner for inner in path.rglob("*") if inner.is_dir() and not inner.name.startswith("."))]:
        kind, found = _one(folder)
        if kind:
            looked.append(f"{kind} {folder}")
            broken += found
    if not looked:
        raise UserError(
            f"{path} holds nothing of Yanmo: expected a folder with {MANIFEST}, a model (config.json, model.safetensors) or a run"
        )
    return looked, broken


def _one(folder: Path) -> tuple[str | None, list[str]]:
    """The kind of one folder and what is broken in it; None for a folder that is nothing by itself."""
    from yanmo import models
    from yanmo.tasks.folder import TASK_FILE, load_task

    if folder.name.startswith("step-"):
        from yanmo import checkpoint

        return "checkpoint", checkpoint.verify(folder)
    broken = check_manifest(folder) if (folder / MANIFEST).exists() else []
    if (folder / TASK_FILE).exists():
        return "task", broken or _loads(folder, lambda: load_task(folder))
    if (folder / INDEX_FILE).exists():
        return "index", broken
    if (folder / "config.json").exists():
        return "model", broken or _loads(folder, lambda: models.load(folder))
    if list(folder.glob("*.arrow")):
        from yanmo import shards

        return "shards", broken or shards.verify(folder)
    if list(folder.glob("train-*.parquet")):
        return "corpus", broken if (folder / MANIFEST).exists() else check_manifest(folder)
    if (folder / MANIFEST).exists():
        return "folder", broken
    return None, []


def _loads(folder: Path, load: Callable[[], nn.Module]) -> list[str]:
    """A model is whole when it loads: every weight is there, has its shape, and is a finite number."""
    import torch

    try:
        network = load()
    except UserError as error:
        return [str(error)]
    return [
        f"{folder}: {name} holds numbers that are not finite"
        for name, weight in network.state_dict().items()
        if not torch.isfinite(weight).all()
    ]
