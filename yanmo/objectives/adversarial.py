"""A game: a generator writes texts, a discriminator tells them from real ones, and the generator learns to pass for real.

The generator is any network that continues text. It first learns by maximum likelihood; then the discriminator learns what it
writes; then both take turns. A text is made of choices, through which no gradient passes; two ways around that:
policy gradient with roll-outs, SeqGAN (Yu et al. 2017, arXiv:1609.05473, equations 2 to 6), and the Gumbel-softmax, RelGAN (Nie
et al. 2019, openreview rJedV3R5tm, sections 3.2 and 3.4, with the relativistic loss).
Letters: N texts, L places of a text, M of them with a token, S scores of a text, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yanmo.batch import Row
from yanmo.errors import UserError
from yanmo.models.network import Network, in_mode
from yanmo.models.snapshot import Snapshot
from yanmo.models.textcnn import TextCnn, judge_for
from yanmo.objectives.causal import Causal, CausalBatch
from yanmo.objectives.drafts import Pen
from yanmo.objectives.layout import hidden_at
from yanmo.objectives.objective import Loss, Objective, Phase
from yanmo.recipe import AdversarialObjective, CausalObjective
from yanmo.tokenizer import Tokens

GENERATOR, DISCRIMINATOR = "generator", "discriminator"
LIKELIHOOD = "likelihood"
"""The companion that is the generator as maximum likelihood left it: what the game is measured against."""

SHARPNESS, ROLLOUTS = 100.0, 4
"""Where the recipe does not say: RelGAN's, and a quarter of SeqGAN's, which cost most of a step."""


@dataclass(frozen=True)
class AdversarialBatch:
    """causal: what maximum likelihood reads. texts: (N, L), the beginnings of the same pieces with their ends, padded."""

    causal: CausalBatch
    texts: Tensor
    counts: dict[str, int]

    @property
    def tokens(self) -> int:
        return self.causal.tokens


class Adversarial(Objective):
    """Maximum likelihood, then a discriminator by itself, then the game, each a phase with its own schedule of learning rates."""

    keeps = "last"

    def __init__(self, network: Network, tokens: Tokens, recipe: AdversarialObjective):
        super().__init__(network)
        self.recipe = recipe
        self.causal = Causal(network, tokens, CausalObjective())
        if not tokens.suffix:
            raise UserError(
                "objective adversarial: this tokenizer has no token that ends a text, so that none is ever finished; use the "
                "tokenizer of a family that has one (gpt2, lstm)"
            )
        longest = network.config.length - len(self.causal.prefix)
        if recipe.longest > longest:
            raise UserError(
                f"objective.longest {recipe.longest}: this {network.config.family} has positions for texts of {longest} tokens; "
                "lower it, or raise model.positions"
            )
        self.pen = Pen(network, self.causal.prefix, tokens.suffix[-1], tokens.pad, tokens.size, recipe.longest)
        self.discriminator = judge_for(network, recipe.longest)
        self.snapshot = Snapshot(network)
        warm = recipe.start + (1 - recipe.start) * recipe.warm
        game = (GENERATOR, *[DISCRIMINATOR] * recipe.discriminator_turns)
        self.phases = (
            Phase(0.0, (GENERATOR,)),
            Phase(recipe.start, (DISCRIMINATOR,), recipe.pace),
            Phase(warm, game, recipe.pace),
        )
        self.phase, self.sharpness = 0, 1.0

    def players(self) -> dict[str, nn.Module]:
        return {GENERATOR: self.network, DISCRIMINATOR: self.discriminator}

    def begin(self, step: int, steps: int) -> None:
        now = self.moment(step, steps)
        self.phase = now.number
        played = now.step / now.steps if now.number == 2 else 0.0
        self.sharpness = (self.recipe.sharpness or SHARPNESS) ** played  # RelGAN's exponential policy
        if now.number > 0 and not self.snapshot.taken:
            self.snapshot.take(self.network)

    def companions(self) -> dict[str, Network]:
        likelihood = self.snapshot.restored(self.network) if self.snapshot.taken else self.network  # that of a run so short
        return {DISCRIMINATOR: self.discriminator, LIKELIHOOD: likelihood}

    def adopt(self, name: str, network: Network) -> None:
        if name == DISCRIMINATOR:
            if not isinstance(network, TextCnn) or network.config.length != self.pen.length:
                raise UserError(
                    f"{name}: it does not judge texts of {self.pen.length} tokens; leave its folder out, or set "
                    f"objective.longest to {network.config.length}"
                )
            self.discriminator = network
        elif self.recipe.start == 0:                      # else maximum likelihood comes first, again
            self.snapshot.take(network)

    def places(self, tokens: int) -> int:
        return self.causal.places(tokens)

    def collate(self, rows: Sequence[Row], length: int) -> AdversarialBatch:
        causal = self.causal.collate(rows, length)
        pieces = [piece for row in rows for piece in row.pieces]
        texts = np.full((len(pieces), self.pen.length), self.pen.pad, dtype=np.int64)
        for text, piece in zip(texts, pieces, strict=True):
            ids = [*piece.tokens[: self.pen.length], *[self.pen.end] * piece.ends][: self.pen.length]
            text[: len(ids)] = ids
        counts = causal.counts | dict.fromkeys(("adversarial", "discriminator"), len(texts))
        return AdversarialBatch(causal, torch.from_numpy(texts), counts | {"discriminator_accuracy": 2 * len(texts)})

    def losses(self, batch: AdversarialBatch, turn: str) -> dict[str, Loss]:
        if turn == DISCRIMINATOR:
            return self._tell(batch.texts)
        if self.phase == 0:
            return self.causal.losses(batch.causal, turn)
        gain = self._by_policy if self.recipe.estimator == "policy-gradient" else self._by_gumbel
        return {"adversarial": Loss(gain(batch.texts), len(batch.texts))}

    def measure(self, batch: AdversarialBatch) -> dict[str, Loss]:
        """How likely held-out text is; while the game is on, also how well the discriminator tells it from written text."""
        found = self.causal.losses(batch.causal, GENERATOR)
        if self.phase == 0:
            return found
        told = self._tell(batch.texts)
        return found | {name: Loss(loss.total, loss.count, 0) for name, loss in told.items()}

    def _tell(self, real_NL: Tensor) -> dict[str, Loss]:
        """The discriminator's loss on as many written texts as there are real ones."""
        with torch.no_grad():
            written_NL, soft = self._written(len(real_NL))
        real_NS = self._scores(real_NL)
        written_NS = self._scores(written_NL, *soft)
        if self.recipe.estimator == "policy-gradient":
            losses = F.softplus(-real_NS) + F.softplus(written_NS)
        else:
            losses = F.softplus(written_NS - real_NS)
        right = (real_NS.mean(1) > 0).sum() + (written_NS.mean(1) < 0).sum()
        return {
            "discriminator": Loss(losses.mean(1).sum(), len(real_NL)),
            "discriminator_accuracy": Loss(right, 2 * len(real_NL), weight=0),
        }

    def _written(self, count: int) -> tuple[Tensor, tuple[Tensor, Tensor] | tuple[()]]:
        """Texts as the discriminator is shown them: their tokens, and, relaxed, shares of all tokens and where these stand."""
        with in_mode(self.network):
            texts_NL = self.pen.write(count)
            if self.recipe.estimator == "policy-gradient":
                return texts_NL, ()
            logits_MV, places_M = self._logits(texts_NL)
            return texts_NL, (relaxed(logits_MV, texts_NL.flatten()[places_M], self.sharpness), places_M)

    def _by_gumbel(self, real_NL: Tensor) -> Tensor:
        """The relativistic loss of the generator, summed over texts: real ones should not look more real than written ones."""
        written_NL, soft = self._written(len(real_NL))
        real_NS, written_NS = self._scores(real_NL), self._scores(written_NL, *soft)
        return F.softplus(real_NS - written_NS).mean(1).sum()

    def _by_policy(self, real_NL: Tensor) -> Tensor:
        """Minus the summed chance that written texts are real, with the gradient of its expectation."""
        with in_mode(self.network), in_mode(self.discriminator):
            texts_NL, worth_NL = self.pen.write_and_judge(len(real_NL), self.recipe.rollouts or ROLLOUTS, self._chance)
            logits_MV, places_M = self._logits(texts_NL)
        surprise_M = F.cross_entropy(logits_MV, texts_NL.flatten()[places_M], reduction="none")
        sizes_N = self.pen.sizes(texts_NL)
        advantage_NL = beyond_others(worth_NL, sizes_N)
        surrogate = (advantage_NL.flatten()[places_M] * surprise_M).sum()
        reward = worth_NL.gather(1, sizes_N[:, None] - 1).sum()
        return surrogate - (surrogate + reward).detach()

    def _logits(self, texts_NL: Tensor) -> tuple[Tensor, Tensor]:
        """The scores from which each token of written texts was drawn, (M, V), with their gradients, and where they stand."""
        places_M = self.pen.places(texts_NL)
        logits_MV = self.network.logits(hidden_at(self.pen.read_again(texts_NL), places_M))[:, : self.pen.size]
        return logits_MV.to(torch.promote_types(logits_MV.dtype, torch.float32)), places_M

    def _scores(self, texts_NL: Tensor, *soft: Tensor) -> Tensor:
        return self.discriminator.logits(self.discriminator(texts_NL, *soft)).float()  # (N, S)

    def _chance(self, texts_NL: Tensor) -> Tensor:
        """How sure the discriminator is that texts are real, (N,)."""
        return torch.sigmoid(self._scores(texts_NL).mean(1))


