"""Attention by our own kernel on CPUs with AMX: queries, keys and values in bf16, no scores in memory."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor

from yanmo.layers.view import Seen
from yanmo.native import library, pointers, ready

WIDTHS = (32, 64, 96, 128)
"""Of a head."""


Angles = tuple[Tensor, Tensor] | None
"""Cosine and sine of rotary positions, (R or 1, 1, T, W / 2), by which the kernel rotates queries and keys; then S = T."""


def takes(query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0, angles: Angles = None) -> bool:
    """Whether the kernel can be used for queries, keys and values of width W, whatever the order of what stands before it."""
    width, rotary = query.shape[-1], angles or ()
    return (
        ready("attention", query, key, value, *rotary) is not None
        and dropout == 0
        and width in WIDTHS
        and all(x.stride(-1) == 1 for x in (query, key, value))
        and all(x.is_contiguous() and 2 * x.shape[-1] == width for x in rotary)
    )


def attend_packed(
    qkv: Tensor,
    heads: int,
    kv_heads: int,
    seen: Seen,
    angles: Angles = None,
    scale: float | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """(R, T, H + 2 K, W), queries before keys before values, to (R, T, H, W); scale and bias as in `attend_native`."""
    mixed = _Packed.apply(qkv, _line(bias), heads, kv_heads, _how(seen, angles, scale, qkv))
    assert isinstance(mixed, Tensor), "one result"
    return mixed


def attend_native(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seen: Seen,
    angles: Angles = None,
    scale: float | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """(R, T, H, W) queries over (R, S, K, W) keys and values, in any order of memory, to (R, T, H, W).

    scale: what scores are multiplied by, one over the root of W if not said. bias: (H, T + S - 1), what is then added to those of
    each distance key - query, the least first.
    """
    mixed = _Apart.apply(query, key, value, _line(bias), _how(seen, angles, scale, query))
    assert isinstance(mixed, Tensor), "one result"
    return mixed


class _How(NamedTuple):
    seen: Seen
    angles: Angles
    scale: float


def _how(seen: Seen, angles: Angles, scale: float | None, like: Tensor) -> _How:
    factor = float(like.shape[-1] ** -0.5 if scale is None else scale)
    assert factor > 0, "the kernel looks for the greatest score before it scales"
    return _How(seen, angles, factor)


def _line(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.float().contiguous()


class _Packed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor | None, heads: int, kv_heads: int, how: _How) -> Tensor:
        ctx.sizes, ctx.how = (heads, kv_heads, kv_heads), how
        mixed, lse = _forward(qkv.split(ctx.sizes, dim=2), bias, how)
        ctx.save_for_backward(qkv, bias, mixed, lse)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        qkv, bias, mixed, lse = ctx.saved_tensors
        gradient = torch.empty(qkv.shape, dtype=qkv.dtype)
        found = gradient.split(ctx.sizes, dim=2)
        to_bias = _backward(qkv.split(ctx.sizes, dim=2), bias, ctx.how, mixed, lse, gradients[0], found)
        return gradient, to_bias, None, None, None


class _Apart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, how: _How) -> Tensor:
        ctx.how = how
        mixed, lse = _forward((query, key, value), bias, how)
        ctx.save_for_backward(query, key, value, bias, mixed, lse)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bias, mixed, lse = ctx.saved_tensors
        inputs = (query, key, value)
        found = tuple(torch.empty_like(x, memory_format=torch.preserve_format) for x in inputs)
        to_bias = _backward(inputs, bias, ctx.how, mixed, lse, gradients[0], found)
        return *found, to_bias, None


def _forward(inputs: tuple[Tensor, ...], bias: Tensor | None, how: _How) -> tuple[Tensor, Tensor]:
    rows, length, heads, width = inputs[0].shape
    mixed = torch.empty(rows, length, heads, width, dtype=inputs[0].dtype)
    lse = torch.empty(rows, heads, length)
    shape = _shape(inputs, inputs, how)
    given = _given(inputs, bias, how)
    _library().attention_forward(*given, *pointers(mixed, lse), ctypes.byref(shape), torch.get_num_threads())
    return mixed, lse


def _backward(
    inputs: tuple[Tensor, ...],
    bias: Tensor | None,
    how: _How,
    mixed: Tensor,
    lse: Tensor,
    gradient: Tensor,
    found: tuple[Tensor, ...],
) -> Tensor | None:
    """Fills `found` and returns the gradient of the bias."""
    gradient = gradient.contiguous()
    of_rows = None if bias is None else bias.new_empty(len(mixed), *bias.shape)
    shape = _shape(inputs, found, how)
    given = [*_given(inputs, bias, how), *pointers(mixed, lse, gradient)]
    _library().attention_backward(*given, *pointers(*found, of_rows), ctypes.byref(shape), torch.get_num_threads())
    return None if of_rows is None else of_rows.sum(0)


def _given(inputs: tuple[Tensor, ...], bias: Tensor | None, how: _How) -> list[ctypes.c_void_p]:
    (_, queries, heads, _), keys = inputs[0].shape, inputs[1].shape[1]
    assert bias is None or bias.shape == (heads, queries + keys - 1), f"{tuple(bias.shape)} for {queries} queries, {keys} keys"
    return pointers(*inputs, how.seen.queries, how.seen.keys, *(how.angles or (None, None)), bias)


class _Shape(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "queries", "keys", "heads", "kv_heads", "width")),
        *((name, ctypes.c_int64) for name in ("causal", "window", "angle_row")),
        ("scale", ctypes.c_double),
        *((name, ctypes.c_int64 * 3) for name in ("q", "k", "v", "dq", "dk", "dv")),
    )


def _shape(inputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...], how: _How) -> _Shape:
    (query, key, _), (seen, angles, scale) = inputs, how
    rows, length, heads, width = query.shape
    strides = [(ctypes.c_int64 * 3)(*x.stride()[:3]) for x in (*inputs, *gradients)]
    window = -1 if seen.window is None else seen.window
    angle_row = 0 if angles is None or angles[0].shape[0] == 1 else length * width // 2
    sizes = (rows, length, key.shape[1], heads, key.shape[2], width)
    return _Shape(*sizes, seen.causal, window, angle_row, scale, *strides)


def _library() -> ctypes.CDLL:
    found = library("attention")
    assert found is not None, "ask `takes` first"
    return found
