"""Texts that a network writes while it is trained, token by token, all rows of a batch at once.

Letters: N texts, L places of a text, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from yanmo.batch import Packed
from yanmo.models.cache import Cache
from yanmo.models.network import Network
from yanmo.objectives.cross_entropy import draw

FEW = 0.75
"""Where a smaller share of the rows is still being written, those that have ended are taken out."""


@dataclass(frozen=True)
class Pen:
    """A network that continues text, and what its tokenizer says of a text. prefix: what each is written after, at least one
    token. end: what ends it. size: tokens there are. length: tokens of the longest text, its end included."""

    network: Network
    prefix: tuple[int, ...]
    end: int
    pad: int
    size: int
    length: int

    @torch.no_grad()
    def write(self, count: int) -> Tensor:
        """Texts drawn from the network by torch's random state, (N, L), padded after their ends."""
        return self._finish(*self._begin(count), self.length)

    @torch.no_grad()
    def write_and_judge(self, count: int, rollouts: int, judge: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Texts (N, L) and what each of their tokens is worth, (N, L): the mean of what `judge` thinks, (texts, L) to (texts), of
        `rollouts` texts that go on from there as the network would (SeqGAN: Yu et al. 2017, equation 4); of the last
        token, of the text itself."""
        cache, hidden_ND = self._begin(count)
        texts_NL, worth_NL = self._empty(count), torch.zeros(count, self.length, device=self.network.device)
        going_N = torch.arange(count, device=self.network.device)
        for place in range(self.length - 1):
            chosen_N = self._draw(hidden_ND)
            texts_NL[going_N, place] = chosen_N
            kept_N = (chosen_N != self.end).nonzero()[:, 0]
            going_N = going_N[kept_N]
            if not len(going_N):
                break
            cache.keep(kept_N)
            hidden_ND = self._read(chosen_N[kept_N], cache)
            other, rows_N = copy(cache), torch.arange(len(going_N), device=going_N.device).repeat_interleave(rollouts)
            other.keep(rows_N)
            tried = texts_NL[going_N[rows_N]]
            tried[:, place + 1 :] = self._finish(other, hidden_ND[rows_N], self.length - place - 1)
            worth_NL[going_N, place] = judge(tried).float().view(-1, rollouts).mean(1)
        else:
            texts_NL[going_N, -1] = self._draw(hidden_ND)
        return texts_NL, worth_NL.scatter(1, self.sizes(texts_NL)[:, None] - 1, judge(texts_NL).float()[:, None])

    def sizes(self, texts_NL: Tensor) -> Tensor:
        """How many tokens each text has, (N,), its end included."""
        ended = texts_NL == self.end
        return torch.where(ended.any(1), ended.int().argmax(1) + 1, texts_NL.shape[1])

    def places(self, texts_NL: Tensor) -> Tensor:
        """Where in N*L the tokens of texts stand, (M,)."""
        return (torch.arange(texts_NL.shape[1], device=texts_NL.device) < self.sizes(texts_NL)[:, None]).flatten().nonzero()[:, 0]

    def read_again(self, texts_NL: Tensor) -> Tensor:
        """The hidden states from which each token of texts was written, (N, L, D), with their gradients."""
        before = self._prefixes(len(texts_NL))
        given = torch.cat([before, texts_NL[:, :-1]], 1)
        position = torch.arange(given.shape[1], device=given.device).expand_as(given)
        real = position < (self.sizes(texts_NL) + before.shape[1] - 1)[:, None]
        packed = Packed(given.masked_fill(~real, self.pad), real.long(), position * real)
        return self.network(packed)[:, before.shape[1] - 1 :]

    def _begin(self, count: int) -> tuple[Cache, Tensor]:
        """The cache of rows that stand at their beginnings, and the hidden states from which they go on."""
        cache = self.network.cache(count, len(self.prefix) + self.length)  # pyright: ignore[reportCallIssue]  # it continues
        return cache, self.network(cache.take(self._prefixes(count)), cache)[:, -1]

    def _finish(self, cache: Cache, hidden_ND: Tensor, length: int) -> Tensor:
        """What rows go on with, (N, length)."""
        written = self._empty(len(hidden_ND))[:, :length]
        rows_N = torch.arange(len(hidden_ND), device=hidden_ND.device)
        going_N = torch.ones_like(rows_N, dtype=torch.bool)
        for place in range(length):
            chosen_N = self._draw(hidden_ND)
            written[rows_N, place] = torch.where(going_N, chosen_N, self.pad)
            going_N = going_N & (chosen_N != self.end)
            left = int(going_N.sum())
            if not left or place == length - 1:
                break
            if left < FEW * len(rows_N):
                kept_N = going_N.nonzero()[:, 0]
                cache.keep(kept_N)
                rows_N, chosen_N, going_N = rows_N[kept_N], chosen_N[kept_N], going_N[kept_N]
            hidden_ND = self._read(chosen_N, cache)
        return written

    def _read(self, tokens_N: Tensor, cache: Cache) -> Tensor:
        return self.network(cache.take(tokens_N[:, None]), cache)[:, 0]

    def _draw(self, hidden_ND: Tensor) -> Tensor:
        return draw(self.network.logits(hidden_ND)[:, : self.size], torch.rand(len(hidden_ND), device=hidden_ND.device))

    def _empty(self, count: int) -> Tensor:
        return torch.full((count, self.length), self.pad, device=self.network.device)

    def _prefixes(self, count: int) -> Tensor:
        return torch.tensor(self.prefix, device=self.network.device).expand(count, -1)
