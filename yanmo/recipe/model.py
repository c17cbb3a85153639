"""The network of a recipe, and which kind of network each family is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from yanmo.recipe.section import Section

FamilyName = Literal[
    "bert", "roberta", "modernbert", "gpt2", "llama", "qwen3", "mixtral", "t5", "bart", "electra", "electra-generator", "vae",
    "xlnet", "lstm", "ngram",
]
Size = Literal["tiny", "mini", "small", "medium", "base", "large"]
NetworkKind = Literal[
    "encoder", "decoder", "encoder-decoder", "two-stream", "discriminator", "latent", "recurrent", "counts"
]

KIND_OF: dict[str, NetworkKind] = {
    "bert": "encoder",
    "roberta": "encoder",
    "modernbert": "encoder",
    "gpt2": "decoder",
    "llama": "decoder",
    "qwen3": "decoder",
    "mixtral": "decoder",
    "t5": "encoder-decoder",
    "bart": "encoder-decoder",
    "electra": "discriminator",
    "electra-generator": "encoder",
    "vae": "latent",
    "xlnet": "two-stream",
    "lstm": "recurrent",
    "ngram": "counts",
}
"""An objective fits some kinds of network, and every family of these."""
VERSIONS = {"t5": ("1.1", "1.0"), "vae": ("transformer", "lstm")}
"""Families of which there are several; the first is the default."""


@dataclass(frozen=True)
class Use:
    """What a kind of network is used for: transformers' class, the name that model hubs have for the task, and our verb."""

    auto: str | None
    pipeline: str
    verb: Literal["fill", "generate", "score", "sample"]


USES: dict[NetworkKind, Use] = {
    "encoder": Use("AutoModelForMaskedLM", "fill-mask", "fill"),
    "decoder": Use("AutoModelForCausalLM", "text-generation", "generate"),
    "encoder-decoder": Use("AutoModelForSeq2SeqLM", "text2text-generation", "generate"),
    "two-stream": Use("AutoModelForCausalLM", "text-generation", "score"),
    "discriminator": Use("AutoModelForPreTraining", "feature-extraction", "score"),
    "latent": Use(None, "text-generation", "sample"),
    "recurrent": Use(None, "text-generation", "generate"),
    "counts": Use(None, "text-generation", "generate"),
}


def families_of(*kinds: NetworkKind) -> list[str]:
    """The families of some kinds, in the order of the table."""
    return [family for family, kind in KIND_OF.items() if kind in kinds]


WITH_EXPERTS: tuple[NetworkKind, ...] = ("encoder", "decoder", "encoder-decoder")
"""Kinds of network whose feed-forward bricks can be experts."""


class Experts(Section):
    """A mixture of experts in the place of feed-forward bricks, each as wide inside as `feedforward` says."""

    number: int = Field(default=8, ge=2)
    """Experts of a block."""
    router: Literal["top-k", "expert-choice", "balanced"] = "top-k"
    """top-k: a token picks experts, and a loss keeps the load even (Fedus et al. 2021). expert-choice: an expert picks tokens
    (Zhou et al. 2022); for encoders, because the choice depends on later tokens. balanced: tokens are shared out evenly, with
    the greatest total score (Lewis et al. 2021); where nothing is trained, each goes to its best ones."""
    top_k: int | None = Field(default=None, ge=1)
    """Experts of a token (top-k, by default 2; balanced, by default 1)."""
    capacity: float | None = Field(default=None, gt=0)
    """top-k: the most tokens of an expert while training, in even shares (1.25, say); what is more is dropped; by default no
    limit. expert-choice: the experts that a token meets on average, by default 2."""
    balance: float | None = Field(default=None, ge=0)
    """Weight of the loss that keeps the load even (top-k), by default 0.01. Balanced is even without it; there it makes what
    tokens would pick more like what they get, by default 0.05 for several experts of a token and 0 for one."""
    every: int = Field(default=1, ge=1)
    """Which blocks have experts: every so many-th."""

    @property
    def balance_weight(self) -> float:
        return 0.01 if self.balance is None else self.balance

    @model_validator(mode="after")
    def _router_reads_them(self) -> Experts:
        unread = {"top-k": (), "expert-choice": ("top_k", "balance"), "balanced": ("capacity",)}[self.router]
        if given := [name for name in unread if getattr(self, name) is not None]:
            raise ValueError(f"{', '.join(given)}: router {self.router} does not read this; leave it out, or set router to top-k")
        if self.top_k is not None and self.top_k > self.number:
            raise ValueError(f"top_k {self.top_k} is more than the {self.number} experts; lower it")
        if self.router == "expert-choice" and (self.capacity or 0) > self.number:
            raise ValueError(f"capacity {self.capacity:g}: a token cannot meet more than the {self.number} experts; lower it")
        return self


