"""LoRA: changes of low rank to matrices that stay as they are; also rsLoRA and DoRA. peft has the layers, we have the places.

LoRA: Hu et al. 2021, arXiv:2106.09685. rsLoRA: Kalajdzievski 2023, arXiv:2312.03732. DoRA: Liu et al. 2024, arXiv:2402.09353.
A matrix that is one here and several in transformers (query, key and value) stays one, but each part of its rows has a change of
its own, as peft would give it. What a changed layer computes is in yanmo.adapt.changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from yanmo.adapt.changed import NAME, Changed, Rows
from yanmo.adapt.freezing import Touched
from yanmo.errors import UserError
from yanmo.layers import Experts
from yanmo.models.folder import FAMILIES
from yanmo.models.network import Network
from yanmo.optim import blocks_of

Targets = Literal["query-value", "attention", "all"]
ROLES = {"qkv": ("query", "key", "value"), "key_value": ("key", "value"), "inner": ("gate", "up")}
"""What the parts of our matrices are."""
ATTENTION = ("attention", "cross")
WHOLE = "whole"
"""The role of all rows of a matrix that is one in transformers too."""
TENSORS = ("lora_A", "lora_B", "lora_magnitude_vector")
RANK = 128
"""By default, or half of the network's width where that is less, for the reason that adapters are as wide."""


@dataclass(frozen=True)
class Lora:
    """rank: of a change. alpha: changes are multiplied by alpha / rank, or by alpha / sqrt(rank) where `rs`. dora: magnitudes of
    their own for what a matrix gives. dropout: of what goes into a change.

    targets: query and value (Hu et al. 2021, section 5.5), all of attention, or every matrix of a block. Experts, and matrices
    that are no layers in transformers (XLNet's attention), have no changes.
    """

    rank: int
    alpha: int = 16
    rs: bool = False
    dora: bool = False
    dropout: float = 0.0
    targets: Targets = "all"

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise UserError(
                f"lora: rank {self.rank}, alpha {self.alpha}, dropout {self.dropout:g}: rank and alpha are above 0, dropout is "
                "at least 0 and below 1"
            )

    def peft(self, **more: Any) -> Any:
        """The same as peft's LoraConfig."""
        from peft import LoraConfig

        return LoraConfig(
            r=self.rank, lora_alpha=self.alpha, use_rslora=self.rs, use_dora=self.dora, lora_dropout=self.dropout, **more
        )


