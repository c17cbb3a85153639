"""Tasks: what a pretrained network is for. Each is an objective with labels under the one trainer; the recipe's kind names it."""

from yanmo.tasks.answering import Answering
from yanmo.tasks.classification import Classification, Regression
from yanmo.tasks.dialogue import Dialogue
from yanmo.tasks.examples import Example
from yanmo.tasks.labelling import Labelling
from yanmo.tasks.relation import RelationExtraction
from yanmo.tasks.retrieval import Retrieval
from yanmo.tasks.task import Task
from yanmo.tasks.writing import Summarisation, Translation

TASKS: dict[str, type[Task]] = {
    task.kind: task
    for task in (
        Classification,
        Regression,
        Labelling,
        Summarisation,
        Translation,
        RelationExtraction,
        Answering,
        Dialogue,
        Retrieval,
    )
}
"""By the recipe's kind."""

__all__ = ["TASKS", "Example", "Task"]
