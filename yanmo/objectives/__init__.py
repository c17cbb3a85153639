"""Objectives: what is learned. Each is an Objective; the recipe's kind names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from yanmo.errors import UserError
from yanmo.models.network import Network
from yanmo.objectives.causal import Causal, CausalBatch
from yanmo.objectives.masked import Masked, MaskedBatch
from yanmo.objectives.objective import Loss, Objective
from yanmo.recipe import KIND_OF, Recipe, article, families_of
from yanmo.tokenizer import Tokens

MAKERS: dict[str, Callable[[Any, Tokens, Any], Objective]] = {"masked": Masked, "causal": Causal}
"""By the recipe's kind: from a network, a tokenizer and the objective's section of the recipe."""


def build_objective(recipe: Recipe, network: Network, tokens: Tokens) -> Objective:
    """The recipe's objective on a network. Raises UserError where network, tokenizer and objective do not fit together."""
    settings, family = recipe.objective, network.config.family
    if KIND_OF[family] not in settings.fits:
        raise UserError(
            f"objective.kind {settings.kind} does not fit {family}, {article(KIND_OF[family])}: "
            f"it is for {', '.join(families_of(*settings.fits))}"
        )
    if tokens.size > network.config.vocabulary:
        raise UserError(
            f"the tokenizer has {tokens.size} tokens and the network's vocabulary only {network.config.vocabulary}; "
            "use the tokenizer that belongs to the model"
        )
    return MAKERS[settings.kind](network, tokens, settings)


__all__ = [
    "Causal",
    "CausalBatch",
    "Loss",
    "Masked",
    "MaskedBatch",
    "Objective",
    "build_objective",
]
