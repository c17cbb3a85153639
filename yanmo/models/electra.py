"""ELECTRA, as data: a discriminator that says which tokens were replaced, and the generator that replaced them.

Clark et al. 2020, arXiv:2003.10555; google-research/electra. Both are BERT with an embedding that may be narrower than the
network. In transformers they have one model_type: ElectraForPreTraining and ElectraForMaskedLM tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from yanmo.errors import UserError
from yanmo.layers import HeadConfig
from yanmo.models import bert
from yanmo.models.encoder import Bidirectional, Discriminator, Encoder
from yanmo.models.family import TOKENS_KEY, Family, Sizes
from yanmo.models.names import Name, Names, layer, single
from yanmo.models.network import Special, StackConfig
from yanmo.models.taskhead import TaskForm

TABLE = "electra.embeddings.word_embeddings.weight"
SHARED = ("tokens", "positions", "types")
"""Tables of the embedding that generator and discriminator have in common (section 3.2)."""


def _read(settings: Mapping[str, Any], tokens: int, family: str) -> StackConfig:
    """BERT with an embedding of a width of its own; the head is still to be chosen."""
    config = bert.read(settings, tokens, False, family=family, offset=False)
    width = settings["embedding_size"]
    projected = config.width if width != config.width else None
    return replace(config, embedding=replace(config.embedding, width=width, projected=projected))


def read_discriminator(settings: Mapping[str, Any], tokens: int, pair: bool) -> StackConfig:
    config = _read(settings, tokens, "electra")
    head = HeadConfig(1, config.width, transform=settings["hidden_act"], bias=True, tied=False)
    return replace(config, head=head)


def read_generator(settings: Mapping[str, Any], tokens: int, pair: bool) -> StackConfig:
    """The head's activation is gelu, whatever the blocks' is, as in transformers."""
    config = _read(settings, tokens, "electra-generator")
    head = replace(config.head, transform="gelu", features=config.embedding.width)
    return replace(config, head=head)


def describe(sizes: Sizes, special: Special) -> dict[str, Any]:
    return {**bert.describe(sizes, special, offset=False, pad=0), "embedding_size": sizes.embedding or sizes.width}


BODY: tuple[Name, ...] = (*bert.body("electra"), layer("embed.project", "electra.embeddings_project"))
BUFFERS = (r"electra\.embeddings\.(position|token_type)_ids",)


def discriminator_names(config: StackConfig) -> Names:
    theirs = "discriminator_predictions."
    heads = layer("head.dense", theirs + "dense"), layer("head", theirs + "dense_prediction")
    return Names((*BODY, *heads), {}, ignored=BUFFERS)


def generator_names(config: StackConfig) -> Names:
    heads = (
        layer("head.dense", "generator_predictions.dense"),
        layer("head.norm", "generator_predictions.LayerNorm"),
        single("head.weight", "generator_lm_head.weight"),
        single("head.bias", "generator_lm_head.bias"),
    )
    copies = {"generator_lm_head.weight": TABLE} if config.head.tied else {}
    return Names((*BODY, *heads), copies, ignored=BUFFERS)


ELECTRA = Family(
    "electra",
    Discriminator,
    bert.PRESETS,
    positions=512,
    defaults={**bert.DEFAULTS, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024, "embedding_size": 128,
              "pad_token_id": 0},
    describe=describe,
    read=read_discriminator,
    names=discriminator_names,
    architecture="ElectraForPreTraining",
    prefix="electra.",
    heads=("discriminator_predictions.", "generator_"),
    fixed={"is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute"},
    tasks=bert.tasks("Electra", TaskForm(
        "ElectraForSequenceClassification", "classifier.out_proj", partial(bert.inner_layer, "gelu"), inner="classifier.dense"
    )),
)
ELECTRA_GENERATOR = replace(
    ELECTRA,
    name="electra-generator",
    network=Encoder,
    read=read_generator,
    names=generator_names,
    architecture="ElectraForMaskedLM",
    shared_type="electra",
)


def generator_for(discriminator: Discriminator, share: float) -> Encoder:
    """A new generator, as deep as its discriminator and `share` as wide in whole heads, on the same embedding tables."""
    config = discriminator.config
    attention, feedforward = config.blocks[0].attention, config.blocks[0].feedforward
    heads = max(1, round(attention.heads * share))
    width = heads * attention.head_width
    settings = {
        **config.settings,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": max(1, feedforward.width * width // config.width),
        "embedding_size": config.embedding.width,
        TOKENS_KEY: config.tokens,
    }
    generator = Encoder(read_generator({**ELECTRA.defaults, **settings}, config.tokens, False))
    generator.config = replace(generator.config, settings=settings)
    generator.start()
    share_tables(generator, discriminator)
    return generator


def share_tables(generator: Bidirectional, discriminator: Discriminator) -> None:
    """Give the generator the discriminator's embedding tables. Raises UserError where they are not of the same sizes."""
    for name in SHARED:
        own, other = getattr(generator.embed, name).weight, getattr(discriminator.embed, name).weight
        if own.shape != other.shape:
            raise UserError(
                f"the generator's table of {name} is {list(own.shape)} and the discriminator's {list(other.shape)}: they share "
                "one; take both from one run, or leave the generator's folder out, to begin a new one"
            )
        getattr(generator.embed, name).weight = other
    if generator.config.head.tied:
        generator.head.weight = generator.embed.tokens.weight
