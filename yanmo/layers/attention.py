"""Attention (Vaswani et al. 2017, arXiv:1706.03762, section 3.2), with grouped key-value heads (Ainslie et al. 2023,
arXiv:2305.13245), rotary positions and normed queries and keys as data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yanmo.layers.attention_native import attend_native, attend_packed, takes
from yanmo.layers.linear import Linear
from yanmo.layers.norm import NormConfig, build_norm
from yanmo.layers.rotary import RotaryConfig, rotate
from yanmo.layers.view import View

PLAIN_SCORES = 256 * 256
"""Scores of one head up to which two matrix products and a softmax beat the fused kernel on a CPU."""


@dataclass(frozen=True)
class AttentionConfig:
    heads: int
    kv_heads: int
    head_width: int
    bias: bool = True
    out_bias: bool = True
    qk_norm: NormConfig | None = None
    """Norm of each head's queries and keys, before they are turned (Qwen3)."""
    window: int | None = None
    """The largest distance seen, to either side."""
    rotary: RotaryConfig | None = None
    dropout: float = 0.0
    """Of the attention weights."""
    out_dropout: float = 0.0
    scale: float | None = None
    """What scores are multiplied by: one over the root of a head's width, or what is said here (T5: 1)."""

    @property
    def rows(self) -> tuple[int, int, int]:
        """How many of qkv's outputs are queries, keys and values."""
        return self.heads * self.head_width, self.kv_heads * self.head_width, self.kv_heads * self.head_width


@dataclass(frozen=True)
class Memory:
    """The keys and values that one block has seen, (R, K, S, W) each, filled from the left up to `used` at most."""

    keys: Tensor
    values: Tensor
    used: int

    def extend(self, key: Tensor, value: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Write (R, K, T, W) new ones at (R, T) slots; returns all that are in use."""
        rows = torch.arange(slots.shape[0], device=slots.device)[:, None]
        self.keys[rows, :, slots] = key.transpose(1, 2).to(self.keys.dtype)
        self.values[rows, :, slots] = value.transpose(1, 2).to(self.values.dtype)
        return self.keys[:, :, : self.used].to(key.dtype), self.values[:, :, : self.used].to(value.dtype)


class Attention(nn.Module):
    def __init__(self, width: int, config: AttentionConfig):
        super().__init__()
        self.config = config
        self.qkv = Linear(width, sum(config.rows), bias=config.bias)
        self.qkv.weight.parts = config.rows  # type: ignore[attr-defined]  # an optimizer of matrices takes them one by one
        self.query_norm = build_norm(config.head_width, config.qk_norm)
        self.key_norm = build_norm(config.head_width, config.qk_norm)
        self.out = Linear(config.rows[0], width, bias=config.out_bias)
        self.out_dropout = nn.Dropout(config.out_dropout)

    def forward(self, x_RTD: Tensor, view: View, memory: Memory | None = None) -> Tensor:  # (R, T, D)
        config = self.config
        qkv = self.qkv(x_RTD).unflatten(-1, (-1, config.head_width))
        query, key, value = qkv.split((config.heads, config.kv_heads, config.kv_heads), dim=2)
        dropout = config.dropout if self.training else 0.0
        query, key = self.query_norm(query), self.key_norm(key)  # (R, T, H, W)
        if memory is None and view.seen is not None and takes(query, key, value, dropout, view.angles):
            if config.qk_norm is None:  # one gradient, of qkv
                mixed = attend_packed(qkv, config.heads, config.kv_heads, view.seen, view.angles, config.scale, view.bias)
            else:
                mixed = attend_native(query, key, value, view.seen, view.angles, config.scale, view.bias)
            return self.out_dropout(self.out(mixed.flatten(2)))
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)  # (R, H, T, W)
        if view.cos is not None and view.sin is not None:
            query, key = rotate(query, view.cos, view.sin), rotate(key, view.cos, view.sin)
        if memory is not None:
            assert view.slots is not None, "a memory is written where the view says"
            key, value = memory.extend(key, value, view.slots)
        mixed = attend(query, key, value, view, dropout, config.scale)
        return self.out_dropout(self.out(mixed.transpose(1, 2).flatten(2)))


def attend(query: Tensor, key: Tensor, value: Tensor, view: View, dropout: float = 0.0, scale: float | None = None) -> Tensor:
    """(R, H, T, W) queries over (R, K, S, W) keys and values to (R, H, T, W). The one place that chooses a kernel."""
    if view.seen is not None and takes(query, key, value, dropout):
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        return attend_native(query, key, value, view.seen, None, scale, view.bias).transpose(1, 2)
    if query.device.type == "cpu" and query.shape[2] * key.shape[2] <= PLAIN_SCORES:
        return attend_plain(query, key, value, view, dropout, scale)
    return attend_fused(query, key, value, view, dropout, scale)


def attend_plain(
    query: Tensor, key: Tensor, value: Tensor, view: View, dropout: float = 0.0, scale: float | None = None
) -> Tensor:
    """Two matrix products and a softmax. Heads of a group share one product: keys and values are never repeated."""
    rows, heads, length, width = query.shape
    grouped = (rows, key.shape[1], -1, width)  # (R, K, H / K * T, W)
    if key.stride(0) != key.shape[1] * key.stride(1):  # transposed, such a view would be gathered by matmul number by number
        key = key.contiguous()
    scores = (query * (width**-0.5 if scale is None else scale)).reshape(grouped) @ key.transpose(-2, -1)
    scores = scores.view(rows, heads, length, -1)
    mask = view.mask_for(scores, length, scores.shape[-1])
    if mask is not None:
        scores = scores + mask
    weights = F.dropout(torch.softmax(scores, dim=-1), dropout, training=dropout > 0)
    mixed = weights.view(rows, key.shape[1], -1, key.shape[2]) @ value
    return mixed.view(rows, heads, length, width)


def attend_fused(
    query: Tensor, key: Tensor, value: Tensor, view: View, dropout: float = 0.0, scale: float | None = None
) -> Tensor:
    """torch's own kernels: no (T, S) scores in memory."""
    grouped = query.shape[1] != key.shape[1]
    mask = None if view.triangle else view.mask_for(query, query.shape[2], key.shape[2])
    return F.scaled_dot_product_attention(query, key, value, mask, dropout, view.triangle, scale=scale, enable_gqa=grouped)
