"""The examples of a task's section, in three parts: read, and looked at before anything is trained on them."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from yanmo.corpus.opening import find_files
from yanmo.corpus.samples import PREFIX
from yanmo.errors import UserError
from yanmo.labelled.examples import Asked, Example, is_placed
from yanmo.labelled.fields import BadExample
from yanmo.labelled.lint import lint
from yanmo.labelled.reading import PARTS, draw, form_of, read_examples, split
from yanmo.recipe import Source

Say = Callable[[str], None]


@dataclass(frozen=True)
class Data:
    """Examples to learn from, to choose by, and to measure on. sums: of the files they are from."""

    train: Sequence[Example]
    valid: Sequence[Example]
    test: Sequence[Example]
    sums: dict[str, str]


def read_data(section: Any, name: str | None = None, say: Say = print) -> Data:
    """The examples of a section, after a look at them. name: of the task in its recipe, for errors.

    Raises UserError where there are none, for one that cannot be read (with file and line), and where lint says: do not train.
    """
    try:
        data = _read(section, say)
        _look(section, data, say)
    except UserError as error:
        if name is None:
            raise
        raise UserError(f"tasks.{name}: {error}") from None
    return data


def sums_of(section: Any) -> dict[str, str]:
    """A hash of each file that the section names; what comes with a package is not among them."""
    found = {}
    for path in (path for part in PARTS for path in getattr(section, part) if not path.startswith(PREFIX)):
        for file in find_files(Source(path=path)):
            with file.system.open(file.path, "rb") as stream:
                found[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def _read(section: Any, say: Say) -> Data:
    if not section.train:
        raise UserError(f"task {section.kind}: no examples to learn from; name a file in `train`")
    faults: list[BadExample] | None = [] if section.on_error == "skip" else None
    parts = {part: read_examples(getattr(section, part), **form_of(section), faults=faults) for part in PARTS}
    if faults is not None:
        parts = {part: _placed(examples, faults) for part, examples in parts.items()}
    if faults:
        total = len(faults) + sum(map(len, parts.values()))
        say(f"{len(faults):,} of {total:,} examples cannot be read and are left out; the first: {faults[0]}")
    train, valid = parts["train"], parts["valid"]
    if not section.valid:
        train, valid = split(train, section.validation, seed=0)
    if section.limit is not None and section.limit < len(train):
        train = draw(train, section.limit)
    for what, examples in (("learn from", train), ("choose by", valid)):
        if not examples:
            raise UserError(
                f"task {section.kind}: no examples to {what} in {', '.join(section.train)}; give more, or name `valid`"
            )
    return Data(train, valid, parts["test"], sums_of(section))


def _placed(examples: Sequence[Example], faults: list[BadExample]) -> list[Example]:
    """The examples without those of which an answer is not where it is said to be; these go to the faults."""
    kept = []
    for example in examples:
        bad = None
        if isinstance(example, Asked):
            bad = next((answer for answer in example.answers or () if not is_placed(example, answer)), None)
        if bad is None:
            kept.append(example)
        else:
            sentence = f"answer {bad.text!r} is not at character {bad.start} of its context"
            faults.append(BadExample(example.origin, "offset", sentence))
    return kept


def _look(section: Any, data: Data, say: Say) -> None:
    """Lint. Raises UserError where it says: do not, naming what is wrong."""
    report = lint(section.kind, data.train, data.valid, data.test)
    bad = [one for one in report.sections if one.verdict == "do not train"]
    again = f"`{_command(section)}` shows all of it"
    if bad and section.lint:
        where = ["".join(f" ({shown.origin})" for shown in one.examples[:1]) for one in bad]
        first = [f"{one.name}: {'; '.join(one.found)}{place}" for one, place in zip(bad, where, strict=True)]
        raise UserError(f"not trained on these examples: {'. '.join(first)}. {again}; to train all the same, set lint=false")
    if report.verdict != "ok":
        say(f"lint: {report.closing()[1]}; {again}")


def _command(section: Any) -> str:
    """What a person types to see all that lint says of a section's examples."""
    words = ["yanmo", "lint", *section.train, "--task", section.kind]
    words += [word for part in ("valid", "test") for path in getattr(section, part) for word in (f"--{part}", path)]
    words += [f"fields.{field}={json.dumps(name, ensure_ascii=False)}" for field, name in section.fields.items()]
    return shlex.join(words + ["several=true"] * bool(getattr(section, "several", False)))
