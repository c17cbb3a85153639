"""Fill in the middle: a decoder learns to say what stands between two parts of a text, by reading both before it.

Bavarian et al. 2022, arXiv:2207.14255, section 3: documents, before they are packed; the loss is on every token. Texts are
split between tokens; the paper's splits inside of tokens would need the tokenizer in every worker.
"""

from __future__ import annotations

import numpy as np

from yanmo.batch import Piece
from yanmo.errors import UserError
from yanmo.models.network import Network
from yanmo.objectives.causal import Causal
from yanmo.objectives.layout import Segment, Text
from yanmo.recipe import CausalObjective, FillInTheMiddleObjective
from yanmo.tokenizer import Tokens


class FillInTheMiddle(Causal):
    """A part of the texts is cut into prefix, middle and suffix, all cuts as likely, and read in one of two orders:
    <prefix> ... <suffix> ... <middle> ..., or <prefix> <suffix> ... <middle> with the prefix and the middle in one run
    (the paper's second variant of suffix-prefix-middle). The end of the text follows, to say that the gap is closed."""

    def __init__(self, network: Network, tokens: Tokens, recipe: FillInTheMiddleObjective):
        super().__init__(network, tokens, CausalObjective())
        gaps = tokens.group("gaps")
        if gaps is None:
            raise UserError(
                "the tokenizer has no tokens for prefix, suffix and middle (<|fim_prefix|>, <|fim_suffix|>, <|fim_middle|>); "
                "tokenizer.add_special=true adds them"
            )
        self.gaps, self.rate, self.suffix_first = gaps, recipe.rate, recipe.suffix_first

    def places(self, tokens: int) -> int:
        return super().places(tokens) + len(self.gaps)

    def text(self, piece: Piece, rng: np.random.Generator) -> Text:
        if rng.random() >= self.rate:
            return super().text(piece, rng)
        before, after = np.sort(rng.integers(0, len(piece.tokens) + 1, size=2))
        prefix, middle, suffix = np.split(piece.tokens.astype(np.int64), [before, after])
        first, second, third = ([gap] for gap in self.gaps)
        if rng.random() < self.suffix_first:
            parts = (first, second, suffix, third, prefix, middle)
        else:
            parts = (first, prefix, second, suffix, third, middle)
        tokens = np.concatenate(parts).astype(np.int64)
        return Text((Segment(tokens, np.zeros(1, dtype=np.int64)),), self.suffix)
