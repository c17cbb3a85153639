"""A block: attention, then feed-forward, each added to what came in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from yanmo.layers.attention import Attention, AttentionConfig, Memory
from yanmo.layers.cross import CrossAttention, Read
from yanmo.layers.experts import Experts
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
    cross: AttentionConfig | None = None
    """Of a block that also reads another text."""


class Block(nn.Module):
    """Compiles as one graph, but for experts: all it decides, it decides from its configuration and from shapes."""

    def __init__(self, config: BlockConfig):
        super().__init__()
        self.config = config
        self.attention_norm = build_norm(config.width, config.norm if config.attention_norm else None)
        self.attention = Attention(config.width, config.attention)
        self.feedforward_norm = build_norm(config.width, config.norm)
        self.feedforward = (Experts if config.feedforward.experts else FeedForward)(config.width, config.feedforward)

    def forward(self, x_RTD: Tensor, view: View, memory: Memory | None = None) -> Tensor:  # (R, T, D)
        if self.config.order == "post":
            x_RTD = self.attention_norm(x_RTD + self.attention(x_RTD, view, memory))
            return self.feedforward_norm(x_RTD + self.feed(x_RTD, view))
        x_RTD = x_RTD + self.attention(self.attention_norm(x_RTD), view, memory)
        return x_RTD + self.feed(self.feedforward_norm(x_RTD), view)

    def feed(self, x_RTD: Tensor, view: View) -> Tensor:  # (R, T, D)
        """The feed-forward brick; experts are told where documents are."""
        return self.feedforward(x_RTD, view) if isinstance(self.feedforward, Experts) else self.feedforward(x_RTD)


class CrossBlock(Block):
    """A block that also reads another text, between the other two bricks; its keys and values are made by `cross.read`."""

    def __init__(self, config: BlockConfig):
        super().__init__(config)
        assert config.cross is not None, "the configuration says how it reads"
        self.cross_norm = build_norm(config.width, config.norm)
        self.cross = CrossAttention(config.width, config.cross)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x_RUD: Tensor, view: View, read: Read, across: View, memory: Memory | None = None
    ) -> Tensor:  # (R, U, D)
        if self.config.order == "post":
            x_RUD = self.attention_norm(x_RUD + self.attention(x_RUD, view, memory))
            x_RUD = self.cross_norm(x_RUD + self.cross(x_RUD, read, across))
            return self.feedforward_norm(x_RUD + self.feed(x_RUD, view))
        x_RUD = x_RUD + self.attention(self.attention_norm(x_RUD), view, memory)
        x_RUD = x_RUD + self.cross(self.cross_norm(x_RUD), read, across)
        return x_RUD + self.feed(self.feedforward_norm(x_RUD), view)
