"""A family: how a recipe becomes transformers' configuration, how that becomes ours, and which name is which.

The configuration that is saved is the only one there is: sizes go into it, and a network is read from it, whether it
was made here or by transformers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from yanmo import recipe
from yanmo.errors import UserError
from yanmo.layers import ACTIVATIONS, RotaryConfig
from yanmo.layers.rotary import Llama3Scaling
from yanmo.models.mixture import EXPERTS_KEY, read_experts
from yanmo.models.names import Names
from yanmo.models.network import Network, NetworkConfig, Special
from yanmo.models.taskhead import TaskForm, TaskKind

TOKENS_KEY = "yanmo_tokens"
"""In config.json: how many ids the tokenizer uses, where the vocabulary is padded."""

PASSIVE = frozenset(
    [
        "_name_or_path",
        "architectures",
        "model_type",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "use_cache",
        "id2label",
        "label2id",
        "problem_type",
        "output_hidden_states",
        "output_attentions",
        "return_dict",
        "return_dict_in_generate",
        "torchscript",
        "use_bfloat16",
        "gradient_checkpointing",
        "finetuning_task",
        "task_specific_params",
        "tokenizer_class",
        "prefix",
        "num_labels",
        "classifier_dropout",
        "classifier_pooling",
        "reference_compile",
        "repad_logits_with_grad",
        "deterministic_flash_attn",
        "sparse_prediction",
        "sparse_pred_ignore_index",
        "directionality",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
        "pooler_type",
        "summary_type",
        "summary_use_proj",
        "summary_activation",
        "summary_proj_to_labels",
        "summary_first_dropout",
        "summary_last_dropout",
        "n_ctx",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_autoset",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "cls_token_id",
        "sep_token_id",
        "mask_token_id",
        "unk_token_id",
        "decoder_start_token_id",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "is_encoder_decoder",
        "chunk_size_feed_forward",
        "pretraining_tp",
        "initializer_range",
        "initializer_cutoff_factor",
        "tie_encoder_decoder",
        "yanmo_tokens",
        "yanmo_vector",
    ]
)
"""Settings that do not change what the network computes here, or that every family reads by itself."""


@dataclass(frozen=True)
class Sizes:
    """The dimensions of one network, all filled in."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    feedforward: int
    positions: int
    dropout: float
    vocabulary: int
    version: str | None = None
    """Of a family that has several."""
    embedding: int | None = None
    """Width of the embedding, where it is not the network's."""
    latent: int | None = None
    """Numbers of a latent, where there is one."""
    order: int | None = None
    """Tokens of the longest n-grams, where these are counted."""
    experts: recipe.Experts | None = None
    """Of a family that always has experts."""


