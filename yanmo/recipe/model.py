"""The network of a recipe, and which kind of network each family is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from yanmo.recipe.section import Section

FamilyName = Literal["bert", "roberta", "modernbert", "gpt2", "llama", "qwen3", "t5", "bart", "electra", "electra-generator"]
Size = Literal["tiny", "mini", "small", "medium", "base", "large"]
NetworkKind = Literal[
    "encoder", "decoder", "encoder-decoder", "two-stream", "discriminator", "latent", "adversarial", "recurrent", "counts"
]

KIND_OF: dict[str, NetworkKind] = {
    "bert": "encoder",
    "roberta": "encoder",
    "modernbert": "encoder",
    "gpt2": "decoder",
    "llama": "decoder",
    "qwen3": "decoder",
    "t5": "encoder-decoder",
    "bart": "encoder-decoder",
    "electra": "discriminator",
    "electra-generator": "encoder",
}
"""An objective fits some kinds of network, and every family of these."""


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
    "adversarial": Use(None, "text-generation", "sample"),
    "recurrent": Use(None, "text-generation", "generate"),
    "counts": Use(None, "text-generation", "generate"),
}


def families_of(*kinds: NetworkKind) -> list[str]:
    """The families of some kinds, in the order of the table."""
    return [family for family, kind in KIND_OF.items() if kind in kinds]


class Model(Section):
    """The network. A preset gives every dimension; any that is set here wins."""

    family: FamilyName = "bert"
    """Which network: encoders bert, roberta, modernbert, electra-generator; discriminator electra; decoders gpt2, llama,
    qwen3; encoder-decoders t5, bart."""
    size: Size = "mini"
    """tiny, mini, small, medium, base, large."""
    version: Literal["1.1", "1.0"] | None = None
    """Of t5: 1.1 (gated feed-forward, a matrix of its own for the scores) or 1.0 (ReLU, one matrix for all); by default 1.1."""
    layers: int | None = Field(default=None, ge=1)
    """Blocks; of an encoder-decoder, of each half."""
    width: int | None = Field(default=None, ge=1)
    embedding: int | None = Field(default=None, ge=1)
    """Width of the embedding (electra), by default the width."""
    heads: int | None = Field(default=None, ge=1)
    kv_heads: int | None = Field(default=None, ge=1)
    """Key-value heads (llama, qwen3)."""
    feedforward: int | None = Field(default=None, ge=1)
    """Width inside the feed-forward brick."""
    positions: int | None = Field(default=None, ge=1)
    """The longest document the network can see; by default the row length or the preset's, whichever is larger."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    start: str | None = None
    """A model folder, ours or transformers', to go on from; family, size and dimensions are then the folder's."""

    @model_validator(mode="after")
    def _start_has_its_own(self) -> Model:
        dimensions = ("version", "layers", "width", "embedding", "heads", "kv_heads", "feedforward", "positions", "dropout")
        given = [name for name in dimensions if getattr(self, name) is not None]
        if self.start is not None and given:
            raise ValueError(f"{', '.join(given)}: these are the folder's when start is given; leave them out")
        return self

    @model_validator(mode="after")
    def _version_is_of_t5(self) -> Model:
        if self.version is not None and self.family != "t5":
            raise ValueError(f"version {self.version} is one of t5; {self.family} has none, leave it out")
        return self

    @model_validator(mode="after")
    def _embedding_is_of_electra(self) -> Model:
        if self.embedding is not None and self.family not in ("electra", "electra-generator"):
            raise ValueError(f"embedding {self.embedding}: {self.family} has an embedding as wide as itself; leave it out")
        return self

    @model_validator(mode="after")
    def _heads_divide(self) -> Model:
        if self.width and self.heads and self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")
        if self.heads and self.kv_heads and self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not divisible by kv_heads {self.kv_heads}")
        return self
