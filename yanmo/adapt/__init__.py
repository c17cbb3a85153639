"""Adaptation: which parameters of a pretrained network are learned, how fast, and what is added to it for that."""

from yanmo.adapt.bottleneck import WIDTH, add_bottlenecks, bottlenecks_of, remove_bottlenecks
from yanmo.adapt.folder import OURS, THEIRS, Adapter, base_hash, check_base, load_adapter, read_adapter, save_adapter
from yanmo.adapt.freezing import Touched, freeze, layerwise, thaw
from yanmo.adapt.lora import RANK, Lora, add_lora, lora_layers, remove_lora, usual_rank
from yanmo.adapt.merging import Merged, hidden_states, merge, merge_adapter, probes_of
from yanmo.adapt.rows import fold_rows, grown, learn_rows, rows_of, sizes_of
from yanmo.models import Network


def is_adapted(network: Network) -> bool:
    """Whether something was added to the blocks of a network."""
    return bool(lora_layers(network)) or bool(bottlenecks_of(network))


__all__ = [
    "OURS",
    "RANK",
    "THEIRS",
    "WIDTH",
    "Adapter",
    "Lora",
    "Merged",
    "Touched",
    "add_bottlenecks",
    "add_lora",
    "base_hash",
    "bottlenecks_of",
    "check_base",
    "fold_rows",
    "freeze",
    "grown",
    "hidden_states",
    "is_adapted",
    "layerwise",
    "learn_rows",
    "load_adapter",
    "lora_layers",
    "merge",
    "merge_adapter",
    "probes_of",
    "read_adapter",
    "remove_bottlenecks",
    "remove_lora",
    "rows_of",
    "save_adapter",
    "sizes_of",
    "thaw",
    "usual_rank",
]
