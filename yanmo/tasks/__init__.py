"""Tasks: what a pretrained network is for. Each is an objective with labels under the one trainer; the recipe's kind names it."""

from yanmo.tasks.kinds import TASKS
from yanmo.tasks.task import Task

__all__ = ["TASKS", "Task"]
