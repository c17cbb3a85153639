"""Norms: LayerNorm (Ba et al. 2016, arXiv:1607.06450) and RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class NormConfig:
    kind: Literal["layer", "rms"] = "layer"
    eps: float = 1e-5
    bias: bool = True
    """Only LayerNorm has one."""


class RMSNorm(nn.RMSNorm):
    """torch's, with the weight in the input's number type: under autocast torch would warn and leave its fused kernel."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.weight is not None, "an RMSNorm here always has a weight"
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def build_norm(width: int, config: NormConfig | None) -> nn.Module:
    """The norm over the last `width` numbers; None is no norm."""
    if config is None:
        return nn.Identity()
    if config.kind == "rms":
        return RMSNorm(width, eps=config.eps)
    return nn.LayerNorm(width, eps=config.eps, bias=config.bias)
