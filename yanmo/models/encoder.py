"""Encoders and discriminators: every token sees every token of its document, one vector per token comes out.

BERT: Devlin et al. 2018, arXiv:1810.04805, section 3; google-research/bert modeling.py. RoBERTa: Liu et al. 2019,
arXiv:1907.11692. ModernBERT: Warner et al. 2024, arXiv:2412.13663. ELECTRA: Clark et al. 2020, arXiv:2003.10555.
They differ in data, not in order of operations.
Letters: R rows, T tokens of a row, D width, N pairs.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from yanmo.batch import Packed
from yanmo.layers import View
from yanmo.models.network import Stack, StackConfig, compute_dtype
from yanmo.models.taskhead import TaskKind


class Bidirectional(Stack):
    def forward(self, packed: Packed) -> Tensor:  # (R, T, D)
        self.check_length(packed)
        x_RTD = self.embed(packed)
        views = self.views(partial(View.of, packed, False, compute_dtype(x_RTD)))
        for block, view in zip(self.blocks, views, strict=True):
            x_RTD = block(x_RTD, view)
        return self.norm(x_RTD)


class Encoder(Bidirectional):
    """Scores every token of the vocabulary where one is hidden."""

    def __init__(self, config: StackConfig):
        super().__init__(config)
        self.pooler = nn.Linear(config.width, config.width) if config.pair else None
        self.pair = nn.Linear(config.width, 2) if config.pair else None

    def unread(self, kind: TaskKind) -> frozenset[str]:
        """A task's head has a pooler of its own, which begins as this one is."""
        return frozenset({"head", "pooler", "pair"})

    def pair_logits(self, first_hidden: Tensor) -> Tensor:
        """Scores of "B follows A" and "B does not", (N, 2), from the hidden states of the pairs' first tokens, (N, D)."""
        assert self.pooler is not None, "this encoder was built without a pair head"
        assert self.pair is not None, "a pooler comes with its pair head"
        return self.pair(torch.tanh(self.pooler(first_hidden)))


class Discriminator(Bidirectional):
    """Says of every token whether it was put in another's place; its head has one row, and none for the vocabulary."""

    judges = "says which tokens were replaced; its generator fills gaps, in the folder generator/ inside the model's"

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (...), above 0 where a token looks replaced."""
        return self.head(hidden).squeeze(-1)
