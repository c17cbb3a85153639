"""Conversations: what the assistant says is learned, from what was said before it.

Decoders and LSTMs read a conversation as one text and learn all answers in it at once (Zhang et al. 2019, arXiv:1911.00536,
section 3, where the rest is learned too). Encoder-decoders read what was said before and write the answer (Roller et al. 2020,
arXiv:2004.13637): a window for each answer. The template is that of yanmo.tasks.chat, in training as in use.
Letters: R rows, T places of a row, N tokens of a window.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from yanmo.batch import Row, to_device
from yanmo.errors import UserError
from yanmo.generation import generate
from yanmo.labelled.content import some_of
from yanmo.labelled.examples import Conversation, Message
from yanmo.models import Network, Seq2Seq
from yanmo.models.heads import TaskHead
from yanmo.models.network import in_mode
from yanmo.objectives.objective import Loss
from yanmo.objectives.rewriting import Example, RewrittenBatch, Sides
from yanmo.progress import Progress, silent
from yanmo.tasks import text_metrics
from yanmo.tasks.chat import Learned, closing, encode_conversation, encode_prompt, preview, with_chat
from yanmo.tasks.task import Task
from yanmo.tasks.windows import NO_WORDS, Window, lay_windows
from yanmo.tokenizer import Tokens

LOSSES = ("loss", "perplexity")
"""Figures that need nothing written."""
AT_ONCE = 128
"""Replies between two signs of progress."""


@dataclass(frozen=True)
class TalkedWindow(Window):
    """A conversation, or of an encoder-decoder one answer and what was said before it. learned: (N,) what the assistant says.
    cut: the oldest turns that there was no room for; lost: tokens at the end. taken: places of a row, where not all tokens are in
    the same row."""

    learned: np.ndarray = field(default_factory=lambda: NO_WORDS)
    cut: int = 0
    lost: int = 0
    taken: int | None = None

    @property
    def places(self) -> int:
        return len(self.tokens) if self.taken is None else self.taken


@dataclass(frozen=True)
class Reply:
    """What the assistant says. ended: it is not only so long because more was not allowed. cut: the oldest turns that had no room
    to be read in."""

    text: str
    ended: bool = True
    cut: int = 0


class Dialogue(Task):
    """The loss is of what the assistant says and of the token that closes it, in nats a token; what it writes is compared with
    nothing, for there are many good answers: only how varied it is is measured (Li et al. 2016, arXiv:1510.03055)."""

    kind = "dialogue"
    metric = "loss"
    lower = (*LOSSES, "repetition")
    hundredths = LOSSES
    takes = "instruction"
    by_eye = True
    longest = 1024

    def __init__(
        self, network: Network, head: TaskHead | None, tokens: Tokens, section: Any, labels: Sequence[str], length: int
    ):
        super().__init__(network, head, tokens, section, labels, length)
        self.check_family("writes no answers", network.judges)
        self.sides = Sides(network, tokens, self.kind, both_ways=False)
        self.two_sided = isinstance(network, Seq2Seq)
        if not self.two_sided:                                # what goes on with it elsewhere stops where an answer is closed
            ends = network.config.settings.get("eos_token_id")
            ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
            ends = list(dict.fromkeys([*ends, *sorted(closing(tokens))]))
            network.config = replace(network.config, settings={**network.config.settings, "eos_token_id": ends})

    @classmethod
    def tokens_for(cls, section: Any, tokens: Tokens) -> Tokens:
        return with_chat(tokens)

    @classmethod
    def labels_of(cls, section: Any, examples: Sequence[Conversation]) -> tuple[str, ...]:
        if not any(message.role == "assistant" for example in examples for message in example.messages):
            raise UserError("dialogue: in none of the conversations to learn from does the assistant say anything")
        return ()

    def encode(self, examples: Sequence[Conversation]) -> list[Window]:
        """A window for each conversation, or for each answer in it; none where what is answered fills the row by itself. Raises
        UserError for a conversation without an answer."""
        windows: list[Window] = []
        full: list[str] = []
        for number, example in enumerate(examples):
            for found in self._encoded(example):
                if found.learned.any():
                    windows.append(self._window(len(windows), number, found))
                else:
                    full.append(example.origin)
        if full:
            warnings.warn(
                f"dialogue: {len(full)} answers are not learned, for what they answer fills a row of {self.length} by itself "
                f"(the first: {full[0]}); lengthen training.length",
                stacklevel=2,
            )
        return windows

    def _encoded(self, example: Conversation) -> list[Learned]:
        messages, learn, origin = example.messages, self.section.learn, example.origin
        if not self.two_sided:
            return [encode_conversation(self.tokens, messages, learn, self.length, origin, whole=False)]
        ends = [place for place, message in enumerate(messages, 1) if message.role == "assistant"]
        if not ends:
            raise UserError(f"{origin}: nobody answers in this conversation, so there is nothing to learn")
        room = self.length - self.sides.around
        return [
            encode_conversation(self.tokens, messages[:end], "last", room, origin, whole=False)
            for end in (ends if learn == "assistant" else ends[-1:])
        ]

    def _window(self, number: int, example: int, found: Learned) -> TalkedWindow:
        ids, learned, taken = found.ids, found.learned, None
        if self.two_sided:
            inside = _inside(self.sides.prefix, ids)
            ids, learned = ids[inside:], learned[inside:]
            answer = int(learned.sum())
            taken = self.sides.places(len(ids) - answer, answer, len(ids))
        return TalkedWindow(
            document=number, tokens=ids, sentences=NO_WORDS, words=NO_WORDS, ends=not found.lost, example=example,
            learned=learned, cut=found.cut, lost=found.lost, taken=taken,
        )  # fmt: skip

    def notes(self, windows: Sequence[Window]) -> list[str]:
        windows = [window for window in windows if isinstance(window, TalkedWindow)]
        what, many = "answers" if self.two_sided else "conversations", f"of {len(windows):,}"
        cut, lost = [one.cut for one in windows if one.cut], [one.lost for one in windows if one.lost]
        found = []
        if cut:
            found.append(
                f"{len(cut):,} {many} {what} are longer than a row of {self.length}: their oldest {sum(cut):,} turns are left out"
            )
        if lost:
            found.append(
                f"{len(lost):,} {many} {what} have a last turn that is longer by itself: {sum(lost):,} tokens at its end are not "
                "learned; lengthen training.length"
            )
        return found

    def shown(self, windows: Sequence[Window]) -> list[str]:
        """The first conversation; in brackets what is learned of it."""
        from rich.console import Console

        first = next(window for window in windows if isinstance(window, TalkedWindow))
        text = io.StringIO()
        preview(self.tokens, first.tokens, first.learned, Console(file=text, color_system=None, highlight=False))
        return [f"the first conversation, and ⟦what is learned of it⟧:\n{text.getvalue().rstrip()}"]

    def collate(self, rows: Sequence[Row], length: int) -> RewrittenBatch:
        if self.two_sided:
            windows = [[piece for piece in row.pieces if isinstance(piece, TalkedWindow)] for row in rows]
            examples = [[Example(one.tokens[~one.learned], one.tokens[one.learned], one.ends) for one in row] for row in windows]
            return self.sides.lay(examples, length)
        laid = lay_windows(rows, length, self.tokens.pad)
        learned = [window.learned.nonzero()[0] for window in laid.windows if isinstance(window, TalkedWindow)]
        places = np.concatenate([first + own[own > 0] for first, own in zip(laid.firsts, learned, strict=True)])
        answers = laid.packed.tokens.flatten()[torch.from_numpy(places)]
        counts = {self.kind: len(places), "accuracy": len(places)}
        return RewrittenBatch(None, laid.packed, torch.from_numpy(places - 1), answers, counts)

    def losses(self, batch: RewrittenBatch, turn: str) -> dict[str, Loss]:
        return self.sides.losses(self.network, batch)

    def predictions(self, examples: Sequence[Conversation], progress: Progress = silent) -> list[Reply]:
        """The likeliest reply to each conversation, token by token. Raises UserError for one that does not end with the user."""
        found: list[Reply] = []
        for begin in range(0, len(examples), AT_ONCE):
            group = examples[begin : begin + AT_ONCE]
            prompts = [(example.messages, example.origin) for example in group]
            found += reply_to(self.network, self.tokens, prompts, self.section.longest, temperature=0.0)
            progress(len(found), len(examples), "replies")
        return found

    def measured(self, examples: Sequence[Conversation]) -> tuple[dict[str, float], Sequence[Conversation], Sequence[Reply]]:
        """The loss of all, and the variety of the last replies to `checked` of them, from all over; and these replies."""
        chosen = some_of(examples, self.section.checked)
        answered = [(example, before) for example in chosen if (before := _before_the_last_answer(example.messages))]
        if not answered:
            return self.held_out(examples), [], []
        asked = [replace(example, messages=before) for example, before in answered]
        whole = [replace(example, messages=example.messages[: len(before) + 1]) for example, before in answered]
        replies = self.predictions(asked)
        return self.held_out(examples) | self.figures(asked, replies), whole, replies

    def check(self, examples: Sequence[Conversation]) -> dict[str, float]:
        return self.held_out(examples) if self.deciding in LOSSES else self.appraise(examples)

    def told(self, prediction: Reply) -> str:
        return prediction.text

    def figures(self, examples: Sequence[Conversation], predictions: Sequence[Reply]) -> dict[str, float]:
        return text_metrics.variety([reply.text for reply in predictions])

    @torch.no_grad()
    def held_out(self, examples: Sequence[Conversation]) -> dict[str, float]:
        """The mean loss of a token that the assistant says, in nats, and its exponential."""
        total, count = 0.0, 0
        with in_mode(self):
            windows = self.encode(examples)
            for rows, length in self._rows(windows) if windows else ():
                batch = to_device(self.collate(rows, length), self.network.device)
                total += float(self.losses(batch, "model")[self.kind].total)
                count += batch.counts[self.kind]
        if not count:
            raise UserError("dialogue: nothing that the assistant says has a place in a row; lengthen training.length")
        return {"loss": total / count, "perplexity": math.exp(min(total / count, 700.0))}


def reply_to(
    network: Network,
    tokens: Tokens,
    conversations: Sequence[tuple[Sequence[Message], str]],
    longest: int,
    on_text: Callable[[int, str], None] | None = None,
    **sampling: Any,
) -> list[Reply]:
    """What the assistant says next in each conversation, messages and where they stand, in at most `longest` tokens.

    sampling: as `generate` takes it. Half of the positions at most are kept for the reply. Raises UserError for a tokenizer
    without a chat template, a conversation that does not end with the user, and for a last turn that has no room.
    """
    for messages, origin in conversations:
        if messages and messages[-1].role != "user":
            last = f"ends with what the {messages[-1].role} says"
            raise UserError(f"{origin or 'the conversation'} {last}; there is nothing to answer")
    sides = Sides(network, tokens, "dialogue")
    positions, apart = network.config.length, isinstance(network, Seq2Seq)
    new = min(longest, positions if apart else positions // 2)
    room = positions - (sides.around if apart else new)
    prompts = [encode_prompt(tokens, messages, room, origin) for messages, origin in conversations]
    given = [prompt.ids for prompt in prompts]
    if apart:
        given = [[*sides.prefix, *ids[_inside(sides.prefix, ids) :], *sides.suffix] for ids in given]
    ends = closing(tokens)
    written = generate(network, tokens, given, max_new_tokens=new, ends=ends, on_text=on_text, **sampling)
    return [Reply(one.text.strip(), one.stopped == "end", prompt.cut) for one, prompt in zip(written, prompts, strict=True)]


def _inside(prefix: Sequence[int], ids: Sequence[int] | np.ndarray) -> int:
    """Where a rendered conversation begins after what the tokenizer puts before every text, if the template writes it too."""
    return len(prefix) if tuple(map(int, ids[: len(prefix)])) == tuple(prefix) else 0


def _before_the_last_answer(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Up to the last thing that the user says and the assistant answers; () where there is none."""
    roles = [message.role for message in messages]
    answers = [place for place in range(1, len(roles)) if roles[place - 1 : place + 1] == ["user", "assistant"]]
    return tuple(messages[: answers[-1]]) if answers else ()
