"""Checkpoints: a folder per step that holds everything a run needs to go on as if it had never stopped.

`step-00000120/` has weights.safetensors (fp32 masters by name), optimizer.safetensors, trainer.json and a manifest of
sha256 sums. It appears at once when it is whole (yanmo.files.new_folder); one that is not whole, or was altered, is never
read.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from yanmo.errors import UserError
from yanmo.files import MANIFEST, check_manifest, new_folder

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "trainer.json"


@dataclass
class State:
    """Where a run is. Whatever the next step depends on, besides weights and optimizer, is in here.

    step: steps taken. steps: of the whole run, as was decided last. plan: pairs of a step and its place in the schedule, for
    every step at which that was decided, and for the end. costs: seconds of a step of each phase, where the budget is in minutes.
    tokens: read so far. shift: steps' worth of rows that were jumped
    over when the run went back to a checkpoint. validations: how many the whole run is to have. skipped: steps not taken;
    refused: those in a row, just now. recent_*: what the guard remembers of each player. seconds: spent in training.
    best_loss: the lowest of what the objective finds its weights by; worse: validations since then.
    identity: the recipe and the data, as a flat tree of dotted names.
    """

    step: int = 0
    steps: int = 0
    plan: list[list[float]] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    tokens: int = 0
    shift: int = 0
    validations: int = 10
    seconds: float = 0.0
    best_loss: float | None = None
    best_step: int | None = None
    worse: int = 0
    skipped: int = 0
    returns: int = 0
    refused: int = 0
    recent_losses: dict[str, list[float]] = field(default_factory=dict)
    recent_norms: dict[str, list[float]] = field(default_factory=dict)
    world: int = 1
    identity: dict[str, Any] = field(default_factory=dict)

    def decide(self, steps: int) -> None:
        """Let the whole run have so many steps. Where that was decided before, what is left of the schedule is stretched or
        squeezed into the steps that are left: it goes on from where it is, and comes to its end."""
        if self.plan:
            self.plan = [*self.plan[:-1], [self.step, self._along(self.step)], [steps, self.plan[-1][1]]]
        else:
            self.plan = [[0, 0], [steps, steps]]
        self.steps = steps

    def place(self) -> tuple[int, int]:
        """Where the next step stands in the schedule, and the steps of that: those that were decided first."""
        return int(self._along(self.step + 0.5)), int(self.plan[-1][1])

    def _along(self, step: float) -> float:
        steps, places = zip(*self.plan, strict=True)
        return float(np.interp(step, steps, places))


@dataclass(frozen=True)
class Saved:
    """A checkpoint in memory: fp32 weights (and lasting buffers) and the optimizer's tensors by name, on the CPU."""

    state: State
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]


def folder_of(root: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return root / f"step-{step:08d}"


def save(root: Path, state: State, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> Path:
    """Write the checkpoint of `state.step` below `root`. Raises UserError on a full or read-only disk, losing nothing."""
    final = folder_of(root, state.step)
    with new_folder(final) as folder:
        for name, tensors in ((WEIGHTS, weights), (OPTIMIZER, optimizer)):
            save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, folder / name)
        (folder / STATE).write_text(json.dumps(asdict(state), indent=1, ensure_ascii=False), encoding="utf-8")
    return final


def load(folder: Path) -> Saved:
    """Read a checkpoint. Raises UserError, naming the file, when it is not exactly what was written."""
    _refuse_broken(folder)
    tree = json.loads((folder / STATE).read_text(encoding="utf-8"))
    known = {name.name for name in fields(State)}
    if unknown := tree.keys() ^ known:
        raise UserError(f"checkpoint {folder} was written by another version of yanmo: {', '.join(sorted(unknown))}")
    return Saved(State(**tree), _read(folder / WEIGHTS), _read(folder / OPTIMIZER))


def load_weights(folder: Path) -> dict[str, Tensor]:
    """Only the weights of a checkpoint, fp32, by name. Raises UserError as `load` does."""
    _refuse_broken(folder)
    return _read(folder / WEIGHTS)


def restore(module: nn.Module, folder: Path) -> None:
    """Set the parameters of a module that are learned to those of a checkpoint. Raises UserError as `load` does."""
    weights = load_weights(folder)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(weights[name])


def verify(folder: Path) -> list[str]:
    """What is broken in a checkpoint, one sentence each; empty when it is whole."""
    missing = [f"{folder / name} is missing" for name in (WEIGHTS, OPTIMIZER, STATE) if not (folder / name).is_file()]
    return missing or check_manifest(folder)


def listed(root: Path) -> list[tuple[int, Path]]:
    """The checkpoints below `root` that were written to their end, as (step, folder), the oldest first."""
    found = []
    for path in root.glob("step-*"):
        match = re.fullmatch(r"step-(\d{8,})", path.name)
        if match and (path / MANIFEST).is_file():
            found.append((int(match[1]), path))
    return sorted(found)


def latest(root: Path) -> Path | None:
    """The newest checkpoint that was written to its end, or None. Whether it was altered since, `load` finds out."""
    found = listed(root)
    return found[-1][1] if found else None


def prune(root: Path, keep: int, best: int | None) -> None:
    """Remove all checkpoints but the last `keep` and the one of the best step; and what killed processes half wrote.

    Only for the process that holds the run's folder: whatever is half written there is nobody's.
    """
    found = listed(root)
    kept = {path for _, path in found[-keep:]} | {path for step, path in found if step == best}
    _remove(path for path in root.glob("step-*") if path.is_dir() and path not in kept)
    _remove(root.glob(".step-*.partial-*"))


def differences(before: Mapping[str, Any], now: Mapping[str, Any], free: Iterable[str] = ()) -> list[str]:
    """What differs between two flat trees, one sentence each, apart from the names in `free`."""
    found = []
    for name in sorted((before.keys() | now.keys()) - set(free)):
        if before.get(name) != now.get(name):
            found.append(f"{name} was {before.get(name)!r} and is {now.get(name)!r}")
    return found


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested tree as one level of dotted names, with values as JSON gives them back."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.loads(json.dumps(value))
    return flat


def _refuse_broken(folder: Path) -> None:
    if broken := verify(folder):
        raise UserError(
            f"checkpoint {folder} is not whole: {'; '.join(broken)}; delete that folder to go on from an older one"
        )


def _read(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping


def _remove(folders: Iterable[Path]) -> None:
    """Delete checkpoints, the manifest first: one that is deleted halfway is no checkpoint any more."""
    for folder in folders:
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
