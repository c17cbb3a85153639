"""Conversations as token ids and what of them is learned: one template for training, use and serving.

The template is a Jinja text among the tokenizer's files (`chat_template` of tokenizer_config.json, or chat_template.jinja). It is
rendered in a sandbox with what transformers gives it (utils/chat_template_utils.py), and what comes out is encoded as one text,
so that the ids are those of apply_chat_template. But only the template writes special tokens: what a person says is text.

Ours is ChatML (openai/openai-python, chatml.md) with a token between role and content, as Phi-4 has it (Abdin et al. 2024,
arXiv:2412.08905): then no token of a content can reach into what stands before it, whatever the tokenizer, and a reply begins in
use exactly where it began in training.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from yanmo.errors import UserError
from yanmo.labelled.examples import Message
from yanmo.tokenizer import Tokens
from yanmo.tokenizer.tokens import CLOSE, OPEN

if TYPE_CHECKING:
    from rich.console import Console

ROLES = ("system", "user", "assistant")
TEMPLATE = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '<|im_sep|>' -}}
    {%- if message['role'] == 'assistant' -%}
        {%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}
    {%- else -%}
        {{- message['content'] + '<|im_end|>' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant<|im_sep|>' -}}{%- endif -%}
"""
"""Of a tokenizer that has none; what its texts begin with goes before it. The tags tell transformers too what is learned."""
BEGIN, END, NAMED, ENDED = "\ufdd2", "\ufdd3", "\ufdd4", "\ufdd5"
"""Around what is learned, and around the number of a special token that a person names: noncharacters, as OPEN and CLOSE are."""
NONCHARACTERS = re.compile("[\ufdd0-\ufdef]")
TAGGED = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Learned(NamedTuple):
    """A conversation. ids: (N,) int64. learned: (N,) bool. cut: how many of the oldest turns had no room; lost: how many tokens
    at the end of the last."""

    ids: np.ndarray
    learned: np.ndarray
    cut: int
    lost: int = 0


class Prompt(NamedTuple):
    """What the assistant is to go on with. cut: how many of the oldest turns had no room."""

    ids: list[int]
    cut: int


def with_chat(tokens: Tokens) -> Tokens:
    """The tokenizer with a chat template: as it is where it has one, else with ours and the special tokens in it, which take rows
    of the network after all others."""
    if tokens.config.get("chat_template"):
        return tokens
    more = tokens.with_special(["chat"])
    begins = "".join(tokens.tokenizer.id_to_token(index) or "" for index in tokens.prefix)
    return Tokens.from_json(more.json, {**more.config, "chat_template": begins + TEMPLATE})


def encode_conversation(
    tokens: Tokens,
    messages: Sequence[Message],
    learn: Literal["assistant", "last"] = "assistant",
    length: int | None = None,
    origin: str = "",
    whole: bool = True,
) -> Learned:
    """The ids of a conversation, and which of them are learned: what the assistant says, and the token that closes it.

    learn: all turns of the assistant, or the last. length: what the network has room for; where that is not enough, first what
    nobody answers any more is cut, then the oldest turns, each a user's message with all that follows until the next; what the
    system says first stays. One role may speak twice in a row, where the template allows it. whole: a last turn that is too long
    is a mistake; else its end is left out. Raises UserError, with `origin` before it, for an unknown role, an empty message, no
    message of the assistant, and a template that refuses the messages or changes what is said.
    """
    _check(messages, origin)
    if all(message.role != "assistant" for message in messages):
        raise UserError(f"{_at(origin)}nobody answers: no message has the role assistant, so there is nothing to learn")
    last = max(place for place, message in enumerate(messages, 1) if message.role == "assistant")
    if length is not None and last < len(messages) and len(_encode(tokens, messages, origin, prompt=False)[0]) > length:
        messages = messages[:last]
    cut, (ids, learned) = _fitting(tokens, messages, length, origin, prompt=False, whole=whole)
    if learn == "last":
        (ends,) = np.diff(learned, append=False).nonzero()  # of stretches and of what is between them
        learned[: ends[-2] + 1 if len(ends) > 1 else 0] = False
    kept = len(ids) if length is None else min(len(ids), length)
    return Learned(ids[:kept], learned[:kept], cut, len(ids) - kept)


