"""BART, as data (Lewis et al. 2019, arXiv:1910.13461, section 2.1; fairseq models/bart): GELU, learned positions, norms after
what they norm, one table for both texts and the vocabulary's scores. Weights start as an uncut normal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

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
from yanmo.models.bert import PRESETS
from yanmo.models.family import REQUIRED, Family, Sizes, activation, head_width, padding_row
from yanmo.models.names import Name, Names, layer, qkv_rows, single
from yanmo.models.network import Special
from yanmo.models.seq2seq import HalfConfig, Seq2Seq, Seq2SeqConfig
from yanmo.models.t5 import cross_rows, decoder_start, text_steps, token_steps
from yanmo.models.taskhead import TaskForm

FIRST_POSITION = 2
"""The row of the table of positions for position 0: fairseq counted from after the padding id."""
DEFAULTS: dict[str, Any] = {
    "vocab_size": REQUIRED,
    "d_model": 1024,
    "encoder_layers": 12,
    "decoder_layers": 12,
    "encoder_attention_heads": 16,
    "decoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "decoder_ffn_dim": 4096,
    "activation_function": "gelu",
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "max_position_embeddings": 1024,
    "init_std": 0.02,
    "tie_word_embeddings": True,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "num_hidden_layers": None,
}
FIXED = {
    "is_decoder": False,
    "tie_word_embeddings": True,
    "scale_embedding": False,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "normalize_before": False,
    "normalize_embedding": True,
    "add_final_layer_norm": False,
    "add_bias_logits": False,
    "static_position_embeddings": False,
}


def read(settings: Mapping[str, Any], tokens: int, pair: bool) -> Seq2SeqConfig:
    width, vocabulary, dropout = settings["d_model"], settings["vocab_size"], settings["dropout"]
    positions = settings["max_position_embeddings"]
    norm = NormConfig("layer", 1e-5)

    def half(side: str) -> HalfConfig:
        heads = settings[f"{side}_attention_heads"]
        attention = AttentionConfig(
            heads, heads, head_width(width, heads), dropout=settings["attention_dropout"], out_dropout=dropout
        )
        feedforward = FeedForwardConfig(
            settings[f"{side}_ffn_dim"],
            activation(settings, "activation_function"),
            dropout=settings["activation_dropout"],
            out_dropout=dropout,
        )
        cross = attention if side == "decoder" else None
        block = BlockConfig(width, attention, feedforward, norm, order="post", cross=cross)
        embedding = EmbeddingConfig(
            vocabulary,
            width,
            positions=positions + FIRST_POSITION,
            offset=FIRST_POSITION,
            padding=padding_row(settings),
            norm=norm,
            dropout=dropout,
        )
        return HalfConfig(embedding=embedding, blocks=(block,) * settings[f"{side}_layers"])

    return Seq2SeqConfig(
        family="bart",
        vocabulary=vocabulary,
        tokens=tokens,
        length=positions,
        width=width,
        encoder=half("encoder"),
        decoder=half("decoder"),
        head=HeadConfig(vocabulary, width),
        start=StartConfig(settings["init_std"]),
        decoder_start=decoder_start(settings, otherwise="eos_token_id"),
    )


def complete(settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Mapping[str, Any]:
    """Raises UserError for a bias of the scores that is not zero: no published BART has one."""
    bias = weights.get("final_logits_bias")
    if bias is not None and bool(bias.any()):
        raise UserError("final_logits_bias is not zero, which is not implemented for bart")
    return settings


def describe(sizes: Sizes, special: Special) -> dict[str, Any]:
    end = special.eos if special.eos is not None else 2
    return {
        "vocab_size": sizes.vocabulary,
        "d_model": sizes.width,
        "encoder_layers": sizes.layers,
        "decoder_layers": sizes.layers,
        "encoder_attention_heads": sizes.heads,
        "decoder_attention_heads": sizes.heads,
        "encoder_ffn_dim": sizes.feedforward,
        "decoder_ffn_dim": sizes.feedforward,
        "activation_function": "gelu",
        "dropout": sizes.dropout,
        "attention_dropout": 0.0,                         # transformers' default; with it steps take half as long again
        "activation_dropout": 0.0,
        "max_position_embeddings": sizes.positions,
        "init_std": 0.02,
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "is_encoder_decoder": True,
        "pad_token_id": special.pad if special.pad is not None else 1,
        "bos_token_id": special.bos,
        "eos_token_id": end,
        "decoder_start_token_id": end,
        "forced_eos_token_id": None,
    }


def half_names(half: str) -> tuple[Name, ...]:
    ours, theirs = f"{half}.blocks.{{i}}.", f"model.{half}.layers.{{i}}."
    qkv = tuple(f"{theirs}self_attn.{part}_proj" for part in "qkv")
    cross = f"{theirs}encoder_attn."
    return (
        layer(f"{half}.embed.positions", f"model.{half}.embed_positions"),
        layer(f"{half}.embed.norm", f"model.{half}.layernorm_embedding"),
        layer(ours + "attention.qkv", qkv, qkv_rows),
        layer(ours + "attention.out", f"{theirs}self_attn.out_proj"),
        layer(ours + "attention_norm", f"{theirs}self_attn_layer_norm"),
        layer(ours + "cross.query", cross + "q_proj"),
        layer(ours + "cross.key_value", (cross + "k_proj", cross + "v_proj"), cross_rows),
        layer(ours + "cross.out", cross + "out_proj"),
        layer(ours + "cross_norm", f"{theirs}encoder_attn_layer_norm"),
        layer(ours + "feedforward.inner", f"{theirs}fc1"),
        layer(ours + "feedforward.out", f"{theirs}fc2"),
        layer(ours + "feedforward_norm", f"{theirs}final_layer_norm"),
    )


def names(config: Seq2SeqConfig) -> Names:
    copies = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
    return Names(
        (
            layer("encoder.embed.tokens", "model.shared"),
            *half_names("encoder"),
            *half_names("decoder"),
            single("head.weight", "lm_head.weight"),
        ),
        dict.fromkeys(copies, "model.shared.weight"),
        ignored=("final_logits_bias", r"model\.(encoder|decoder)\.version"),
    )


BART = Family(
    "bart",
    Seq2Seq,
    PRESETS,
    positions=1024,
    defaults=DEFAULTS,
    describe=describe,
    read=read,
    names=names,
    architecture="BartForConditionalGeneration",
    prefix="model.",
    heads=("lm_head.", "final_logits_bias"),
    complete=complete,
    fixed=FIXED,
    tasks={
        "sequence": TaskForm(
            "BartForSequenceClassification", "classification_head.out_proj", text_steps, inner="classification_head.dense"
        ),
        "token": TaskForm("YanmoBartForTokenClassification", "classifier", token_steps),
        "span": TaskForm("BartForQuestionAnswering", "qa_outputs"),
    },
)
