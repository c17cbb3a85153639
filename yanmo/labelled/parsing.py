"""From a record to examples, for every kind of task: which forms it may have, and what is wrong with one that has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from yanmo.errors import UserError
from yanmo.labelled.examples import (
    Asked,
    Classified,
    Conversation,
    Example,
    Message,
    Related,
    Retrieved,
    Rewritten,
    Span,
    Tagged,
)  # fmt: skip
from yanmo.labelled.fields import Record, kind_of, short
from yanmo.labelled.spans import Part, cut
from yanmo.labelled.tags import Entity, standard, tags_of

ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant", "model": "assistant",
}  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """How examples are read. several: of classification, a text may have several labels. labelled: an example must have one."""

    kind: str
    several: bool = False
    labelled: bool = True


def examples_of(record: Record, wanted: Wanted) -> list[Example]:
    """The examples of one record, mostly one. Raises BadExample."""
    return list(_FORMS[wanted.kind](record, wanted))


def _classified(record: Record, wanted: Wanted) -> list[Classified]:
    text = record.text("text")
    taken = record.name("text")
    pair = record.get("pair", taken)
    if pair is not None:
        pair = record.a_text(pair, record.name("pair", taken) or "pair")
    return [Classified(origin=record.origin, text=text, pair=pair, label=_label(record, wanted))]


def _label(record: Record, wanted: Wanted) -> str | tuple[str, ...] | float | None:
    name = record.name("label")
    if wanted.several and name is None and record.table and any(one in record.values for one in record.names["label"]):
        return ()  # an empty cell: none of the labels
    if name is None and not wanted.labelled:
        return None
    value = record.need("label")
    assert name is not None, "a field that is needed is there"
    if wanted.kind == "regression":
        return record.number(value, name)
    if not wanted.several:
        return record.label(value, name)
    if isinstance(value, str):
        value = [part for part in value.split("|" if "|" in value else ",") if part.strip()]
    return tuple(dict.fromkeys(record.label(one, name) for one in (value if isinstance(value, list | tuple) else [value])))


def _tagged(record: Record, wanted: Wanted) -> list[Tagged]:
    text = record.get("text")
    words = record.get("tokens")
    if words is None and not isinstance(text, list):
        if text is None:
            record.need("tokens")
        return [_from_spans(record, wanted)]
    name = record.name("tokens" if words is not None else "text") or "tokens"
    tokens = record.words(text if words is None else words, name)
    return [Tagged(origin=record.origin, tokens=tokens, tags=_tags(record, wanted, tokens))]


def _tags(record: Record, wanted: Wanted, tokens: tuple[str, ...]) -> tuple[str, ...] | None:
    name = record.name("tags")
    if name is None and not wanted.labelled:
        return None
    written = record.need("tags")
    if isinstance(written, str):
        written = written.split()
    if not isinstance(written, list | tuple):
        raise record.bad("type", f"field {name!r} must be a list of tags and is {kind_of(written)}: {short(written)}")
    if len(written) != len(tokens):
        raise record.bad("length", f"{len(tokens)} tokens and {len(written)} tags; there must be a tag for each token")
    try:
        return tuple(map(_standard, written))
    except (UserError, TypeError):
        place, one = next((place, one) for place, one in enumerate(written) if not _is_tag(one))
    raise record.bad(
        "tag",
        f"{name}[{place}] is {short(one)}, of token {tokens[place]!r}; a tag is O, or B, I, E, S (M, L, U) with a type: B-PER",
    )


@lru_cache(maxsize=4096)
def _standard(tag: str) -> str:
    return standard([tag])[0]


def _is_tag(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(_standard(value))
    except UserError:
        return False


def _from_spans(record: Record, wanted: Wanted) -> Tagged:
    text = record.text("text")
    offsets = cut(text)
    tokens = tuple(text[begin:end] for begin, end in offsets)
    name = record.name("spans")
    if name is None and not wanted.labelled:
        return Tagged(origin=record.origin, tokens=tokens, text=text, offsets=offsets)
    spans = record.need("spans")
    if not isinstance(spans, list):
        raise record.bad("type", f"field {name!r} must be a list of spans and is {kind_of(spans)}: {short(spans)}")
    begins, ends = ({place: number for number, place in enumerate(places)} for places in zip(*offsets, strict=True))
    found = set()
    for place, span in enumerate(spans):
        begin, end, kind = _part(record, span, f"{name}[{place}]", text)
        if begin not in begins or end not in ends:
            around = f"{text[max(0, begin - 10) : begin]}[{text[begin:end]}]{text[end : end + 10]}"
            where = f"{name}[{place}] ({kind}, {begin} to {end})"
            raise record.bad("border", f"{where} begins or ends inside of a word: {around!r}; move it to the word's border")
        found.add(Entity(begins[begin], ends[end] + 1, kind))
    try:
        tags = tags_of(found, len(tokens), "BIO")
    except UserError as error:
        raise record.bad("border", f"field {name!r}: {error}") from None
    return Tagged(origin=record.origin, tokens=tokens, tags=tuple(tags), text=text, offsets=offsets)


def _part(record: Record, span: Any, name: str, text: str) -> Part:
    """A span without the blanks at its ends."""
    begin: Any = None
    end: Any = None
    of: Any = None
    if isinstance(span, dict):
        begin, end = span.get("start", span.get("start_offset")), span.get("end", span.get("end_offset"))
        of = span.get("type", span.get("label"))
    elif isinstance(span, list | tuple) and len(span) == 3:
        begin, end, of = span
    begin, end = _within(record, (begin, end), name, text, "or an object with start, end, type")
    if not isinstance(of, str) or not of.strip():
        raise record.bad("type", f"{name} needs a type, a string, and has {short(of)}")
    inside = text[begin:end]
    return begin + len(inside) - len(inside.lstrip()), begin + len(inside.rstrip()), of.strip()


def _within(record: Record, place: Any, name: str, text: str, form: str) -> tuple[int, int]:
    """Two characters of a text, from and to. Raises BadExample where they are none, or lie outside."""
    if isinstance(place, dict):
        place = place.get("pos") or (place.get("start"), place.get("end"))
    if not isinstance(place, list | tuple) or len(place) != 2 or any(type(one) is not int for one in place):
        raise record.bad("type", f"{name} must be two whole numbers, [start, end], {form}, and is {short(place)}")
    begin, end = place
    if not 0 <= begin < end <= len(text):
        there = f"the text has {len(text)} characters (the end is not included)"
        raise record.bad("offset", f"{name} goes from {begin} to {end}, and {there}")
    if not text[begin:end].strip():
        raise record.bad("empty", f"{name} goes from {begin} to {end}, where the text is blank")
    return begin, end


def _related(record: Record, wanted: Wanted) -> list[Related]:
    text = record.text("text")
    form = "or an object with start and end"
    head, tail = (_within(record, record.need(field), field, text, form) for field in ("head", "tail"))
    relation = None
    if wanted.labelled or record.name("relation"):
        relation = record.label(record.need("relation"), record.name("relation") or "relation")
    return [Related(origin=record.origin, text=text, head=head, tail=tail, relation=relation)]


def _asked(record: Record, wanted: Wanted) -> list[Asked]:
    context = record.text("context")
    question = record.text("question")
    given = record.get("id")
    name = record.origin if given is None else str(given)
    if record.get("impossible") is True:
        return [Asked(origin=record.origin, id=name, context=context, question=question, answers=())]
    answers = record.need("answers") if wanted.labelled else record.get("answers")
    if isinstance(answers, dict):  # HuggingFace's columns
        texts, starts = answers.get("text"), answers.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise record.bad("type", f"answers must have as many text as answer_start, both lists: {short(answers)}")
        answers = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if answers is not None and not isinstance(answers, list):
        raise record.bad("type", f"field 'answers' must be a list of text with answer_start and is {kind_of(answers)}")
    spans = None if answers is None else tuple(dict.fromkeys(_span(record, one, context) for one in answers))
    return [Asked(origin=record.origin, id=name, context=context, question=question, answers=spans)]


def _span(record: Record, answer: Any, context: str) -> Span:
    if not isinstance(answer, dict):
        raise record.bad("type", f"an answer is an object with text and answer_start, not {kind_of(answer)}: {short(answer)}")
    text, start = answer.get("text"), answer.get("answer_start")
    if not isinstance(text, str):
        raise record.bad("type", f"an answer's text must be a string and is {kind_of(text)}: {short(text)}")
    if not text.strip():
        raise record.bad("empty", "an answer's text is empty; a question without answer has `answers: []` or is_impossible")
    if type(start) is not int:
        raise record.bad("type", f"answer_start must be a whole number and is {short(start)} (answer {short(text)})")
    if not 0 <= start < len(context):
        there = f"of the {len(context)} characters of the context"
        raise record.bad("offset", f"answer_start {start} lies outside {there} (answer {short(text)})")
    return Span(text, start)


def _rewritten(record: Record, wanted: Wanted) -> list[Rewritten]:
    name = record.name("target")
    targets = None
    if wanted.labelled or name is not None:
        targets = record.texts(record.need("target"), name or "target")
        if not targets:
            raise record.bad("empty", f"field {name!r} is an empty list")
    return [Rewritten(origin=record.origin, source=record.text("source"), targets=targets)]


def _conversation(record: Record, wanted: Wanted) -> list[Conversation]:
    """OpenAI's messages (role, content), ShareGPT's conversations (from, value), Alpaca's instruction, input, output."""
    given = record.get("messages")
    if given is None and record.name("instruction") is None:
        record.need("messages")
    system = record.get("system")
    messages = [] if system is None else [Message("system", record.a_text(system, "system"))]
    if given is None:
        messages += _alpaca(record, wanted)
    elif isinstance(given, list) and given:
        messages += [_message(record, one, place) for place, one in enumerate(given)]
    else:
        raise record.bad("empty" if given == [] else "type", f"messages must be a list of messages and is {short(given)}")
    if wanted.labelled and not any(message.role == "assistant" for message in messages):
        raise record.bad("missing", "no message is by the assistant, so there is nothing to learn")
    return [Conversation(origin=record.origin, messages=tuple(messages))]


