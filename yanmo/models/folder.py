"""Networks made from a recipe, and model folders read and written as transformers reads and writes them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from yanmo import recipe
from yanmo.errors import UserError
from yanmo.models.bart import BART
from yanmo.models.bert import BERT, ROBERTA
from yanmo.models.electra import ELECTRA, ELECTRA_GENERATOR
from yanmo.models.family import TOKENS_KEY, Family, multiple
from yanmo.models.gpt2 import GPT2
from yanmo.models.llama import LLAMA, QWEN3
from yanmo.models.mixtral import MIXTRAL
from yanmo.models.mixture import EXPERTS_KEY, describe_experts
from yanmo.models.modernbert import MODERNBERT
from yanmo.models.network import Network, Special
from yanmo.models.ngram import NGRAM
from yanmo.models.recurrent import LSTM
from yanmo.models.t5 import T5
from yanmo.models.textcnn import TEXT_CNN
from yanmo.models.vae import VAE
from yanmo.models.xlnet import XLNET

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        BERT, ROBERTA, MODERNBERT, GPT2, LLAMA, QWEN3, MIXTRAL, T5, BART, ELECTRA, ELECTRA_GENERATOR, VAE, XLNET,
        LSTM, NGRAM, TEXT_CNN,
    )
}
"""By their names, which are transformers' model_type but where several families share one."""
OWN_TYPE = "yanmo-"
"""Before the model_type of a family that transformers knows only without experts."""
GENERATION_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def build(
    model: recipe.Model,
    *,
    vocabulary: int,
    length: int,
    pair: bool = False,
    special: Special = Special(),  # noqa: B008
) -> Network:
    """A new network, weights drawn from torch's random state. vocabulary: ids of the tokenizer, padded here to a multiple
    of 64; length: tokens of a row. Raises UserError where sizes do not fit together, or the family has no pair head."""
    family = FAMILIES[model.family]
    if pair and family.pair_architecture is None:
        raise UserError(f"{family.name} has no head for sentence prediction: set objective.sentences to none, or use bert")
    sizes = family.sizes(model, multiple(vocabulary), length)
    settings = {"model_type": family.model_type, **family.describe(sizes, special), TOKENS_KEY: vocabulary}
    if model.experts is not None and not family.has_experts:
        settings[EXPERTS_KEY] = describe_experts(model.experts)
    halves = {name.removeprefix("start_"): load(start) for name, start in model.starts.items() if name != "start"}
    settings |= {half: dict(pretrained.config.settings) for half, pretrained in halves.items()}
    network = family.network(family.understand(settings, pair=pair, where="recipe"))
    network.start()
    for half, pretrained in halves.items():
        network.adopt(half, pretrained)
    return network


def load(folder: str | Path) -> Network:
    """The network of a model folder, ours or transformers', in fp32 and in training mode. Raises UserError for a folder, a
    setting or a weight that does not fit, naming it; warns of learned weights that have no place here."""
    folder = Path(folder)
    settings = _read_settings(folder)
    family = _family(settings, folder)
    weights = _prefixed(_read_weights(folder), family)
    try:
        settings = family.complete(settings, weights)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    pair = bool(family.pair_weights) and all(name in weights for name in family.pair_weights)
    config = family.understand(settings, pair=pair, where=f"{folder}/config.json")
    network = family.network(config)
    names = family.names(config)
    if unread := names.unread_in(weights):
        warnings.warn(f"{folder}: weights without a place in this network are left out: {', '.join(unread)}", stacklevel=2)
    try:
        read = names.read(weights, parameters(network), config)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    with torch.no_grad():
        for name, parameter in parameters(network).items():
            parameter.copy_(read[name])
    return network


def save(network: Network, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write config.json, model.safetensors and, for decoders, generation_config.json into `folder`: what transformers loads."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = network.config
    family = FAMILIES[config.family]
    architecture = family.pair_architecture if config.pair else family.architecture
    settings = {
        **{key: value for key, value in config.settings.items() if value is not ...},
        "architectures": [architecture],
        "model_type": OWN_TYPE + family.model_type if EXPERTS_KEY in config.settings else family.model_type,
        "dtype": str(dtype).removeprefix("torch."),
    }
    settings.pop("torch_dtype", None)
    names = family.names(config)
    kinds = {name: dtype if tensor.is_floating_point() else tensor.dtype for name, tensor in parameters(network).items()}
    ours = {name: tensor.detach().to("cpu", kinds[name]) for name, tensor in parameters(network).items()}
    theirs = names.write(ours, config)
    if names.doubled:
        theirs |= {copy: theirs[original].clone() for copy, original in names.copies.items()}
    save_file({name: tensor.contiguous() for name, tensor in theirs.items()}, folder / "model.safetensors", {"format": "pt"})
    _write_json(folder / "config.json", settings)
    if network.continues:
        ids = {key: settings.get(key) for key in GENERATION_IDS}
        _write_json(folder / "generation_config.json", {key: value for key, value in ids.items() if value is not None})


def parameters(network: Network) -> dict[str, Tensor]:
    """Every parameter once, by our name; names that wrappers such as torch.compile put between are taken out."""
    return {name.replace("_orig_mod.", ""): parameter for name, parameter in network.named_parameters()}


def _family(settings: Mapping[str, Any], folder: Path) -> Family:
    """The family by model_type and, where several have the same, by architecture."""
    known_as = str(settings.get("model_type"))
    known_as = known_as.removeprefix(OWN_TYPE) if EXPERTS_KEY in settings else known_as
    families = [family for family in FAMILIES.values() if family.model_type == known_as]
    if not families:
        known = ", ".join(dict.fromkeys(family.model_type for family in FAMILIES.values()))
        raise UserError(f"{folder}: model_type {settings.get('model_type')!r} is not known; known: {known}")
    named = settings.get("architectures") or ()
    return next((family for family in families if family.architecture in named), families[0])


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder}: no model here: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not isinstance(settings, dict):
        raise UserError(f"{path}: not a tree of settings")
    return settings


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of model.safetensors or of the parts that its index names, old names of norms replaced."""
    index = folder / "model.safetensors.index.json"
    if index.exists() and not (folder / "model.safetensors").exists():
        try:
            parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{index}: not an index of weights: {error!r}") from None
    else:
        parts = ["model.safetensors"]
    weights: dict[str, Tensor] = {}
    for part in parts:
        path = folder / part
        if not path.exists():
            raise UserError(f"{path}: missing; weights are read from safetensors only, never from pickles (pytorch_model.bin)")
        try:
            weights |= load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: broken or half written: {error}") from None
    return {_modern(name): tensor for name, tensor in weights.items()}


def _modern(name: str) -> str:
    """The norm's weight and bias were called gamma and beta in TensorFlow's BERT."""
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith("LayerNorm" + old):
            return name.removesuffix(old) + new
    return name


def _prefixed(weights: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """A network saved without its head lacks the prefix on every name."""
    if any(name.startswith(family.prefix) for name in weights):
        return dict(weights)
    return {name if name.startswith(family.heads) else family.prefix + name: tensor for name, tensor in weights.items()}


def _write_json(path: Path, tree: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(tree, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
