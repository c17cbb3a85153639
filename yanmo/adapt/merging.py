"""Merging: an adapter becomes part of the matrices that it changes, and what comes out is measured against what went in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yanmo import models
from yanmo.adapt.bottleneck import bottlenecks_of
from yanmo.adapt.folder import load_adapter
from yanmo.adapt.freezing import Touched
from yanmo.adapt.lora import fold_lora, lora_layers
from yanmo.adapt.rows import fold_rows
from yanmo.batch import Packed
from yanmo.errors import UserError
from yanmo.files import new_folder
from yanmo.models.heads import TaskKind
from yanmo.models.network import Network, in_mode
from yanmo.models.seq2seq import Seq2Seq
from yanmo.tokenizer import Tokens, load_tokenizer, save_tokenizer

TOLERANCE = 1e-4
"""Of the greatest difference, as a share of the greatest output: a hundred times what float32 rounds off on the way."""
PROBES, PROBE_LENGTH = 4, 32


@dataclass(frozen=True)
class Merged:
    """difference: the greatest between merged and unmerged outputs; change: between merged outputs and the base's; both as a
    share of the greatest output."""

    touched: Touched
    difference: float
    change: float


def probes_of(tokens: Tokens, longest: int = PROBE_LENGTH, seed: int = 0) -> Packed:
    """A few rows of tokens drawn from the tokenizer's own, special ones left out but for those around a text."""
    plain = torch.tensor(sorted(set(range(tokens.size)) - tokens.special))
    room = min(PROBE_LENGTH, longest) - len(tokens.prefix) - len(tokens.suffix)
    drawn = plain[torch.randint(len(plain), (PROBES, room), generator=torch.Generator().manual_seed(seed))]
    around = [torch.tensor(part, dtype=torch.int64).expand(PROBES, -1) for part in (tokens.prefix, tokens.suffix)]
    rows = torch.cat([around[0], drawn, around[1]], dim=1)
    return Packed(rows, torch.ones_like(rows), torch.arange(rows.shape[1]).expand_as(rows).contiguous(), whole=True)


def hidden_states(network: Network, probes: Packed) -> Tensor:
    """What a network makes of rows; an encoder-decoder reads and writes the same."""
    return network(probes, probes) if isinstance(network, Seq2Seq) else network(probes)


@torch.no_grad()
def merge(
    network: Network,
    probes: Packed,
    outputs: Callable[[Network, Packed], Tensor] = hidden_states,
    tolerance: float = TOLERANCE,
) -> Merged:
    """Fold the LoRA of a network into its matrices, and rows that were learned into its tables: afterwards it is a plain one.

    outputs: what is compared, by default the hidden states.

    Raises UserError for bottleneck adapters, where merged and unmerged outputs differ by more than `tolerance`, and where the
    merged network is the base: then the network is of no further use.
    """
    if bottlenecks_of(network):
        raise UserError(
            "bottleneck adapters cannot be merged: between their two matrices is an activation, so that no single matrix does "
            "the same; keep base and adapter folder, or adapt with LoRA"
        )
    layers = lora_layers(network)
    if not layers:
        raise UserError("this network has no LoRA to merge")
    with in_mode(network):
        unmerged = outputs(network, probes)
        for layer in layers.values():
            layer.enable_adapters(False)
        base = outputs(network, probes)
        for layer in layers.values():
            layer.enable_adapters(True)
        touched = fold_lora(network)
        fold_rows(network)
        merged = outputs(network, probes)
    size = float(unmerged.abs().max())
    found = Merged(touched, float((merged - unmerged).abs().max()) / size, float((merged - base).abs().max()) / size)
    if not found.difference <= tolerance:
        raise UserError(
            f"merged and unmerged outputs differ by {found.difference:.2e} of the greatest, more than {tolerance:.0e}: the "
            "merged model would not be the one that was measured; keep base and adapter folder, or raise the tolerance"
        )
    if not found.change:
        raise UserError(
            "the merged model is its base: this adapter changes nothing; was it saved before it was trained, or was its learning "
            "rate 0?"
        )
    return found


def merge_adapter(
    folder: Path | str,
    into: Path | str,
    base: Path | str | None = None,
    probes: Packed | None = None,
    tolerance: float = TOLERANCE,
    settings: Mapping[str, Any] | None = None,
) -> Merged:
    """Merge an adapter folder with its base into a new model folder, a task's or a pretrained one, with the adapter's tokenizer
    where that has new tokens, and the base's otherwise.

    probes: what is compared, by default `probes_of` the base's tokenizer. settings: what the task adds to config.json, see
    yanmo.models.heads.save_task. Raises UserError as `load_adapter` and `merge` do; then nothing is written.
    """
    network, head, adapter = load_adapter(folder, base)
    tokens = load_tokenizer(folder if adapter.ids else base or adapter.base)
    given = probes_of(tokens, network.config.length) if probes is None else probes
    outputs = hidden_states if adapter.head_kind is None else partial(_states, kind=adapter.head_kind)
    merged = merge(network, given, outputs, tolerance)
    with new_folder(into) as made:
        if head is None:
            models.save(network, made)
        else:
            models.save_task(network, head, made, settings=settings or {})
        save_tokenizer(tokens, made, network.config.length)
    return merged


def _states(network: Network, probes: Packed, kind: TaskKind) -> Tensor:
    return network.states(probes, kind)
