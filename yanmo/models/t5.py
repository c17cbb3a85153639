"""T5 1.0 and 1.1, as data (Raffel et al. 2020, arXiv:1910.10683, section 2.1; google-research/text-to-text-transfer-transformer,
released_checkpoints.md): RMS pre-norm, no biases, relative positions, scores that are not scaled.

1.0: ReLU, and one table for both texts and the vocabulary's scores, before which hidden states are divided by the root of the
width. 1.1: gated GELU (Shazeer 2020, arXiv:2002.05202), scores from a matrix of their own, no dropout in pretraining.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from yanmo.errors import UserError
from yanmo.layers import (
    ACTIVATIONS,
    AttentionConfig,
    BlockConfig,
    EmbeddingConfig,
    FeedForwardConfig,
    HeadConfig,
    NormConfig,
    RelativeConfig,
    StartConfig,
)
from yanmo.models.bert import PRESETS
from yanmo.models.family import REQUIRED, Family, Sizes
from yanmo.models.names import Name, Names, gate_rows, layer, qkv_rows, single
from yanmo.models.network import Special
from yanmo.models.seq2seq import HalfConfig, Seq2Seq, Seq2SeqConfig
from yanmo.models.taskhead import HeadSteps, TaskForm, dropout_by

GATED_PRESETS = {
    "tiny": (2, 128, 320),
    "mini": (4, 256, 640),
    "small": (4, 512, 1344),
    "medium": (8, 512, 1344),
    "base": (12, 768, 2048),
    "large": (24, 1024, 2816),
}
"""Base and large as published, the others in their proportion."""
DEFAULTS: dict[str, Any] = {
    "vocab_size": REQUIRED,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_decoder_layers": None,
    "num_heads": 8,
    "n_positions": 512,  # of training; what transformers computes has no limit
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6,
    "initializer_factor": 1.0,
    "feed_forward_proj": "relu",
    "dense_act_fn": None,
    "is_gated_act": None,
    "tie_word_embeddings": True,
    "scale_decoder_outputs": None,
    "pad_token_id": 0,
    "eos_token_id": 1,
}


def read(settings: Mapping[str, Any], tokens: int, pair: bool) -> Seq2SeqConfig:
    width, vocabulary, heads = settings["d_model"], settings["vocab_size"], settings["num_heads"]
    dropout, tied = settings["dropout_rate"], settings["tie_word_embeddings"]
    # Before version 5, transformers took "tied" for "scaled"; since then a folder says which.
    scaled = tied if settings["scale_decoder_outputs"] is None else settings["scale_decoder_outputs"]
    norm = NormConfig("rms", settings["layer_norm_epsilon"])
    attention = AttentionConfig(
        heads, heads, settings["d_kv"], bias=False, out_bias=False, dropout=dropout, out_dropout=dropout, scale=1.0
    )
    activation, gated = activation_of(settings)
    feedforward = FeedForwardConfig(settings["d_ff"], activation, gated, bias=False, dropout=dropout, out_dropout=dropout)

    def half(layers: int, decodes: bool) -> HalfConfig:
        block = BlockConfig(width, attention, feedforward, norm, cross=attention if decodes else None)
        relative = RelativeConfig(
            heads,
            settings["relative_attention_num_buckets"],
            settings["relative_attention_max_distance"],
            both_ways=not decodes,
            start=width**-0.5,
        )
        return HalfConfig(
            embedding=EmbeddingConfig(vocabulary, width, dropout=dropout),
            blocks=(block,) * layers,
            final_norm=norm,
            relative=relative,
            dropout=dropout,
        )

    return Seq2SeqConfig(
        family="t5",
        vocabulary=vocabulary,
        tokens=tokens,
        length=settings["n_positions"],
        width=width,
        encoder=half(settings["num_layers"], decodes=False),
        decoder=half(settings["num_decoder_layers"] or settings["num_layers"], decodes=True),
        head=HeadConfig(vocabulary, width, tied=tied, scale=width**-0.5 if scaled else 1.0),
        start=StartConfig(settings["initializer_factor"], by_inputs=True),
        decoder_start=decoder_start(settings),
    )


def activation_of(settings: Mapping[str, Any]) -> tuple[str, bool]:
    """The activation's name and whether it is a gate. Raises UserError for one that is not implemented."""
    asked = settings["feed_forward_proj"]
    gate, _, name = asked.rpartition("-")
    name = "gelu_new" if asked == "gated-gelu" else name
    if gate not in ("", "gated") or name not in ACTIVATIONS:
        allowed = ", ".join([*ACTIVATIONS, *(f"gated-{known}" for known in ACTIVATIONS)])
        raise UserError(f"config.json: feed_forward_proj: {asked!r} is not implemented; known: {allowed}")
    for key, derived in (("dense_act_fn", name), ("is_gated_act", gate == "gated")):
        if settings[key] not in (None, derived):
            raise UserError(f"config.json: {key}: {settings[key]!r} contradicts feed_forward_proj {asked!r}")
    return name, gate == "gated"


def decoder_start(settings: Mapping[str, Any], otherwise: str = "pad_token_id") -> int:
    """The id that a target begins with. Raises UserError where there is none in the vocabulary."""
    found = settings.get("decoder_start_token_id")
    found = settings.get(otherwise) if found is None else found
    if not isinstance(found, int) or not 0 <= found < settings["vocab_size"]:
        raise UserError(f"config.json: decoder_start_token_id: {found!r} is no token of this vocabulary; name one")
    return found