def usual_rank(network: Network) -> int:
    """Of a change, where nothing is said."""
    return max(1, min(RANK, network.config.width // 2))


@dataclass(frozen=True)
class Place:
    """A matrix of theirs: the layer of ours that has it, which part of that it is (None: all), and how transformers calls it.
    rows: of all parts of ours. transposed: as transformers has it."""

    ours: str
    part: str | None
    theirs: str
    rows: tuple[int, ...]
    transposed: bool

    @property
    def layer(self) -> str:
        """The name of peft's layer in a network with changes."""
        return f"{self.ours}.parts.{self.part or WHOLE}"


def places_of(network: Network) -> list[Place]:
    """Every matrix of the blocks that is a linear layer in transformers, in order. A network with changes has the same ones."""
    names = FAMILIES[network.config.family].names(network.config)
    inside = {id(module) for block in blocks_of(network) for module in block.modules()}
    without = {id(part) for module in network.modules() if isinstance(module, Experts) for part in module.modules()}
    found: list[Place] = []
    for ours, module in network.named_modules():
        if not isinstance(module, Changed | nn.Linear) or id(module) not in inside - without or _inside_change(ours):
            continue
        entry, theirs = names.find(f"{ours}.weight")
        if not all(name.endswith(".weight") for name in theirs) or entry.shape is not None:
            continue
        roles: tuple[str | None, ...] = ROLES[ours.rpartition(".")[2]] if len(theirs) > 1 else (None,)
        rows = entry.parts(network.config) if entry.parts and len(theirs) > 1 else ()
        for role, name in zip(roles, theirs, strict=True):
            found.append(Place(ours, role, name.removesuffix(".weight"), rows, entry.transposed))
    return found


def _inside_change(name: str) -> bool:
    return any(part in ("base_layer", "parts", "adapter") for part in name.split("."))


def _wanted(places: Iterable[Place], targets: Targets) -> list[Place]:
    return [place for place in places if targets == "all" or _is_of(place, targets)]


def _is_of(place: Place, targets: Targets) -> bool:
    *_, brick, name = place.ours.split(".")
    if brick not in ATTENTION:
        return False
    return targets == "attention" or (place.part or name) in ("query", "value", "qkv", "key_value")


def add_lora(network: Network, lora: Lora, places: Iterable[Place] | None = None) -> Touched:
    """Let only changes of low rank be learned: beside the matrices that `lora` says, or those given. They begin at zero; what
    they begin with is drawn from torch's random state. Returns the layers of ours that are changed.

    All else is frozen. Raises UserError where nothing is found to change, and where there are changes already.
    """
    from peft import inject_adapter_in_model

    if any(hasattr(module, "lora_A") for module in network.modules()):
        raise UserError("this network has LoRA already: merge or remove it first")
    known = places_of(network)
    chosen = list(_wanted(known, lora.targets) if places is None else places)
    if not chosen:
        raise UserError(
            f"lora.targets {lora.targets}: a {network.config.family} has no such layers in transformers; "
            + ("set lora.targets to all" if known else "use an adapter, or train the top blocks")
        )
    network.requires_grad_(False)
    for place in {place.ours: place for place in chosen}.values():
        base = network.get_submodule(place.ours)
        assert isinstance(base, nn.Linear), "places are of linear layers"
        roles = (WHOLE,) if place.part is None else ROLES[place.ours.rpartition(".")[2]]
        network.set_submodule(place.ours, Changed(base, roles, place.rows or (base.out_features,)))
    carrier = nn.ModuleDict({f"place{number}": network.get_submodule(place.layer) for number, place in enumerate(chosen)})
    carrier["base"] = network.get_submodule(chosen[0].ours)  # peft asks for the device of a parameter
    inject_adapter_in_model(lora.peft(target_modules=r"place\d+"), carrier, NAME)
    for number, place in enumerate(chosen):
        network.set_submodule(place.layer, carrier[f"place{number}"])
    learned = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return Touched(tuple(place.layer for place in chosen), learned)


def remove_lora(network: Network) -> Touched:
    """The inverse: the very weights and layers that there were, still frozen. Raises UserError where there is no LoRA."""
    return _settle(network, lambda layer: None)


def fold_lora(network: Network) -> Touched:
    """Add every change to its matrix, and leave the layers as they were before. Raises UserError where there is no LoRA, or a
    change is no number."""
    return _settle(network, _fold)


@torch.no_grad()
def _fold(layer: Any) -> None:
    rows: Rows = layer.get_base_layer()
    layer.base_layer = rows.copied()                      # peft merges into a layer that has its numbers
    try:
        layer.merge(safe_merge=True)
    except ValueError as error:
        raise UserError(f"LoRA cannot be merged: {error}") from None
    rows.weight.copy_(layer.get_base_layer().weight)


def _settle(network: Network, settle: Callable[[Any], None]) -> Touched:
    found = lora_layers(network)
    if not found:
        raise UserError("this network has no LoRA")
    learned = sum(tensor.numel() for layer in found.values() for _, tensor in _tensors(layer))
    for layer in found.values():
        settle(layer)
    for name, module in list(network.named_modules()):
        if isinstance(module, Changed):
            network.set_submodule(name, module.base_layer)
    return Touched(tuple(found), learned)


def lora_layers(network: Network) -> dict[str, Any]:
    """peft's layers, by our names."""
    return {name: module for name, module in network.named_modules() if hasattr(module, "lora_A")}


def _tensors(layer: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of a layer's change, as peft calls them in a folder."""
    for kind in TENSORS:
        held = getattr(layer, kind)
        if NAME in held:
            yield (kind if kind == "lora_magnitude_vector" else f"{kind}.weight"), held[NAME].weight


def lora_weights(network: Network) -> dict[str, nn.Parameter]:
    """Every parameter of every change, by transformers' name of its layer and peft's of the parameter."""
    by_layer = {place.layer: place for place in places_of(network)}
    each = ((by_layer[name].theirs, layer) for name, layer in lora_layers(network).items())
    return {f"{theirs}.{part}": tensor for theirs, layer in each for part, tensor in _tensors(layer)}


def places_named(network: Network, names: Iterable[str], where: str) -> list[Place]:
    """The places of parameters that `lora_weights` gave names to. Raises UserError for a layer that the network has not."""
    layers = dict.fromkeys(name.partition(".lora_")[0] for name in names)
    known = {place.theirs: place for place in places_of(network)}
    if strange := [name for name in layers if name not in known]:
        raise UserError(f"{where}: this {network.config.family} has no layer {', '.join(strange[:3])} that LoRA could change")
    return [known[name] for name in layers]


@torch.no_grad()
def set_lora(network: Network, weights: Mapping[str, Tensor], where: str) -> None:
    """Give the changes of a network the weights that `lora_weights` gave. Raises UserError where names or shapes differ."""
    own = lora_weights(network)
    wrong = sorted(own.keys() ^ weights.keys())
    wrong += [name for name in sorted(own.keys() & weights.keys()) if own[name].shape != weights[name].shape]
    if wrong:
        raise UserError(f"{where}: these changes are for another network: {', '.join(wrong[:4])} do not fit")
    for name, parameter in own.items():
        parameter.copy_(weights[name])


def short_names(network: Network) -> tuple[list[str], bool]:
    """What peft is told to change in transformers' network: the ends of the layers' names where these say enough, else all names;
    and whether transformers has the matrices transposed."""
    places = places_of(network)
    changed = lora_layers(network).keys()
    chosen = {place.theirs: place for place in places if place.layer in changed}
    ends = {theirs: _end(theirs) for theirs in chosen}
    others = {place.theirs for place in places} - chosen.keys()
    enough = not any(other.endswith(f".{end}") for other in others for end in ends.values())
    named = sorted(set(ends.values())) if enough else sorted(chosen)
    return named, any(place.transposed for place in chosen.values())


def _end(theirs: str) -> str:
    """A layer's name after its block's number."""
    return re.split(r"\.\d+\.", theirs, maxsplit=1)[-1]
