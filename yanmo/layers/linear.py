"""A linear layer whose weight and bias gradients are computed in C on a CPU: torch's product of two transposed matrices
runs at half the speed of its others there, because both have to be laid out anew for the matrix unit.

Letters: N tokens, I inputs, O outputs.
"""

from __future__ import annotations

from ctypes import CDLL, c_long
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yanmo.native import pointers, ready

WRITE, ADD, ADD_WIDE = range(3)
"""What products.c does with its sums: round them to bf16, add them to bf16 numbers, add them to float32 numbers."""


class Linear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:  # (..., I) -> (..., O)
        if torch.is_grad_enabled() and self.weight.requires_grad and ready("products", input, self.weight):
            return _Linear.apply(input, self.weight, self.bias)  # pyright: ignore[reportReturnType]
        return super().forward(input)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(input, weight)
        return F.linear(input, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        input, weight = ctx.saved_tensors
        to_input, to_weight, to_bias = ctx.needs_input_grad
        gradient_NO, input_NI = gradient.reshape(-1, len(weight)), input.reshape(-1, weight.shape[1])
        grad_bias = gradient.new_empty(len(weight), dtype=torch.float32) if to_bias else None
        grad_weight = weight_gradient(gradient_NO, input_NI, sums=grad_bias) if to_weight else None
        if grad_bias is not None and not to_weight:
            torch.sum(gradient_NO, 0, dtype=torch.float32, out=grad_bias)
        grad_input = (gradient_NO @ weight).view(input.shape) if to_input else None
        return grad_input, grad_weight, None if grad_bias is None else grad_bias.to(weight.dtype)


def weight_gradient(gradient_NO: Tensor, input_NI: Tensor, into: Tensor | None = None, sums: Tensor | None = None) -> Tensor:
    """gradient.T @ input, (O, I), summed in float32 over all tokens; added to `into` (O, I) if there is one, and returned.

    `into` may be wider than the other two: nothing is rounded then. The gradient's own sums over tokens, (O) in float32, are
    written to `sums` on the way.
    """
    kernels = ready("products", gradient_NO, input_NI)
    if kernels is not None and (into is None or _kernel_adds_to(into)):
        return _by_kernel(kernels, gradient_NO, input_NI, into, sums)
    if sums is not None:
        torch.sum(gradient_NO, 0, dtype=sums.dtype, out=sums)
    if into is None:
        return gradient_NO.t() @ input_NI
    if into.dtype == gradient_NO.dtype:
        return into.addmm_(gradient_NO.t(), input_NI)
    return into.add_(gradient_NO.t() @ input_NI)


def _by_kernel(kernels: CDLL, gradient_NO: Tensor, input_NI: Tensor, into: Tensor | None, sums: Tensor | None) -> Tensor:
    gradient_NO, input_NI = _with_whole_rows(gradient_NO), _with_whole_rows(input_NI)
    (rows, outputs), inputs = gradient_NO.shape, input_NI.shape[1]
    assert len(input_NI) == rows, f"{rows} gradients for {len(input_NI)} tokens"
    assert into is None or into.shape == (outputs, inputs), f"({outputs}, {inputs}) is added to {tuple(into.shape)}"
    assert sums is None or (sums.shape == (outputs,) and sums.dtype == torch.float32 and sums.is_contiguous()), "as described"
    mode = WRITE if into is None else ADD if into.dtype == torch.bfloat16 else ADD_WIDE
    out = gradient_NO.new_empty(outputs, inputs) if into is None else into
    sizes = (rows, outputs, inputs, gradient_NO.stride(0), input_NI.stride(0), out.stride(0))
    kernels.weight_gradient(*pointers(gradient_NO, input_NI, out, sums), *map(c_long, sizes), mode, torch.get_num_threads())
    return out


def _with_whole_rows(matrix: Tensor) -> Tensor:
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def _kernel_adds_to(into: Tensor) -> bool:
    return into.device.type == "cpu" and into.dtype in (torch.bfloat16, torch.float32) and into.stride(1) == 1
