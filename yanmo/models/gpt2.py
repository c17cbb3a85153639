"""GPT-2, as data (Radford et al. 2019; openai/gpt-2 src/model.py): learned positions, pre-norm, biases everywhere.

Weights start normal, smaller by sqrt(2 * layers) for what is added to the residual path (section 2.3 of the paper).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yanmo.layers import (
    AttentionConfig,
    BlockConfig,
    EmbeddingConfig,
    FeedForwardConfig,
    HeadConfig,
    NormConfig,
    StartConfig,
)
from yanmo.models.bert import PRESETS
from yanmo.models.decoder import Decoder
from yanmo.models.family import REQUIRED, Family, Sizes, activation, head_width
from yanmo.models.names import Names, layer, single
from yanmo.models.network import Special, StackConfig
from yanmo.models.taskhead import HeadSteps, TaskForm, TaskKind, dropout_by

DEFAULTS: dict[str, Any] = {
    "vocab_size": REQUIRED,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "activation_function": "gelu_new",
    "resid_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
}


def read(settings: Mapping[str, Any], tokens: int, pair: bool) -> StackConfig:
    width, vocabulary, heads = settings["n_embd"], settings["vocab_size"], settings["n_head"]
    norm = NormConfig("layer", settings["layer_norm_epsilon"])
    attention = AttentionConfig(
        heads, heads, head_width(width, heads), dropout=settings["attn_pdrop"], out_dropout=settings["resid_pdrop"]
    )
    feedforward = FeedForwardConfig(
        settings["n_inner"] or 4 * width,
        activation(settings, "activation_function"),
        out_dropout=settings["resid_pdrop"],
    )
    return StackConfig(
        family="gpt2",
        vocabulary=vocabulary,
        tokens=tokens,
        length=settings["n_positions"],
        width=width,
        embedding=EmbeddingConfig(vocabulary, width, positions=settings["n_positions"], dropout=settings["embd_pdrop"]),
        blocks=(BlockConfig(width, attention, feedforward, norm),) * settings["n_layer"],
        final_norm=norm,
        head=HeadConfig(vocabulary, width, tied=settings["tie_word_embeddings"]),
        start=StartConfig(settings["initializer_range"], scaled=True),
    )


def describe(sizes: Sizes, special: Special) -> dict[str, Any]:
    return {
        "vocab_size": sizes.vocabulary,
        "n_positions": sizes.positions,
        "n_embd": sizes.width,
        "n_layer": sizes.layers,
        "n_head": sizes.heads,
        "n_inner": sizes.feedforward,
        "activation_function": "gelu_new",
        "resid_pdrop": sizes.dropout,
        "embd_pdrop": sizes.dropout,
        "attn_pdrop": sizes.dropout,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "pad_token_id": special.pad,
        "bos_token_id": special.bos,
        "eos_token_id": special.eos,
    }


def names(config: StackConfig) -> Names:
    block = "transformer.h.{i}."
    return Names(
        (
            layer("embed.tokens", "transformer.wte"),
            layer("embed.positions", "transformer.wpe"),
            layer("blocks.{i}.attention_norm", block + "ln_1"),
            layer("blocks.{i}.attention.qkv", block + "attn.c_attn", transposed=True),
            layer("blocks.{i}.attention.out", block + "attn.c_proj", transposed=True),
            layer("blocks.{i}.feedforward_norm", block + "ln_2"),
            layer("blocks.{i}.feedforward.inner", block + "mlp.c_fc", transposed=True),
            layer("blocks.{i}.feedforward.out", block + "mlp.c_proj", transposed=True),
            layer("norm", "transformer.ln_f"),
            single("head.weight", "lm_head.weight"),
        ),
        {"lm_head.weight": "transformer.wte.weight"} if config.head.tied else {},
        ignored=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",),
    )


def tasks(name: str, token: str, span_prefix: str | None = None) -> dict[TaskKind, TaskForm]:
    """Task models of decoders. A text's last token has read all of it; `token` is what the layer of token labels is called."""

    def of_tokens(settings: Mapping[str, Any]) -> HeadSteps:
        return HeadSteps(dropout=dropout_by(settings, "classifier_dropout", "hidden_dropout", otherwise=0.1))

    return {
        "sequence": TaskForm(f"{name}ForSequenceClassification", "score", lambda _: HeadSteps("last"), bias=False),
        "token": TaskForm(f"{name}ForTokenClassification", token, of_tokens),
        "span": TaskForm(f"{name}ForQuestionAnswering", "qa_outputs", prefix=span_prefix),
    }


GPT2 = Family(
    "gpt2",
    Decoder,
    PRESETS,
    positions=1024,
    defaults=DEFAULTS,
    describe=describe,
    read=read,
    names=names,
    architecture="GPT2LMHeadModel",
    prefix="transformer.",
    heads=("lm_head.",),
    fixed={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": (False, True),  # a matter of rounding in half precision
        "add_cross_attention": False,
    },
    tasks=tasks("GPT2", "classifier"),
)