def encode_prompt(tokens: Tokens, messages: Sequence[Message], length: int | None = None, origin: str = "") -> Prompt:
    """The ids of a conversation that the assistant is to go on with, for `generate`, which stops it with `ends=closing(tokens)`.

    length: what the network has room for, the reply left out; cut and refused as in encode_conversation.
    """
    _check(messages, origin)
    cut, (ids, _) = _fitting(tokens, messages, length, origin, prompt=True)
    return Prompt(ids.tolist(), cut)


def closing(tokens: Tokens) -> frozenset[int]:
    """The special token that closes what the assistant says."""
    found = encode_conversation(tokens, [Message("user", "a"), Message("assistant", "a")])
    return frozenset(found.ids[found.learned][-1:].tolist()) & tokens.special


def preview(tokens: Tokens, ids: Sequence[int] | np.ndarray, learned: np.ndarray, console: Console | None = None) -> None:
    """Show a person what is learned: in colour, or in brackets ⟦ ⟧ where there are no colours."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console(highlight=False)
    shown, (borders,) = Text(), np.diff(learned).nonzero()
    for part in np.split(np.arange(len(ids)), borders + 1):
        said = tokens.decode([int(ids[place]) for place in part])
        if not learned[part[0]]:
            shown.append(said, "dim")
        elif console.color_system is None:
            shown.append(f"⟦{said}⟧")
        else:
            shown.append(said, "bold green")
    console.print(shown, soft_wrap=True)
    console.print(Text(f"{int(np.sum(learned))} of {len(ids)} tokens are learned", "dim"))


def _check(messages: Sequence[Message], origin: str) -> None:
    if not messages:
        raise UserError(f"{_at(origin)}a conversation without messages")
    for number, message in enumerate(messages, 1):
        if message.role not in ROLES:
            raise UserError(f"{_at(origin)}message {number}: role {message.role!r} is not known; known: {', '.join(ROLES)}")
        if not message.content.strip():
            raise UserError(f"{_at(origin)}message {number}: {message.role} says nothing; leave the message out")
        if found := NONCHARACTERS.search(message.content):
            code = f"U+{ord(found[0]):04X}"
            raise UserError(f"{_at(origin)}message {number}: {code} at character {found.start()} is no character; take it out")


def _at(origin: str) -> str:
    return f"{origin}: " if origin else ""


def _fitting(
    tokens: Tokens, messages: Sequence[Message], length: int | None, origin: str, prompt: bool, whole: bool = True
) -> tuple[int, tuple[np.ndarray, np.ndarray]]:
    """How many of the oldest turns are cut so that the others have room, and these as ids with what is learned."""
    first = next((place for place, message in enumerate(messages) if message.role != "system"), len(messages))
    rest = messages[first:]
    turns = [place for place, message in enumerate(rest) if place == 0 or message.role == "user" != rest[place - 1].role]

    def encoded(cut: int) -> tuple[np.ndarray, np.ndarray]:
        return _encode(tokens, [*messages[:first], *rest[turns[cut] if turns else 0 :]], origin, prompt)

    found = encoded(0)
    if length is None or len(found[0]) <= length:
        return 0, found
    low, high = 1, max(len(turns) - 1, 0)  # the fewest cuts are among these, if any are enough
    found = encoded(high)
    if len(found[0]) > length:
        if not whole:
            return high, found
        raise UserError(
            f"{_at(origin)}the last turn alone has {len(found[0])} tokens with what the system says, and there is room for "
            f"{length}; shorten it, or give more room: longer rows (training.length), a network with more positions"
        )
    while low < high:
        middle = (low + high) // 2
        tried = encoded(middle)
        if len(tried[0]) <= length:
            high, found = middle, tried
        else:
            low = middle + 1
    return high, found


def _encode(tokens: Tokens, messages: Sequence[Message], origin: str, prompt: bool) -> tuple[np.ndarray, np.ndarray]:
    """Ids, and whether each is learned."""
    names = {name: index for index in tokens.special if (name := tokens.tokenizer.id_to_token(index))}
    of = {str(index): name for name, index in names.items()}
    any_name = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or "(?!)")
    said = [Message(one.role, any_name.sub(lambda name: f"{NAMED}{names[name[0]]}{ENDED}", one.content)) for one in messages]
    text = any_name.sub(lambda name: f"{OPEN}{names[name[0]]}{CLOSE}", _rendered(tokens, said, origin, prompt))
    text = re.sub(f"{NAMED}(\\d+){ENDED}", lambda number: of[number[1]], text)
    if not TAGGED.search(_template(tokens)):  # the template's own tags say where its closing token is
        text = re.sub(f"{END}(\\s*{OPEN}\\d+{CLOSE})", rf"\1{END}", text)
    parts: list[str | int] = []
    is_learned, now = [], False
    for piece in re.split(f"({BEGIN}|{END}|{OPEN}\\d+{CLOSE})", text):
        if piece in (BEGIN, END):
            now = piece == BEGIN
        elif piece:
            parts.append(int(piece[1:-1]) if piece[0] == OPEN else piece)
            is_learned.append(now)
    ids, owners = tokens.encode_mixed(parts)
    return np.array(ids, np.int64), np.array(is_learned, bool)[owners]


def _rendered(tokens: Tokens, messages: Sequence[Message], origin: str, prompt: bool) -> str:
    """What the template writes, with BEGIN and END around what is learned.

    Where it has no tags, they go around what the assistant says, with the spaces around that or without, as the template leaves
    them or takes them away; they must change nothing.
    """
    plain = _render(tokens, messages, origin, prompt)
    if TAGGED.search(_template(tokens)):
        return plain
    for around in (r"(?s)\A()(.*)()\Z", r"(?s)\A(\s*)(.*?)(\s*)\Z"):
        marked = [
            Message(one.role, re.sub(around, rf"\1{BEGIN}\2{END}\3", one.content)) if one.role == "assistant" else one
            for one in messages
        ]
        text = _render(tokens, marked, origin, prompt)
        answers = sum(message.role == "assistant" for message in messages)
        if re.sub(f"[{BEGIN}{END}]", "", text) == plain and text.count(BEGIN) == text.count(END) == answers:
            return text
    raise UserError(
        f"{_at(origin)}the tokenizer's chat template changes or leaves out what the assistant says, and has no generation tags, "
        "so it cannot be told what is learned; put {% generation %} and {% endgeneration %} around that"
    )


def _render(tokens: Tokens, messages: Sequence[Message], origin: str, prompt: bool) -> str:
    special = {name: value["content"] if isinstance(value, dict) else value for name, value in tokens.config.items()
               if name.endswith("_token") and value}  # fmt: skip
    try:
        return _compiled(_template(tokens)).render(
            messages=[{"role": message.role, "content": message.content} for message in messages],
            tools=None, documents=None, add_generation_prompt=prompt, **special,
        )  # fmt: skip
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise UserError(f"{_at(origin)}the tokenizer's chat template refuses this conversation: {error}") from None


def _template(tokens: Tokens) -> str:
    """The tokenizer's template, of several the default. Raises UserError where it has none."""
    found: Any = tokens.config.get("chat_template")
    if isinstance(found, list):
        found = {one["name"]: one["template"] for one in found}
    if isinstance(found, dict):
        found = found.get("default")
    if not found:
        raise UserError("this tokenizer has no chat template: fine-tune the model on conversations first, which gives it one")
    return found


class _Generation(Extension):
    """The tags {% generation %} and {% endgeneration %}, of transformers: what is between them is what the assistant writes."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 has it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Any) -> str:
        return f"{BEGIN}{caller()}{END}"


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: Any, **settings: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, **settings})

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)
