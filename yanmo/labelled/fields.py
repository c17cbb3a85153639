"""A record's fields by name, their types looked at: what is wrong is said with file and line, field, and what is allowed.

`NAMES` is what the fields of each kind of task may be called: our name first, then those of GLUE, UER, HuggingFace, doccano.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from yanmo.errors import UserError

Problem = Literal["file", "missing", "empty", "type", "length", "tag", "role", "offset", "border"]
Names = Mapping[str, tuple[str, ...]]

_CLASSIFIED: Names = {
    "text": ("text", "text_a", "text1", "sentence1", "premise", "question1", "question", "sentence"),
    "pair": ("pair", "text_b", "text2", "sentence2", "hypothesis", "question2", "sentence", "passage"),
    "label": ("label", "labels", "gold_label", "score"),
}
_REWRITTEN: Names = {
    "source": ("source", "document", "article", "src"),
    "target": ("target", "targets", "summary", "highlights", "tgt"),
}
NAMES: dict[str, Names] = {
    "classification": _CLASSIFIED,
    "regression": _CLASSIFIED,
    "labelling": {
        "tokens": ("tokens", "words", "text_a"),
        "tags": ("tags", "ner_tags", "labels", "label"),
        "text": ("text",),
        "spans": ("spans", "entities", "labels", "label"),
    },
    "relation": {"text": ("text", "sentence"), "head": ("head", "h"), "tail": ("tail", "t"), "relation": ("relation", "label")},
    "answering": {
        "id": ("id", "query_id"),
        "context": ("context",),
        "question": ("question",),
        "answers": ("answers",),
        "impossible": ("is_impossible",),
    },
    "rewriting": _REWRITTEN,
    "translation": _REWRITTEN,
    "summarisation": _REWRITTEN,
    "dialogue": {
        "messages": ("messages", "conversations", "conversation"),
        "system": ("system",),
        "instruction": ("instruction",),
        "input": ("input",),
        "output": ("output", "response"),
        "history": ("history",),
    },
    "retrieval": {
        "query": ("query", "anchor", "question"),
        "positive": ("positive", "pos", "document", "passage"),
        "negatives": ("negatives", "negative", "neg"),
    },
}
ANSWERS = {"sentence": "question", "passage": "question"}
"""Names that are a second text's only beside a first text of this name, as in QNLI and BoolQ."""
SHOWN = 12
"""Names that an error lists."""
_HALF = re.compile("[\ud800-\udfff]")


class BadExample(UserError):
    """One example that cannot be used: where it stands, what is wrong with it, and of which sort that is."""

    def __init__(self, origin: str, problem: Problem, sentence: str):
        super().__init__(f"{origin}: {sentence}")
        self.origin, self.problem, self.sentence = origin, problem, sentence


def names_of(kind: str, fields: Mapping[str, str] | None) -> Names:
    """What the fields of a kind of task are called in a file: those of `fields` as it says, the others as in NAMES.

    Raises UserError for a kind or a field that there is none of.
    """
    if kind not in NAMES:
        raise UserError(f"kind {kind!r}: the kinds of tasks are {', '.join(NAMES)}{_nearest(kind, NAMES)}")
    names = dict(NAMES[kind])
    for field, name in (fields or {}).items():
        if field not in names:
            raise UserError(f"fields.{field}: {kind} has the fields {', '.join(names)}{_nearest(field, names)}")
        names[field] = (name,)
    return names


