"""A mixture of denoisers: short spans, the end of a text, long spans or many; a token says which is asked for.

Tay et al. 2022, arXiv:2205.05131, section 3.1 and table 1. The sequential denoiser is a prefix language model.
"""

from __future__ import annotations

import numpy as np

from yanmo.batch import Piece
from yanmo.errors import UserError
from yanmo.models.network import Network
from yanmo.objectives.rewriting import Example, Rewriting, Sizes
from yanmo.objectives.spans import check_sentinels, noise_counts, sentinels_of, sparing_mask, with_sentinels
from yanmo.recipe import Denoiser, DenoisersObjective
from yanmo.tokenizer import Tokens

MODES = ("R", "S", "X")


class Denoisers(Rewriting):
    """Every text is dealt to one denoiser. As the packer does not know to which, a text takes the places of the worst."""

    def __init__(self, network: Network, tokens: Tokens, recipe: DenoisersObjective):
        super().__init__(network, tokens, recipe.kind)
        self.recipe = recipe
        self.sentinels = sentinels_of(tokens)
        self.special = np.isin(np.arange(tokens.size), list(tokens.special))
        modes = tokens.group("modes") if recipe.modes else ()
        if modes is None:
            raise UserError(
                "the tokenizer has no tokens for the modes of denoisers (<mode_R>, <mode_S>, <mode_X>); "
                "tokenizer.add_special=true adds them, objective.modes=false does without"
            )
        self.modes = {mode: np.array([token]) for mode, token in zip(MODES, modes, strict=False)}
        self.chances = np.cumsum([denoiser.weight for denoiser in recipe.mix])

    def sizes(self, tokens: int) -> Sizes:
        each = [_sizes(denoiser, tokens) for denoiser in self.recipe.mix]
        given, asked, both = (max(size) for size in zip(*each, strict=True))
        return Sizes(given + bool(self.modes), asked, both + bool(self.modes))

    def room(self, length: int) -> int:
        """Raises UserError where texts that fill a row need more sentinels than there are."""
        room = super().room(length)
        check_sentinels(self.sentinels, max(_counts(denoiser, max(room, 0))[1] for denoiser in self.recipe.mix), room)
        return room

    def rewrite(self, piece: Piece, rng: np.random.Generator) -> Example:
        chosen = np.searchsorted(self.chances, rng.random() * self.chances[-1], side="right")
        denoiser = self.recipe.mix[chosen]
        mode = self.modes.get(denoiser.mode, np.zeros(0, dtype=np.int64))
        size = len(piece.tokens)
        if denoiser.span is None:
            split = size - _counts(denoiser, size)[0]
            return Example(np.concatenate([mode, piece.tokens[:split]]), piece.tokens[split:], piece.ends)
        mask = sparing_mask(piece.tokens, self.special, denoiser.rate, denoiser.span, rng)
        given, asked = (with_sentinels(piece.tokens, taken, self.sentinels) for taken in (mask, ~mask))
        return Example(np.concatenate([mode, given]), asked if mask.any() else asked[:0])


def _counts(denoiser: Denoiser, tokens: int) -> tuple[int, int]:
    """How many tokens are asked for, and how many sentinels there are."""
    noise, spans = noise_counts(tokens, denoiser.rate, denoiser.span or tokens or 1)
    return noise, spans if denoiser.span else 0


def _sizes(denoiser: Denoiser, tokens: int) -> tuple[int, int, int]:
    noise, spans = _counts(denoiser, tokens)
    return tokens - noise + spans, noise + spans, tokens + 2 * spans
