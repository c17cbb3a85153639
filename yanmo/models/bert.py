"""BERT and RoBERTa, as data.

BERT: Devlin et al. 2018, arXiv:1810.04805; sizes Turc et al. 2019, arXiv:1908.08962; weights start as a normal cut at
two standard deviations (google-research/bert modeling.py, create_initializer). RoBERTa: Liu et al. 2019,
arXiv:1907.11692; in fairseq its weights start as an uncut normal, and positions are counted from the padding id on.
"""

from __future__ import annotations

import re
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
from yanmo.models.encoder import Encoder
from yanmo.models.family import REQUIRED, Family, Sizes, activation, head_width, padding_row
from yanmo.models.names import Name, Names, layer, qkv_rows, single
from yanmo.models.network import Special, StackConfig
from yanmo.models.taskhead import HeadSteps, TaskForm, TaskKind, dropout_by

PRESETS = {
    "tiny": (2, 128, 512),
    "mini": (4, 256, 1024),
    "small": (4, 512, 2048),
    "medium": (8, 512, 2048),
    "base": (12, 768, 3072),
    "large": (24, 1024, 4096),
}
DEFAULTS: dict[str, Any] = {
    "vocab_size": REQUIRED,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "tie_word_embeddings": True,
}
FIXED = {
    "is_decoder": False,
    "add_cross_attention": False,
    "position_embedding_type": "absolute",
    "embedding_size": None,
}


def read(settings: Mapping[str, Any], tokens: int, pair: bool, *, family: str, offset: bool) -> StackConfig:
    """`offset`: positions are counted from the padding id on, and the head's activation is always gelu."""
    width, vocabulary, dropout = settings["hidden_size"], settings["vocab_size"], settings["hidden_dropout_prob"]
    norm = NormConfig("layer", settings["layer_norm_eps"])
    heads = settings["num_attention_heads"]
    if offset and settings["pad_token_id"] is None:
        raise UserError(f"config.json: {family} needs pad_token_id: its positions are counted from there")
    first = settings["pad_token_id"] + 1 if offset else 0
    attention = AttentionConfig(
        heads,
        heads,
        head_width(width, heads),
        dropout=settings["attention_probs_dropout_prob"],
        out_dropout=dropout,
    )
    feedforward = FeedForwardConfig(settings["intermediate_size"], activation(settings, "hidden_act"), out_dropout=dropout)
    return StackConfig(
        family=family,
        vocabulary=vocabulary,
        tokens=tokens,
        length=settings["max_position_embeddings"] - first,
        width=width,
        embedding=EmbeddingConfig(
            vocabulary,
            width,
            positions=settings["max_position_embeddings"],
            offset=first,
            types=settings["type_vocab_size"],
            padding=padding_row(settings),
            norm=norm,
            dropout=dropout,
        ),
        blocks=(BlockConfig(width, attention, feedforward, norm, order="post"),) * settings["num_hidden_layers"],
        head=HeadConfig(
            vocabulary,
            width,
            transform="gelu" if offset else settings["hidden_act"],
            norm=norm,
            bias=True,
            tied=settings["tie_word_embeddings"],
        ),
        start=StartConfig(settings["initializer_range"], cutoff=None if offset else 2.0),
        pair=pair,
    )


def describe(sizes: Sizes, special: Special, *, offset: bool, pad: int) -> dict[str, Any]:
    pad = special.pad if special.pad is not None else pad
    return {
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.feedforward,
        "hidden_act": "gelu",
        "hidden_dropout_prob": sizes.dropout,
        "attention_probs_dropout_prob": sizes.dropout,
        "max_position_embeddings": sizes.positions + (pad + 1 if offset else 0),
        "type_vocab_size": 1 if offset else 2,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-5 if offset else 1e-12,
        "tie_word_embeddings": True,
        "pad_token_id": pad,
        "bos_token_id": special.bos,
        "eos_token_id": special.eos,
    }


def body(prefix: str) -> tuple[Name, ...]:
    """Everything below the heads."""
    theirs, block = f"{prefix}.embeddings.", f"{prefix}.encoder.layer.{{i}}."
    qkv = tuple(f"{block}attention.self.{part}" for part in ("query", "key", "value"))
    return (
        layer("embed.tokens", theirs + "word_embeddings"),
        layer("embed.positions", theirs + "position_embeddings"),
        layer("embed.types", theirs + "token_type_embeddings"),
        layer("embed.norm", theirs + "LayerNorm"),
        layer("blocks.{i}.attention.qkv", qkv, qkv_rows),
        layer("blocks.{i}.attention.out", block + "attention.output.dense"),
        layer("blocks.{i}.attention_norm", block + "attention.output.LayerNorm"),
        layer("blocks.{i}.feedforward.inner", block + "intermediate.dense"),
        layer("blocks.{i}.feedforward.out", block + "output.dense"),
        layer("blocks.{i}.feedforward_norm", block + "output.LayerNorm"),
    )


