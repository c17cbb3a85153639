"""Span corruption: spans of a text become sentinels, and what they stand for is asked for.

Raffel et al. 2020, arXiv:1910.10683, section 3.1.4: 15% of the tokens, in spans of 3 on average.
"""

from __future__ import annotations

import numpy as np

from yanmo.batch import Piece
from yanmo.models.network import Network
from yanmo.objectives.rewriting import Example, Rewriting, Sizes
from yanmo.objectives.spans import check_sentinels, noise_counts, sentinels_of, sparing_mask, with_sentinels
from yanmo.recipe import SpanCorruptionObjective
from yanmo.tokenizer import Tokens


class SpanCorruption(Rewriting):
    """Given: the text with a sentinel for each span. Asked for: each sentinel with its span, and the end (as the reference
    code has it; the paper's figures have one more sentinel there)."""

    def __init__(self, network: Network, tokens: Tokens, recipe: SpanCorruptionObjective):
        super().__init__(network, tokens, recipe.kind)
        self.recipe = recipe
        self.sentinels = sentinels_of(tokens)
        self.special = np.isin(np.arange(tokens.size), list(tokens.special))

    def sizes(self, tokens: int) -> Sizes:
        noise, spans = noise_counts(tokens, self.recipe.rate, self.recipe.span)
        return Sizes(tokens - noise + spans, noise + spans, tokens + 2 * spans)

    def room(self, length: int) -> int:
        """Raises UserError where texts that fill a row need more sentinels than there are."""
        room = super().room(length)
        check_sentinels(self.sentinels, noise_counts(max(room, 0), self.recipe.rate, self.recipe.span)[1], room)
        return room

    def rewrite(self, piece: Piece, rng: np.random.Generator) -> Example:
        mask = sparing_mask(piece.tokens, self.special, self.recipe.rate, self.recipe.span, rng)
        given, asked = (with_sentinels(piece.tokens, taken, self.sentinels) for taken in (mask, ~mask))
        return Example(given, asked if mask.any() else asked[:0])
