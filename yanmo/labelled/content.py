"""What an example is made of, whatever its kind: what a network reads, what it learns, what makes two the same, and how a person
reads it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

from yanmo.corpus.units import joined
from yanmo.labelled.examples import Asked, Classified, Conversation, Example, Related, Retrieved, Rewritten, Tagged
from yanmo.labelled.tags import entities

E = TypeVar("E")


def some_of(examples: Sequence[E], count: int) -> Sequence[E]:
    """At most so many, evenly from all over."""
    return examples[:: max(1, -(-len(examples) // count))]


def texts_of(example: Example) -> tuple[str, ...]:
    """The texts that a network reads or writes, each by itself."""
    match example:
        case Classified():
            return (example.text,) if example.pair is None else (example.text, example.pair)
        case Tagged():
            return (example.text if example.text is not None else joined(example.tokens),)
        case Related():
            return (example.text,)
        case Asked():
            return example.question, example.context
        case Rewritten():
            return (example.source, *(example.targets or ()))
        case Conversation():
            return tuple(message.content for message in example.messages)
        case Retrieved():
            return (example.query, example.positive, *example.negatives)
    raise AssertionError(f"{type(example).__name__} is no kind of example")


def group_of(example: Example) -> str:
    """What must not stand on two sides of a split: the text that examples may have in common. Blanks do not count."""
    match example:
        case Asked():
            text = example.context
        case Conversation():
            text = "\n".join(message.content for message in example.messages if message.role != "assistant")
        case _:
            text = texts_of(example)[0]
    return " ".join(text.split())


def input_of(example: Example) -> Hashable:
    """All that a network is given: two examples are the same where this is."""
    match example:
        case Classified():
            return group_of(example), None if example.pair is None else " ".join(example.pair.split())
        case Tagged():
            return example.tokens
        case Related():
            return group_of(example), example.head, example.tail
        case Asked():
            return group_of(example), " ".join(example.question.split())
        case Conversation():
            *before, _ = [*example.messages]
            return tuple((message.role, message.content) for message in before)
    return group_of(example)


def gold_of(example: Example) -> Hashable:
    """What a network is to say, None where that is not known."""
    match example:
        case Classified():
            return frozenset(example.label) if isinstance(example.label, tuple) else example.label
        case Tagged():
            return example.tags
        case Related():
            return example.relation
        case Asked():
            return None if example.answers is None else frozenset(example.answers)
        case Rewritten():
            return example.targets
        case Conversation():
            return example.messages[-1].content
        case Retrieved():
            return example.positive
    return None


def labels_of(example: Example) -> tuple[str, ...]:
    """The labels, types of entities or relation of an example; of a question whether it has an answer; else none."""
    match example:
        case Classified(label=tuple() as several):
            return several
        case Classified(label=str() as label):
            return (label,)
        case Tagged(tags=tuple() as tags):
            return tuple(entity.type for entity in entities(tags))
        case Related(relation=str() as relation):
            return (relation,)
        case Asked(answers=tuple() as answers):
            return ("answered" if answers else "no answer",)
    return ()


AROUND = 80
"""Characters of a context on each side of an answer that a person reads."""
NOTHING = "–"
"""What a person reads where there is no label, entity or answer."""


def given_of(example: Example) -> str:
    """What a network is given, as a person reads it: the same words, and of a long context those around the answer."""
    match example:
        case Related():
            return f"{example.text[slice(*example.head)]} → {example.text[slice(*example.tail)]}: {example.text}"
        case Asked():
            return f"{example.question} | {_around(example)}"
        case Conversation():
            *before, _ = example.messages
            return " | ".join(f"{message.role}: {message.content}" for message in before)
        case Rewritten():
            return example.source
        case Retrieved():
            return example.query
    return " | ".join(texts_of(example))


def right_of(example: Example) -> str:
    """What a network is to say, as a person reads it."""
    match example:
        case Classified(label=tuple() as several):
            return told_labels(several)
        case Classified(label=str() as label):
            return label
        case Classified(label=number):
            return NOTHING if number is None else f"{number:.4g}"
        case Tagged():
            text, offsets = placed_words(example)
            found = entities(example.tags or ())
            return told_parts((text[offsets[one.start][0] : offsets[one.end - 1][1]], one.type) for one in found)
        case Related():
            return example.relation or NOTHING
        case Asked():
            return " / ".join(dict.fromkeys(answer.text for answer in example.answers or ())) or NOTHING
        case Rewritten():
            return " / ".join(example.targets or ())
        case Conversation():
            return example.messages[-1].content
        case Retrieved():
            return example.positive
    raise AssertionError(f"{type(example).__name__} is no kind of example")


def told_labels(labels: Iterable[str]) -> str:
    """Several labels as a person reads them, in the order of letters."""
    return ", ".join(sorted(labels)) or NOTHING


def told_parts(parts: Iterable[tuple[str, str]]) -> str:
    """Parts of a text with their types as a person reads them."""
    return " · ".join(f"{text} {kind}" for text, kind in parts) or NOTHING


def placed_words(example: Tagged) -> tuple[str, Sequence[tuple[int, int]]]:
    """The text, and where each word is in it; of words alone, the text that they make together."""
    if example.text is not None and example.offsets is not None:
        return example.text, example.offsets
    text, offsets = joined(example.tokens), []
    at = 0
    for word in example.tokens:
        at = text.index(word, at)
        offsets.append((at, at + len(word)))
        at += len(word)
    return text, offsets


def _around(example: Asked) -> str:
    """The context around the first answer, or its beginning."""
    answer = next(iter(example.answers or ()), None)
    begin, end = (0, 0) if answer is None else (answer.start, answer.start + len(answer.text))
    first, last = max(0, begin - AROUND), min(len(example.context), end + AROUND)
    return f"{'… ' * (first > 0)}{example.context[first:last]}{' …' * (last < len(example.context))}"
