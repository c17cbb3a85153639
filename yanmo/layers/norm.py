"""Norms: LayerNorm (Ba et al. 2016, arXiv:1607.06450) and RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467)."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yanmo.native import pointers, ready

BLOCK = 64
"""Rows whose gradients norm.c sums together."""


@dataclass(frozen=True)
class NormConfig:
    kind: Literal["layer", "rms"] = "layer"
    eps: float = 1e-5
    bias: bool = True
    """Only LayerNorm has one."""


class LayerNorm(nn.LayerNorm):
    """torch's, with a kernel that sums the gradients of weight and bias in fp32: in bf16 on a CPU torch sums them in bf16."""

    def forward(self, x: Tensor) -> Tensor:  # (..., D) -> (..., D)  # pyright: ignore[reportIncompatibleMethodOverride]
        kernels = ready("norm", x, self.weight, self.bias)
        if kernels is None:
            return super().forward(x)
        return _Norm.apply(x, self.weight, self.bias, self.eps, True, kernels)  # pyright: ignore[reportReturnType]


class RMSNorm(nn.RMSNorm):
    """torch's, with the weight in the input's number type: under autocast torch would warn and leave its fused kernel."""

    def forward(self, x: Tensor) -> Tensor:  # (..., D) -> (..., D)
        assert self.weight is not None, "an RMSNorm here always has a weight"
        kernels = ready("norm", x, self.weight)
        if kernels is None or self.eps is None:
            return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
        return _Norm.apply(x, self.weight, None, self.eps, False, kernels)  # pyright: ignore[reportReturnType]


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, centres: bool, kernels: ctypes.CDLL
    ) -> Tensor:
        x = x.contiguous()
        y, kept = torch.empty_like(x), x.new_empty(2, x.numel() // x.shape[-1], dtype=torch.float32)
        ctx.save_for_backward(x, weight, kept)
        ctx.bias, ctx.centres, ctx.kernels = bias is not None, centres, kernels
        kernels.norm(*pointers(x, weight, bias, y, *kept), *_sizes(x), ctypes.c_float(eps), centres, torch.get_num_threads())
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, kept = ctx.saved_tensors
        gradient, to_x, to_weight = gradient.contiguous(), torch.empty_like(x), torch.empty_like(weight)
        to_bias = torch.empty_like(weight) if ctx.bias else None
        room = kept.new_empty(-(-kept.shape[1] // BLOCK), 2, len(weight))
        tensors = pointers(x, weight, gradient, *kept, to_x, to_weight, to_bias, room)
        ctx.kernels.norm_backward(*tensors, *_sizes(x), ctx.centres, torch.get_num_threads())
        return to_x, to_weight, to_bias, None, None, None


def _sizes(x: Tensor) -> tuple[ctypes.c_int64, ctypes.c_int64]:
    return ctypes.c_int64(x.numel() // x.shape[-1]), ctypes.c_int64(x.shape[-1])


def build_norm(width: int, config: NormConfig | None) -> nn.Module:
    """The norm over the last `width` numbers; None is no norm."""
    if config is None:
        return nn.Identity()
    if config.kind == "rms":
        return RMSNorm(width, eps=config.eps)
    return LayerNorm(width, eps=config.eps, bias=config.bias)
