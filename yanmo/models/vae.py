"""The text VAE, as data: two networks of other families in one folder, and the width of the latent between them.

New ones are a BERT that reads and a GPT-2 that writes, as in Optimus (Li et al. 2020, arXiv:2004.04092, section 3.1), or
LSTMs (Bowman et al. 2016, arXiv:1511.06349); a folder's may be any encoder and any decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yanmo.errors import UserError
from yanmo.models.bert import BERT, PRESETS, ROBERTA
from yanmo.models.decoder import Decoder
from yanmo.models.encoder import Encoder
from yanmo.models.family import REQUIRED, TOKENS_KEY, Family, Sizes
from yanmo.models.gpt2 import GPT2
from yanmo.models.latent import Latent, LatentConfig, PartConfig
from yanmo.models.llama import LLAMA, QWEN3
from yanmo.models.modernbert import MODERNBERT
from yanmo.models.names import SAME
from yanmo.models.network import Network, Special
from yanmo.models.recurrent import LSTM, Recurrent

PARTS: Mapping[str, Family] = {
    family.model_type: family for family in (BERT, ROBERTA, MODERNBERT, GPT2, LLAMA, QWEN3, LSTM)
}
DEFAULTS: dict[str, Any] = {"vocab_size": REQUIRED, "latent_size": REQUIRED, "encoder": REQUIRED, "decoder": REQUIRED}
LSTM_PRESETS = {size: (1, width, width) for size, (_, width, _) in PRESETS.items()}
"""One layer, as Bowman et al. 2016 had."""


def describe(sizes: Sizes, special: Special) -> dict[str, Any]:
    if sizes.version == "lstm":
        reader = writer = {"model_type": LSTM.model_type, **LSTM.describe(sizes, special)}
    else:
        reader = {"model_type": BERT.name, **BERT.describe(sizes, special)}
        writer = {"model_type": GPT2.name, **GPT2.describe(sizes, special)}
    return {
        "vocab_size": sizes.vocabulary,
        "latent_size": sizes.latent,
        "encoder": reader,
        "decoder": writer,
        "pad_token_id": special.pad,
        "bos_token_id": special.bos,
        "eos_token_id": special.eos,
    }


def read(settings: Mapping[str, Any], tokens: int, pair: bool) -> LatentConfig:
    latent = settings["latent_size"]
    if not isinstance(latent, int) or latent < 1:
        raise UserError(f"config.json: latent_size: {latent!r}: a latent has at least one number")
    reader, writer = _part(settings, "encoder", Encoder, tokens), _part(settings, "decoder", Decoder, tokens)
    return LatentConfig(
        family="vae",
        vocabulary=min(reader.vocabulary, writer.vocabulary),
        tokens=tokens,
        length=min(reader.length, writer.length),
        width=writer.width,
        latent=latent,
        encoder=reader,
        decoder=writer,
    )


def _part(settings: Mapping[str, Any], part: str, kind: type[Network], tokens: int) -> PartConfig:
    """The configuration of one half. Raises UserError for a family that cannot be that half."""
    given = {**settings[part], TOKENS_KEY: tokens}
    able = {name: family for name, family in PARTS.items() if family.network in (kind, Recurrent)}
    family = able.get(str(given.get("model_type")))
    if family is None:
        known = ", ".join(able)
        raise UserError(f"config.json: {part}: {given.get('model_type')!r} cannot be the {part} of a vae; known: {known}")
    config = family.understand(given, pair=False, where=f"config.json: {part}")
    return config  # pyright: ignore[reportReturnType]  # as the table has it


VAE = Family(
    "vae",
    Latent,
    PRESETS,
    positions=512,
    defaults=DEFAULTS,
    describe=describe,
    read=read,
    names=lambda config: SAME,
    architecture="YanmoVae",
    versions={"transformer": PRESETS, "lstm": LSTM_PRESETS},
    shared_type="yanmo-vae",
)
