"""Generation: a decoder continues beginnings, an encoder-decoder answers sources, one token at a time, with a cache of keys
and values. Beam search is in yanmo.beams.

The order of the operations on the scores, and what each does, is that of transformers' logits processors: repetition penalty
(Keskar et al. 2019, arXiv:1909.05858, section 4.1), temperature, top-k (Fan et al. 2018, arXiv:1805.04833), top-p (Holtzman
et al. 2019, arXiv:1904.09751).
Letters: R rows, T tokens of a row, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from yanmo.beams import BeamSettings, beam_search, groups
from yanmo.errors import UserError
from yanmo.models import Network, Seq2Seq, Writer
from yanmo.models.network import in_mode
from yanmo.models.writers import begin, compact, go_on
from yanmo.recipe import article
from yanmo.scoring import packed_rows, random_of
from yanmo.tokenizer import Tokens

COLDEST = 1e-4
"""The lowest temperature by which scores are divided: lower ones give no numbers."""
ROWS = 128
"""Prompts that are continued at once at most."""
PLACES = 1 << 15
"""Places of their caches at most: this bounds the memory where texts are long."""
UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a decoder of bytes writes for a character of which not all bytes are there."""


@dataclass(frozen=True)
class Generated:
    """A continuation. text: what follows the prompt, or what an encoder-decoder writes of it. tokens: the new ids, the end of
    text included where it came.

    stopped: by the end of text, by max_new_tokens, or because the network has no more positions. score: what a beam search
    compares texts by.
    """

    prompt: str
    text: str
    tokens: tuple[int, ...]
    stopped: Literal["end", "length", "positions"]
    score: float | None = None


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from the scores. Raises UserError for a value that makes no sense.

    temperature 0 takes the best token. top_k 0 and top_p 1 leave out nothing; repetition_penalty 1 changes nothing, more
    makes tokens rarer that the prompt or the continuation already has.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not (self.temperature == 0 or COLDEST <= self.temperature < math.inf):
            raise UserError(f"temperature {self.temperature}: it must be 0 (always the best token), or {COLDEST} and more")
        if self.top_k < 0:
            raise UserError(f"top_k {self.top_k}: it must be 0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p {self.top_p}: it must be above 0 and at most 1 (all tokens)")
        if not self.repetition_penalty > 0:
            raise UserError(f"repetition_penalty {self.repetition_penalty}: it must be above 0; 1 changes nothing")

    @property
    def changes(self) -> bool:
        """Whether a token's chance is anything but what the network gives it."""
        return self not in (Sampling(), Sampling(temperature=0))

    def scores(self, logits_RV: Tensor, seen_RV: Tensor) -> Tensor:
        """The scores that the choice is made from, (R, V). seen_RV: which tokens each row already has."""
        scores = logits_RV
        if self.repetition_penalty != 1:
            penalty = self.repetition_penalty
            scores = torch.where(seen_RV, torch.where(scores < 0, scores * penalty, scores / penalty), scores)
        if self.temperature == 0:
            return scores
        scores = scores / self.temperature
        if 0 < self.top_k < scores.shape[-1]:
            scores = scores.masked_fill(scores < scores.topk(self.top_k).values[:, -1:], float("-inf"))
        if self.top_p < 1:
            ascending, order = scores.sort(dim=-1)
            left_out = ascending.softmax(-1).cumsum(-1) <= 1 - self.top_p
            left_out[:, -1] = False
            scores = scores.masked_fill(left_out.scatter(1, order, left_out), float("-inf"))
        return scores

    def choose(self, logits_RV: Tensor, seen_RV: Tensor, generators: Sequence[torch.Generator]) -> list[int]:
        """The next token of each row, by the row's own randomness."""
        scores = self.scores(logits_RV.float(), seen_RV)
        if self.temperature == 0:
            return scores.argmax(-1).tolist()
        sums_RV = scores.softmax(-1).cpu().double().cumsum(-1)  # where the generators are, whatever the device
        drawn_R1 = torch.stack([torch.rand(1, dtype=torch.float64, generator=own) for own in generators])
        return torch.searchsorted(sums_RV, drawn_R1 * sums_RV[:, -1:], right=True)[:, 0].tolist()


