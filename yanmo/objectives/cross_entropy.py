"""Cross entropy over a large vocabulary, without ever holding the scores of all places.

The gradients are made on the way forward, while a chunk's scores are at hand, and are scaled on the way back: as in Wijmans
et al. 2024, arXiv:2411.09009 (section 4), and Liger Kernel's fused linear cross entropy (Hsu et al. 2024, arXiv:2410.10989).
Letters: N places that have a target, n of them in a chunk, D width, V vocabulary.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from yanmo.layers.head import VocabularyHead
from yanmo.layers.linear import weight_gradient
from yanmo.native import pointers, ready

CHUNK = 1024
"""Places whose scores are held at once. Fewer read the vocabulary's matrix and its gradient more often, which costs where
memory is slow or shared; more take memory and win nothing."""
TILE_BYTES = 6 << 20
"""Scores that are widened to float32 at once, on a CPU: what stays in cache from one pass over them to the next."""


@dataclass(frozen=True)
class Smoothing:
    """Label smoothing (Szegedy et al. 2016, arXiv:1512.00567, section 7): of every target so much is shared out evenly among the
    tokens, the first columns of the vocabulary; those after them only pad it."""

    share: float
    tokens: int


def cross_entropy(
    head: VocabularyHead, hidden: Tensor, answers: Tensor, smoothing: Smoothing | None = None
) -> tuple[Tensor, Tensor]:
    """The summed cross entropy in nats and the number of right answers, from hidden (N, D) and answers (N,).

    Both are scalars. Statistics are in float32 whatever the scores are in (float64 stays). The gradient is that of
    F.cross_entropy(head(hidden), answers, reduction="sum"), with smoothing that of (1 - share) times this and `share` times the
    mean of -log p over the tokens; right are places whose best score is the answer's.
    """
    return _apply(head, hidden, answers, None, smoothing)[:2]


def cross_entropy_and_draws(head: VocabularyHead, hidden: Tensor, answers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`cross_entropy`, and for each place a token that is drawn from the softmax of its scores, (N,), by torch's random state."""
    return _apply(head, hidden, answers, torch.rand(len(answers), device=hidden.device))


def _apply(
    head: VocabularyHead, hidden: Tensor, answers: Tensor, random: Tensor | None, smoothing: Smoothing | None = None
) -> Any:
    features = head.features(hidden)
    weight = head.weight.to(features.dtype)               # nothing, but under autocast
    bias = None if head.bias is None else head.bias.to(features.dtype)
    return _CrossEntropy.apply(features, weight, bias, answers, random, smoothing, torch.is_grad_enabled())


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        answers: Tensor,
        random: Tensor | None,
        smoothing: Smoothing | None,
        learns: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        wide = torch.promote_types(features.dtype, torch.float32)
        totals = features.new_zeros(2, dtype=wide)
        learns = learns and any(ctx.needs_input_grad)
        grad_features = torch.empty_like(features) if learns else features
        grad_weight: Tensor | None = None                 # in bf16 one rounding for every chunk
        sums = None if bias is None else torch.empty_like(bias, dtype=wide)
        grad_bias = None if sums is None else torch.zeros_like(sums)
        drawn: list[Tensor] = []
        chunks = zip(features.split(CHUNK), answers.split(CHUNK), grad_features.split(CHUNK), strict=True)
        for number, (part, asked, out) in enumerate(chunks):
            scores = F.linear(part, weight, bias)
            if random is not None:
                drawn.append(draw(scores, random[number * CHUNK :][: len(part)]))
            totals += _to_gradient(scores, asked, wide, learns, smoothing)
            if learns:
                torch.mm(scores, weight, out=out)
            if learns and any(ctx.needs_input_grad[1:3]):  # not of a frozen head
                grad_weight = weight_gradient(scores, part, grad_weight, sums)
                if grad_bias is not None and sums is not None:
                    grad_bias += sums
            del scores                                    # before the next chunk's are made
        if learns:
            ctx.gradients = grad_features, grad_weight, None if bias is None or grad_bias is None else grad_bias.to(bias.dtype)
        total, correct = totals[0].clone(), totals[1].clone()
        ctx.mark_non_differentiable(correct)
        return total, correct, torch.cat(drawn) if drawn else None

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradients = ctx.gradients
        if torch._C._autograd._get_current_graph_task_keep_graph():  # pyright: ignore[reportAttributeAccessIssue]
            gradients = [None if one is None else one.clone() for one in gradients]
        else:
            ctx.gradients = None
        return *(None if one is None else one.mul_(grad_total) for one in gradients), None, None, None, None


