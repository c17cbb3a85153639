"""Activations, by the names transformers' configurations use, alone or as a gate (Shazeer 2020, arXiv:2002.05202).

GELU: Hendrycks and Gimpel 2016, arXiv:1606.08415, exact and by tanh. SiLU: Elfwing et al. 2017, arXiv:1702.03118.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from yanmo.native import pointers, ready

TORCH: tuple[Callable[[Tensor], Tensor], ...] = (F.gelu, partial(F.gelu, approximate="tanh"), F.silu, F.relu)
GELU, GELU_TANH, SILU, RELU = range(4)
"""Places in TORCH, and what pointwise.c calls them."""


def activation(kind: int, x: Tensor) -> Tensor:  # (..., F) -> (..., F)
    kernels = ready("pointwise", x)
    if kernels is None:
        return TORCH[kind](x)
    return _Activation.apply(x, kind, False, kernels)  # pyright: ignore[reportReturnType]


def gate(kind: int, x: Tensor) -> Tensor:  # (..., 2F) -> (..., F)
    """The activated first half times the second half."""
    kernels = ready("pointwise", x)
    if kernels is None:
        first, second = x.chunk(2, dim=-1)
        return TORCH[kind](first) * second
    return _Activation.apply(x, kind, True, kernels)  # pyright: ignore[reportReturnType]


class _Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: int, gated: bool, kernels: ctypes.CDLL) -> Tensor:
        x = x.contiguous()
        y = x.new_empty(*x.shape[:-1], x.shape[-1] // 2) if gated else torch.empty_like(x)
        ctx.save_for_backward(x)
        ctx.kind, ctx.gated, ctx.kernels = kind, gated, kernels
        kernels.activate(kind, gated, *pointers(x, y), *_sizes(y))
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        gradient, to_x = gradient.contiguous(), torch.empty_like(x)
        ctx.kernels.activate_backward(ctx.kind, ctx.gated, *pointers(x, gradient, to_x), *_sizes(gradient))
        return to_x, None, None, None


def _sizes(y: Tensor) -> tuple[ctypes.c_int64, ctypes.c_int64, int]:
    width = y.shape[-1] if y.dim() else 1
    return ctypes.c_int64(y.numel() // max(1, width)), ctypes.c_int64(width), torch.get_num_threads()


_KINDS = {"gelu": GELU, "gelu_new": GELU_TANH, "gelu_pytorch_tanh": GELU_TANH, "relu": RELU, "silu": SILU, "swish": SILU}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {name: partial(activation, kind) for name, kind in _KINDS.items()}
GATES: dict[str, Callable[[Tensor], Tensor]] = {name: partial(gate, kind) for name, kind in _KINDS.items()}