class Model(Section):
    """The network. A preset gives every dimension; any that is set here wins."""

    family: FamilyName = "bert"
    """Which network: encoders bert, roberta, modernbert, electra-generator; discriminator electra; decoders gpt2, llama,
    qwen3, mixtral; encoder-decoders t5, bart; the text VAE vae; as baselines lstm and ngram (counted, not trained)."""
    size: Size = "mini"
    """tiny, mini, small, medium, base, large."""
    version: Literal["1.1", "1.0", "transformer", "lstm"] | None = None
    """Of t5: 1.1 (gated feed-forward, a matrix of its own for the scores) or 1.0 (ReLU, one matrix for all); by default 1.1.
    Of vae: what encoder and decoder are; by default transformer."""
    layers: int | None = Field(default=None, ge=1)
    """Blocks; of an encoder-decoder, of each half."""
    width: int | None = Field(default=None, ge=1)
    embedding: int | None = Field(default=None, ge=1)
    """Width of the embedding (electra), by default the width."""
    heads: int | None = Field(default=None, ge=1)
    kv_heads: int | None = Field(default=None, ge=1)
    """Key-value heads (llama, qwen3, mixtral)."""
    feedforward: int | None = Field(default=None, ge=1)
    """Width inside the feed-forward brick."""
    experts: Experts | None = None
    """A mixture of experts in the place of feed-forward bricks; mixtral always has one."""
    positions: int | None = Field(default=None, ge=1)
    """The longest document the network can see; by default the row length or the preset's, whichever is larger."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    order: int | None = None
    """Tokens of the longest n-grams (ngram), by default 5."""
    start: str | None = None
    """A model folder, ours or transformers', to go on from; family, size and dimensions are then the folder's."""
    latent: int | None = None
    """Numbers of the latent (vae), by default 32."""
    start_encoder: str | None = None
    """A folder whose encoder the new network begins with (vae); size and dimensions are then those of the other half."""
    start_decoder: str | None = None
    """A folder whose decoder the new network begins with (vae). Both halves and the text have the folders' tokenizer."""

    @property
    def starts(self) -> dict[str, str]:
        """The folders that weights come from, by the name of their field."""
        folders = {name: getattr(self, name) for name in ("start", "start_decoder", "start_encoder")}
        return {name: folder for name, folder in folders.items() if folder is not None}

    @model_validator(mode="after")
    def _start_has_its_own(self) -> Model:
        dimensions = ("version", "layers", "width", "embedding", "heads", "kv_heads", "feedforward", "positions", "dropout")
        dimensions += ("experts", "latent", "start_encoder", "start_decoder")
        given = [name for name in dimensions if getattr(self, name) is not None]
        if self.start is not None and given:
            raise ValueError(f"{', '.join(given)}: these are the folder's when start is given; leave them out")
        return self

    @model_validator(mode="after")
    def _version_is_of_the_family(self) -> Model:
        if self.version is not None and self.version not in VERSIONS.get(self.family, ()):
            known = "; ".join(f"{family} has {', '.join(names)}" for family, names in VERSIONS.items())
            raise ValueError(f"version {self.version} is none of {self.family}: {known}; leave it out")
        return self

    @model_validator(mode="after")
    def _latent_is_of_vae(self) -> Model:
        given = [name for name in ("latent", "start_encoder", "start_decoder") if getattr(self, name) is not None]
        if given and self.family != "vae":
            raise ValueError(f"{', '.join(given)}: {self.family} has no latent; leave it out, or set family to vae")
        if self.latent is not None and self.latent < 1:
            raise ValueError(f"latent {self.latent}: a latent without numbers says nothing; at least 1, by default 32")
        return self

    @model_validator(mode="after")
    def _embedding_is_of_electra(self) -> Model:
        if self.embedding is not None and self.family not in ("electra", "electra-generator"):
            raise ValueError(f"embedding {self.embedding}: {self.family} has an embedding as wide as itself; leave it out")
        return self

    @model_validator(mode="after")
    def _experts_fit_the_family(self) -> Model:
        experts, family = self.experts, self.family
        if experts is None:
            return self
        kind = KIND_OF[family]
        if kind not in WITH_EXPERTS:
            raise ValueError(f"experts: {family} has no blocks for them; these have: {', '.join(families_of(*WITH_EXPERTS))}")
        if experts.router == "expert-choice" and kind != "encoder":
            raise ValueError(f"experts.router expert-choice: {family} would know later tokens; use top-k or balanced")
        if self.layers is not None and experts.every > self.layers:
            raise ValueError(f"experts.every {experts.every} is more than the {self.layers} layers: no block has any; lower it")
        other = experts.router != "top-k" or experts.top_k == 1 or experts.capacity is not None or experts.every != 1
        if family == "mixtral" and other:
            raise ValueError("experts: mixtral has the best two or more in every block, without a capacity; for others use llama")
        return self

    @model_validator(mode="after")
    def _order_is_of_ngram(self) -> Model:
        if self.order is not None and self.family != "ngram":
            raise ValueError(f"order {self.order}: {self.family} counts no n-grams; leave it out, or set family to ngram")
        if self.order is not None and self.order < 1:
            raise ValueError(f"order {self.order}: an n-gram has at least 1 token; set it to 1 or more, by default 5")
        return self

    @model_validator(mode="after")
    def _positions_have_an_end(self) -> Model:
        if self.positions is not None and self.family == "xlnet":
            raise ValueError(f"positions {self.positions}: xlnet counts distances and knows no longest document; leave it out")
        return self

    @model_validator(mode="after")
    def _heads_divide(self) -> Model:
        if self.width and self.heads and self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")
        if self.heads and self.kv_heads and self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not divisible by kv_heads {self.kv_heads}")
        return self