def complete(settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Mapping[str, Any]:
    """Transformers 5 writes "tied" for every T5; where the folder has another matrix for the scores, that one counts."""
    own, table = weights.get("lm_head.weight"), weights.get("shared.weight")
    if own is None or table is None or own.shape != table.shape or torch.equal(own, table):
        return settings
    scaled = settings.get("scale_decoder_outputs")
    scaled = settings.get("tie_word_embeddings", True) if scaled is None else scaled
    return {**settings, "tie_word_embeddings": False, "scale_decoder_outputs": scaled}


def describe(sizes: Sizes, special: Special) -> dict[str, Any]:
    pad = special.pad if special.pad is not None else 0
    first = sizes.version == "1.0"
    return {
        "vocab_size": sizes.vocabulary,
        "d_model": sizes.width,
        "d_kv": sizes.width // sizes.heads,
        "d_ff": sizes.feedforward,
        "num_layers": sizes.layers,
        "num_decoder_layers": sizes.layers,
        "num_heads": sizes.heads,
        "n_positions": sizes.positions,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "dropout_rate": sizes.dropout,
        "layer_norm_epsilon": 1e-6,
        "initializer_factor": 1.0,
        "feed_forward_proj": "relu" if first else "gated-gelu",
        "tie_word_embeddings": first,
        "scale_decoder_outputs": first,
        "is_encoder_decoder": True,
        "pad_token_id": pad,
        "eos_token_id": special.eos,
        "decoder_start_token_id": pad,
    }


def cross_rows(config: Seq2SeqConfig) -> tuple[int, ...]:
    return config.blocks[0].attention.rows[1:]


def half_names(half: str, config: Seq2SeqConfig) -> tuple[Name, ...]:
    ours, theirs = f"{half}.blocks.{{i}}.", f"{half}.block.{{i}}.layer."
    bricks = 3 if half == "decoder" else 2
    inner = f"{theirs}{bricks - 1}.DenseReluDense."
    qkv = tuple(f"{theirs}0.SelfAttention.{part}" for part in "qkv")
    cross = f"{theirs}1.EncDecAttention."
    gated = config.encoder.blocks[0].feedforward.gated
    return (
        layer(f"{half}.relative.table", f"{half}.block.0.layer.0.SelfAttention.relative_attention_bias"),
        layer(ours + "attention_norm", f"{theirs}0.layer_norm"),
        layer(ours + "attention.qkv", qkv, qkv_rows),
        layer(ours + "attention.out", f"{theirs}0.SelfAttention.o"),
        layer(ours + "cross_norm", f"{theirs}1.layer_norm"),
        layer(ours + "cross.query", cross + "q"),
        layer(ours + "cross.key_value", (cross + "k", cross + "v"), cross_rows),
        layer(ours + "cross.out", cross + "o"),
        layer(ours + "feedforward_norm", f"{theirs}{bricks - 1}.layer_norm"),
        layer(ours + "feedforward.inner", (inner + "wi_0", inner + "wi_1") if gated else inner + "wi", gate_rows),
        layer(ours + "feedforward.out", inner + "wo"),
        layer(f"{half}.norm", f"{half}.final_layer_norm"),
    )


def names(config: Seq2SeqConfig) -> Names:
    tied = {"lm_head.weight": "shared.weight"} if config.head.tied else {}
    return Names(
        (
            layer("encoder.embed.tokens", "shared"),
            *half_names("encoder", config),
            *half_names("decoder", config),
            single("head.weight", "lm_head.weight"),
        ),
        {f"{half}.embed_tokens.weight": "shared.weight" for half in ("encoder", "decoder")} | tied,
        ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    )


def text_steps(settings: Mapping[str, Any]) -> HeadSteps:
    """A whole text is read where it ends. Raises UserError where no token ends texts."""
    end, dropout = settings["eos_token_id"], dropout_by(settings, "classifier_dropout", otherwise=0.0)
    if not isinstance(end, int):
        raise UserError(f"config.json: eos_token_id: {end!r}: a whole text is read at the token that ends it; name one")
    return HeadSteps("end", end, before=dropout, activation="tanh", dropout=dropout)


def token_steps(settings: Mapping[str, Any]) -> HeadSteps:
    return HeadSteps(dropout=dropout_by(settings, "classifier_dropout", otherwise=0.0))


T5 = Family(
    "t5",
    Seq2Seq,
    GATED_PRESETS,
    positions=512,
    defaults=DEFAULTS,
    describe=describe,
    read=read,
    names=names,
    architecture="T5ForConditionalGeneration",
    versions={"1.1": GATED_PRESETS, "1.0": PRESETS},
    complete=complete,
    fixed={"is_decoder": False},
    tasks={
        "sequence": TaskForm(
            "T5ForSequenceClassification",
            "classification_head.out_proj",
            text_steps,
            inner="classification_head.dense",
            prefix="transformer.",
        ),
        "token": TaskForm("T5ForTokenClassification", "classifier", token_steps, prefix="transformer."),
        "span": TaskForm("T5ForQuestionAnswering", "qa_outputs"),
    },
)
