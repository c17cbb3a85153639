"""Experts in the place of the feed-forward bricks of any network that has blocks: from a recipe to config.json to blocks.

What transformers knows (Mixtral) has transformers' settings. Elsewhere config.json has them under one key of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from yanmo import recipe
from yanmo.errors import UserError
from yanmo.layers import BlockConfig, ExpertsConfig
from yanmo.models.network import NetworkConfig

EXPERTS_KEY = "yanmo_experts"
"""In config.json of a family that has no experts in transformers; its model_type then begins with `yanmo-`."""


def describe_experts(experts: recipe.Experts) -> dict[str, Any]:
    """The settings of a recipe, all filled in. Of top-k, one expert of a token has the router's probability as its gate (Fedus
    et al. 2021, section 2.1), several have gates that add up to 1, as in Mixtral."""
    filled = ExpertsConfig(experts.number, experts.router, top_k=experts.top_k, balance=experts.balance)
    described: dict[str, Any] = {"number": experts.number, "router": experts.router, "every": experts.every}
    if experts.router == "top-k":
        described |= {"top_k": filled.each, "normed": filled.each > 1, "capacity": experts.capacity}
        described["balance"] = filled.balance_weight
    elif experts.router == "expert-choice":
        described["capacity"] = experts.capacity or 2.0
    else:
        described |= {"top_k": filled.each, "balance": filled.balance_weight}
    return described


def read_experts(config: NetworkConfig, settings: Mapping[str, Any], where: str) -> NetworkConfig:
    """The configuration with the experts of config.json. Raises UserError for what is not as `describe_experts` writes it."""
    known = {field.name for field in fields(ExpertsConfig)} | {"every"}
    if unknown := sorted(set(settings) - known):
        raise UserError(f"{where}: {EXPERTS_KEY}: {', '.join(unknown)} is not known; known: {', '.join(sorted(known))}")
    given = {key: value for key, value in settings.items() if key != "every"}
    try:
        return with_experts(config, ExpertsConfig(**given), settings.get("every", 1), where)
    except TypeError as error:
        raise UserError(f"{where}: {EXPERTS_KEY}: {error}") from None


def with_experts(config: NetworkConfig, experts: ExpertsConfig, every: int, where: str) -> NetworkConfig:
    """Every so many-th block of each stack gets experts, the last of so many. Raises UserError where there is no such block,
    and where a token is to have more experts than there are."""
    if experts.router != "expert-choice" and experts.each > experts.number:
        raise UserError(f"{where}: a token cannot have {experts.each} of {experts.number} experts; lower top k")
    changed, found = _changed(config, experts, every)
    if not found:
        raise UserError(f"{where}: no block of {config.family} gets experts: it has fewer than {every}; lower every")
    return changed


def _changed(config: Any, experts: ExpertsConfig, every: int) -> tuple[Any, int]:
    """The configuration of a network or of one of its stacks, and how many blocks have experts now."""
    changes: dict[str, Any] = {}
    found = 0
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name == "blocks":
            changes["blocks"] = tuple(_of_block(block, None if n % every else experts) for n, block in enumerate(value, start=1))
            found += len(value) // every
        elif hasattr(value, "blocks"):
            changes[field.name], below = _changed(value, experts, every)
            found += below
    return replace(config, **changes), found


def _of_block(block: BlockConfig, experts: ExpertsConfig | None) -> BlockConfig:
    return replace(block, feedforward=replace(block.feedforward, experts=experts))
