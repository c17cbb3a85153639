"""Mixtral, as data (Jiang et al. 2024, arXiv:2401.04088): Llama with experts in every block, two for each token.

Balanced as transformers does it: one loss for all blocks together. What else a router can be, Llama with `model.experts` is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from yanmo import recipe
from yanmo.layers import ExpertsConfig
from yanmo.models import llama
from yanmo.models.decoder import Decoder
from yanmo.models.family import Family, Sizes
from yanmo.models.gpt2 import tasks
from yanmo.models.mixture import with_experts
from yanmo.models.names import Names, gate_rows, layer
from yanmo.models.network import NetworkConfig, Special, StackConfig

DEFAULTS: dict[str, Any] = {
    **llama.DEFAULTS,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1_000_000.0,
    "sliding_window": None,
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
    "router_aux_loss_coef": 0.001,
}


def read(settings: Mapping[str, Any], tokens: int, pair: bool) -> NetworkConfig:
    window = settings["sliding_window"] is not None
    windows = {"use_sliding_window": window, "max_window_layers": 0, "layer_types": None}
    config = llama.read({**settings, **windows}, tokens, pair, family="mixtral", qk_norm=False)
    experts = ExpertsConfig(
        settings["num_local_experts"],
        top_k=settings["num_experts_per_tok"],
        balance=settings["router_aux_loss_coef"],
        pooled=True,
    )
    return with_experts(config, experts, 1, "config.json")


def describe(sizes: Sizes, special: Special) -> dict[str, Any]:
    experts = sizes.experts or recipe.Experts()
    settings = llama.describe(sizes, special, theta=1_000_000.0)
    del settings["attention_bias"]
    return settings | {
        "num_local_experts": experts.number,
        "num_experts_per_tok": experts.top_k or 2,
        "router_aux_loss_coef": experts.balance_weight,
        "sliding_window": None,
    }


def names(config: StackConfig) -> Names:
    table = llama.names(config)
    brick = "model.layers.{i}.block_sparse_moe."
    experts = (
        layer("blocks.{i}.feedforward.router", brick + "gate"),
        layer("blocks.{i}.feedforward.experts.{e}.inner", (brick + "experts.{e}.w1", brick + "experts.{e}.w3"), gate_rows),
        layer("blocks.{i}.feedforward.experts.{e}.out", brick + "experts.{e}.w2"),
    )
    return replace(table, entries=(*experts, *table.entries))


MIXTRAL = Family(
    "mixtral",
    Decoder,
    llama.LLAMA.presets,
    positions=2048,
    defaults=DEFAULTS,
    describe=describe,
    read=read,
    names=names,
    architecture="MixtralForCausalLM",
    prefix="model.",
    heads=("lm_head.",),
    fixed={
        "attention_bias": False,
        "mlp_bias": False,
        "router_jitter_noise": 0.0,
        "output_router_logits": (False, True),  # what a forward pass returns, no matter what it computes
    },
    tasks=tasks("Mixtral", "score"),
)
