"""Relative positions as a bias of the scores, one number for each head and bucket of distances (Raffel et al. 2020,
arXiv:1910.10683, section 2.1; mesh TensorFlow transformer_layers.py, _relative_position_bucket).

Letters: R rows, T places that look, S places looked at, H heads, B buckets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class RelativeConfig:
    heads: int
    buckets: int = 32
    farthest: int = 128
    """From this distance on, all share the last bucket."""
    both_ways: bool = True
    """Half of the buckets are for what comes later; a decoder looks back only and has all for that."""
    start: float = 1.0
    """The standard deviation before training, where that of the embedding is 1."""

    def bucket(self, distances: Tensor) -> Tensor:
        """The bucket of each distance (place looked at minus place that looks): one for each near one, then wider and wider,
        in the logarithm of the distance."""
        buckets = self.buckets // 2 if self.both_ways else self.buckets
        later = (distances > 0) * buckets if self.both_ways else torch.zeros_like(distances)
        far = distances.abs() if self.both_ways else (-distances).clamp(min=0)
        near = buckets // 2
        turns = torch.log(far.clamp(min=1).float() / near) / math.log(self.farthest / near)  # 0 at `near`, 1 at `farthest`
        wide = (near + (turns * (buckets - near)).long()).clamp(max=buckets - 1)
        return later + torch.where(far < near, far, wide)


class RelativeBias(nn.Module):
    """All blocks of a stack share one. Gradients are summed in float32: a bucket has many places."""

    def __init__(self, config: RelativeConfig):
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.buckets, config.heads)  # (B, H)

    def forward(self, length: int) -> Tensor:
        """(H, 2T - 1) for the distances of T places side by side, from 1 - T to T - 1; documents that share a row need no more,
        for they hide one another."""
        return self._values(torch.arange(1 - length, length, device=self.table.weight.device)).t()

    def at(self, distances: Tensor, dtype: torch.dtype) -> Tensor:
        """(R, H, T, S) for any (R, T, S) distances."""
        return self._values(distances).permute(0, 3, 1, 2).to(dtype)

    def _values(self, distances: Tensor) -> Tensor:
        """(...) to (..., H), in float32 or wider."""
        table = self.table.weight
        return F.embedding(self.config.bucket(distances), table.to(torch.promote_types(table.dtype, torch.float32)))


def spread(by_distance: Tensor, queries: int, keys: int) -> Tensor:
    """(H, T + S - 1) numbers of the distances from 1 - T to S - 1, to all pairs of places, (1, H, T, S)."""
    return by_distance.unfold(1, keys, 1).flip(1)[None]
