"""Attention by what stands somewhere and by how far away it is, for two kinds of queries at once.

Relative positions: Dai et al. 2019, arXiv:1901.02860, section 3.3. Two streams and relative parts of a text: Yang et al. 2019,
arXiv:1906.08237, sections 2.3 and 2.5; zihangdai/xlnet modeling.py, rel_attn_core.
Letters: R rows, C of them at once, T places of a row, N places that are asked for, Q queries: the T places, the N, or both;
S places that may be seen, the last T of them the row's own; P = S + T distances from S down to 1 - T, D width, H heads,
W width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from yanmo.layers.linear import Linear


@dataclass(frozen=True)
class RelativeAttentionConfig:
    heads: int
    head_width: int
    dropout: float = 0.0
    """Of the attention weights."""
    out_dropout: float = 0.0


@dataclass(frozen=True)
class RelativeView:
    """What each query may see, and where it stands.

    mask: (R, Q, S), 0 where seen and very low elsewhere, or None where everything is seen. empty: (R, Q), queries that see
    nothing and get nothing, or None. places: T. in_order: how many of the first queries are the row's own places, T or 0.
    asked: (R, N), where in T the other queries stand. apart: (R, Q, S), whether query and key are of different parts of a
    pair, or None. distances: (P, D).
    """

    distances: Tensor
    places: int
    in_order: int
    asked: Tensor | None = None
    mask: Tensor | None = None
    empty: Tensor | None = None
    apart: Tensor | None = None

    def of_asked(self) -> RelativeView:
        """The same for the queries that are asked for alone."""
        parts = {name: getattr(self, name) for name in ("mask", "empty", "apart")}
        kept = {name: None if part is None else part[:, self.in_order :] for name, part in parts.items()}
        return replace(self, in_order=0, **kept)

    def near(self, by_distance: Tensor, rows: slice) -> Iterator[tuple[slice, Tensor]]:
        """Of numbers by distance, (C, H, Q, P), those of the distances to each key, and which queries they belong to:
        (C, H, T, S) of those in order and (C, H, N, S) of those that are asked for."""
        keys = by_distance.shape[-1] - self.places
        if self.in_order:
            yield slice(self.in_order), self._in_order(by_distance)
        if self.asked is not None:
            windows = by_distance[:, :, self.in_order :].unfold(-1, keys, 1).transpose(1, 2)  # (C, N, H, P - S + 1, S)
            begin = self._begins(rows)
            row, query = (torch.arange(size, device=begin.device) for size in begin.shape)
            yield slice(self.in_order, None), windows[row[:, None], query, :, begin].transpose(1, 2)

    def spread(self, near: Tensor, by_distance: Tensor, rows: slice) -> None:
        """The way back: write numbers (C, H, Q, S) to where `near` finds them in (C, H, Q, P). Of queries in order the rest stays
        as it is; of the others it becomes 0."""
        if self.in_order:
            self._in_order(by_distance).copy_(near[:, :, : self.in_order])
        if self.asked is not None:
            theirs = near[:, :, self.in_order :]
            index = self._begins(rows)[:, None, :, None] + torch.arange(theirs.shape[-1], device=theirs.device)
            by_distance[:, :, self.in_order :].zero_().scatter_(-1, index.expand(theirs.shape), theirs)

    def _in_order(self, by_distance: Tensor) -> Tensor:
        """A view: the line of a query starts one number before that of the query in front of it."""
        batch, heads, line, number = by_distance.stride()
        shape = (*by_distance.shape[:2], self.in_order, by_distance.shape[-1] - self.places)
        return by_distance.as_strided(shape, (batch, heads, line - number, number), self.places * number)

    def _begins(self, rows: slice) -> Tensor:
        """Where the lines of those that are asked for start, (C, N)."""
        assert self.asked is not None, "asked before"
        return self.places - self.asked[rows].clamp(min=0)


def sinusoids(places: int, keys: int, width: int, device: torch.device) -> Tensor:
    """The distances keys, keys - 1 ... 1 - places as sines and cosines, (P, D) float32."""
    distance = torch.arange(keys, -places, -1.0, device=device)
    angles = distance[:, None] / 10_000 ** (torch.arange(0, width, 2.0, device=device) / width)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class RelativeAttention(nn.Module):
    """Scores are the sum of query with key, query with distance and, where a text has parts, query with "same part" or "other
    part", each with a bias of its own in place of the query's position."""

    def __init__(self, width: int, config: RelativeAttentionConfig):
        super().__init__()
        self.config = config
        inner = config.heads * config.head_width
        self.query = Linear(width, inner, bias=False)
        self.key_value = Linear(width, 2 * inner, bias=False)
        self.key_value.weight.parts = (inner, inner)  # type: ignore[attr-defined]  # an optimizer of matrices takes them one by one
        self.distance = Linear(width, inner, bias=False)
        self.out = Linear(inner, width, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(inner))
        self.distance_bias = nn.Parameter(torch.zeros(inner))
        self.part_bias = nn.Parameter(torch.zeros(inner))
        self.parts = nn.Parameter(torch.zeros(2, config.heads, config.head_width))
        self.out_dropout = nn.Dropout(config.out_dropout)

    @torch.no_grad()
    def start(self, std: float) -> None:
        """Draw what is no matrix; as in the original, biases too are normal."""
        for vector in (self.content_bias, self.distance_bias, self.part_bias, self.parts):
            vector.normal_(0.0, std)

    def forward(self, asking_RQD: Tensor, content_RSD: Tensor, view: RelativeView) -> Tensor:  # (R, Q, D)
        heads = (-1, self.config.head_width)
        query = self.query(asking_RQD).unflatten(-1, heads)
        key_value = self.key_value(content_RSD).unflatten(-1, heads)
        far = self.distance(view.distances).unflatten(-1, heads)
        biases = [bias.to(query.dtype).unflatten(-1, heads) for bias in (self.content_bias, self.distance_bias, self.part_bias)]
        apart = None
        if view.apart is not None:  # a softmax does not feel what all keys share: the other part's vector less the same part's
            other = (self.parts[1] - self.parts[0]).to(query.dtype)
            apart = ((query + biases[2]) * other).sum(-1) * self.config.head_width**-0.5
        dropout = self.config.dropout if self.training else 0.0
        inputs = (query, key_value, far, biases[0], biases[1], apart)
        mixed = attend_relative(*inputs, view, dropout)  # pyright: ignore[reportCallIssue]  # as `disable` is typed
        return self.out_dropout(self.out(mixed.flatten(2)))


