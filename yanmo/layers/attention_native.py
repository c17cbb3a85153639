"""Attention by our own kernel on CPUs with AMX: queries, keys and values in bf16, no scores in memory."""

from __future__ import annotations

import ctypes
from typing import Any

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


def attend_packed(qkv: Tensor, heads: int, kv_heads: int, seen: Seen, angles: Angles = None) -> Tensor:
    """(R, T, H + 2 K, W), queries before keys before values, to (R, T, H, W)."""
    mixed = _Packed.apply(qkv, heads, kv_heads, seen, angles)
    assert isinstance(mixed, Tensor), "one result"
    return mixed


def attend_native(query: Tensor, key: Tensor, value: Tensor, seen: Seen, angles: Angles = None) -> Tensor:
    """(R, T, H, W) queries over (R, S, K, W) keys and values, in any order of memory, to (R, T, H, W)."""
    mixed = _Apart.apply(query, key, value, seen, angles)
    assert isinstance(mixed, Tensor), "one result"
    return mixed


class _Packed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int, kv_heads: int, seen: Seen, angles: Angles) -> Tensor:
        ctx.sizes, ctx.seen, ctx.angles = (heads, kv_heads, kv_heads), seen, angles
        mixed, lse = _forward(qkv.split(ctx.sizes, dim=2), seen, angles)
        ctx.save_for_backward(qkv, mixed, lse)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        qkv, mixed, lse = ctx.saved_tensors
        gradient = torch.empty(qkv.shape, dtype=qkv.dtype)
        found = gradient.split(ctx.sizes, dim=2)
        _backward(qkv.split(ctx.sizes, dim=2), ctx.seen, ctx.angles, mixed, lse, gradients[0], found)
        return gradient, None, None, None, None


class _Apart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, seen: Seen, angles: Angles) -> Tensor:
        ctx.seen, ctx.angles = seen, angles
        mixed, lse = _forward((query, key, value), seen, angles)
        ctx.save_for_backward(query, key, value, mixed, lse)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mixed, lse = ctx.saved_tensors
        inputs = (query, key, value)
        found = tuple(torch.empty_like(x, memory_format=torch.preserve_format) for x in inputs)
        _backward(inputs, ctx.seen, ctx.angles, mixed, lse, gradients[0], found)
        return *found, None, None


def _forward(inputs: tuple[Tensor, ...], seen: Seen, angles: Angles) -> tuple[Tensor, Tensor]:
    rows, length, heads, width = inputs[0].shape
    mixed = torch.empty(rows, length, heads, width, dtype=inputs[0].dtype)
    lse = torch.empty(rows, heads, length)
    given = pointers(*inputs, seen.queries, seen.keys, *(angles or (None, None)))
    shape = _shape(inputs, inputs, seen, angles)
    _library().attention_forward(*given, *pointers(mixed, lse), ctypes.byref(shape), torch.get_num_threads())
    return mixed, lse


def _backward(
    inputs: tuple[Tensor, ...],
    seen: Seen,
    angles: Angles,
    mixed: Tensor,
    lse: Tensor,
    gradient: Tensor,
    found: tuple[Tensor, ...],
) -> None:
    gradient = gradient.contiguous()
    given = pointers(*inputs, seen.queries, seen.keys, *(angles or (None, None)), mixed, lse, gradient)
    shape = _shape(inputs, found, seen, angles)
    _library().attention_backward(*given, *pointers(*found), ctypes.byref(shape), torch.get_num_threads())


class _Shape(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "queries", "keys", "heads", "kv_heads", "width")),
        *((name, ctypes.c_int64) for name in ("causal", "window", "angle_row")),
        *((name, ctypes.c_int64 * 3) for name in ("q", "k", "v", "dq", "dk", "dv")),
    )


def _shape(inputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...], seen: Seen, angles: Angles) -> _Shape:
    query, key, _ = inputs
    rows, length, heads, width = query.shape
    strides = [(ctypes.c_int64 * 3)(*x.stride()[:3]) for x in (*inputs, *gradients)]
    window = -1 if seen.window is None else seen.window
    angle_row = 0 if angles is None or angles[0].shape[0] == 1 else length * width // 2
    return _Shape(rows, length, key.shape[1], heads, key.shape[2], width, seen.causal, window, angle_row, *strides)


def _library() -> ctypes.CDLL:
    found = library("attention")
    assert found is not None, "ask `takes` first"
    return found
