"""The evidence lower bound: texts are written from a latent that may not say more about them than it is worth.

Kingma and Welling 2014, arXiv:1312.6114; for texts Bowman et al. 2016, arXiv:1511.06349 (annealing, section 3.1.1; word
dropout, 3.1.2). Cyclical annealing: Fu et al. 2019, arXiv:1903.10145, section 4. Free bits: Kingma et al. 2016,
arXiv:1606.04934, appendix C.8, for each text by itself as in Li et al. 2020, arXiv:2004.04092, equation 6, so that a batch
cut up otherwise gives the same sum. Importance-weighted bound: Burda et al. 2016, arXiv:1509.00519, section 3.
Letters: R rows, T places of a row, N texts, Z numbers of a latent, K samples, M tokens that are written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from yanmo.batch import Packed, Row
from yanmo.errors import UserError
from yanmo.models.latent import Latent, after_memory
from yanmo.models.network import Network
from yanmo.models.posterior import Posterior
from yanmo.objectives.cross_entropy import cross_entropy
from yanmo.objectives.layout import Text, hidden_at, lay_out
from yanmo.objectives.objective import Loss, Objective
from yanmo.recipe import ElboObjective
from yanmo.tokenizer import Tokens

COLLAPSED_UNITS, COLLAPSED_NATS = 0.25, 0.1
"""A posterior has collapsed when fewer units than this share are active, or a text's KL is below so many nats."""
PATIENCE = 0.2
"""Share of the steps after which that is said: latents need some time to be of use."""


@dataclass(frozen=True)
class ElboBatch:
    """read, written: what the encoder and the decoder see, see yanmo.models.latent. places, answers: (M,) where tokens are
    written and which. droppable: (R, T), which of the decoder's tokens may be hidden from it."""

    read: Packed
    written: Packed
    places: Tensor
    answers: Tensor
    droppable: Tensor
    counts: dict[str, int]

    @property
    def tokens(self) -> int:
        return self.read.real


