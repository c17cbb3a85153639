"""One answer to the question of who computes: a library of C, or torch."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn

from yanmo.native.build import library


def ready(name: str, *tensors: Tensor | None) -> ctypes.CDLL | None:
    """The library NAME, where it can compute with these: plain tensors in bf16 on a CPU, outside autocast and compiled code."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return None
    for x in tensors:
        if x is not None and not (type(x) in (Tensor, nn.Parameter) and x.dtype == torch.bfloat16 and x.device.type == "cpu"):
            return None
    return library(name)
