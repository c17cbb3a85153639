"""Llama and Qwen3, as data: rotary positions, RMSNorm before each brick, gated with SiLU, grouped key-value heads.

Llama: Touvron et al. 2023, arXiv:2302.13971. Qwen3: Yang et al. 2025, arXiv:2505.09388, section 2 (norms on queries and
keys, a head's width of its own). Neither paper says how weights start: normal with transformers' initializer_range, 0.02.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from yanmo.errors import UserError
from yanmo.layers import (
    AttentionConfig,
    BlockConfig,
    EmbeddingConfig,
    FeedForwardConfig,
    HeadConfig,
    NormConfig,
    StartConfig,
)
from yanmo.models.decoder import Decoder
from yanmo.models.family import REQUIRED, Family, Sizes, activation, multiple, padding_row, rotary
from yanmo.models.gpt2 import tasks
from yanmo.models.names import Names, gate_rows, layer, qkv_rows, single
from yanmo.models.network import Special, StackConfig

DEFAULTS: dict[str, Any] = {
    "vocab_size": REQUIRED,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "rope_parameters": None,
    "rope_theta": 10_000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "tie_word_embeddings": False,
}
QWEN3_DEFAULTS: dict[str, Any] = {
    **DEFAULTS,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}
SHAPES = {
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "medium": (8, 512),
    "base": (12, 768),
    "large": (24, 1024),
}


def windows(settings: Mapping[str, Any]) -> list[int | None]:
    """The largest distance that each block sees back; only Qwen3 has any."""
    layers = settings["num_hidden_layers"]
    if not settings.get("use_sliding_window") or not settings.get("sliding_window"):
        if "sliding_attention" in (settings.get("layer_types") or ()):
            raise UserError("config.json: layer_types has sliding_attention, but use_sliding_window is off")
        return [None] * layers
    first = settings["max_window_layers"]
    types = settings["layer_types"] or ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
    if len(types) != layers or set(types) - {"sliding_attention", "full_attention"}:
        raise UserError(f"config.json: layer_types must be {layers} times full_attention or sliding_attention, not {types}")
    return [settings["sliding_window"] - 1 if kind == "sliding_attention" else None for kind in types]


def read(settings: Mapping[str, Any], tokens: int, pair: bool, *, family: str, qk_norm: bool) -> StackConfig:
    width, vocabulary, heads = settings["hidden_size"], settings["vocab_size"], settings["num_attention_heads"]
    kv_heads, per_head = settings["num_key_value_heads"] or heads, settings["head_dim"] or width // heads
    if heads % kv_heads:
        raise UserError(f"config.json: {heads} heads are not divisible by {kv_heads} key-value heads")
    norm = NormConfig("rms", settings["rms_norm_eps"])
    turns = {**(settings["rope_scaling"] or {}), **(settings["rope_parameters"] or {})}
    feedforward = FeedForwardConfig(
        settings["intermediate_size"], activation(settings, "hidden_act"), gated=True, bias=settings["mlp_bias"]
    )

    def block(window: int | None) -> BlockConfig:
        attention = AttentionConfig(
            heads,
            kv_heads,
            per_head,
            bias=settings["attention_bias"],
            out_bias=settings["attention_bias"],
            qk_norm=norm if qk_norm else None,
            window=window,
            rotary=rotary(turns, settings["rope_theta"], per_head),
            dropout=settings["attention_dropout"],
        )
        return BlockConfig(width, attention, feedforward, norm)

    return StackConfig(
        family=family,
        vocabulary=vocabulary,
        tokens=tokens,
        length=settings["max_position_embeddings"],
        width=width,
        embedding=EmbeddingConfig(vocabulary, width, padding=padding_row(settings)),
        blocks=tuple(block(window) for window in windows(settings)),
        final_norm=norm,
        head=HeadConfig(vocabulary, width, tied=settings["tie_word_embeddings"]),
        start=StartConfig(settings["initializer_range"]),
    )


def describe(sizes: Sizes, special: Special, *, theta: float) -> dict[str, Any]:
    """Tied, as the small models of Qwen3 and Llama 3.2 are: at these sizes the vocabulary is most of the parameters."""
    return {
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.width,
        "intermediate_size": sizes.feedforward,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.width // sizes.heads,
        "hidden_act": "silu",
        "max_position_embeddings": sizes.positions,
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "attention_bias": False,
        "attention_dropout": sizes.dropout,
        "tie_word_embeddings": True,
        "pad_token_id": special.pad,
        "bos_token_id": special.bos,
        "eos_token_id": special.eos,
    }


def names(config: StackConfig) -> Names:
    block = "model.layers.{i}."
    qkv = tuple(f"{block}self_attn.{part}_proj" for part in "qkv")
    return Names(
        (
            layer("embed.tokens", "model.embed_tokens"),
            layer("blocks.{i}.attention_norm", block + "input_layernorm"),
            layer("blocks.{i}.attention.qkv", qkv, qkv_rows),
            layer("blocks.{i}.attention.query_norm", block + "self_attn.q_norm"),
            layer("blocks.{i}.attention.key_norm", block + "self_attn.k_norm"),
            layer("blocks.{i}.attention.out", block + "self_attn.o_proj"),
            layer("blocks.{i}.feedforward_norm", block + "post_attention_layernorm"),
            layer("blocks.{i}.feedforward.inner", (block + "mlp.gate_proj", block + "mlp.up_proj"), gate_rows),
            layer("blocks.{i}.feedforward.out", block + "mlp.down_proj"),
            layer("norm", "model.norm"),
            single("head.weight", "lm_head.weight"),
        ),
        {"lm_head.weight": "model.embed_tokens.weight"} if config.head.tied else {},
        ignored=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",),
    )


LLAMA = Family(
    "llama",
    Decoder,
    {size: (layers, width, multiple(width * 8 / 3)) for size, (layers, width) in SHAPES.items()},
    positions=2048,
    defaults=DEFAULTS,
    describe=partial(describe, theta=10_000.0),
    read=partial(read, family="llama", qk_norm=False),
    names=names,
    architecture="LlamaForCausalLM",
    prefix="model.",
    heads=("lm_head.",),
    tasks=tasks("Llama", "score", span_prefix="transformer."),
)
QWEN3 = Family(
    "qwen3",
    Decoder,
    {size: (layers, width, 3 * width) for size, (layers, width) in SHAPES.items()},
    positions=4096,  # of the paper's first stage, section 3.2
    defaults=QWEN3_DEFAULTS,
    describe=partial(describe, theta=1_000_000.0),
    read=partial(read, family="qwen3", qk_norm=True),
    names=names,
    architecture="Qwen3ForCausalLM",
    prefix="model.",
    heads=("lm_head.",),
    kv_heads=lambda heads: heads // 2 if heads % 2 == 0 else heads,  # half, as Qwen3-0.6B and 1.7B
    fixed={"mlp_bias": False},
    tasks=tasks("Qwen3", "score", span_prefix="transformer."),
)