@torch.compiler.disable  # a compiler would have to follow views that overlap, and has nothing to win around products
def attend_relative(
    query: Tensor,
    key_value: Tensor,
    far: Tensor,
    content_bias: Tensor,
    distance_bias: Tensor,
    apart: Tensor | None,
    view: RelativeView,
    dropout: float = 0.0,
) -> Tensor:
    """(R, Q, H, W) queries over (R, S, 2 H, W) keys and values and (P, H, W) vectors of distances, to (R, Q, H, W).

    biases: (H, W). apart: (R, Q, H), added to the scores of keys of another part. On a CPU one row after the other, so that
    scores stay in its cache on their way through a dozen passes; elsewhere all at once.
    """
    inputs = (query, key_value, far, content_bias, distance_bias, apart)
    if not (torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in inputs)):
        return _forward(inputs, view, dropout, keeps=False)[0]
    return _Attend.apply(*inputs, view, dropout)  # pyright: ignore[reportReturnType]


Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        *inputs, view, dropout = given
        mixed, weights, kept = _forward(tuple(inputs), view, dropout, keeps=True)
        ctx.view = view
        ctx.save_for_backward(*inputs, weights, kept)
        return mixed

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        *inputs, weights, kept = ctx.saved_tensors
        return *_backward(tuple(inputs), ctx.view, weights, kept, gradient), None, None


