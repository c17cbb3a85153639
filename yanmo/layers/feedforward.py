"""The feed-forward brick (Vaswani et al. 2017, section 3.3), gated where the family is (Shazeer 2020, arXiv:2002.05202)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
}
"""By the names transformers' configurations use."""


@dataclass(frozen=True)
class FeedForwardConfig:
    width: int
    activation: str = "gelu"
    gated: bool = False
    """inner makes two halves; the activated first is multiplied by the second."""
    bias: bool = True
    dropout: float = 0.0
    """Before the second matrix (ModernBERT)."""
    out_dropout: float = 0.0


class FeedForward(nn.Module):
    def __init__(self, width: int, config: FeedForwardConfig):
        super().__init__()
        self.gated = config.gated
        self.activation = ACTIVATIONS[config.activation]
        self.inner = nn.Linear(width, config.width * (2 if config.gated else 1), bias=config.bias)
        if config.gated:
            self.inner.weight.parts = (config.width, config.width)  # type: ignore[attr-defined]  # as in attention
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(config.width, width, bias=config.bias)
        self.out_dropout = nn.Dropout(config.out_dropout)

    def forward(self, x_RTD: Tensor) -> Tensor:  # (R, T, D)
        inner = self.inner(x_RTD)
        if self.gated:
            first, second = inner.chunk(2, dim=-1)
            inner = self.activation(first) * second
        else:
            inner = self.activation(inner)
        return self.out_dropout(self.out(self.dropout(inner)))