@dataclass(frozen=True)
class Family:
    """defaults: every setting the family reads, with the value transformers takes where config.json is silent.
    fixed: settings that are implemented for one value only."""

    name: str
    network: type[Network]
    presets: Mapping[str, tuple[int, int, int]]
    """layers, width, feed-forward width"""
    positions: int
    defaults: Mapping[str, Any]
    describe: Callable[[Sizes, Special], dict[str, Any]]
    """Sizes as transformers' settings."""
    read: Callable[[Mapping[str, Any], int, bool], NetworkConfig]
    """(settings with defaults filled in, ids in use, pair head) to our configuration."""
    names: Callable[[Any], Names]
    architecture: str
    pair_architecture: str | None = None
    pair_weights: tuple[str, ...] = ()
    """Their names of what a folder has only when it has the pair head."""
    prefix: str = ""
    """What transformers puts before the names of everything but the head."""
    heads: tuple[str, ...] = ()
    """Their names that have no prefix begin with one of these."""
    kv_heads: Callable[[int], int] = field(default=lambda heads: heads)
    versions: Mapping[str, Mapping[str, tuple[int, int, int]]] = field(default_factory=dict)
    """Presets of what a recipe chooses by model.version, the first by default."""
    complete: Callable[[Mapping[str, Any], Mapping[str, Tensor]], Mapping[str, Any]] = field(default=lambda given, _: given)
    """Settings of a folder with what its weights say and they do not."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[TaskKind, TaskForm] = field(default_factory=dict)
    """The task models there are; none where hidden states say nothing that a head could read."""
    shared_type: str | None = None
    """transformers' model_type where several families have the same: then the architecture says which it is."""

    @property
    def model_type(self) -> str:
        return self.shared_type or self.name

    @property
    def has_experts(self) -> bool:
        """Whether transformers' networks of this family have experts."""
        return "num_local_experts" in self.defaults

    def task_of(self, architectures: Iterable[str]) -> TaskKind | None:
        """The kind of task that one of these classes is a model of; None where they are none of this family's."""
        return next((kind for kind, form in self.tasks.items() if form.architecture in architectures), None)

    def sizes(self, model: recipe.Model, vocabulary: int, length: int) -> Sizes:
        """A recipe's sizes: the preset's, except what the recipe names. Raises UserError where they do not fit together."""
        version = model.version or next(iter(self.versions), None)
        assert version is None or version in self.versions, "a recipe is read with a version only where the family has it"
        layers, width, feedforward = self.versions.get(version or "", self.presets)[model.size]
        if model.width is not None and model.width != width:
            feedforward = feedforward * model.width // width
            feedforward += -feedforward % (64 if model.width >= 64 else 1)
            width = model.width
        heads = model.heads or max(1, width // 64)
        if width % heads:
            raise UserError(f"model.width {width} is not divisible by {heads} heads; set model.heads to a divisor of the width")
        kv_heads = model.kv_heads or self.kv_heads(heads)
        if heads % kv_heads:
            raise UserError(f"model.heads {heads} is not divisible by model.kv_heads {kv_heads}")
        if kv_heads != heads and "num_key_value_heads" not in self.defaults:
            raise UserError(f"{self.name} has no grouped key-value heads: leave model.kv_heads out, or use llama or qwen3")
        return Sizes(
            layers=model.layers or layers,
            width=width,
            heads=heads,
            kv_heads=kv_heads,
            feedforward=model.feedforward or feedforward,
            positions=model.positions or max(length, self.positions),
            dropout=model.dropout or 0.0,
            vocabulary=vocabulary,
            version=version,
            embedding=model.embedding,
            latent=model.latent or (32 if "latent_size" in self.defaults else None),
            experts=model.experts,
            order=model.order,
        )

    def understand(self, settings: Mapping[str, Any], *, pair: bool, where: str) -> NetworkConfig:
        """Our configuration from transformers' settings. Raises UserError for a setting that is not implemented, and warns of
        one that is not known."""
        for key, allowed in self.fixed.items():
            if key in settings and settings[key] not in (allowed if isinstance(allowed, tuple) else (allowed,)):
                raise UserError(f"{where}: {key}: {settings[key]!r} is not implemented for {self.name}; only {allowed!r} is")
        unknown = sorted(set(settings) - set(self.defaults) - set(self.fixed) - PASSIVE - {EXPERTS_KEY})
        if unknown:
            warnings.warn(f"{where}: settings that {self.name} does not know are left alone: {', '.join(unknown)}", stacklevel=2)
        given = {key: value for key, value in settings.items() if value is not None or key.endswith("_token_id")}
        full = {**self.defaults, **given}
        missing = sorted(key for key, value in self.defaults.items() if value is ... and key not in given)
        if missing:
            raise UserError(f"{where}: {self.name} needs {', '.join(missing)}")
        config = self.read(full, int(settings.get(TOKENS_KEY, full["vocab_size"])), pair)
        if experts := settings.get(EXPERTS_KEY):
            config = read_experts(config, experts, where)
        return replace(config, settings=dict(settings))


REQUIRED: Any = ...
"""A setting without a default."""


def activation(settings: Mapping[str, Any], key: str) -> str:
    """The name of an activation. Raises UserError for one that is not implemented."""
    if settings[key] not in ACTIVATIONS:
        raise UserError(f"config.json: {key}: {settings[key]!r} is not implemented; known: {', '.join(ACTIVATIONS)}")
    return settings[key]


def head_width(width: int, heads: int) -> int:
    if width % heads:
        raise UserError(f"config.json: a width of {width} is not divisible by {heads} heads")
    return width // heads


def rotary(parameters: Mapping[str, Any] | None, theta: float, width: int) -> RotaryConfig:
    """RotaryConfig from transformers' rope parameters; kinds default, linear and llama3. Raises UserError for others."""
    given = dict(parameters or {})
    kind = given.pop("rope_type", None) or given.pop("type", None) or "default"
    given.pop("type", None)
    if width % 2:
        raise UserError(f"rotary positions need an even width of a head, not {width}; change model.heads or model.width")
    if given.pop("partial_rotary_factor", 1.0) != 1.0:
        raise UserError("config.json: partial_rotary_factor other than 1 is not implemented")
    theta = float(given.pop("rope_theta", theta))
    if kind == "default":
        return RotaryConfig(width, theta)
    if kind == "linear":
        return RotaryConfig(width, theta, float(given["factor"]))
    if kind == "llama3":
        scaling = Llama3Scaling(
            float(given["low_freq_factor"]),
            float(given["high_freq_factor"]),
            int(given["original_max_position_embeddings"]),
        )
        return RotaryConfig(width, theta, float(given["factor"]), scaling)
    raise UserError(f"config.json: rope type {kind!r} is not implemented; known: default, linear, llama3")


def padding_row(settings: Mapping[str, Any]) -> int | None:
    """The padding id, unless it is also a token with a meaning: that one must be learned."""
    pad = settings.get("pad_token_id")
    ends = settings.get("eos_token_id")
    used = {settings.get("bos_token_id"), *(ends if isinstance(ends, list) else [ends])}
    return None if pad in used or pad is None or not 0 <= pad < settings["vocab_size"] else pad


def multiple(size: float, of: int = 64) -> int:
    """The next multiple."""
    return -int(-size // of) * of
