"""Objectives: what is learned. Each is an Objective; the recipe's kind names it."""

from __future__ import annotations

from yanmo.errors import UserError
from yanmo.models.network import Network
from yanmo.objectives.causal import Causal, CausalBatch
from yanmo.objectives.masked import Masked, MaskedBatch
from yanmo.objectives.objective import Loss, Objective
from yanmo.recipe import CausalObjective, MaskedObjective, Recipe
from yanmo.tokenizer import Tokens


def build_objective(recipe: Recipe, network: Network, tokens: Tokens) -> Objective:
    """The recipe's objective on a network. Raises UserError where network, tokenizer and objective do not fit together."""
    settings = recipe.objective
    if network.config.causal != (settings.kind == "causal"):
        kind, needed = ("a decoder", "causal") if network.config.causal else ("an encoder", "masked")
        raise UserError(
            f"objective.kind {settings.kind} does not fit {network.config.family}, which is {kind}: use {needed}"
        )
    if tokens.size > network.config.vocabulary:
        raise UserError(
            f"the tokenizer has {tokens.size} tokens and the network's vocabulary only {network.config.vocabulary}; "
            "use the tokenizer that belongs to the model"
        )
    if isinstance(settings, MaskedObjective):
        return Masked(network, tokens, settings)
    assert isinstance(settings, CausalObjective), f"no objective is registered as {settings.kind}"
    return Causal(network, tokens, settings)


__all__ = [
    "Causal",
    "CausalBatch",
    "Loss",
    "Masked",
    "MaskedBatch",
    "Objective",
    "build_objective",
]