def _to_gradient(
    scores: Tensor, answers: Tensor, wide: torch.dtype, learns: bool, smoothing: Smoothing | None = None
) -> Tensor:
    """The summed loss and the number right, (2), of scores (n, V), whose place their gradient takes when `learns`."""
    kernels = ready("softmax", scores)
    if kernels is None:
        return _to_gradient_in_torch(scores, answers, wide, learns, smoothing)
    totals, room = torch.zeros(2, dtype=torch.float64), torch.empty(2, len(answers))
    share, tokens = (smoothing.share, smoothing.tokens) if smoothing else (0.0, scores.shape[1])
    sizes = [ctypes.c_int64(size) for size in (*scores.shape, tokens)]
    answers = answers.long().contiguous()
    how = (ctypes.c_double(share), int(learns), torch.get_num_threads())
    if kernels.cross_entropy(*pointers(scores, answers, totals, *room), *sizes, *how) < 0:
        raise IndexError(f"an answer is not one of the {tokens} columns: {answers.min()} to {answers.max()}")
    return totals


def draw(scores: Tensor, random: Tensor) -> Tensor:
    """Columns (n,) drawn from the softmax of scores (n, V), from numbers (n,) that are uniform between 0 and 1.

    The first column is taken at which the chances so far come to more than the random number. One of no chance is never taken.
    """
    wide, found = torch.promote_types(scores.dtype, torch.float32), []
    tile = _tile(scores, wide)
    for rows, aims in zip(scores.split(tile), random.split(tile), strict=True):
        sums = torch.softmax(rows, -1, dtype=wide).cumsum(-1)
        whole = sums[:, -1:]
        aim = torch.minimum(aims[:, None] * whole, whole.nextafter(torch.zeros_like(whole)))
        found.append(torch.searchsorted(sums, aim, right=True)[:, 0])
    return torch.cat(found)


def _tile(scores: Tensor, wide: torch.dtype) -> int:
    """How many rows of scores are widened at once."""
    on_cpu = scores.device.type == "cpu"
    return max(1, TILE_BYTES * 8 // (scores.shape[1] * torch.finfo(wide).bits)) if on_cpu else len(scores) or 1


def _to_gradient_in_torch(
    scores: Tensor, answers: Tensor, wide: torch.dtype, learns: bool, smoothing: Smoothing | None = None
) -> Tensor:
    share, tokens = (smoothing.share, smoothing.tokens) if smoothing else (0.0, scores.shape[1])
    totals = scores.new_zeros(2, dtype=wide)
    tile = _tile(scores, wide)
    for rows, asked in zip(scores.split(tile), answers.split(tile), strict=True):
        best = rows.amax(-1)
        given = rows.gather(1, asked[:, None])
        chances = torch.softmax(rows, -1, dtype=wide)
        log_sum = best - chances.amax(-1).log()           # the best one's chance is never too small for a logarithm
        totals[0] += (log_sum - given[:, 0]).sum()
        if share:
            totals[0] += share * (given[:, 0] - rows[:, :tokens].mean(-1, dtype=wide)).sum()
        hits = (given[:, 0] == best).nonzero()[:, 0]      # a score in bf16 may be as good as another: argmax decides
        totals[1] += (rows[hits].argmax(-1) == asked[hits]).sum()
        if learns:
            if share:
                chances[:, :tokens] -= share / tokens
            rows.copy_(chances.scatter_add_(1, asked[:, None], chances.new_full((1, 1), share - 1.0).expand(len(asked), 1)))
    return totals
