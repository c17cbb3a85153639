"""Distillation: a student learns what a teacher with the same tokenizer would have said.

Scores: Hinton et al. 2015, arXiv:1503.02531, section 2. Hidden states: those of the last layer alone, as MiniLM (Wang et al.
2020, arXiv:2002.10957, section 3.1) takes its attention from there alone: no layer of the student need be assigned to one of
the teacher's, so that they may have different numbers of layers and, by a projection, of widths.
Letters: N places that have a target, n of them in a chunk, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yanmo import models
from yanmo.batch import Row
from yanmo.errors import UserError
from yanmo.layers import VocabularyHead, weight_gradient
from yanmo.models.network import Network
from yanmo.objectives.causal import Causal, CausalBatch
from yanmo.objectives.layout import hidden_at
from yanmo.objectives.masked import Masked, MaskedBatch
from yanmo.objectives.objective import Loss, Objective
from yanmo.recipe import KIND_OF, CausalObjective, DistillationObjective, MaskedObjective, article
from yanmo.tokenizer import Tokens, load_tokenizer

CHUNK = 512
"""Places at which the scores of both are held at once, in float32."""


class Distillation(Objective):
    """The teacher's scores at the targets of a masked or a causal language model, and that model's own loss.

    The teacher is neither trained nor saved, drops nothing, and computes in the student's type of numbers.
    """

    def __init__(self, network: Network, tokens: Tokens, recipe: DistillationObjective):
        super().__init__(network)
        self.recipe, self.size = recipe, tokens.size
        plain = recipe.objective or default_section(network)
        self.plain = Masked(network, tokens, plain) if isinstance(plain, MaskedObjective) else Causal(network, tokens, plain)
        self.teacher = _load(recipe.teacher, network, tokens).requires_grad_(False).eval()
        taught = None if recipe.hidden == "none" else self.teacher.config.width
        self.projection = None if taught is None else nn.Linear(network.config.width, taught, bias=False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.teacher.eval()
        return self

    def places(self, tokens: int) -> int:
        return self.plain.places(tokens)

    def collate(self, rows: Sequence[Row], length: int) -> MaskedBatch | CausalBatch:
        return self.plain.collate(rows, length)

    def counts(self, batch: MaskedBatch | CausalBatch) -> dict[str, float]:
        own = {"teacher": len(batch.answers)} | ({} if self.projection is None else {"hidden": batch.tokens})
        return super().counts(batch) | own

    def losses(self, batch: MaskedBatch | CausalBatch, turn: str) -> dict[str, Loss]:
        share = self.recipe.weight
        hidden_RTD = self.network(batch.packed)
        found = self.plain.losses_of(hidden_RTD, batch)  # pyright: ignore[reportArgumentType]  # it made the batch
        losses = {name: replace(loss, weight=loss.weight * (1 - share)) for name, loss in found.items()}
        with torch.no_grad():
            if self.teacher.head.weight.dtype != hidden_RTD.dtype:
                self.teacher.to(hidden_RTD.dtype)
            taught_RTD = self.teacher(batch.packed)
        places = batch.picked if isinstance(batch, MaskedBatch) else batch.places
        own, taught = hidden_at(hidden_RTD, places), hidden_at(taught_RTD, places)
        total = soft_cross_entropy(self.network.head, own, self.teacher.head, taught, self.recipe.temperature, self.size)
        losses["teacher"] = Loss(total, len(places), share)
        if self.projection is not None:
            real = (batch.packed.documents > 0).flatten().nonzero()[:, 0]
            distance = self._distance(self.projection(hidden_at(hidden_RTD, real)).float(), hidden_at(taught_RTD, real).float())
            losses["hidden"] = Loss(distance, batch.tokens, self.recipe.hidden_weight)
        return losses

    def _distance(self, own_ND: Tensor, taught_ND: Tensor) -> Tensor:
        """Summed over places: the mean square over the width, or one minus the cosine."""
        if self.recipe.hidden == "square":
            return (own_ND - taught_ND).square().mean(-1).sum()
        return (1 - F.cosine_similarity(own_ND, taught_ND, dim=-1)).sum()


def default_section(network: Network) -> MaskedObjective | CausalObjective:
    """What is learned beside the teacher where the recipe does not say."""
    return CausalObjective() if network.continues else MaskedObjective()


def _load(folder: str, network: Network, tokens: Tokens) -> Network:
    """The teacher. Raises UserError where it is no teacher for this network."""
    theirs, teacher = load_tokenizer(folder), models.load(folder)
    if theirs.hash != tokens.hash:
        raise UserError(
            f"objective.teacher {folder}: its tokenizer ({theirs.size} tokens, sha256 {theirs.hash[:12]}) is not the student's "
            f"({tokens.size} tokens, sha256 {tokens.hash[:12]}); a teacher's scores are for its own tokens: start a new run with "
            f"tokenizer.file={folder}/tokenizer.json"
        )
    kind, wanted = KIND_OF[teacher.config.family], KIND_OF[network.config.family]
    if kind != wanted:
        raise UserError(
            f"objective.teacher {folder} is a {teacher.config.family}, {article(kind)}, and the student a "
            f"{network.config.family}, {article(wanted)}: they see different parts of a text; choose {article(wanted)} as teacher"
        )
    return teacher


def soft_cross_entropy(
    head: VocabularyHead, hidden: Tensor, teacher: VocabularyHead, taught: Tensor, temperature: float, size: int
) -> Tensor:
    """The summed cross entropy to the teacher's softened probabilities, times the square of the temperature, in nats.

    hidden, taught: (N, D) of each. size: ids of the tokenizer; what pads either vocabulary is left out. The square keeps the
    gradient as large as at temperature 1 (section 2). Made chunk by chunk with its gradient, as yanmo.objectives.cross_entropy.
    """
    features = head.features(hidden)
    weight, bias = _used(head, size, features.dtype)
    with torch.no_grad():
        given = teacher.features(taught)
        theirs = _used(teacher, size, given.dtype)
    learns = torch.is_grad_enabled()
    return _SoftCrossEntropy.apply(features, weight, bias, given, *theirs, temperature, learns)  # pyright: ignore[reportReturnType]


def _used(head: VocabularyHead, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    return head.weight[:size].to(dtype), None if head.bias is None else head.bias[:size].to(dtype)


class _SoftCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        given: Tensor,
        their_weight: Tensor,
        their_bias: Tensor | None,
        temperature: float,
        learns: bool,
    ) -> Tensor:
        wide = torch.promote_types(features.dtype, torch.float32)
        total = features.new_zeros((), dtype=wide)
        learns = learns and any(ctx.needs_input_grad)
        to_features = torch.empty_like(features) if learns else features
        to_weight: Tensor | None = None
        sums = torch.zeros(len(weight), dtype=wide, device=features.device)
        to_bias = torch.zeros_like(sums)
        for part, taught, out in zip(features.split(CHUNK), given.split(CHUNK), to_features.split(CHUNK), strict=True):
            own = (F.linear(part, weight, bias).to(wide) / temperature).log_softmax(-1)
            theirs = (F.linear(taught, their_weight, their_bias).to(wide) / temperature).softmax(-1)
            total -= (own * theirs).sum() * temperature**2
            if learns:
                scores = own.exp_().sub_(theirs).mul_(temperature).to(features.dtype)
                torch.mm(scores, weight, out=out)
                to_weight = weight_gradient(scores, part, to_weight, sums)
                to_bias += sums
        if learns:
            ctx.gradients = to_features, to_weight, None if bias is None else to_bias.to(bias.dtype)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return *(None if one is None else one * grad_total for one in ctx.gradients), *(None,) * 5