@dataclass(frozen=True)
class Record:
    """One record of a file. origin: FILE:LINE. table: its values are cells, and an empty one is none."""

    origin: str
    values: Mapping[str, Any]
    names: Names
    table: bool = False

    def name(self, field: str, but: str | None = None) -> str | None:
        """What a field is called here, None where the record has none; `but` is taken already, and the field is beside it."""
        known = self.names[field]
        for name in known:
            value = self.values.get(name)
            if but is not None and (name == but or (len(known) > 1 and ANSWERS.get(name, but) != but)):
                continue
            if value is not None and not (self.table and value == ""):
                return name
        return None

    def get(self, field: str, but: str | None = None) -> Any:
        name = self.name(field, but)
        return None if name is None else self.values[name]

    def need(self, field: str) -> Any:
        """A field's value. Raises BadExample where it is missing, with the nearest name that is there."""
        name = self.name(field)
        if name is not None:
            return self.values[name]
        if there := [name for name in self.names[field] if name in self.values]:
            raise self.bad("empty", f"field {there[0]!r} is {'empty' if self.table else 'null'}")
        has = ", ".join(list(map(str, self.values))[:SHOWN]) or "none"
        asked = " or ".join(map(repr, self.names[field]))
        raise self.bad(
            "missing",
            f"no field {asked}; its fields: {has}{_nearest(self.names[field][0], self.values)}; "
            f"name it with `fields: {{{field}: NAME}}`",
        )

    def text(self, field: str) -> str:
        """A field that is a text with something in it."""
        return self.a_text(self.need(field), self.name(field) or field)

    def a_text(self, value: Any, name: str) -> str:
        """A value that must be a text. Raises BadExample for another type, nothing but blanks, or half a character."""
        if not isinstance(value, str):
            raise self.bad("type", f"field {name!r} must be a string and is {kind_of(value)}: {short(value)}")
        if not value.strip():
            raise self.bad("empty", f"field {name!r} is empty")
        if _HALF.search(value):
            raise self.bad("type", f"field {name!r} holds half of a surrogate pair, which is no character: {short(value)}")
        return value

    def texts(self, value: Any, name: str) -> tuple[str, ...]:
        """A value that must be one text or a list of them."""
        return tuple(self.a_text(one, name) for one in (value if isinstance(value, list) else [value]))

    def words(self, value: Any, name: str) -> tuple[str, ...]:
        """A value that must be a list of words or characters, or these with blanks between them."""
        value = value.split() if isinstance(value, str) else value
        if not isinstance(value, list | tuple):
            raise self.bad("type", f"field {name!r} must be a list of words and is {kind_of(value)}: {short(value)}")
        if not value:
            raise self.bad("empty", f"field {name!r} is empty")
        plain = all(type(word) is str and word and not word.isspace() for word in value) and not _HALF.search("".join(value))
        return tuple(value) if plain else tuple(self.a_text(word, f"{name}[{place}]") for place, word in enumerate(value))

    def label(self, value: Any, name: str) -> str:
        """A label as a string: whole numbers and booleans become one. Raises BadExample for what cannot be one."""
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int):
            return str(value)
        if not isinstance(value, str):
            hint = "; for numbers take kind regression" if isinstance(value, float) else ""
            allowed = "a string, a whole number or true/false"
            raise self.bad("type", f"field {name!r} must be {allowed} and is {kind_of(value)}: {short(value)}{hint}")
        if not value.strip():
            raise self.bad("empty", f"field {name!r} is empty")
        return value.strip()

    def number(self, value: Any, name: str) -> float:
        """A finite number, from a number or (in tables) from its digits."""
        try:
            found = None if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            found = None
        except OverflowError:
            found = math.inf
        if found is None:
            raise self.bad("type", f"field {name!r} must be a number and is {kind_of(value)}: {short(value)}")
        if not math.isfinite(found):
            raise self.bad("type", f"field {name!r} must be a finite number and is {short(value)}")
        return found

    def bad(self, problem: Problem, sentence: str) -> BadExample:
        return BadExample(self.origin, problem, sentence)


def kind_of(value: Any) -> str:
    """What a JSON value is called."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true/false", int: "a number", float: "a number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


def short(value: Any, width: int = 60) -> str:
    """A value as a message shows it."""
    shown = repr(value)
    return shown if len(shown) <= width else f"{shown[: width - 4]} ..."


def _nearest(name: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    found = difflib.get_close_matches(name, [str(one) for one in known], n=1, cutoff=0.65)
    return f"; did you mean {found[0]!r}?" if found else ""
