"""Reading labelled data: files of many forms become examples, and what is wrong in them is said with file, line and field.

| kind | fields (see NAMES for other names that are known) |
|---|---|
| classification, regression | text, pair, label |
| labelling | tokens, tags; or text, spans; or a CoNLL file |
| relation | text, head [start, end], tail [start, end], relation |
| answering | SQuAD's JSON; or id, context, question, answers |
| translation, summarisation, rewriting | source, target |
| dialogue | messages (OpenAI), conversations (ShareGPT), instruction, input, output (Alpaca) |
| retrieval | query, positive, negatives; or lists of two texts or more |

Files are JSON lines, a JSON list, CSV, TSV (names of columns in the first line), Parquet, each compressed too; or `sample:NAME`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, TypeVar

import numpy as np

from yanmo.corpus.opening import File, find_files
from yanmo.corpus.samples import PREFIX
from yanmo.errors import UserError
from yanmo.labelled.content import group_of, labels_of
from yanmo.labelled.examples import Example
from yanmo.labelled.fields import NAMES, BadExample, Names, Record, kind_of, names_of, short
from yanmo.labelled.parsing import Wanted, examples_of
from yanmo.labelled.records import Raw, read_records
from yanmo.labelled.samples import read_sample
from yanmo.recipe import Source

E = TypeVar("E", bound=Example)
PARTS = {"train": ("train",), "valid": ("valid", "validation", "dev", "val"), "test": ("test",)}


def read_examples(
    path: str | Sequence[str],
    kind: str,
    fields: Mapping[str, str] | None = None,
    *,
    several: bool = False,
    labelled: bool = True,
    encoding: str | None = None,
    faults: list[BadExample] | None = None,
) -> list[Any]:
    """The examples of one source or several (a file, a glob, a URL that fsspec knows, or sample:NAME), in their order.

    kind: of task, see NAMES. fields: what our fields are called there, {"text": "review"}. several: a text of a classification
    may have several labels. labelled: an example without its label is a mistake. faults: takes what cannot be read, which is
    then left out. Raises BadExample for the first of these otherwise, and UserError for a source that is not there or is empty.
    """
    names, wanted = names_of(kind, fields), Wanted(kind, several, labelled)
    examples: list[Any] = []
    for source in [path] if isinstance(path, str) else path:
        before, bad = len(examples), len(faults or ())
        if source.startswith(PREFIX):
            examples += read_sample(source, kind)
            continue
        for file in _files(source):
            examples += _read(file, names, wanted, encoding, faults)
        if len(examples) == before and len(faults or ()) == bad:
            raise UserError(f"{source}: there is no example in it")
    return examples


def form_of(section: Any) -> dict[str, Any]:
    """How the examples of a task's section are read: kind, fields and several, as the functions here and lint_files take them."""
    return {"kind": section.kind, "fields": section.fields, "several": getattr(section, "several", False)}


def read_record(
    record: Any, origin: str, kind: str, fields: Mapping[str, str] | None = None, *, several: bool = False
) -> list[Any]:
    """The examples of one JSON value, labels only where it has them: what is given for prediction. Raises BadExample."""
    return _examples(Raw(0, record), origin, names_of(kind, fields), Wanted(kind, several, labelled=False))


def find_parts(folder: str) -> dict[str, str]:
    """The files of a folder that hold its parts, by their names: train, valid (or validation, dev, val), test.

    Raises UserError for a folder without one for training, or with two for one part.
    """
    files = [file for file in find_files(Source(path=folder)) if file.format not in ("markdown", "html")]
    found = {}
    for part, names in PARTS.items():
        stems = {file.name: PurePath(file.name).name.split(".", 1)[0].lower() for file in files}
        named = [name for name, stem in stems.items() if stem in names] or [
            name for name, stem in stems.items() if stem.startswith(tuple(f"{one}{sign}" for one in names for sign in "_-"))
        ]
        if len(named) > 1:
            raise UserError(f"{folder}: {' and '.join(named)} are both its {part} part; name the file")
        if named:
            found[part] = named[0]
    if "train" not in found:
        listed = ", ".join(PurePath(file.name).name for file in files)
        raise UserError(f"{folder}: no file of it is called train (its files: {listed}); name the file")
    return found


def split(examples: Sequence[E], share: float, seed: int = 0) -> tuple[list[E], list[E]]:
    """(kept, held out), both in their order; a text, or a context that questions share, is never on both sides.

    share: of the different texts that is held out, those with the lowest hashes of (seed, text): nothing else decides.
    Raises UserError for a share that is not between 0 and 1, and where there are not two different texts.
    """
    if not 0 < share < 1:
        raise UserError(f"share {share}: what is held out is more than 0 and less than 1, such as 0.1")
    groups = [group_of(example) for example in examples]
    order = sorted(set(groups), key=lambda text: hashlib.blake2b(f"{seed}\n{text}".encode(), digest_size=16).digest())
    if len(order) < 2:
        raise UserError(f"all {len(examples)} examples have the same text: none can be held out; give a validation file")
    chosen = set(order[: min(len(order) - 1, max(1, round(share * len(order))))])
    kept = [example for example, group in zip(examples, groups, strict=True) if group not in chosen]
    return kept, [example for example, group in zip(examples, groups, strict=True) if group in chosen]


def draw(examples: Sequence[E], number: int, seed: int = 0) -> list[E]:
    """So many examples at random, in their order. Every label is among them while there is room: one example of each is drawn
    first."""
    order = np.random.default_rng(seed).permutation(len(examples)).tolist()
    first: dict[str, int] = {}
    for place in order:
        for label in labels_of(examples[place]):
            first.setdefault(label, place)
    return [examples[place] for place in sorted(list(dict.fromkeys([*first.values(), *order]))[:number])]


def _files(source: str) -> list[File]:
    files = find_files(Source(path=source))
    if len(files) > 1 and not any(sign in source for sign in "*?["):
        listed = ", ".join(PurePath(file.name).name for file in files[:8])
        raise UserError(f"{source}: this is a folder; name a file of it ({listed}), or a glob such as FOLDER/train*.jsonl")
    return files


def _read(file: File, names: Names, wanted: Wanted, encoding: str | None, faults: list[BadExample] | None) -> list[Any]:
    examples: list[Any] = []
    try:
        for raw in read_records(file, wanted.kind, names, encoding):
            try:
                if isinstance(raw, BadExample):
                    raise raw
                examples += _examples(raw, raw.origin(file.name), names, wanted)
            except BadExample as bad:
                if faults is None:
                    raise
                faults.append(bad)
    except BadExample as bad:  # of the file as a whole: its encoding
        if faults is None:
            raise
        faults.append(bad)
    return examples


def _examples(raw: Raw, origin: str, names: Names, wanted: Wanted) -> list[Any]:
    value = raw.value
    if wanted.kind == "retrieval" and isinstance(value, list) and len(value) > 1:
        value = {"query": value[0], "positive": value[1], "negatives": value[2:]}
        names = NAMES["retrieval"]
    if isinstance(value, str) and not wanted.labelled and "text" in names:
        value = {names["text"][0]: value}
    if not isinstance(value, dict):
        raise BadExample(origin, "type", f"an example is an object with {', '.join(names)}, not {kind_of(value)}: {short(value)}")
    if raw.columns and wanted.labelled and value["tags"] is None:
        raise BadExample(origin, "missing", "only one column was found; tokens and tags are separated by blanks or tabs")
    own = NAMES[wanted.kind] if raw.columns else names
    return examples_of(Record(origin, value, own, raw.table), wanted)