class TextStream:
    """Tokens in, text out as soon as it is sure: a character whose bytes are spread over tokens comes when it is whole.

    A token's text depends on what stands before it (a first space is stripped), so each is decoded with its predecessors
    since the last piece; `prompt` gives the first ones.
    """

    def __init__(self, tokens: Tokens, prompt: Sequence[int]):
        self.tokens = tokens
        self.ids = list(prompt)
        self.begin, self.told = _last_whole(tokens, self.ids), len(self.ids)

    def feed(self, token: int) -> str:
        """The text that has become sure with one more token, perhaps none."""
        self.ids.append(token)
        new = self._new()
        if not new or new.endswith(UNFINISHED):
            return ""
        self.begin, self.told = self.told, len(self.ids)
        return new

    def finish(self) -> str:
        """What was held back, without an unfinished character at its end."""
        return self._new().rstrip(UNFINISHED)

    def _new(self) -> str:
        before = self.tokens.decode(self.ids[self.begin : self.told], skip_special=True)
        whole = self.tokens.decode(self.ids[self.begin :], skip_special=True)
        if whole.startswith(before):
            return whole[len(before) :]
        return self.tokens.decode(self.ids[self.told :], skip_special=True)  # a stray byte spoils the run of bytes before it


@dataclass
class _Writing:
    """One prompt while it is continued. ids: what is continued; source: what an encoder-decoder reads. limit: how many new
    tokens there is room for."""

    index: int
    prompt: str
    ids: list[int]
    limit: int
    random: torch.Generator
    stream: TextStream
    source: list[int]
    new: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    stopped: Literal["end", "length", "positions"] | None = None
    score: float | None = None


@torch.no_grad()
def generate(
    network: Network,
    tokens: Tokens,
    prompts: str | Sequence[str | Sequence[int]],
    *,
    beams: int | BeamSettings = 1,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    stop_at_end: bool = True,
    ends: Iterable[int] = (),
    on_text: Callable[[int, str], None] | None = None,
) -> list[Generated]:
    """Continue each prompt, or write what it becomes (encoder-decoders); see Sampling for how tokens are chosen.

    A prompt is a text, or ids with all special tokens. beams: more than one, or their settings, for the likeliest text that a
    beam search finds, in which nothing is drawn. A continuation depends on (seed, prompt, how many times the same prompt came
    before), not on what else is in the batch; prompts of about the same length are continued together. ends: ids that stop a
    text beside those that the tokenizer and the model folder name. on_text is given (number of the prompt, new text) as it comes.
    Raises UserError for an encoder, for settings that make no sense, and for a prompt that is empty (where the tokenizer has
    nothing to begin with) or longer than the positions.
    """
    if network.judges:
        raise UserError(f"generate: {article(network.config.family)} writes nothing: it {network.judges}")
    if not isinstance(network, Writer):
        raise UserError(
            f"{article(network.config.family)} fills gaps and does not continue text; use fill (`yanmo fill MODEL TEXT`), "
            "or train a decoder or an encoder-decoder: gpt2, llama, qwen3, t5, bart, lstm"
        )
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens {max_new_tokens}: it must be at least 1")
    sampling = Sampling(temperature, top_k, top_p, repetition_penalty)
    searching = BeamSettings(beams) if isinstance(beams, int) else beams
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    writings = list(_begin(network, tokens, prompts, max_new_tokens, seed))
    stops = _ends(network, tokens) | frozenset(ends) if stop_at_end else frozenset(ends)
    if searching != BeamSettings(1):
        if sampling.changes:
            raise UserError("beams: a beam search draws nothing; leave out temperature, top_k, top_p and repetition_penalty")
        _search(network, tokens, writings, searching, max_new_tokens, stops, on_text)
        return [_result(writing, max_new_tokens) for writing in writings]
    with in_mode(network):
        for group in groups([len(one.source) + len(one.ids) + one.limit for one in writings], ROWS, PLACES):
            _write(network, tokens, [writings[index] for index in group], sampling, stops, on_text)
    return [_result(writing, max_new_tokens) for writing in writings]


def _begin(
    network: Writer, tokens: Tokens, prompts: Sequence[str | Sequence[int]], max_new_tokens: int, seed: int
) -> Iterator[_Writing]:
    """What each prompt starts from: its ids, its room and its randomness."""
    longest = network.config.length
    before: Counter[str] = Counter()
    for index, given in enumerate(prompts):
        if isinstance(given, str):
            prompt, [encoded] = given, tokens.encode([given], named=True)
            given = [*tokens.prefix, *encoded]
            # the end of a text is the beginning of the next
            given = [*given, *tokens.suffix] if isinstance(network, Seq2Seq) else given or [*tokens.suffix[-1:]]
        else:
            prompt, given = tokens.decode(given), list(given)
        source, ids = (given, [network.config.decoder_start]) if isinstance(network, Seq2Seq) else ([], given)
        if not given:
            raise UserError(f"prompt {index + 1} is empty, and this tokenizer has no token that begins a text; give some text")
        if len(given) > longest:
            raise UserError(
                f"prompt {index + 1} ({prompt[:30]!r}) has {len(given)} tokens, more than the {longest} positions of this "
                f"{network.config.family}; shorten it, or train with larger model.positions"
            )
        room = longest - len(ids) + 1  # the last token is written and not read again
        random = random_of(f"{seed}/{before[prompt]}/{prompt}")
        before[prompt] += 1
        yield _Writing(index, prompt, ids, min(room, max_new_tokens), random, TextStream(tokens, ids), source)


