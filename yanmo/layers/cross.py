"""Attention from one sequence to another (Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3).

Letters: R rows, T tokens of a source row, U tokens of a target row, D width, H heads, K key-value heads, W width of a head.
"""

from __future__ import annotations

from torch import Tensor, nn

from yanmo.layers.attention import AttentionConfig, attend
from yanmo.layers.linear import Linear
from yanmo.layers.view import View

Read = tuple[Tensor, Tensor]
"""The keys and the values of a source, (R, K, T, W) each, as one block sees them."""


class CrossAttention(nn.Module):
    """Queries from what is written, keys and values from what is read; no positions: those are in the hidden states.

    Where there are n times as many rows as sources, each source is read by n rows side by side, as if they were one."""

    def __init__(self, width: int, config: AttentionConfig):
        super().__init__()
        assert (config.rotary, config.window, config.qk_norm) == (None, None, None), "these are for one text"
        self.config = config
        queries, keys, values = config.rows
        self.query = Linear(width, queries, bias=config.bias)
        self.key_value = Linear(width, keys + values, bias=config.bias)
        self.key_value.weight.parts = (keys, values)  # type: ignore[attr-defined]  # as in attention
        self.out = Linear(queries, width, bias=config.out_bias)
        self.out_dropout = nn.Dropout(config.out_dropout)

    def read(self, source_RTD: Tensor) -> Read:
        """What the block needs of a source, however often it looks there."""
        key, value = self.key_value(source_RTD).unflatten(-1, (-1, self.config.head_width)).chunk(2, dim=2)
        return key.transpose(1, 2), value.transpose(1, 2)

    def forward(self, x_RUD: Tensor, read: Read, view: View) -> Tensor:  # (R, U, D)
        config = self.config
        query = self.query(x_RUD).view(len(read[0]), -1, config.heads, config.head_width).transpose(1, 2)
        mixed = attend(query, *read, view, config.dropout if self.training else 0.0, config.scale)
        return self.out_dropout(self.out(mixed.transpose(1, 2).reshape(*x_RUD.shape[:2], -1)))