def _forward(inputs: Inputs, view: RelativeView, dropout: float, keeps: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What is mixed, the weights (R, H, Q, S) and what dropout multiplies them by."""
    query, key_value, far, content_bias, distance_bias, apart = inputs
    rows, queries, heads, _ = query.shape
    keys = key_value.shape[1]
    far_HWP = _scaled(far, query).permute(1, 2, 0).contiguous()
    mixed = torch.empty_like(query, memory_format=torch.contiguous_format)
    shape = (rows, heads, queries, keys)
    weights = query.new_empty(shape) if keeps else None
    kept = query.new_empty(shape).bernoulli_(1 - dropout).div_(1 - dropout) if dropout else None
    for at in _chunks(query):
        key, value = key_value[at].chunk(2, dim=2)
        scores = query.new_empty(len(key), *shape[1:])
        for which, part in view.near(_by_head(query[at], distance_bias) @ far_HWP, at):
            if view.mask is None:
                scores[:, :, which].copy_(part)
            else:
                torch.add(part, view.mask[at, None, which], out=scores[:, :, which])
        if view.apart is not None and apart is not None:
            scores.addcmul_(apart[at].transpose(1, 2)[..., None], view.apart[at, None].to(scores.dtype))
        scores.flatten(0, 1).baddbmm_(
            _by_head(query[at], content_bias).flatten(0, 1), _by_head(_scaled(key, query)).flatten(0, 1).transpose(1, 2)
        )
        soft = torch.softmax(scores, dim=-1, out=scores if weights is None else weights[at])
        if view.empty is not None:
            soft.masked_fill_(view.empty[at, None, :, None], 0)
        soft = soft if kept is None else soft * kept[at]
        mixed[at] = (soft @ _by_head(value)).transpose(1, 2)
    return mixed, weights, kept


def _backward(
    inputs: Inputs, view: RelativeView, weights: Tensor, kept: Tensor | None, gradient: Tensor
) -> tuple[Tensor | None, ...]:
    query, key_value, far, content_bias, distance_bias, apart = inputs
    heads, distances = query.shape[2], len(far)
    far_HPW = _scaled(far, query).transpose(0, 1).contiguous()
    to_query, to_key_value = torch.empty_like(query), torch.empty_like(key_value)
    to_apart = None if apart is None else torch.empty_like(apart)
    wide = torch.promote_types(query.dtype, torch.float32)
    to_far = far.new_zeros(heads, distances, far.shape[-1], dtype=wide)
    to_biases = far.new_zeros(2, *content_bias.shape, dtype=wide)
    chunks = _chunks(query)
    by_distance = query.new_zeros(chunks[0].stop, *weights.shape[1:3], distances)  # 0 outside of near numbers, from row to row
    for at in chunks:
        key, value = (_by_head(part) for part in key_value[at].chunk(2, dim=2))
        asking, soft = _by_head(gradient[at]), weights[at]
        used = soft if kept is None else soft * kept[at]
        to_key_value[at, :, heads:] = (used.transpose(-1, -2) @ asking).transpose(1, 2)
        given = asking @ value.transpose(-1, -2)
        given = given if kept is None else given.mul_(kept[at])
        given = torch.ops.aten._softmax_backward_data(given, soft, -1, given.dtype)
        if to_apart is not None and view.apart is not None:
            to_apart[at] = (given * view.apart[at, None]).sum(-1).transpose(1, 2)
        if by_distance is None:
            by_distance = given.new_zeros(*given.shape[:3], distances)
        view.spread(given, by_distance, at)
        to_content = given @ _scaled(key, query)
        to_distance = by_distance @ far_HPW
        torch.add(to_content, to_distance, out=to_query[at].transpose(1, 2))
        for sums, part in zip(to_biases, (to_content, to_distance), strict=True):
            sums += part.sum((0, 2), dtype=wide)
        to_key = given.transpose(-1, -2) @ _by_head(query[at], content_bias)
        to_key_value[at, :, :heads] = _scaled(to_key, query).transpose(1, 2)
        to_far += (by_distance.transpose(-1, -2) @ _by_head(query[at], distance_bias)).sum(0)
    to_far = _scaled(to_far, query).transpose(0, 1).to(far.dtype)
    return to_query, to_key_value, to_far, *to_biases.to(content_bias.dtype), to_apart


def _chunks(query: Tensor) -> list[slice]:
    """The rows that are computed at once."""
    rows, at_once = len(query), 1 if query.device.type == "cpu" else len(query)
    return [slice(first, first + at_once) for first in range(0, rows, at_once)]


def _scaled(x: Tensor, query: Tensor) -> Tensor:
    return x * query.shape[-1] ** -0.5


def _by_head(x_CQHW: Tensor, bias_HW: Tensor | None = None) -> Tensor:  # (C, H, Q, W), contiguous
    """A product of strided matrices would gather them number by number."""
    x_CHQW = x_CQHW.transpose(1, 2)
    if bias_HW is None:
        return x_CHQW.contiguous()
    return torch.add(x_CHQW, bias_HW[:, None], out=torch.empty(x_CHQW.shape, dtype=x_CQHW.dtype, device=x_CQHW.device))