def _write(
    network: Writer,
    tokens: Tokens,
    writings: list[_Writing],
    sampling: Sampling,
    ends: frozenset[int],
    on_text: Callable[[int, str], None] | None,
) -> None:
    """Continue a batch until every row has stopped; rows that have are taken out."""
    device = network.device
    seen_RV = torch.zeros(len(writings), network.config.vocabulary, dtype=torch.bool, device=device)
    for row, writing in enumerate(writings):
        seen_RV[row, writing.ids] = True
    sources = [writing.source for writing in writings]
    source = packed_rows(sources, tokens.pad, device) if isinstance(network, Seq2Seq) else None
    places = max(len(writing.ids) + writing.limit - 1 for writing in writings)
    cache, last_RD = begin(network, [writing.ids for writing in writings], places, tokens.pad, source)
    while True:
        logits_RV = network.logits(last_RD)
        logits_RV[:, tokens.size :] = float("-inf")  # ids that only pad the vocabulary are no tokens
        chosen = sampling.choose(logits_RV, seen_RV, [writing.random for writing in writings])
        for writing, token in zip(writings, chosen, strict=True):
            _add(writing, token, ends, on_text)
        order = compact([writing.stopped is None for writing in writings])
        if not order:
            return
        if len(order) < len(writings):
            writings = [writings[row] for row in order]
            kept = torch.tensor(order, device=device)
            cache.reorder(kept)
            seen_RV = seen_RV[kept]
        new_R = torch.tensor([writing.new[-1] for writing in writings], device=device)
        seen_RV.scatter_(1, new_R[:, None], True)
        last_RD = go_on(network, cache, new_R)


def _search(
    network: Writer,
    tokens: Tokens,
    writings: list[_Writing],
    settings: BeamSettings,
    max_new_tokens: int,
    ends: frozenset[int],
    on_text: Callable[[int, str], None] | None,
) -> None:
    """Write the best text that a beam search finds."""
    texts = [writing.source or writing.ids for writing in writings]
    found = beam_search(network, texts, settings, max_new_tokens=max_new_tokens, ends=ends, pad=tokens.pad, tokens=tokens.size)
    for writing, beams in zip(writings, found, strict=True):
        if not beams:
            raise UserError(f"prompt {writing.index + 1}: everything is forbidden; raise no_repeat_ngram_size or set it to 0")
        writing.score = beams[0].score
        for token in beams[0].tokens:
            _add(writing, token, ends, on_text)


def _add(writing: _Writing, token: int, ends: frozenset[int], on_text: Callable[[int, str], None] | None) -> None:
    """Take a token into a continuation, tell the text that has become sure, and stop where it is time."""
    writing.new.append(token)
    if token in ends:
        writing.stopped = "end"
        piece = writing.stream.finish()
    else:
        piece = writing.stream.feed(token)
        if len(writing.new) == writing.limit:
            writing.stopped = "length"
            piece += writing.stream.finish()
    if piece:
        writing.pieces.append(piece)
        if on_text is not None:
            on_text(writing.index, piece)


def _result(writing: _Writing, max_new_tokens: int) -> Generated:
    assert writing.stopped is not None, "a continuation is handed out when it has stopped"
    short = writing.stopped == "length" and writing.limit < max_new_tokens
    text = "".join(writing.pieces)
    return Generated(writing.prompt, text, tuple(writing.new), "positions" if short else writing.stopped, writing.score)


def _ends(network: Network, tokens: Tokens) -> frozenset[int]:
    """The ids that end a text: the tokenizer's, and those that the model folder names."""
    named = network.config.settings.get("eos_token_id")
    named = [] if named is None else [named] if isinstance(named, int) else list(named)
    return frozenset([*tokens.suffix[-1:], *named])


def _last_whole(tokens: Tokens, ids: list[int]) -> int:
    """Where to begin decoding, so that the prompt's last characters are whole: a few tokens before its end."""
    for back in range(4, len(ids) + 1):
        begin = len(ids) - back
        if not tokens.decode(ids[begin:], skip_special=True).startswith(UNFINISHED):
            return begin
    return 0
