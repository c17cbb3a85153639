"""The feed-forward brick (Vaswani et al. 2017, section 3.3), gated where the family is (Shazeer 2020, arXiv:2002.05202)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from yanmo.layers.activation import ACTIVATIONS, GATES
from yanmo.layers.linear import Linear
from yanmo.layers.routing import ExpertsConfig


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
    experts: ExpertsConfig | None = None
    """Many such bricks, of which each token meets a few: yanmo.layers.experts."""


class FeedForward(nn.Module):
    def __init__(self, width: int, config: FeedForwardConfig):
        super().__init__()
        self.activation = (GATES if config.gated else ACTIVATIONS)[config.activation]
        self.inner = Linear(width, config.width * (2 if config.gated else 1), bias=config.bias)
        if config.gated:
            self.inner.weight.parts = (config.width, config.width)  # type: ignore[attr-defined]  # as in attention
        self.dropout = nn.Dropout(config.dropout)
        self.out = Linear(config.width, width, bias=config.bias)
        self.out_dropout = nn.Dropout(config.out_dropout)

    def forward(self, x_RTD: Tensor) -> Tensor:  # (R, T, D)
        inner = self.activation(self.inner(x_RTD))
        return self.out_dropout(self.out(self.dropout(inner)))
