"""Lint: what is wrong with labelled data, or worth a look, before a network is trained on it.

The sections are in yanmo.labelled.checks (labels, texts that occur twice, tags, answers) and yanmo.labelled.reach (what a network
can read of them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from yanmo.corpus.samples import PREFIX
from yanmo.errors import UserError
from yanmo.labelled.checks import CHECKS
from yanmo.labelled.examples import Example
from yanmo.labelled.fields import BadExample, names_of
from yanmo.labelled.findings import LintReport
from yanmo.labelled.reach import REACH
from yanmo.labelled.reading import find_parts, read_examples
from yanmo.labelled.subject import Rule, Subject
from yanmo.tokenizer import Tokens

Files = str | Sequence[str]


def lint_files(
    train: Files,
    kind: str,
    *,
    valid: Files = (),
    test: Files = (),
    fields: Mapping[str, str] | None = None,
    several: bool = False,
    tokens: Tokens | None = None,
    length: int | None = None,
    labels: Sequence[str] | None = None,
    rule: Rule | None = None,
) -> LintReport:
    """A look at labelled files; `train` may be a folder with train, valid and test in it, or a sample with these parts, of which
    `valid` and `test` stand for others.

    kind, fields, several: as read_examples takes them. tokens, length, rule: of the network that is to learn, where there is
    one already, and of its rows. labels: those that it knows, or that the task is to have. What cannot be read is a finding.
    Raises UserError for sources that are not there.
    """
    sources: dict[str, Files] = {"train": train, "valid": valid, "test": test}
    if isinstance(train, str):
        own: dict[str, str] = {}
        if Path(train).is_dir():
            own = find_parts(train)
        elif train.startswith(PREFIX) and "/" not in train:
            own = {part: f"{train}/{part}" for part in sources}
        sources |= {part: name for part, name in own.items() if part == "train" or not sources[part]}
    faults: list[BadExample] = []
    read = {part: read_examples(files, kind, fields, several=several, faults=faults) for part, files in sources.items() if files}
    return lint(kind, **read, tokens=tokens, length=length, labels=labels, faults=faults, rule=rule)


def lint(
    kind: str,
    train: Sequence[Example],
    valid: Sequence[Example] = (),
    test: Sequence[Example] = (),
    *,
    tokens: Tokens | None = None,
    length: int | None = None,
    labels: Sequence[str] | None = None,
    faults: Sequence[BadExample] = (),
    rule: Rule | None = None,
) -> LintReport:
    """A look at examples. faults: what could not be read; see lint_files for the others. Raises UserError where there is
    nothing to look at."""
    names_of(kind, None)
    if not train and not faults:
        raise UserError("there is no example to learn from, so there is nothing to look at")
    parts = {name: tuple(part) for name, part in (("train", train), ("valid", valid), ("test", test)) if part or name == "train"}
    data = Subject(kind, parts, tokens, length, None if labels is None else tuple(labels), tuple(faults), rule or Rule())
    sections = tuple(section for check in (*CHECKS, *REACH) if (section := check(data)) is not None)
    return LintReport(kind, {name: len(part) for name, part in parts.items()}, sections)
