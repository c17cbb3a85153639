"""Prefix language model: the beginning of a text is read both ways, its rest is said token by token.

Liu et al. 2018, arXiv:1801.10198; Raffel et al. 2020, arXiv:1910.10683, sections 3.2.1 and 3.2.3.
"""

from __future__ import annotations

import numpy as np

from yanmo.batch import Piece
from yanmo.models.network import Network
from yanmo.objectives.rewriting import Example, Rewriting, Sizes
from yanmo.recipe import PrefixObjective
from yanmo.tokenizer import Tokens


class Prefix(Rewriting):
    """A text is split anywhere, all places as likely; neither part is empty where it has two tokens."""

    def __init__(self, network: Network, tokens: Tokens, recipe: PrefixObjective):
        super().__init__(network, tokens, recipe.kind)

    def sizes(self, tokens: int) -> Sizes:
        return Sizes(max(tokens - 1, 0), max(tokens - 1, min(tokens, 1)), tokens)

    def rewrite(self, piece: Piece, rng: np.random.Generator) -> Example:
        split = int(rng.integers(1, len(piece.tokens))) if len(piece.tokens) > 1 else 0
        return Example(piece.tokens[:split], piece.tokens[split:], piece.ends)
