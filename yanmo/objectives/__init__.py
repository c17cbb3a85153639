"""Objectives: what is learned. Each is an Objective; the recipe's kind names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from yanmo.errors import UserError
from yanmo.models import load
from yanmo.models.network import Network
from yanmo.objectives.adversarial import Adversarial
from yanmo.objectives.causal import Causal, CausalBatch
from yanmo.objectives.contrast import Contrast, ContrastBatch
from yanmo.objectives.counting import Counting
from yanmo.objectives.denoisers import Denoisers
from yanmo.objectives.denoising import Denoising
from yanmo.objectives.distillation import Distillation
from yanmo.objectives.fill_in_the_middle import FillInTheMiddle
from yanmo.objectives.hybrid import Hybrid
from yanmo.objectives.latent import Elbo, ElboBatch
from yanmo.objectives.masked import Masked, MaskedBatch
from yanmo.objectives.mixture import Mixture, Part, named_apart
from yanmo.objectives.objective import Loss, Objective
from yanmo.objectives.permuted import Permuted, PermutedBatch
from yanmo.objectives.prefix import Prefix
from yanmo.objectives.replaced import Replaced, ReplacedBatch
from yanmo.objectives.rewriting import Rewriting, RewrittenBatch
from yanmo.objectives.several import Several, SeveralBatch
from yanmo.objectives.span_corruption import SpanCorruption
from yanmo.recipe import KIND_OF, MixtureObjective, Recipe, article, families_of
from yanmo.tokenizer import Tokens


def _mixture(network: Network, tokens: Tokens, recipe: MixtureObjective) -> Mixture:
    names = named_apart([section.kind for section in recipe.sections])
    made = [MAKERS[section.kind](network, tokens, section) for section in recipe.sections]
    weights = [part.weight for part in recipe.parts]
    return Mixture(network, tokens, [Part(*part) for part in zip(names, weights, made, strict=True)])


MAKERS: dict[str, Callable[[Any, Tokens, Any], Objective]] = {
    "masked": Masked,
    "causal": Causal,
    "elbo": Elbo,
    "span-corruption": SpanCorruption,
    "denoising": Denoising,
    "prefix": Prefix,
    "denoisers": Denoisers,
    "fill-in-the-middle": FillInTheMiddle,
    "hybrid": Hybrid,
    "mixture": _mixture,
    "replaced": Replaced,
    "contrast": Contrast,
    "distillation": Distillation,
    "counting": Counting,
    "permuted": Permuted,
    "adversarial": Adversarial,
}
"""By the recipe's kind: from a network, a tokenizer and the objective's section of the recipe."""


def build_objective(recipe: Recipe, network: Network, tokens: Tokens, folder: str | Path | None = None) -> Objective:
    """The recipe's objective on a network. `folder`: the model folder that the network is from; companions that were kept in it
    are gone on with. Raises UserError where network, tokenizer, companions and objective do not fit together.
    """
    return objective_on(network, tokens, recipe.objective, folder)


def objective_on(network: Network, tokens: Tokens, settings: Any, folder: str | Path | None = None) -> Objective:
    """What `build_objective` makes, by the objective's own section."""
    family = network.config.family
    for section in (settings, *settings.sections):
        if KIND_OF[family] not in section.fits:
            raise UserError(
                f"objective.kind {section.kind} does not fit {family}, {article(KIND_OF[family])}: "
                f"it is for {', '.join(families_of(*section.fits))}"
            )
    if tokens.size > network.config.vocabulary:
        raise UserError(
            f"the tokenizer has {tokens.size} tokens and the network's vocabulary only {network.config.vocabulary}; "
            "use the tokenizer that belongs to the model"
        )
    objective = MAKERS[settings.kind](network, tokens, settings)
    if folder is not None:
        for name in objective.companions():
            if (Path(folder) / name / "config.json").is_file():
                objective.adopt(name, load(Path(folder) / name))
    return objective


__all__ = [
    "Adversarial",
    "Causal",
    "CausalBatch",
    "Contrast",
    "ContrastBatch",
    "Counting",
    "Denoisers",
    "Denoising",
    "Distillation",
    "Elbo",
    "ElboBatch",
    "FillInTheMiddle",
    "Hybrid",
    "Loss",
    "Masked",
    "MaskedBatch",
    "Mixture",
    "Objective",
    "Permuted",
    "PermutedBatch",
    "Prefix",
    "Replaced",
    "ReplacedBatch",
    "Rewriting",
    "RewrittenBatch",
    "Several",
    "SeveralBatch",
    "SpanCorruption",
    "build_objective",
    "objective_on",
]
