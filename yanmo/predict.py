"""A model folder opened for use: the network, the tokenizer, and what the task on it says of new inputs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

from yanmo import loading
from yanmo.arriving import in_blocks
from yanmo.errors import UserError
from yanmo.labelled.examples import Example, unlabelled
from yanmo.labelled.findings import LintReport
from yanmo.labelled.lint import lint_files
from yanmo.labelled.reading import form_of, read_examples, read_record
from yanmo.labelled.subject import Rule
from yanmo.models import Network
from yanmo.models.heads import build_head
from yanmo.parallel import choose_device
from yanmo.recipe import article
from yanmo.tasks import TASKS, Task
from yanmo.tasks.folder import TASK_FILE, is_adapter, load_task
from yanmo.tasks.writing import Writing
from yanmo.tokenizer import Tokens

DIGITS = 6
MARK = "\ufeff"
"""What some editors put before the first line of a file."""
LINES = 256
"""Lines that are predicted together at most."""


class Model:
    """What `yanmo.load` gives: `network, tokenizer = yanmo.load(folder)`; and `yanmo.load(folder).predict(...)` of a task."""

    def __init__(self, network: Network, tokenizer: Tokens, folder: Path, task: Task | None = None):
        self.network, self.tokenizer, self.folder, self._task = network, tokenizer, folder, task

    def __iter__(self) -> Iterator[Any]:
        yield from (self.network, self.tokenizer)

    @property
    def task(self) -> Task:
        """Raises UserError for a model that has none."""
        if self._task is None:
            raise UserError(
                f"{self.folder} is pretrained and has no task yet: adapt it with `yanmo finetune {self.folder} --task ...`"
            )
        return self._task

    def predict(self, inputs: Sequence[Any]) -> list[Any]:
        """The task's typed prediction for each input: a text, or what a line of a file would say as a mapping, or an Example.

        Raises UserError for a model without a task, and for an input that says too little, by its number.
        """
        if isinstance(inputs, str | Mapping):
            raise UserError("predict takes a list of inputs, each with a prediction of its own; for one text: [text]")
        return self.task.predictions([self.example(one, f"input {number}") for number, one in enumerate(inputs, 1)])

    def example(self, value: Any, origin: str) -> Example:
        """An input as an example, of which nothing counts that was to be predicted. Raises UserError that names its `origin`."""
        if isinstance(value, Example):
            return unlabelled(value)
        section = self.task.section
        if isinstance(value, str):
            if self.task.takes is None:
                raise UserError(f"{origin}: {article(section.kind)} model needs more than a text: {self.task.wants}")
            value = {section.fields.get(self.task.takes, self.task.takes): value}
        (example,) = read_record(value, origin, **form_of(section))
        return unlabelled(example)


def load(folder: str | Path, base: str | Path | None = None) -> Model:
    """The network, in eval mode, and the tokenizer of a model folder, ours or transformers', and its task where it has one. base:
    of an adapter, where that is not where it was.

    Raises UserError for a folder that is not one, naming the models near it, and for parts that do not fit together.
    """
    folder = Path(folder)
    if (folder / TASK_FILE).is_file():
        task = load_task(folder, base).to(choose_device())
        return Model(task.network, task.tokens, folder, task)
    network, tokens = loading.load(folder)
    return Model(network, tokens, folder)


def predicted_lines(model: Model, lines: Iterable[str]) -> Iterator[str]:
    """A line of JSON for each line: a text, or a JSON object with the fields of the task. Empty lines are left out.

    Raises UserError that names the line, after what the lines before it are predicted to be.
    """
    number = 0
    for block in in_blocks(lines, LINES):
        examples: list[Example] = []
        bad: UserError | None = None
        for number, line in enumerate(block, number + 1):  # noqa: B020  # it goes on where the last block ended
            try:
                if (text := line.rstrip("\r\n").removeprefix(MARK)).strip():
                    examples.append(model.example(_value(text, number), f"line {number}"))
            except UserError as error:
                bad = error
                break
        for prediction in model.task.predictions(examples):
            yield json.dumps(_rounded(as_json(prediction)), ensure_ascii=False)
        if bad is not None:
            raise bad


def measured(model: Model, files: Sequence[str]) -> dict[str, float]:
    """The task's figures on labelled files. Raises UserError as reading them does, and for labels that it does not know."""
    return model.task.appraise(read_examples(files, **form_of(model.task.section)))


def linted(section: Any, folder: Path | None) -> LintReport:
    """What is wrong with the files of a task's section, for a model where one is given: one that is to learn the task, or that
    has learned it and is to be measured. Raises UserError as reading them does, and for a model that can do neither."""
    return lint_files(
        section.train[0] if len(section.train) == 1 else section.train,
        valid=section.valid,
        test=section.test,
        **form_of(section),
        **({} if folder is None else _reading(section, folder)),
    )


def _reading(section: Any, folder: Path) -> dict[str, Any]:
    """What lint_files takes of a model."""
    model, made = load(folder), TASKS[section.kind]
    learned = model.task if (folder / TASK_FILE).is_file() else None
    if learned is not None and (learned.head is not None or is_adapter(folder)):  # nothing else is learned from such a folder
        if learned.kind != section.kind:
            raise UserError(
                f"{folder}: {article(learned.kind)} model, which neither learns {section.kind} nor is measured by it; name the "
                "pretrained folder that it began from"
            )
        labels = learned.labels if made.names_labels else ()
        rule = replace(_rule_of(learned, learned.section), positions=learned.length, measures=True)
        return {"tokens": learned.tokens, "length": learned.length, "labels": labels or None, "rule": rule}
    network, tokens = model.network, made.tokens_for(section, model.tokenizer)
    try:
        section.check_family(network.config.family)
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from None
    positions = network.config.length
    length = section.training.length or min(made.longest, positions)
    if length > positions:
        raise UserError(f"training.length {length} is longer than the {positions} positions of the network; shorten the rows")
    task = None
    if (kind := made.head_of(section)) is None:
        task = made(network, None, tokens, section, (), length)
    else:
        build_head(network, kind, 2)                       # refuses a family that has none
    return {"tokens": tokens, "length": length, "rule": replace(_rule_of(task, section), positions=positions)}


def _rule_of(task: Task | None, section: Any) -> Rule:
    together = task.sides.around + len(task.between) if isinstance(task, Writing) and task.between else None
    given = {name: getattr(section, name) for name in ("prompt", "negatives", "longest") if hasattr(section, name)}
    return Rule(together=together, **given)


def as_json(prediction: Any) -> Any:
    """A typed prediction as what JSON has."""
    if is_dataclass(prediction) and not isinstance(prediction, type):
        return asdict(prediction)
    return prediction if isinstance(prediction, Mapping) else {"value": prediction}


def _rounded(value: Any) -> Any:
    """The same with no more digits than say something."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value


def _value(line: str, number: int) -> Any:
    """The text of a line, or the object that it holds. Raises UserError for one that begins as an object and is none."""
    if not line.lstrip().startswith("{"):
        return line
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        why = f"{error.msg} at character {error.pos + 1}"
    except RecursionError:
        why = "it is nested too deeply"
    raise UserError(f"line {number}: begins as a JSON object and is none ({why}); a text that begins so goes inside of one")
