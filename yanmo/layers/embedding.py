"""Token ids in, vectors out: the sum of tokens, learned positions and parts of a pair (Devlin et al. 2018, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from yanmo.batch import Packed
from yanmo.layers.norm import NormConfig, build_norm


@dataclass(frozen=True)
class EmbeddingConfig:
    vocabulary: int
    width: int
    positions: int = 0
    """Rows of the table of learned positions; 0 where positions are rotary."""
    offset: int = 0
    """The table's row for position 0. RoBERTa starts after the padding id."""
    types: int = 0
    """How many parts a text may have, 0 where the family does not tell them apart."""
    padding: int | None = None
    """The id that starts at zero and is not learned from its place in the text."""
    norm: NormConfig | None = None
    dropout: float = 0.0


class Embedding(nn.Module):
    def __init__(self, config: EmbeddingConfig):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width, padding_idx=config.padding)
        self.positions = nn.Embedding(config.positions, config.width) if config.positions else None
        self.types = nn.Embedding(config.types, config.width) if config.types else None
        self.norm = build_norm(config.width, config.norm)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, packed: Packed) -> Tensor:  # (R, T, D)
        x_RTD = self.tokens(packed.tokens)
        table = None if self.positions is None else self.positions.weight
        if self.types is not None:
            if packed.types is not None and self.config.types > 1:
                x_RTD = x_RTD + self.types(packed.types)
            elif table is not None:  # all are of the first part: add that to the small table
                table = table + self.types.weight[0]
            else:
                x_RTD = x_RTD + self.types.weight[0]
        if table is not None:
            x_RTD = x_RTD + self._placed(table, packed)
        return self.dropout(self.norm(x_RTD))

    def _placed(self, table: Tensor, packed: Packed) -> Tensor:
        offset = self.config.offset
        if packed.whole:  # every row counts from 0: no gathering
            return table[offset : offset + packed.tokens.shape[1]]
        return F.embedding(packed.positions + offset, table)