def head(theirs: str, table: str, tied: bool) -> tuple[tuple[Name, ...], dict[str, str], tuple[str, ...]]:
    """The matrix and the bias, which of theirs repeat another, and which are there but never used: of transformers' two
    biases, one and the same where tied, only the decoder's own counts where untied."""
    matrix, bias, own = theirs + "decoder.weight", theirs + "bias", theirs + "decoder.bias"
    if tied:
        return (single("head.weight", matrix), single("head.bias", bias)), {matrix: table, own: bias}, ()
    return (single("head.weight", matrix), single("head.bias", own)), {bias: own}, (re.escape(bias),)


def bert_names(config: StackConfig) -> Names:
    entries, copies, unused = head("cls.predictions.", "bert.embeddings.word_embeddings.weight", config.head.tied)
    return Names(
        (
            *body("bert"),
            layer("pooler", "bert.pooler.dense"),
            layer("pair", "cls.seq_relationship"),
            layer("head.dense", "cls.predictions.transform.dense"),
            layer("head.norm", "cls.predictions.transform.LayerNorm"),
            *entries,
        ),
        copies,
        ignored=(r"bert\.embeddings\.(position|token_type)_ids", *unused),
        unread=() if config.pair else (r"bert\.pooler\..*", r"cls\.seq_relationship\..*"),
        doubled=not config.head.tied,
    )


def roberta_names(config: StackConfig) -> Names:
    entries, copies, unused = head("lm_head.", "roberta.embeddings.word_embeddings.weight", config.head.tied)
    return Names(
        (*body("roberta"), layer("head.dense", "lm_head.dense"), layer("head.norm", "lm_head.layer_norm"), *entries),
        copies,
        ignored=(r"roberta\.embeddings\.(position|token_type)_ids", *unused),
        unread=(r"roberta\.pooler\..*",),
        doubled=not config.head.tied,
    )


def _dropout(settings: Mapping[str, Any]) -> float:
    return dropout_by(settings, "classifier_dropout", otherwise=settings["hidden_dropout_prob"])


def tasks(name: str, sequence: TaskForm) -> dict[TaskKind, TaskForm]:
    """Task models of BERT and of what came after it, which read a whole text differently."""
    return {
        "sequence": sequence,
        "token": TaskForm(f"{name}ForTokenClassification", "classifier", lambda settings: HeadSteps(dropout=_dropout(settings))),
        "span": TaskForm(f"{name}ForQuestionAnswering", "qa_outputs"),
    }


def pooled(settings: Mapping[str, Any]) -> HeadSteps:
    """The pooler that BERT was pretrained with, for the next sentence."""
    return HeadSteps("first", activation="tanh", dropout=_dropout(settings))


def inner_layer(activation: str, settings: Mapping[str, Any]) -> HeadSteps:
    """A layer of the task's own, dropout on both its sides."""
    return HeadSteps("first", before=_dropout(settings), activation=activation, dropout=_dropout(settings))


BERT = Family(
    "bert",
    Encoder,
    PRESETS,
    positions=512,
    defaults={**DEFAULTS, "pad_token_id": 0},
    describe=partial(describe, offset=False, pad=0),
    read=partial(read, family="bert", offset=False),
    names=bert_names,
    architecture="BertForMaskedLM",
    pair_architecture="BertForPreTraining",
    pair_weights=("bert.pooler.dense.weight", "cls.seq_relationship.weight"),
    prefix="bert.",
    heads=("cls.",),
    fixed=FIXED,
    tasks=tasks("Bert", TaskForm("BertForSequenceClassification", "classifier", pooled, inner="bert.pooler.dense")),
)
ROBERTA = Family(
    "roberta",
    Encoder,
    PRESETS,
    positions=512,
    defaults={**DEFAULTS, "pad_token_id": 1},
    describe=partial(describe, offset=True, pad=1),
    read=partial(read, family="roberta", offset=True),
    names=roberta_names,
    architecture="RobertaForMaskedLM",
    prefix="roberta.",
    heads=("lm_head.",),
    fixed=FIXED,
    tasks=tasks("Roberta", TaskForm(
        "RobertaForSequenceClassification", "classifier.out_proj", partial(inner_layer, "tanh"), inner="classifier.dense"
    )),
)
