"""From hidden states to scores over the vocabulary.

BERT and RoBERTa: dense, activation, norm, then the embedding's own matrix and a bias (google-research/bert
run_pretraining.py, get_masked_lm_output); ModernBERT the same with fewer biases; decoders only the matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yanmo.layers.activation import ACTIVATIONS
from yanmo.layers.linear import Linear
from yanmo.layers.norm import NormConfig, build_norm


@dataclass(frozen=True)
class HeadConfig:
    vocabulary: int
    width: int
    transform: str | None = None
    """The activation after a dense layer, or None where hidden states meet the vocabulary as they are."""
    transform_bias: bool = True
    norm: NormConfig | None = None
    """After the dense layer."""
    bias: bool = False
    tied: bool = True
    """The matrix is that of the token embedding."""
    features: int | None = None
    """What the dense layer gives, where it is not the width: the embedding's width (ELECTRA's generator)."""
    scale: float = 1.0
    """What hidden states are multiplied by where there is no dense layer (T5's tied head: one over the root of the width)."""


class VocabularyHead(nn.Module):
    """scores = features(hidden) @ weight.T + bias. weight: (V, D); bias: (V) or None.

    Losses use the three by themselves, so that scores are only computed where there is an answer, and in pieces.
    """

    def __init__(self, config: HeadConfig, tokens: nn.Embedding):
        super().__init__()
        self.tied, self.scale = config.tied, config.scale
        self.transform = ACTIVATIONS[config.transform] if config.transform else None
        features = config.features or config.width
        self.dense = Linear(config.width, features, bias=config.transform_bias) if config.transform else None
        self.norm = build_norm(features, config.norm if config.transform else None)
        self.weight = tokens.weight if config.tied else nn.Parameter(torch.empty(config.vocabulary, features))
        self.bias = nn.Parameter(torch.zeros(config.vocabulary)) if config.bias else None

    def features(self, hidden: Tensor) -> Tensor:  # (..., D) -> (..., D)
        if self.dense is None or self.transform is None:
            return hidden if self.scale == 1 else hidden * self.scale
        return self.norm(self.transform(self.dense(hidden)))

    def forward(self, hidden: Tensor) -> Tensor:  # (..., D) -> (..., V)
        return F.linear(self.features(hidden), self.weight, self.bias)
