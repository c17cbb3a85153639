"""The contract of a network: Packed in, hidden states out, and the vocabulary only for the places asked for.

Letters: R rows, T tokens of a row, D width, E width that meets the vocabulary, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from yanmo.batch import Packed


class Network(nn.Module, ABC):
    """Maps Packed to hidden states. `head` turns hidden states into scores over the vocabulary (see layers.VocabularyHead)."""

    config: Any
    head: Any

    @abstractmethod
    def forward(self, packed: Packed) -> Tensor:
        """Hidden states, (R, T, D)."""

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return self.head(hidden)
