"""Token ids in, vectors out: the sum of tokens, learned positions and parts of a pair (Devlin et al. 2018, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yanmo.batch import Packed
from yanmo.layers.linear import Linear
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
    projected: int | None = None
    """The width that a last layer makes of the tables' (ELECTRA); None where it is the same."""


class Table(nn.Embedding):
    """The rows of tokens; see `look_up`."""

    def forward(self, input: Tensor) -> Tensor:  # (...) -> (..., D)
        return look_up(self.weight, input, self.padding_idx)


class Embedding(nn.Module):
    def __init__(self, config: EmbeddingConfig, tokens: nn.Embedding | None = None):
        """`tokens`: a table that is shared with another embedding."""
        super().__init__()
        self.config = config
        self.tokens = tokens or Table(config.vocabulary, config.width, padding_idx=config.padding)
        self.positions = nn.Embedding(config.positions, config.width) if config.positions else None
        self.types = nn.Embedding(config.types, config.width) if config.types else None
        self.norm = build_norm(config.width, config.norm)
        self.dropout = nn.Dropout(config.dropout)
        self.project = Linear(config.width, config.projected) if config.projected else nn.Identity()

    def forward(self, packed: Packed) -> Tensor:  # (R, T, D)
        x_RTD = self.tokens(packed.tokens)
        table = None if self.positions is None else self.positions.weight
        if self.types is not None:
            if packed.types is not None and self.config.types > 1:
                x_RTD = x_RTD + look_up(self.types.weight, packed.types)
            elif table is not None:  # all are of the first part: add that to the small table
                table = table + self.types.weight[0]
            else:
                x_RTD = x_RTD + self.types.weight[0]
        if table is not None:
            x_RTD = x_RTD + self._placed(table, packed)
        return self.project(self.dropout(self.norm(x_RTD)))

    def _placed(self, table: Tensor, packed: Packed) -> Tensor:
        offset = self.config.offset
        if packed.whole:  # every row counts from 0: no gathering
            return table[offset : offset + packed.tokens.shape[1]]
        return look_up(table, packed.positions + offset)


def look_up(table: Tensor, ids: Tensor, padding: int | None = None) -> Tensor:
    """Rows (..., D) of a table (V, D). A row that is looked up often has its gradient summed in fp32.

    On a CPU torch sums it in the table's own type: in bf16 the thousand gradients of [MASK] in 8,192 tokens come out 4% off.
    """
    if table.dtype == torch.bfloat16 and table.device.type == "cpu" and torch.is_grad_enabled():
        return _LookUp.apply(table, ids, -1 if padding is None else padding)
    return F.embedding(ids, table, padding)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.rows, ctx.padding = len(table), padding
        return F.embedding(ids, table)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (ids,) = ctx.saved_tensors
        (gradient,) = gradients
        found, places = ids.unique(return_inverse=True)   # far fewer than the table has rows
        summed = torch.ops.aten.embedding_dense_backward(gradient.float(), places, len(found), -1, False)
        summed.masked_fill_((found == ctx.padding)[:, None], 0)
        table = gradient.new_zeros(ctx.rows, gradient.shape[-1])
        return table.index_copy_(0, found, summed.to(gradient.dtype)), None, None
