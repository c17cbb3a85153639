"""XLNet, as data (Yang et al. 2019, arXiv:1906.08237; zihangdai/xlnet): post-norm blocks without biases in attention.

Weights, and the biases that stand for positions, start as a normal (zihangdai/xlnet model_utils.py, init_std).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yanmo.errors import UserError
from yanmo.layers import EmbeddingConfig, FeedForwardConfig, HeadConfig, NormConfig, StartConfig
from yanmo.layers.relative import RelativeAttentionConfig
from yanmo.models.bert import PRESETS
from yanmo.models.family import REQUIRED, Family, Sizes, activation, head_width
from yanmo.models.names import Name, Names, layer, single
from yanmo.models.network import Special
from yanmo.models.taskhead import HeadSteps, Place, TaskForm, dropout_by, place_by
from yanmo.models.twostream import TwoStream, TwoStreamConfig

NO_LIMIT = 1 << 20
"""Tokens of the longest document: distances know none, memory does."""
DEFAULTS: dict[str, Any] = {
    "vocab_size": REQUIRED,
    "d_model": 1024,
    "n_layer": 24,
    "n_head": 16,
    "d_head": None,
    "d_inner": 4096,
    "ff_activation": "gelu",
    "dropout": 0.1,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
    "mem_len": 512,
    "tie_word_embeddings": True,
    "summary_type": "last",
    "summary_use_proj": True,
    "summary_activation": "tanh",
    "summary_last_dropout": 0.1,
}
SUMMARIES: dict[str, Place] = {"last": "last", "first": "first", "mean": "mean", "cls_index": "last"}
"""Which of a text's states summary_type chooses."""
FIXED = {
    "attn_type": "bi",
    "bi_data": False,
    "clamp_len": -1,
    "same_length": False,
    "untie_r": True,
    "reuse_len": (None, 0),
    "use_mems_eval": (True, False),  # whether transformers hands back what it remembers
    "use_mems_train": (True, False),
    "start_n_top": tuple(range(1, 101)),
    "end_n_top": tuple(range(1, 101)),
}


def read(settings: Mapping[str, Any], tokens: int, pair: bool) -> TwoStreamConfig:
    width, vocabulary, heads = settings["d_model"], settings["vocab_size"], settings["n_head"]
    dropout, norm = settings["dropout"], NormConfig("layer", settings["layer_norm_eps"])
    if width % 2:
        raise UserError(f"sines and cosines of distances need an even width, not {width}; change model.width")
    if settings["d_head"] not in (None, head_width(width, heads)):
        raise UserError(f"config.json: d_head {settings['d_head']} is not d_model / n_head, {width // heads}")
    feedforward = FeedForwardConfig(
        settings["d_inner"], activation(settings, "ff_activation"), dropout=dropout, out_dropout=dropout
    )
    return TwoStreamConfig(
        family="xlnet",
        vocabulary=vocabulary,
        tokens=tokens,
        length=NO_LIMIT,
        width=width,
        layers=settings["n_layer"],
        embedding=EmbeddingConfig(vocabulary, width, dropout=dropout),
        attention=RelativeAttentionConfig(heads, width // heads, dropout, dropout),
        feedforward=feedforward,
        norm=norm,
        head=HeadConfig(vocabulary, width, bias=True, tied=settings["tie_word_embeddings"]),
        start=StartConfig(settings["initializer_range"]),
        dropout=dropout,
        memory=settings["mem_len"] or None,
    )


def describe(sizes: Sizes, special: Special) -> dict[str, Any]:
    return {
        "vocab_size": sizes.vocabulary,
        "d_model": sizes.width,
        "n_layer": sizes.layers,
        "n_head": sizes.heads,
        "d_head": sizes.width // sizes.heads,
        "d_inner": sizes.feedforward,
        "ff_activation": "gelu",
        "dropout": sizes.dropout,
        "layer_norm_eps": 1e-12,
        "initializer_range": 0.02,
        "mem_len": 0,
        "tie_word_embeddings": True,
        "pad_token_id": 5 if special.pad is None else special.pad,
        "bos_token_id": special.bos,
        "eos_token_id": special.sep,
    }


def names(config: TwoStreamConfig) -> Names:
    block, attention = "transformer.layer.{i}.", "transformer.layer.{i}.rel_attn."
    heads = (config.attention.heads, config.attention.head_width)

    def head_matrix(ours: str, theirs: str | tuple[str, ...], *, transposed: bool = True) -> Name:
        """Theirs are (D, H, W)."""
        parts = None if isinstance(theirs, str) else lambda _: (config.width,) * len(theirs)
        return Name(ours, theirs, parts, transposed, ("",), lambda _: (config.width, *heads))

    def head_vector(ours: str, theirs: str, *more: int) -> Name:
        return Name(ours, theirs, suffixes=("",), shape=lambda _: (*more, *heads))

    return Names(
        (
            layer("embed.tokens", "transformer.word_embedding"),
            Name("asking", "transformer.mask_emb", suffixes=("",), shape=lambda _: (1, 1, config.width)),
            head_matrix("blocks.{i}.attention.query.weight", attention + "q"),
            head_matrix("blocks.{i}.attention.key_value.weight", (attention + "k", attention + "v")),
            head_matrix("blocks.{i}.attention.distance.weight", attention + "r"),
            head_matrix("blocks.{i}.attention.out.weight", attention + "o", transposed=False),
            head_vector("blocks.{i}.attention.content_bias", attention + "r_w_bias"),
            head_vector("blocks.{i}.attention.distance_bias", attention + "r_r_bias"),
            head_vector("blocks.{i}.attention.part_bias", attention + "r_s_bias"),
            head_vector("blocks.{i}.attention.parts", attention + "seg_embed", 2),
            layer("blocks.{i}.attention_norm", attention + "layer_norm"),
            layer("blocks.{i}.feedforward.inner", block + "ff.layer_1"),
            layer("blocks.{i}.feedforward.out", block + "ff.layer_2"),
            layer("blocks.{i}.feedforward_norm", block + "ff.layer_norm"),
            single("head.weight", "lm_loss.weight"),
            single("head.bias", "lm_loss.bias"),
        ),
        {"lm_loss.weight": "transformer.word_embedding.weight"} if config.head.tied else {},
    )


def text_steps(settings: Mapping[str, Any]) -> HeadSteps:
    """The summary of a text. Raises UserError for an activation that is not implemented."""
    chosen = settings["summary_activation"] or None
    return HeadSteps(
        place_by(settings, "summary_type", SUMMARIES),
        before=dropout_by(settings, "summary_first_dropout", otherwise=0.0),
        inner=settings["summary_use_proj"],
        activation=chosen if chosen in (None, "tanh") else activation(settings, "summary_activation"),
        dropout=dropout_by(settings, "summary_last_dropout", otherwise=0.0),
    )


XLNET = Family(
    "xlnet",
    TwoStream,
    PRESETS,
    positions=0,
    defaults=DEFAULTS,
    describe=describe,
    read=read,
    names=names,
    architecture="XLNetLMHeadModel",
    prefix="transformer.",
    heads=("lm_loss.",),
    fixed=FIXED,
    tasks={
        "sequence": TaskForm("XLNetForSequenceClassification", "logits_proj", text_steps, inner="sequence_summary.summary"),
        "token": TaskForm("XLNetForTokenClassification", "classifier"),
        "span": TaskForm("XLNetForQuestionAnsweringSimple", "qa_outputs"),
    },
)
