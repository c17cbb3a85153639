"""Causal and masked language model in one decoder: some rows are read forwards, the others both ways.

Charpentier and Samuel 2024, arXiv:2410.24159, section 2; masked next-token prediction is of Lv et al. 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from yanmo.batch import Row
from yanmo.errors import UserError
from yanmo.models.network import Network
from yanmo.objectives.causal import Causal
from yanmo.objectives.masked import Masked, MaskedBatch
from yanmo.objectives.mixture import Mixture, Part
from yanmo.recipe import CausalObjective, HybridObjective, MaskedObjective
from yanmo.tokenizer import Tokens


class MaskedNext(Masked):
    """A masked language model on a decoder that sees both ways: a masked token is said one place before it, where a causal
    language model says it too."""

    def __init__(self, network: Network, tokens: Tokens, recipe: MaskedObjective):
        super().__init__(network, tokens, recipe)
        self.prefix = tokens.prefix or tokens.suffix[-1:]
        if not self.prefix:
            raise UserError("objective hybrid: the tokenizer has no token that begins or ends a text, where its first is said")

    def collate(self, rows: Sequence[Row], length: int) -> MaskedBatch:
        batch = super().collate(rows, length)
        packed = replace(batch.packed, prefix=torch.ones_like(batch.packed.tokens, dtype=torch.bool))
        return replace(batch, packed=packed, picked=batch.picked - 1)


class Hybrid(Mixture):
    """A mixture of causal and masked rows, both losses weighed by their share of the rows."""

    def __init__(self, network: Network, tokens: Tokens, recipe: HybridObjective):
        if tokens.mask is None:
            raise UserError("objective hybrid: the tokenizer has no mask token; tokenizer.add_special=true adds one")
        masked = MaskedObjective(unit="token", rate=recipe.rate)
        parts = (
            Part("causal", recipe.causal, Causal(network, tokens, CausalObjective())),
            Part("masked", 1 - recipe.causal, MaskedNext(network, tokens, masked)),
        )
        super().__init__(network, tokens, parts)
