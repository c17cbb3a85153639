"""Talking with a model that has learned conversations, by the template that it has learned them with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from yanmo.errors import UserError
from yanmo.labelled.examples import Message
from yanmo.models import Network
from yanmo.tasks.chat import encode_prompt
from yanmo.tasks.dialogue import Reply, reply_to
from yanmo.tokenizer import Tokens

RESET, EXIT = "/reset", "/exit"
HELP = f"{RESET} begins anew, {EXIT} ends"


class Talk:
    """A conversation, and what is said next in it. A reply depends on the seed and on what was said before, on nothing else."""

    def __init__(
        self, network: Network, tokens: Tokens, system: str | None = None, *, longest: int = 256, seed: int = 0, **sampling: Any
    ):
        """system: what the model is told before anything is said. longest: tokens of a reply at most. sampling: temperature,
        top_k, top_p and repetition_penalty, as `generate` takes them. Raises UserError for a tokenizer without a template."""
        self.network, self.tokens, self.longest = network, tokens, longest
        self.sampling = {"temperature": 0.7, "top_p": 0.9, "seed": seed, **sampling}
        self.start = [] if system is None else [Message("system", system)]
        self.messages = [*self.start]
        encode_prompt(tokens, [Message("user", "a")])

    def say(self, text: str, on_text: Callable[[str], None] | None = None) -> Reply:
        """The reply to what a person says; `on_text` is given its text as it comes. What is not answered is forgotten.

        Raises UserError for an empty text, and for one that the network has no room for.
        """
        asked = [*self.messages, Message("user", text)]
        tell = None if on_text is None else lambda _, piece: on_text(piece)
        (reply,) = reply_to(self.network, self.tokens, [(asked, "")], self.longest, tell, **self.sampling)
        if reply.text:
            self.messages = [*asked, Message("assistant", reply.text)]
        return reply

    def reset(self) -> None:
        """Begin anew: only what the system says stays."""
        self.messages = [*self.start]


def converse(talk: Talk, lines: Iterable[str], write: Callable[[str], None]) -> None:
    """Answer each line as it comes; what the conversation is told itself is in HELP."""
    for line in lines:
        said = line.strip()
        if said == EXIT:
            return
        if said == RESET:
            talk.reset()
            write("(begun anew)\n")
        elif said.startswith("/"):
            write(f"({said.split()[0]} is not known: {HELP})\n")
        elif said:
            try:
                reply = talk.say(said, write)
            except UserError as error:                     # too long, perhaps: the conversation goes on without it
                write(f"({error})\n")
                continue
            notes = [] if reply.text else ["it has nothing to say"]
            notes += [] if reply.ended else ["cut off: it said as much as is allowed"]
            notes += [f"it has no room for the oldest {reply.cut} turns any more"] if reply.cut else []
            write((f" ({'; '.join(notes)})" if notes else "") + "\n")
