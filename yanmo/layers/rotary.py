"""Rotary positions: queries and keys turned by an angle that grows with the place (Su et al. 2021, arXiv:2104.09864).

The two numbers of a turned pair stand half a head apart, as in transformers' Llama, Qwen3 and ModernBERT.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's stretching: slow turns are slowed by the factor, fast ones stay, between them it is blended."""

    low: float
    high: float
    original: int


@dataclass(frozen=True)
class RotaryConfig:
    """width: of a head. factor: how much slower the turns are than trained (linear scaling), 1 as a rule."""

    width: int
    theta: float = 10_000.0
    factor: float = 1.0
    llama3: Llama3Scaling | None = None

    def frequencies(self, device: torch.device) -> Tensor:
        """Radians per place, (W / 2) float32."""
        steps = torch.arange(0, self.width, 2, dtype=torch.float32, device=device)
        plain = 1.0 / (self.theta ** (steps / self.width))
        if self.llama3 is None:
            return plain / self.factor
        turns = self.llama3.original * plain / (2 * math.pi)  # turns over the original length
        keep = ((turns - self.llama3.low) / (self.llama3.high - self.llama3.low)).clamp(0, 1)
        return keep * plain + (1 - keep) * plain / self.factor

    def angles(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine for (R, T) positions, each (R, 1, T, W / 2)."""
        turned = positions[:, None, :, None].float() * self.frequencies(positions.device)
        return turned.cos().to(dtype), turned.sin().to(dtype)


def rotate(x_RHTW: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn every pair of a head's numbers; the result is contiguous in (R, H, T, W) whatever the order of the input."""
    first, second = x_RHTW.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
