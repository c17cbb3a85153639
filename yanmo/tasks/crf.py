"""A linear-chain conditional random field over the tags of sentences.

Lafferty et al. 2001; for named entities Lample et al. 2016, arXiv:1603.01360, section 2.2: the score of a sequence is the sum of
its tokens' scores, of its transitions, and of those into its first and out of its last tag; its probability is the softmax over
all sequences of the sentence's length. Forward-backward: Rabiner 1989, section III.
The recursions run in float64: they hold for scores that lie hundreds of nats apart, and cost little beside the network. A step in
time is one product with the matrix of transitions for all sentences; the gradient is found by the same recursion, backwards.
Letters: N tokens of all sentences, one sentence after the other; S sentences; K tags; W places in the order of time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yanmo.labelled.tags import TagSet, best_paths

FORBIDDEN = -float("inf")


@dataclass(frozen=True)
class _Steps:
    """The tokens in the order of time: of all sentences the first tokens, then the second ones ...; the longest sentence first,
    so that at any time the sentences that have a token are the first ones.

    order: (W,) which of the N tokens stands at each place. begins: where each time begins among the places, and where the last
    ends. ranks: (W,) of each place's sentence, from the longest. before: (W - S,) for each place after the first time, where the
    token before it stands. sentences: (S,) which sentence is the longest, the second ... last: (S,) where their last tokens are.
    """

    order: Tensor
    begins: Sequence[int]
    ranks: Tensor
    before: Tensor
    sentences: Tensor
    last: Tensor

    @classmethod
    def of(cls, lengths_S: np.ndarray, device: torch.device) -> _Steps:
        assert lengths_S.min() > 0, "a sentence without tokens has no tags: leave it out"
        sentences = np.argsort(-lengths_S, kind="stable")
        starts, lengths = (lengths_S.cumsum() - lengths_S)[sentences], lengths_S[sentences]
        many = np.searchsorted(-lengths, -np.arange(lengths[0]))         # sentences that have a token at each time
        begins = np.concatenate([[0], many.cumsum()])
        ranks = np.concatenate([np.arange(count) for count in many])
        order = starts[ranks] + np.repeat(np.arange(len(many)), many)
        before = np.repeat(begins[:-2], many[1:]) + ranks[len(starts) :]
        last = begins[lengths - 1] + np.arange(len(lengths))
        order, ranks, before, sentences, last = (
            torch.from_numpy(each).to(device) for each in (order, ranks, before, sentences, last)
        )
        return cls(order, begins.tolist(), ranks, before, sentences, last)

    def slices(self) -> list[slice]:
        return [slice(begin, end) for begin, end in zip(self.begins, self.begins[1:], strict=False)]


def _alphas(scores_WK: Tensor, steps_KK: Tensor, starts_SK: Tensor, steps: _Steps) -> Tensor:
    """(W, K) the log of the sum over all beginnings of a sentence that end at the place with the tag, its own score included."""
    alphas_WK = torch.empty_like(scores_WK)
    weights_KK = steps_KK.exp()
    before = slice(0, 0)
    for now in steps.slices():
        many = now.stop - now.start
        if now.start == 0:
            alphas_WK[now] = starts_SK + scores_WK[now]
        else:
            reached_SK = alphas_WK[before][:many]
            largest_S1 = reached_SK.amax(1, keepdim=True)
            alphas_WK[now] = ((reached_SK - largest_S1).exp() @ weights_KK).log() + largest_S1 + scores_WK[now]
        before = now
    return alphas_WK


def _betas(scores_WK: Tensor, steps_KK: Tensor, ends_SK: Tensor, steps: _Steps) -> Tensor:
    """(W, K) the log of the sum over all ways on from the place with the tag to the end, its own score not included."""
    betas_WK = torch.empty_like(scores_WK)
    weights_KK = steps_KK.exp().T
    betas_WK[steps.last] = ends_SK
    slices = steps.slices()
    for now, after in zip(slices[-2::-1], slices[:0:-1], strict=True):
        many = after.stop - after.start
        onward_SK = betas_WK[after] + scores_WK[after]
        largest_S1 = onward_SK.amax(1, keepdim=True)
        betas_WK[now.start : now.start + many] = ((onward_SK - largest_S1).exp() @ weights_KK).log() + largest_S1
    return betas_WK


class _LogPartition(torch.autograd.Function):
    """(S,) the log of the sum over all sequences, for the sentences from the longest to the shortest; its gradients are the
    expected counts of tags and transitions (Lafferty et al. 2001)."""

    @staticmethod
    def forward(ctx: Any, scores_WK: Tensor, steps_KK: Tensor, starts_SK: Tensor, ends_SK: Tensor, steps: _Steps) -> Tensor:
        alphas_WK = _alphas(scores_WK, steps_KK, starts_SK, steps)
        logs_S = torch.logsumexp(alphas_WK[steps.last] + ends_SK, 1)
        ctx.save_for_backward(scores_WK, steps_KK, ends_SK, alphas_WK, logs_S)
        ctx.steps = steps
        return logs_S

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_S: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        steps = ctx.steps
        scores_WK, steps_KK, ends_SK, alphas_WK, logs_S = ctx.saved_tensors
        betas_WK = _betas(scores_WK, steps_KK, ends_SK, steps)
        share_WK = (alphas_WK + betas_WK - logs_S[steps.ranks, None]).exp() * gradient_S[steps.ranks, None]
        many = len(logs_S)
        into_WK, onward_WK = alphas_WK[steps.before], (scores_WK + betas_WK)[many:]
        into_W1, onward_W1 = into_WK.amax(1, keepdim=True), onward_WK.amax(1, keepdim=True)
        ranks = steps.ranks[many:]
        weight_W1 = (into_W1 + onward_W1 - logs_S[ranks, None]).exp() * gradient_S[ranks, None]
        pairs_KK = (into_WK - into_W1).exp().T @ ((onward_WK - onward_W1).exp() * weight_W1)
        return share_WK, pairs_KK * steps_KK.exp(), share_WK[:many], share_WK[steps.last], None


class CRF(nn.Module):
    """What is added to the scores of tokens: of one tag after another, into the first, out of the last.

    legal: sequences that the scheme does not allow have no probability, and their transitions are not learned.
    """

    forbidden_steps: Tensor
    forbidden_begins: Tensor
    forbidden_ends: Tensor

    def __init__(self, tags: TagSet, legal: bool = True):
        super().__init__()
        many = len(tags.names)
        self.transitions = nn.Parameter(torch.zeros(many, many))         # from row to column
        self.begins = nn.Parameter(torch.zeros(many))
        self.ends = nn.Parameter(torch.zeros(many))
        for name, allowed in (("steps", tags.follows), ("begins", tags.begins), ("ends", tags.ends)):
            forbidden = ~torch.from_numpy(allowed) if legal else torch.zeros(allowed.shape, dtype=torch.bool)
            self.register_buffer(f"forbidden_{name}", forbidden, persistent=False)

    def forward(
        self,
        scores_NK: Tensor,
        gold_N: Tensor,
        lengths: Sequence[int] | Tensor,
        opens: Tensor | None = None,
        closes: Tensor | None = None,
    ) -> Tensor:
        """The negative log-likelihood in nats, summed over sentences; at least in float32.

        scores_NK, gold_N: the tokens of all sentences one after the other, lengths: (S,) how many each has. opens, closes: (S,)
        bool, False where what is given as a sentence is a window that does not begin, or end, where its sentence does: any tag
        may stand there then. Gold tags have to be legal (yanmo.labelled.tags.mended).
        """
        lengths_S = _lengths(lengths, scores_NK)
        if not len(lengths_S):
            return (scores_NK.sum() + self.begins.sum()).float() * 0
        wide_NK = scores_NK.double()
        steps_KK, starts_SK, ends_SK = self._scores(len(lengths_S), opens, closes)
        last_S = torch.from_numpy(lengths_S.cumsum() - 1).to(gold_N.device)
        first_S = last_S - torch.from_numpy(lengths_S - 1).to(gold_N.device)
        within_N = torch.ones(len(gold_N), dtype=torch.bool, device=gold_N.device)
        within_N[first_S] = False
        after = within_N.nonzero()[:, 0]
        rows = torch.arange(len(lengths_S), device=gold_N.device)
        gold = (
            wide_NK.gather(1, gold_N[:, None]).sum()
            + steps_KK[gold_N[after - 1], gold_N[after]].sum()
            + starts_SK[rows, gold_N[first_S]].sum()
            + ends_SK[rows, gold_N[last_S]].sum()
        )
        assert gold.isfinite() or not wide_NK.isfinite().all(), "gold tags must be legal: mend them where they are read"
        loss = self._partition(wide_NK, steps_KK, starts_SK, ends_SK, lengths_S).sum() - gold
        return loss.to(torch.promote_types(scores_NK.dtype, torch.float32))

    @torch.no_grad()
    def marginals(
        self, scores_NK: Tensor, lengths: Sequence[int] | Tensor, opens: Tensor | None = None, closes: Tensor | None = None
    ) -> Tensor:
        """(N, K) the probability of each tag at each token, over all sequences."""
        lengths_S = _lengths(lengths, scores_NK)
        with torch.enable_grad():                                        # the gradient of the log partition in the scores
            wide_NK = scores_NK.detach().double().requires_grad_()
            steps_KK, starts_SK, ends_SK = (each.detach() for each in self._scores(len(lengths_S), opens, closes))
            logs_S = self._partition(wide_NK, steps_KK, starts_SK, ends_SK, lengths_S)
            found = torch.autograd.grad(logs_S.sum(), wide_NK)[0]
        return found.to(torch.promote_types(scores_NK.dtype, torch.float32))

    @torch.no_grad()
    def decode(self, scores_NK: Tensor, lengths: Sequence[int] | Tensor) -> Tensor:
        """(N,) the most probable sequence of tags of each sentence."""
        lengths_S = _lengths(lengths, scores_NK)
        added = (
            self.transitions.masked_fill(self.forbidden_steps, FORBIDDEN),
            self.begins.masked_fill(self.forbidden_begins, FORBIDDEN),
            self.ends.masked_fill(self.forbidden_ends, FORBIDDEN),
        )
        found = best_paths(scores_NK.double().cpu().numpy(), lengths_S, *(each.double().cpu().numpy() for each in added))
        return torch.from_numpy(found).to(scores_NK.device)

    def _scores(self, many: int, opens: Tensor | None, closes: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """In float64: (K, K) of transitions, (S, K) into the first and (S, K) out of the last tag."""
        steps_KK = self.transitions.double().masked_fill(self.forbidden_steps, FORBIDDEN)
        starts_SK = self.begins.double().masked_fill(self.forbidden_begins, FORBIDDEN).expand(many, -1)
        ends_SK = self.ends.double().masked_fill(self.forbidden_ends, FORBIDDEN).expand(many, -1)
        nothing = torch.zeros((), dtype=torch.float64, device=steps_KK.device)
        if opens is not None:
            starts_SK = torch.where(opens[:, None], starts_SK, nothing)
        if closes is not None:
            ends_SK = torch.where(closes[:, None], ends_SK, nothing)
        return steps_KK, starts_SK, ends_SK

    def _partition(
        self, scores_NK: Tensor, steps_KK: Tensor, starts_SK: Tensor, ends_SK: Tensor, lengths_S: np.ndarray
    ) -> Tensor:
        """(S,) from the longest sentence to the shortest."""
        steps = _Steps.of(lengths_S, scores_NK.device)
        starts_SK, ends_SK = starts_SK[steps.sentences], ends_SK[steps.sentences]
        found = _LogPartition.apply(scores_NK[steps.order], steps_KK, starts_SK, ends_SK, steps)
        assert isinstance(found, Tensor)
        return found


def _lengths(lengths: Sequence[int] | Tensor, scores_NK: Tensor) -> np.ndarray:
    found = lengths.cpu().numpy() if isinstance(lengths, Tensor) else np.asarray(lengths)
    found = found.astype(np.int64)
    assert found.sum() == len(scores_NK), f"sentences of {found.sum()} tokens in all, and scores of {len(scores_NK)}"
    return found