def beyond_others(worth_NL: Tensor, sizes_N: Tensor) -> Tensor:
    """What each token of a text is worth beyond the mean of the other texts' tokens at the same place, (N, L): less noise and the
    same gradient on average, since the others know nothing of this one."""
    real_NL = (torch.arange(worth_NL.shape[1], device=worth_NL.device) < sizes_N[:, None]).to(worth_NL.dtype)
    others_NL = real_NL.sum(0) - real_NL
    mean_NL = ((worth_NL * real_NL).sum(0) - worth_NL * real_NL) / others_NL.clamp(min=1)
    return (worth_NL - mean_NL) * real_NL


def relaxed(logits_MV: Tensor, chosen_M: Tensor, sharpness: float) -> Tensor:
    """Shares of all tokens, (M, V), nearly one for the token that was chosen: softmax(sharpness * (logits + Gumbel noise)).

    The noise is drawn as it must have been for these tokens to have the largest sum (Maddison et al. 2014, arXiv:1411.0030,
    section 2): so texts are written first, without gradients and with a cache, and read once with gradients.
    """
    logits_MV = logits_MV.log_softmax(-1)
    with torch.no_grad():
        tops_M1 = gumbel(logits_MV.new_zeros(len(logits_MV), 1))
        free_MV = gumbel(logits_MV)
        noisy_MV = -torch.logaddexp(-tops_M1, -free_MV)   # cut off at the largest
        noise_MV = noisy_MV.scatter(1, chosen_M[:, None], tops_M1) - logits_MV
    return torch.softmax(sharpness * (logits_MV + noise_MV), -1)


def gumbel(locations: Tensor) -> Tensor:
    """One draw from a standard Gumbel distribution around each of `locations`."""
    return locations - torch.empty_like(locations).exponential_().clamp(min=torch.finfo(locations.dtype).tiny).log()
