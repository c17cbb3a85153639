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
from torch import Tensor, nn

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
from yanmo.models.names import Names
from yanmo.models.network import Network, NetworkConfig, Special
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
"""Before the model_type of what transformers does not know: a family with experts, a task model that it has no class for."""
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
    settings = read_settings(folder)
    family = family_of(settings, folder)
    if family.task_of(named := architectures(settings)):
        raise UserError(
            f"{folder}: a model of a task ({', '.join(named)}), without a head over the vocabulary: predict with it "
            "(`yanmo predict MODEL`; models.load_task opens it), or name the pretrained folder that it began from"
        )
    weights = _prefixed(read_weights(folder), family)
    try:
        settings = family.complete(settings, weights)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    pair = bool(family.pair_weights) and all(name in weights for name in family.pair_weights)
    config = family.understand(settings, pair=pair, where=f"{folder}/config.json")
    network = family.network(config)
    fill(network, family.names(config), config, weights, folder)
    return network


@torch.no_grad()
def fill(module: nn.Module, names: Names, config: NetworkConfig, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Copy a folder's weights, by transformers' names, into a network or into a part of it. Raises UserError naming those that do
    not fit; warns of learned ones that have no place."""
    if unread := names.unread_in(weights):
        warnings.warn(f"{folder}: weights without a place in this network are left out: {', '.join(unread)}", stacklevel=3)
    try:
        read = names.read(weights, parameters(module), config)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    for name, parameter in parameters(module).items():
        parameter.copy_(read[name])


def save(network: Network, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write config.json, model.safetensors and, for decoders, generation_config.json into `folder`: what transformers loads."""
    folder, config = Path(folder), network.config
    assert not network.kept_for, "a network that was reduced to what a task needs is saved with the task's head"
    family = FAMILIES[config.family]
    architecture = family.pair_architecture if config.pair else family.architecture
    names = family.names(config)
    theirs = names.write(parameters(network), config)
    if names.doubled:
        theirs |= {copy: theirs[original].clone() for copy, original in names.copies.items()}
    model_type = OWN_TYPE + family.model_type if EXPERTS_KEY in config.settings else family.model_type
    settings = {**config.settings, "architectures": [architecture], "model_type": model_type}
    write_folder(folder, settings, theirs, dtype)
    if network.continues:
        ids = {key: settings.get(key) for key in GENERATION_IDS}
        _write_json(folder / "generation_config.json", {key: value for key, value in ids.items() if value is not None})


def write_folder(folder: Path, settings: Mapping[str, Any], weights: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Write config.json and model.safetensors: weights under transformers' names, numbers with a fraction in `dtype`."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {key: value for key, value in settings.items() if value is not ... and key != "torch_dtype"}
    kinds = {name: dtype if tensor.is_floating_point() else tensor.dtype for name, tensor in weights.items()}
    stored = {name: tensor.detach().to("cpu", kinds[name]).contiguous() for name, tensor in weights.items()}
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    _write_json(folder / "config.json", {**settings, "dtype": str(dtype).removeprefix("torch.")})


def parameters(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter once, by our name; names that wrappers such as torch.compile put between are taken out."""
    return {name.replace("_orig_mod.", ""): parameter for name, parameter in module.named_parameters()}


def architectures(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes that config.json names."""
    return tuple(settings.get("architectures") or ())


def family_of(settings: Mapping[str, Any], folder: Path) -> Family:
    """The family by model_type and, where several have the same, by architecture. Raises UserError for one that is not known."""
    known_as, named = str(settings.get("model_type")), architectures(settings)
    plain = known_as.removeprefix(OWN_TYPE)
    known_as = plain if EXPERTS_KEY in settings else known_as
    families = [
        family
        for family in FAMILIES.values()
        if family.model_type == known_as or (family.model_type == plain and family.task_of(named))
    ]
    if not families:
        known = ", ".join(dict.fromkeys(family.model_type for family in FAMILIES.values()))
        raise UserError(f"{folder}: model_type {settings.get('model_type')!r} is not known; known: {known}")
    return next((family for family in families if family.architecture in named), families[0])


def read_settings(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        raise UserError(f"{folder}: no model here: it has no config.json")
    return read_tree(path)


def read_tree(path: Path) -> dict[str, Any]:
    """The JSON of a file of settings. Raises UserError where it cannot be read, or is something else."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: not a tree of settings")
    return tree


def read_weights(folder: Path) -> dict[str, Tensor]:
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