def _message(record: Record, message: Any, place: int) -> Message:
    if not isinstance(message, dict):
        raise record.bad("type", f"message {place} must be an object with role and content and is {short(message)}")
    speaker, said = ("from", "value") if "from" in message else ("role", "content")
    role = message.get(speaker)
    if not isinstance(role, str) or role not in ROLES:
        raise record.bad("role", f"message {place}: {speaker} {role!r} is not known; the roles are {', '.join(ROLES)}")
    return Message(ROLES[role], record.a_text(message.get(said), f"{said} of message {place}"))


def _alpaca(record: Record, wanted: Wanted) -> list[Message]:
    """Taori et al. 2023 (stanford_alpaca): the input, where there is one, follows the instruction."""
    messages = []
    for place, turn in enumerate(record.get("history") or []):
        if not isinstance(turn, list | tuple) or len(turn) != 2:
            raise record.bad("type", f"history[{place}] must be a question and its answer and is {short(turn)}")
        messages += [Message("user", record.a_text(turn[0], "history")), Message("assistant", record.a_text(turn[1], "history"))]
    asked = record.text("instruction")
    more = record.get("input")
    if more is not None and more != "":
        asked = f"{asked}\n{record.a_text(more, 'input')}"
    messages.append(Message("user", asked))
    if wanted.labelled or record.name("output"):
        messages.append(Message("assistant", record.text("output")))
    return messages


def _retrieved(record: Record, wanted: Wanted) -> list[Retrieved]:
    """One example for each text that is to be found."""
    query = record.text("query")
    positives = record.texts(record.need("positive"), record.name("positive") or "positive")
    if not positives:
        raise record.bad("empty", f"field {record.name('positive')!r} is an empty list")
    others = record.get("negatives")
    negatives = () if others is None else record.texts(others, record.name("negatives") or "negatives")
    return [Retrieved(origin=record.origin, query=query, positive=one, negatives=negatives) for one in positives]


_FORMS: dict[str, Callable[[Record, Wanted], Any]] = {
    "classification": _classified,
    "regression": _classified,
    "labelling": _tagged,
    "relation": _related,
    "answering": _asked,
    "rewriting": _rewritten,
    "translation": _rewritten,
    "summarisation": _rewritten,
    "dialogue": _conversation,
    "retrieval": _retrieved,
}
