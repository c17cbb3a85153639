"""Every task by the kind that a recipe names."""

from yanmo.tasks.answering import Answering
from yanmo.tasks.classification import Classification, Regression
from yanmo.tasks.dialogue import Dialogue
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
