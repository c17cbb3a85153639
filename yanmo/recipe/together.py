"""Several tasks of a recipe learned at once, on one network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from yanmo.recipe.objectives import Objective
from yanmo.recipe.section import Section
from yanmo.recipe.tasks import TaskTraining, as_several, named_twice

WeightingName = Literal["fixed", "uncertainty", "average", "gradnorm", "pcgrad"]


class Together(Section):
    """One network with a head for each task, and how their losses are weighed."""

    tasks: tuple[str, ...] = Field(min_length=1)
    """Names of the recipe's tasks."""
    objective: Objective | None = None
    """What is pretrained besides, on the recipe's own text; `true`: what the recipe pretrains by."""
    share: float = Field(default=0.25, gt=0, lt=1)
    """Of all rows, those of the objective."""
    sampling: Literal["size", "even", "temperature"] = "size"
    """How the other rows are shared out among the tasks: in proportion to the rows that their examples fill, evenly, or in
    between, by size to the power of one over `temperature`."""
    temperature: float = Field(default=2.0, ge=1)
    """1 is by size; the higher, the more even."""
    weighting: Annotated[tuple[WeightingName, ...], BeforeValidator(as_several)] = Field(default=("fixed",), min_length=1)
    """How the losses are weighed; several are compared. fixed; uncertainty (Kendall et al. 2018); average, dynamic weight average
    (Liu et al. 2019); gradnorm (Chen et al. 2018); pcgrad, gradients that do not conflict (Yu et al. 2020)."""
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """What losses are multiplied by, besides what the weighting makes of them, by the name of the task or the objective's kind;
    1 if not said."""
    alpha: float = Field(default=1.5, ge=0)
    """Of gradnorm: how much more is asked of the gradients of tasks that learn more slowly."""
    main: str | None = None
    """The task whose figure chooses the best weights; by default the mean over all tasks."""
    training: TaskTraining = TaskTraining()
    """The trainer's settings; an epoch is one of all tasks, and the objective's share besides."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Of the trials of each weighting; figures are means over them, with an interval."""
    parallel: int = Field(default=1, ge=1)
    """Trials at a time, each in a process with its share of the cores."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of all that is learned: tasks, and the objective by its kind."""
        return (*self.tasks, *(() if self.objective is None else (self.objective.kind,)))

    @model_validator(mode="after")
    def _parts_are_told_apart(self) -> Together:
        for names, what in ((self.tasks, "task"), (self.weighting, "weighting"), (self.seeds, "seed")):
            if twice := named_twice(names):
                raise ValueError(f"{what} {', '.join(twice)} is named twice; once is enough")
        if taken := sorted({"trials", "blank", "tokenizer"} & set(self.tasks)):
            raise ValueError(f"tasks: {', '.join(taken)} is the name of a folder of its own here; give the task another name")
        if self.objective is not None and self.objective.kind in self.tasks:
            raise ValueError(f"objective {self.objective.kind} has the name of a task; give the task another name")
        if unknown := sorted(self.weights.keys() - set(self.parts)):
            raise ValueError(f"weights: {', '.join(unknown)} is no part of it; parts: {', '.join(self.parts)}")
        if self.main is not None and self.main not in self.tasks:
            raise ValueError(f"main: {self.main} is none of its tasks: {', '.join(self.tasks)}")
        return self

    @model_validator(mode="after")
    def _nothing_goes_unread(self) -> Together:
        read = {
            "share": self.objective is not None,
            "temperature": self.sampling == "temperature",
            "alpha": "gradnorm" in self.weighting,
        }
        needs = {"share": "an objective", "temperature": "sampling temperature", "alpha": "weighting gradnorm"}
        for name, is_read in read.items():
            if not is_read and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is only read with {needs[name]}; leave it out")
        return self
