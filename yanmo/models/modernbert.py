"""ModernBERT, as data (Warner et al. 2024, arXiv:2412.13663): rotary, pre-norm, gated, two of three blocks local.

Weights start as Megatron's do: a cut normal, smaller by sqrt(2 * layers) for what is added to the residual path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
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
from yanmo.models.encoder import Encoder
from yanmo.models.family import REQUIRED, Family, Sizes, activation, head_width, padding_row, rotary
from yanmo.models.names import Names, layer, single
from yanmo.models.network import Special, StackConfig
from yanmo.models.taskhead import HeadSteps, TaskForm, dropout_by, place_by

FULL, LOCAL = "full_attention", "sliding_attention"
DEFAULTS: dict[str, Any] = {
    "vocab_size": REQUIRED,
    "hidden_size": 768,
    "intermediate_size": 1152,
    "num_hidden_layers": 22,
    "num_attention_heads": 12,
    "hidden_activation": "gelu",
    "classifier_activation": "gelu",
    "max_position_embeddings": 8192,
    "initializer_range": 0.02,
    "initializer_cutoff_factor": 2.0,
    "norm_eps": 1e-5,
    "norm_bias": False,
    "pad_token_id": 50283,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "layer_types": None,
    "global_attn_every_n_layers": 3,
    "rope_parameters": None,
    "global_rope_theta": 160_000.0,
    "local_rope_theta": 10_000.0,
    "local_attention": 128,
    "embedding_dropout": 0.0,
    "mlp_bias": False,
    "mlp_dropout": 0.0,
    "decoder_bias": True,
    "classifier_bias": False,
    "classifier_pooling": "cls",
    "tie_word_embeddings": True,
}


def layer_types(settings: Mapping[str, Any]) -> list[str]:
    """Of each block. Raises UserError for a kind that is not known."""
    every, layers = settings["global_attn_every_n_layers"], settings["num_hidden_layers"]
    types = settings["layer_types"] or [LOCAL if index % every else FULL for index in range(layers)]
    if len(types) != layers or set(types) - {FULL, LOCAL}:
        raise UserError(f"config.json: layer_types must be {layers} times {FULL} or {LOCAL}, not {types}")
    return list(types)


def read(settings: Mapping[str, Any], tokens: int, pair: bool) -> StackConfig:
    width, vocabulary, heads = settings["hidden_size"], settings["vocab_size"], settings["num_attention_heads"]
    norm = NormConfig("layer", settings["norm_eps"], settings["norm_bias"])
    per_head = head_width(width, heads)
    turns = settings["rope_parameters"] or {}
    rotaries = {
        FULL: rotary(turns.get(FULL), settings["global_rope_theta"] or DEFAULTS["global_rope_theta"], per_head),
        LOCAL: rotary(turns.get(LOCAL), settings["local_rope_theta"] or DEFAULTS["local_rope_theta"], per_head),
    }

    def block(index: int, kind: str) -> BlockConfig:
        attention = AttentionConfig(
            heads,
            heads,
            per_head,
            bias=settings["attention_bias"],
            out_bias=settings["attention_bias"],
            window=settings["local_attention"] // 2 if kind == LOCAL else None,
            rotary=rotaries[kind],
            dropout=settings["attention_dropout"],
            out_dropout=settings["attention_dropout"],
        )
        feedforward = FeedForwardConfig(
            settings["intermediate_size"],
            activation(settings, "hidden_activation"),
            gated=True,
            bias=settings["mlp_bias"],
            dropout=settings["mlp_dropout"],
        )
        return BlockConfig(width, attention, feedforward, norm, attention_norm=index > 0)

    return StackConfig(
        family="modernbert",
        vocabulary=vocabulary,
        tokens=tokens,
        length=settings["max_position_embeddings"],
        width=width,
        embedding=EmbeddingConfig(
            vocabulary, width, padding=padding_row(settings), norm=norm, dropout=settings["embedding_dropout"]
        ),
        blocks=tuple(block(index, kind) for index, kind in enumerate(layer_types(settings))),
        final_norm=norm,
        head=HeadConfig(
            vocabulary,
            width,
            transform=activation(settings, "classifier_activation"),
            transform_bias=settings["classifier_bias"],
            norm=norm,
            bias=settings["decoder_bias"],
            tied=settings["tie_word_embeddings"],
        ),
        start=StartConfig(
            settings["initializer_range"], settings["initializer_cutoff_factor"] or 3.0, scaled=True, scaled_head=True
        ),
    )


def describe(sizes: Sizes, special: Special) -> dict[str, Any]:
    turns = {FULL: DEFAULTS["global_rope_theta"], LOCAL: DEFAULTS["local_rope_theta"]}
    every = DEFAULTS["global_attn_every_n_layers"]
    return {
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.feedforward,
        "max_position_embeddings": sizes.positions,
        "hidden_activation": "gelu",
        "norm_eps": 1e-5,
        "norm_bias": False,
        "local_attention": 128,
        "layer_types": [LOCAL if index % every else FULL for index in range(sizes.layers)],
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in turns.items()},
        "attention_dropout": sizes.dropout,
        "embedding_dropout": sizes.dropout,
        "mlp_dropout": sizes.dropout,
        "initializer_range": 0.02,
        "initializer_cutoff_factor": 2.0,
        "decoder_bias": True,
        "tie_word_embeddings": True,
        "classifier_pooling": "mean",                      # no token has learned to stand for the text
        "pad_token_id": special.pad,
        "bos_token_id": special.cls if special.bos is None else special.bos,
        "eos_token_id": special.sep if special.eos is None else special.eos,
        "cls_token_id": special.cls,
        "sep_token_id": special.sep,
    }


def names(config: StackConfig) -> Names:
    block = "model.layers.{i}."
    return Names(
        (
            layer("embed.tokens", "model.embeddings.tok_embeddings"),
            layer("embed.norm", "model.embeddings.norm"),
            layer("blocks.{i}.attention_norm", block + "attn_norm"),
            layer("blocks.{i}.attention.qkv", block + "attn.Wqkv"),
            layer("blocks.{i}.attention.out", block + "attn.Wo"),
            layer("blocks.{i}.feedforward_norm", block + "mlp_norm"),
            layer("blocks.{i}.feedforward.inner", block + "mlp.Wi"),
            layer("blocks.{i}.feedforward.out", block + "mlp.Wo"),
            layer("norm", "model.final_norm"),
            layer("head.dense", "head.dense"),
            layer("head.norm", "head.norm"),
            single("head.weight", "decoder.weight"),
            single("head.bias", "decoder.bias"),
        ),
        {"decoder.weight": "model.embeddings.tok_embeddings.weight"} if config.head.tied else {},
    )


def task_steps(settings: Mapping[str, Any]) -> HeadSteps:
    """The head that predicted hidden tokens goes on as the inner layer of every task."""
    return HeadSteps(
        inner_bias=settings["classifier_bias"],
        activation=activation(settings, "classifier_activation"),
        norm=NormConfig("layer", settings["norm_eps"], settings["norm_bias"]),
        dropout=dropout_by(settings, "classifier_dropout", otherwise=0.0),
    )


def text_steps(settings: Mapping[str, Any]) -> HeadSteps:
    return replace(task_steps(settings), place=place_by(settings, "classifier_pooling", {"cls": "first", "mean": "mean"}))


def task_form(name: str, steps: Callable[[Mapping[str, Any]], HeadSteps] = task_steps) -> TaskForm:
    return TaskForm(f"ModernBertFor{name}", "classifier", steps, inner="head.dense", norm="head.norm", by_inputs=True)


MODERNBERT = Family(
    "modernbert",
    Encoder,
    {
        "tiny": (2, 128, 192),
        "mini": (4, 256, 384),
        "small": (4, 512, 768),
        "medium": (8, 512, 768),
        "base": (22, 768, 1152),
        "large": (28, 1024, 2624),
    },
    positions=1024,  # of the paper's first phase, section 2.2
    defaults=DEFAULTS,
    describe=describe,
    read=read,
    names=names,
    architecture="ModernBertForMaskedLM",
    prefix="model.",
    heads=("head.", "decoder."),
    fixed={"rope_scaling": None, "position_embedding_type": ("absolute", "rope", "sans_pos")},
    tasks={
        "sequence": task_form("SequenceClassification", text_steps),
        "token": task_form("TokenClassification"),
        "span": task_form("QuestionAnswering"),
    },
)
