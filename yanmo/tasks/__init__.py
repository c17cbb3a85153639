"""Tasks: what a pretrained network is for. Each is an objective with labels under the one trainer; the recipe's kind names it.

The names below are loaded when they are first used, so that labelled data can be read and looked at without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yanmo.tasks.examples import Example
    from yanmo.tasks.kinds import TASKS
    from yanmo.tasks.task import Task

__all__ = ["TASKS", "Example", "Task"]
_HOMES = {"TASKS": "kinds", "Example": "examples", "Task": "task"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
