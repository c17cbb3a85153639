"""Examples: what people label, one frozen kind for each way of labelling.

`origin` says where an example stands, as FILE:LINE, for messages to a person. Labels are None where they are not known: such an
example can be predicted, and neither learned from nor measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar


@dataclass(frozen=True, kw_only=True)
class Example:
    origin: str = ""


@dataclass(frozen=True, kw_only=True)
class Classified(Example):
    """A text, or two, and what it is: a label, several, or a number."""

    text: str
    pair: str | None = None
    label: str | tuple[str, ...] | float | None = None


@dataclass(frozen=True, kw_only=True)
class Tagged(Example):
    """Words (or characters) with a tag each, B-TYPE, I-TYPE, E-TYPE, S-TYPE or O. Where the labels were spans of a raw text,
    `text` is that text and offsets are where in it each token begins and ends."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...] | None = None
    text: str | None = None
    offsets: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Related(Example):
    """Two places in a text, as characters from and to (its end not included), and how the first belongs to the second."""

    text: str
    head: tuple[int, int]
    tail: tuple[int, int]
    relation: str | None = None


@dataclass(frozen=True)
class Span:
    """A part of a text that stands at a character."""

    text: str
    start: int


@dataclass(frozen=True, kw_only=True)
class Asked(Example):
    """A question about a text. answers: several that are all right; () where the text has none; None where that is not known."""

    id: str
    context: str
    question: str
    answers: tuple[Span, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Rewritten(Example):
    """A text and what it becomes: a translation, a summary; several where all are right."""

    source: str
    targets: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, kw_only=True)
class Conversation(Example):
    messages: tuple[Message, ...]


@dataclass(frozen=True, kw_only=True)
class Retrieved(Example):
    """What is asked for, the text that is to be found, and texts that are not, where they are known."""

    query: str
    positive: str
    negatives: tuple[str, ...] = ()


E = TypeVar("E", bound=Example)
LABELS = {Classified: "label", Tagged: "tags", Related: "relation", Asked: "answers", Rewritten: "targets"}
"""What is predicted of each kind. Of a conversation it is what comes next, and of texts to be found nothing."""


def unlabelled(example: E) -> E:
    """The example as if nobody had labelled it."""
    label = LABELS.get(type(example))
    known: dict[str, Any] = {} if label is None else {label: None}
    return replace(example, **known)


def is_placed(example: Asked, answer: Span) -> bool:
    """Whether an answer stands where it is said to."""
    return example.context.startswith(answer.text, answer.start)
