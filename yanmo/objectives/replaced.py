"""Replaced-token detection: a small generator fills gaps in the text, the network says of every token whether it did.

Clark et al. 2020, arXiv:2003.10555, section 3.1; google-research/electra run_pretraining.py. Special tokens are not judged:
there they always are the original ones. A place whose drawn token is the true one counts as original.
Letters: R rows, T places of a row, N picked places, J judged places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from yanmo.batch import Packed, Row
from yanmo.errors import UserError
from yanmo.models.electra import generator_for, share_tables
from yanmo.models.encoder import Discriminator, Encoder
from yanmo.models.network import Network
from yanmo.objectives.cross_entropy import cross_entropy_and_draws
from yanmo.objectives.layout import hidden_at
from yanmo.objectives.masked import Masked
from yanmo.objectives.objective import Loss, Objective
from yanmo.recipe import MaskedObjective, ReplacedObjective
from yanmo.tokenizer import Tokens

GENERATOR = "generator"


@dataclass(frozen=True)
class ReplacedBatch:
    """masked: the text with gaps. picked, answers: (N,) places in R*T and the tokens that stood there. judged: (J,) places of
    all tokens of text but special ones. The last two counts are the most there can be: what is drawn decides."""

    masked: Packed
    picked: Tensor
    answers: Tensor
    judged: Tensor
    counts: dict[str, int]

    @property
    def tokens(self) -> int:
        return self.masked.real


class Replaced(Objective):
    """Generator and discriminator move together; the discriminator's gradient does not reach the generator but through the
    embedding tables that they share.

    The tokens are drawn from the generator's scores by one random number a place; adding Gumbel noise to every score gives the
    same distribution for as many random numbers as there are scores.
    """

    network: Discriminator

    def __init__(self, network: Network, tokens: Tokens, recipe: ReplacedObjective):
        assert isinstance(network, Discriminator), "the recipe is read with a discriminator"
        super().__init__(network)
        self.recipe = recipe
        masking = MaskedObjective(unit=recipe.unit, rate=recipe.rate, replace="mask")
        self.generator = Masked(generator_for(network, recipe.generator), tokens, masking)

    def companions(self) -> dict[str, Network]:
        return {GENERATOR: self.generator.network}

    def adopt(self, name: str, network: Network) -> None:
        assert name == GENERATOR, f"there is no companion {name}"
        if not isinstance(network, Encoder):
            raise UserError(f"{GENERATOR}: a {network.config.family} fills no gaps; the generator is an encoder")
        share_tables(network, self.network)
        self.generator.network = network

    def places(self, tokens: int) -> int:
        return self.generator.places(tokens)

    def collate(self, rows: Sequence[Row], length: int) -> ReplacedBatch:
        made = self.generator.collate(rows, length)
        text = torch.from_numpy(~self.generator.special)[made.packed.tokens].flatten()
        text[made.picked] = True                          # there is a mask, in place of text
        judged = (text & (made.packed.documents > 0).flatten()).nonzero()[:, 0]
        counts = {"masked": len(made.picked), "masked_accuracy": len(made.picked), "replaced": len(judged)}
        counts |= {"replaced_accuracy": len(made.picked), "original_accuracy": len(judged)}
        return ReplacedBatch(made.packed, made.picked, made.answers, judged, counts)

    def losses(self, batch: ReplacedBatch, turn: str) -> dict[str, Loss]:
        generator, count = self.generator.network, batch.counts
        hidden_ND = hidden_at(generator(batch.masked), batch.picked)
        total, correct, drawn = cross_entropy_and_draws(generator.head, hidden_ND, batch.answers)
        gaps = batch.masked.tokens.flatten()
        spoilt = gaps.scatter(0, batch.picked, drawn)
        is_new = torch.zeros_like(gaps, dtype=torch.bool).scatter(0, batch.picked, drawn != batch.answers)[batch.judged]
        hidden_RTD = self.network(replace(batch.masked, tokens=spoilt.view_as(batch.masked.tokens)))
        scores = self.network.logits(hidden_RTD).flatten()[batch.judged].float()
        right = (scores > 0) == is_new
        return {
            "masked": Loss(total, count["masked"]),
            "masked_accuracy": Loss(correct, count["masked"], weight=0),
            "replaced": Loss(
                F.binary_cross_entropy_with_logits(scores, is_new.to(scores.dtype), reduction="sum"),
                count["replaced"],
                self.recipe.weight,
            ),
            "replaced_accuracy": Loss((right & is_new).sum(), is_new.sum(), weight=0),
            "original_accuracy": Loss((right & ~is_new).sum(), (~is_new).sum(), weight=0),
        }
