"""Generation: a decoder continues beginnings, an encoder-decoder answers sources, one token at a time, with a cache of keys
and values.

The order of the operations on the scores, and what each does, is that of transformers' logits processors: repetition penalty
(Keskar et al. 2019, arXiv:1909.05858, section 4.1), temperature, top-k (Fan et al. 2018, arXiv:1805.04833), top-p (Holtzman
et al. 2019, arXiv:1904.09751).
Letters: R rows, T tokens of a row, D width, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from yanmo.batch import Packed
from yanmo.errors import UserError
from yanmo.models import Decoder, Network, NGram, Recurrent, Seq2Seq
from yanmo.models.cache import Cache
from yanmo.models.network import in_mode
from yanmo.recipe import article
from yanmo.scoring import packed_rows, random_of
from yanmo.tokenizer import Tokens

Writer = Decoder | Recurrent | NGram | Seq2Seq
"""Networks that go on from a beginning. Each has a cache that says what its next input is (see models.cache)."""
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

    stopped: by the end of text, by max_new_tokens, or because the network has no more positions.
    """

    prompt: str
    text: str
    tokens: tuple[int, ...]
    stopped: Literal["end", "length", "positions"]


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
        if not self.temperature >= 0:
            raise UserError(f"temperature {self.temperature}: it must be 0 (always the best token) or more")
        if self.top_k < 0:
            raise UserError(f"top_k {self.top_k}: it must be 0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p {self.top_p}: it must be above 0 and at most 1 (all tokens)")
        if not self.repetition_penalty > 0:
            raise UserError(f"repetition_penalty {self.repetition_penalty}: it must be above 0; 1 changes nothing")

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


@torch.no_grad()
def generate(
    network: Network,
    tokens: Tokens,
    prompts: str | Sequence[str],
    *,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    stop_at_end: bool = True,
    on_text: Callable[[int, str], None] | None = None,
) -> list[Generated]:
    """Continue each prompt, or write what it becomes (encoder-decoders); see Sampling for how tokens are chosen.

    A continuation depends on (seed, prompt, how many times the same prompt came before), not on what else is in the batch.
    on_text is given (number of the prompt, new text) as it comes. Raises UserError for an encoder, for settings that make no
    sense, and for a prompt that is empty (where the tokenizer has nothing to begin with) or longer than the positions.
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
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    writings = list(_begin(network, tokens, prompts, max_new_tokens, seed))
    ends = _ends(network, tokens) if stop_at_end else frozenset()
    longest = max((len(one.source) + len(one.ids) + one.limit for one in writings), default=1)
    rows = max(1, min(ROWS, PLACES // longest))
    with in_mode(network):
        for first in range(0, len(writings), rows):
            _write(network, tokens, writings[first : first + rows], sampling, ends, on_text)
    return [_result(writing, max_new_tokens) for writing in writings]


def _begin(network: Writer, tokens: Tokens, prompts: list[str], max_new_tokens: int, seed: int) -> Iterator[_Writing]:
    """What each prompt starts from: its ids, its room and its randomness."""
    longest = network.config.length
    before: Counter[str] = Counter()
    for index, (prompt, encoded) in enumerate(zip(prompts, tokens.encode(prompts, named=True), strict=True)):
        if isinstance(network, Seq2Seq):
            source = given = [*tokens.prefix, *encoded, *tokens.suffix]
            ids = [network.config.decoder_start]
        else:
            ids = given = [*tokens.prefix, *encoded] or [*tokens.suffix[-1:]]  # the end of a text is the beginning of the next
            source = []
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
    counts = torch.tensor([len(writing.ids) for writing in writings], device=device)
    tokens_RT = torch.full((len(writings), int(counts.max())), tokens.pad, device=device)
    seen_RV = torch.zeros(len(writings), network.config.vocabulary, dtype=torch.bool, device=device)
    for row, writing in enumerate(writings):
        ids = torch.tensor(writing.ids, device=device)
        tokens_RT[row, : len(ids)] = ids
        seen_RV[row, ids] = True
    cache, read = _reader(network, tokens, writings)
    hidden_RTD = read(cache.take(tokens_RT, counts))
    last_RD = hidden_RTD[torch.arange(len(writings), device=device), counts - 1]
    while True:
        logits_RV = network.logits(last_RD)
        logits_RV[:, tokens.size :] = float("-inf")  # ids that only pad the vocabulary are no tokens
        chosen = sampling.choose(logits_RV, seen_RV, [writing.random for writing in writings])
        for writing, token in zip(writings, chosen, strict=True):
            _add(writing, token, ends, on_text)
        going = [row for row, writing in enumerate(writings) if writing.stopped is None]
        if not going:
            return
        if len(going) < len(writings):
            writings = [writings[row] for row in going]
            kept = torch.tensor(going, device=device)
            cache.keep(kept)
            seen_RV = seen_RV[kept]
        new_R1 = torch.tensor([writing.new[-1:] for writing in writings], device=device)
        seen_RV.scatter_(1, new_R1, True)
        last_RD = read(cache.take(new_R1))[:, 0]


def _reader(
    network: Writer, tokens: Tokens, writings: list[_Writing]
) -> tuple[Cache, Callable[[Packed], Tensor]]:
    """An empty cache for a batch, and the hidden states of what it takes, which it then remembers."""
    places = max(len(writing.ids) + writing.limit - 1 for writing in writings)
    if isinstance(network, Seq2Seq):
        answers = network.cache(packed_rows([writing.source for writing in writings], tokens.pad, network.device), places)
        return answers, lambda packed: network.write(packed, answers)
    cache = network.cache(len(writings), places)
    return cache, lambda packed: network(packed, cache)


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
    return Generated(writing.prompt, text, tuple(writing.new), "positions" if short else writing.stopped)


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
