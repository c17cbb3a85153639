"""A block: attention, then feed-forward, each added to what came in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from yanmo.layers.attention import Attention, AttentionConfig, Memory
from yanmo.layers.feedforward import FeedForward, FeedForwardConfig
from yanmo.layers.norm import NormConfig, build_norm
from yanmo.layers.view import View


@dataclass(frozen=True)
class BlockConfig:
    width: int
    attention: AttentionConfig
    feedforward: FeedForwardConfig
    norm: NormConfig
    order: Literal["pre", "post"] = "pre"
    """Norm what goes into a brick (GPT-2 and after), or the sum that comes out (BERT)."""
    attention_norm: bool = True
    """ModernBERT's first block has none: the embedding has just been normed."""


class Block(nn.Module):
    """Compiles as one graph: all it decides, it decides from its configuration and from shapes."""

    def __init__(self, config: BlockConfig):
        super().__init__()
        self.config = config
        self.attention_norm = build_norm(config.width, config.norm if config.attention_norm else None)
        self.attention = Attention(config.width, config.attention)
        self.feedforward_norm = build_norm(config.width, config.norm)
        self.feedforward = FeedForward(config.width, config.feedforward)

    def forward(self, x_RTD: Tensor, view: View, memory: Memory | None = None) -> Tensor:  # (R, T, D)
        if self.config.order == "post":
            x_RTD = self.attention_norm(x_RTD + self.attention(x_RTD, view, memory))
            return self.feedforward_norm(x_RTD + self.feedforward(x_RTD))
        x_RTD = x_RTD + self.attention(self.attention_norm(x_RTD), view, memory)
        return x_RTD + self.feedforward(self.feedforward_norm(x_RTD))