class Elbo(Objective):
    """Reconstruction and KL, both in nats a token that is written, so that their sum is the bound on its surprise.

    What is learned weighs `penalty`, the KL above the free bits, by a weight that rises; held out, the whole KL weighs 1.
    """

    network: Latent

    def __init__(self, network: Network, tokens: Tokens, recipe: ElboObjective):
        assert isinstance(network, Latent), "the recipe is read with a latent network"
        super().__init__(network)
        self.recipe = recipe
        self.prefix, self.suffix, self.pad = beginning(tokens), tokens.suffix, tokens.pad
        hidden = tokens.mask if tokens.unknown is None else tokens.unknown
        if hidden is None and recipe.word_dropout:
            raise UserError(
                f"objective.word_dropout {recipe.word_dropout}: this tokenizer has neither an unknown token nor a mask to put "
                "in a dropped word's place; set it to 0"
            )
        self.hidden = tokens.pad if hidden is None else hidden
        self.weight, self.done = 1.0, 0.0

    def begin(self, step: int, steps: int) -> None:
        self.weight, self.done = kl_weight(step, steps, self.recipe.cycles, self.recipe.rise), step / steps

    def places(self, tokens: int) -> int:
        return tokens + len(self.prefix) + len(self.suffix)

    def collate(self, rows: Sequence[Row], length: int) -> ElboBatch:
        texts = [[Text.of(piece, self.suffix if piece.ends else ()) for piece in row.pieces] for row in rows]
        layout = lay_out(texts, length, self.prefix, (), self.pad)
        read = layout.packed()
        places = np.flatnonzero(layout.positions >= len(self.prefix))
        count, number = len(places), int((layout.positions[layout.documents > 0] == 0).sum())
        counts = dict.fromkeys(("reconstruction", "kl", "penalty", "bound", "accuracy"), count) | {"kl_per_text": number}
        droppable = torch.from_numpy(layout.positions > len(self.prefix))
        answers = torch.from_numpy(layout.tokens.reshape(-1)[places])
        return ElboBatch(read, after_memory(read), torch.from_numpy(places), answers, droppable, counts)

    def losses(self, batch: ElboBatch, turn: str) -> dict[str, Loss]:
        found, posterior = self._elbo(batch, self._with_words_dropped(batch) if self.training else batch.written)
        penalty = posterior.kl().clamp(min=self.recipe.free_bits * math.log(2)).sum()
        return found | {"penalty": Loss(penalty, batch.counts["penalty"], self.weight)}

    def measure(self, batch: ElboBatch) -> dict[str, Loss]:
        """The bound at its full weight, and the tighter one that several samples give."""
        return self.observe(batch)[0]

    def observe(self, batch: ElboBatch) -> tuple[dict[str, Loss], Tensor]:
        """With the posteriors of the texts, (N, 2 Z)."""
        found, posterior = self._elbo(batch, batch.written)
        bound = -self.bound(batch, self.recipe.samples).sum()
        found |= {"kl": replace(found["kl"], weight=1.0), "bound": Loss(bound, batch.counts["bound"], 0)}
        return found, torch.cat((posterior.mean, posterior.log_variance), -1)

    def bound(self, batch: ElboBatch, samples: int) -> Tensor:
        """The importance-weighted bound on each text's log-probability, (N,), in nats."""
        noise_KNZ = torch.randn(samples, batch.counts["kl_per_text"], self.network.config.latent, device=batch.answers.device)
        return self.network.importance_bound(batch.read, batch.places, batch.answers, noise_KNZ)

    def summarise(self, observed: Tensor, means: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
        posterior = Posterior(*observed.chunk(2, -1))
        active, units = posterior.active_units(), posterior.mean.shape[1]
        figures = {"active_units": float(active), "mutual_information": posterior.mutual_information()}
        figures["perplexity"] = math.exp(min(means["bound"], 700.0))
        kl = means["kl_per_text"]
        if self.done < PATIENCE or (active >= COLLAPSED_UNITS * units and kl >= COLLAPSED_NATS):
            return figures, []
        return figures, [
            f"POSTERIOR COLLAPSE: {active} of {units} latent units are active and the KL is {kl:.2g} nats a text: the decoder "
            f"writes without its latent. {self._remedy()}"
        ]

    def _remedy(self) -> str:
        recipe, ways = self.recipe, []
        if recipe.free_bits < 0.2:
            ways.append(f"raise objective.free_bits ({recipe.free_bits:g}; 0.2 bits a unit, say)")
        if not recipe.rise:
            ways.append("let the KL's weight rise (objective.rise=0.5 objective.cycles=4)")
        if recipe.word_dropout < 0.3:
            ways.append(f"hide more words from the decoder (objective.word_dropout {recipe.word_dropout:g}; up to 0.4)")
        return f"Start again with one of these: {'; '.join([*ways, 'a smaller model.latent, or more training'])}"

    def _elbo(self, batch: ElboBatch, written: Packed) -> tuple[dict[str, Loss], Posterior]:
        hidden_RTD, posterior = self.network(batch.read, written)
        total, correct = cross_entropy(self.network.head, hidden_at(hidden_RTD, batch.places), batch.answers)
        kl_NZ, count = posterior.kl(), len(batch.answers)
        return {
            "reconstruction": Loss(total, count),
            "kl": Loss(kl_NZ.sum(), count, 0),
            "kl_per_text": Loss(kl_NZ.sum(), len(kl_NZ), 0),
            "accuracy": Loss(correct, count, 0),
        }, posterior

    def _with_words_dropped(self, batch: ElboBatch) -> Packed:
        if not self.recipe.word_dropout:
            return batch.written
        tokens = batch.written.tokens
        dropped = batch.droppable & (torch.rand(tokens.shape, device=tokens.device) < self.recipe.word_dropout)
        return replace(batch.written, tokens=tokens.masked_fill(dropped, self.hidden))


def beginning(tokens: Tokens) -> tuple[int, ...]:
    """What stands in front of a text: never nothing, for the first token is written after something."""
    return tokens.prefix or tokens.suffix[-1:] or (tokens.pad,)


def kl_weight(step: int, steps: int, cycles: int, rise: float) -> float:
    """The weight of the KL at a step (Fu et al. 2019, equations 6 and 7): in each of the cycles it rises from 0 to 1 over the
    share `rise`, then stays; one cycle is linear annealing, a rise of 0 is none."""
    length = steps / cycles
    place = step % math.ceil(length) / length
    return 1.0 if place >= rise else place / rise
