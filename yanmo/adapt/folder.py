"""Adapters on disk: what was added to a base, the head that goes with it, and which base that was.

LoRA lies there as peft writes it, under transformers' names: `PeftModel.from_pretrained(model, folder)` reads it with no code of
ours, the head included. A bottleneck adapter has our names. Beside either, adapter.json says what it is and the hash of its base.
Rows of new tokens are peft's trainable tokens. A base that has no such rows must be given them before plain peft can read the
folder: adapter.json says how, under `tokens`. What stands in them does not matter: peft puts those of the folder in their place.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from yanmo import models
from yanmo.adapt.bottleneck import BRICKS, Kind, add_bottlenecks, bottlenecks_of, kind_of, set_bottlenecks
from yanmo.adapt.lora import Lora, add_lora, lora_layers, lora_weights, places_named, places_of, set_lora, short_names
from yanmo.adapt.rows import LearnedHead, grown, ids_of, learn_rows, rows_of, set_rows, sizes_of, tables_of
from yanmo.errors import UserError
from yanmo.files import new_folder, sha256_of
from yanmo.models.folder import read_tree
from yanmo.models.heads import TaskHead, TaskKind, build_head, head_weights, name_in_task, set_head
from yanmo.models.network import Network
from yanmo.models.seq2seq import Seq2Seq

OURS, THEIRS = "adapter.json", "adapter_config.json"
LORA, BOTTLENECKS = "adapter_model.safetensors", "bottlenecks.safetensors"
PREFIX = "base_model.model."
"""What peft puts before transformers' names."""
WHOLE = ("classifier", "score", "qa_outputs")
"""Heads that peft keeps as a whole whether it is told to or not (peft_model.py)."""
UNREAD: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "layer_replication": (None,),
    "lora_bias": (False,),
    "init_lora_weights": (True, False, "gaussian"),       # the others change the base too
    **dict.fromkeys(("target_parameters", "alora_invocation_tokens"), (None,)),
    **dict.fromkeys(("arrow_config", "kasa_config", "monteclora_config"), (None,)),
    **dict.fromkeys(("use_qalora", "use_bdlora"), (False, None)),
}
"""Settings of peft's that are understood with these values only."""
TASK_TYPES: dict[TaskKind, str] = {"sequence": "SEQ_CLS", "token": "TOKEN_CLS", "span": "QUESTION_ANS"}
"""What peft calls the kinds of heads."""
OF_ADAPTER, OF_ROWS = "adapter:", "rows:"
"""Before our names of a bottleneck adapter's weights, and of learned rows, to tell them from a head's."""
DELTA = ".token_adapter.trainable_tokens_delta"
"""What peft puts after transformers' name of a table, for rows that are learned."""


@dataclass(frozen=True)
class Adapter:
    """What lies in a folder.

    kind: lora, or that of bottleneck adapters. base: the folder of its base; base_hash: what that had when the adapter was
    learned, None where nobody has written it down. head_kind, outputs: of the head, None and 0 without one; head: its weights by
    the names of transformers. about: what was given to `save_adapter`. ids: tokens whose rows were learned; rows: by the table,
    which has our name in a bottleneck adapter and transformers' in LoRA.
    """

    kind: str
    base: Path
    base_hash: str | None
    head_kind: TaskKind | None
    outputs: int
    about: dict[str, Any]
    weights: dict[str, Tensor] = field(repr=False)
    head: dict[str, Tensor] = field(repr=False)
    lora: Lora | None = None
    width: int = 0
    ids: tuple[int, ...] = ()
    rows: dict[str, Tensor] = field(default_factory=dict, repr=False)


def base_hash(folder: Path | str) -> str:
    """The sha256 sum of a model folder's model.safetensors, or of those of its parts. Raises UserError where there is none."""
    folder = Path(folder)
    whole = folder / "model.safetensors"
    if whole.is_file():
        return sha256_of(whole)
    parts = sorted(folder.glob("model-*.safetensors"))
    if not parts:
        raise UserError(f"{folder}: no model here: it has no model.safetensors")
    return hashlib.sha256("".join(map(sha256_of, parts)).encode()).hexdigest()


def save_adapter(
    network: Network,
    folder: Path | str,
    base: Path | str,
    head: TaskHead | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write what was added to a network that is otherwise that of the folder `base` into a new folder, and its task's head.

    about: kept as it is, what JSON can hold (the names of labels). Raises UserError for a network to which nothing was added.
    """
    base = Path(base).resolve()
    told: dict[str, Any] = {"base": {"folder": str(base), "sha256": base_hash(base)}, "about": dict(about or {})}
    if head is not None:
        told["head"] = {"kind": head.kind, "outputs": head.outputs}
    of_head = {} if head is None else head_weights(network, head)
    changed, added, rows = lora_layers(network), bottlenecks_of(network), rows_of(network)
    if rows:
        told["tokens"] = {"ids": list(ids_of(network)), "peft": _before_peft(network, base)}
    if not changed and not added:
        raise UserError("nothing was added to this network: there is no adapter to save")
    with new_folder(folder) as made:
        if changed:
            rename = _rename(network, None if head is None else head.kind)
            named = {rename(name): tensor for name, tensor in lora_weights(network).items()}
            named |= {rename(theirs) + DELTA: rows[ours] for ours, theirs in tables_of(network).items()}
            _write_tensors({PREFIX + name: tensor for name, tensor in (named | of_head).items()}, made / LORA)
            task_type = _task_of(network) if head is None else TASK_TYPES[head.kind]
            _write_config(network, next(iter(changed.values())), base, list(of_head), task_type, made)
            told["kind"] = "lora"
        else:
            told["kind"], told["width"] = kind_of(network)
            named = {OF_ADAPTER + name: tensor for name, tensor in added.items()}
            named |= {OF_ROWS + name: tensor for name, tensor in rows.items()}
            _write_tensors(named | of_head, made / BOTTLENECKS)
        (made / OURS).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _before_peft(network: Network, base: Path) -> str | None:
    """What plain peft needs before it can read rows that were learned; None where it needs nothing. peft 0.21 leaves out the bias
    of a tied head (BERT's over the vocabulary, which no task keeps), and ties the tables of a T5 that has two."""
    head, last = getattr(network, "head", None), max(ids_of(network))
    if isinstance(head, LearnedHead) and (head.bias is not None or (isinstance(network, Seq2Seq) and len(rows_of(network)) > 1)):
        return "cannot read the scores over the vocabulary: merge the adapter instead"
    return f"read it after model.resize_token_embeddings({last + 1})" if last >= sizes_of(base)[0] else None


def _task_of(network: Network) -> str | None:
    """What peft calls the task of a network with its own head."""
    return "SEQ_2_SEQ_LM" if isinstance(network, Seq2Seq) else "CAUSAL_LM" if network.continues else None


def _rename(network: Network, kind: TaskKind | None) -> Callable[[str], str]:
    return (lambda name: name) if kind is None else partial(name_in_task, network, kind)


def _write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    kept = {name: tensor.detach().cpu().float().contiguous() for name, tensor in tensors.items()}
    save_file(kept, path, {"format": "pt"})


def _write_config(network: Network, layer: Any, base: Path, head: Sequence[str], task_type: str | None, folder: Path) -> None:
    """adapter_config.json by peft itself."""
    targets, transposed = short_names(network)
    modules = [name.partition(".")[0] if name.startswith(WHOLE) else name.rpartition(".")[0] for name in head]
    lora = lora_of(layer)
    lora.peft(
        target_modules=targets,
        modules_to_save=list(dict.fromkeys(modules)) or None,
        base_model_name_or_path=str(base),
        task_type=task_type,
        trainable_token_indices={name: list(ids_of(network)) for name in tables_of(network).values()} or None,
        fan_in_fan_out=transposed,
        inference_mode=True,
    ).save_pretrained(str(folder))


def lora_of(layer: Any) -> Lora:
    """The settings of one of peft's layers."""
    name = next(iter(layer.lora_A))
    dropout = getattr(layer.lora_dropout[name], "p", 0.0)
    return Lora(layer.r[name], layer.lora_alpha[name], layer.use_rslora[name], layer.use_dora[name], dropout)


def read_adapter(folder: Path | str) -> Adapter:
    """What lies in an adapter folder, ours or peft's. Raises UserError for a folder that is none, that is broken, or that has a
    setting which is not understood, naming it."""
    folder = Path(folder)
    if not (folder / OURS).is_file() and not (folder / THEIRS).is_file():
        raise UserError(f"{folder}: no adapter here: it has neither {OURS} nor {THEIRS}")
    told: dict[str, Any] = read_tree(folder / OURS) if (folder / OURS).is_file() else {"kind": "lora"}
    kind, base = told.get("kind"), told.get("base") or {}
    has_head, about = told.get("head") or {}, told.get("about") or {}
    of_head = has_head.get("kind"), has_head.get("outputs", 0), about
    ids = tuple((told.get("tokens") or {}).get("ids", ()))
    if kind in BRICKS:
        tensors = _read_tensors(folder / BOTTLENECKS)
        weights = {name.removeprefix(OF_ADAPTER): tensor for name, tensor in tensors.items() if name.startswith(OF_ADAPTER)}
        rows = {name.removeprefix(OF_ROWS): tensor for name, tensor in tensors.items() if name.startswith(OF_ROWS)}
        head = {name: tensor for name, tensor in tensors.items() if not name.startswith((OF_ADAPTER, OF_ROWS))}
        begun = Path(base.get("folder", "")), base.get("sha256")
        return Adapter(kind, *begun, *of_head, weights, head, None, told["width"], ids, rows)
    if kind != "lora":
        raise UserError(f"{folder / OURS}: kind {kind!r} is not known; known: lora, {', '.join(BRICKS)}")
    settings = read_tree(folder / THEIRS)
    if settings.get("peft_type") != "LORA":
        raise UserError(f"{folder / THEIRS}: peft_type {settings.get('peft_type')!r} is not implemented; only LORA is")
    for key, allowed in UNREAD.items():
        if settings.get(key, allowed[0]) not in allowed:
            only = ", ".join(map(repr, allowed))
            raise UserError(f"{folder / THEIRS}: {key}: {settings[key]!r} is not implemented; only {only}")
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in _read_tensors(folder / LORA).items()}
    weights = {name: tensor for name, tensor in tensors.items() if ".lora_" in name}
    defaults = {"r": 8, "lora_alpha": 8, "use_rslora": False, "use_dora": False, "lora_dropout": 0.0}
    lora = Lora(*(settings.get(key, default) for key, default in defaults.items()))
    found = Path(base.get("folder") or settings.get("base_model_name_or_path") or "")
    rows = {name.removesuffix(DELTA): tensor for name, tensor in tensors.items() if name.endswith(DELTA)}
    tables = settings.get("trainable_token_indices") or {}
    if tables and not ids:
        raise UserError(f"{folder / THEIRS}: trainable_token_indices are not implemented but in folders that yanmo has written")
    head = {name: tensor for name, tensor in tensors.items() if name not in weights and not name.endswith(DELTA)}
    if head and not has_head:
        raise UserError(
            f"{folder / LORA}: {', '.join(sorted(head)[:3])} is a head that nobody here knows the labels of; merge the folder "
            "with peft (merge_and_unload), and adapt what comes of it"
        )
    return Adapter("lora", found, base.get("sha256"), *of_head, weights, head, lora, 0, ids, rows)


def load_adapter(
    folder: Path | str, base: Path | str | None = None, opened: Callable[[Path], Network] = models.load
) -> tuple[Network, TaskHead | None, Adapter]:
    """The base's network with what lies in an adapter folder added to it, the head, and what else is told there; all but what was
    added is frozen. base: by default where it lay when the adapter was written. opened: gives the base's network.

    Raises UserError where the base is not the one that the adapter was learned on; warns where nobody knows.
    """
    adapter = read_adapter(folder)
    base = check_base(adapter, folder, base)
    network = opened(base)
    if adapter.ids and max(adapter.ids) >= network.config.tokens:
        network = grown(network, max(adapter.ids) + 1, min(adapter.ids))
    head = None if adapter.head_kind is None else build_head(network, adapter.head_kind, adapter.outputs)
    if head is not None:
        set_head(network, head, adapter.head, Path(folder))
        if not network.kept_for:
            network.keep_for(head.kind)
    if adapter.lora is None:
        add_bottlenecks(network, cast(Kind, adapter.kind), adapter.width)
        set_bottlenecks(network, adapter.weights, str(folder))
    else:
        weights = _renamed_back(network, adapter)
        add_lora(network, adapter.lora, places_named(network, weights, str(folder)))
        set_lora(network, weights, str(folder))
    if adapter.ids:
        learn_rows(network, adapter.ids)
        rename = _rename(network, adapter.head_kind)
        back = {ours: ours if adapter.lora is None else rename(theirs) for ours, theirs in tables_of(network).items()}
        set_rows(network, {ours: adapter.rows[name] for ours, name in back.items() if name in adapter.rows}, str(folder))
    return network, head, adapter


def _renamed_back(network: Network, adapter: Adapter) -> dict[str, Tensor]:
    rename = _rename(network, adapter.head_kind)
    back = {rename(place.theirs): place.theirs for place in places_of(network)}
    split = {name: name.partition(".lora_") for name in adapter.weights}
    return {f"{back.get(layer, layer)}{dot}{part}": adapter.weights[name] for name, (layer, dot, part) in split.items()}


def check_base(adapter: Adapter, folder: Path | str, base: Path | str | None = None) -> Path:
    """The base of an adapter: what is given, or where it lay, or where it lies from the adapter as it did when both were moved
    together. Raises UserError where that is another, or not there."""
    base = Path(base) if base is not None else adapter.base
    if not (base / "config.json").is_file():
        found = None if base != adapter.base else _moved(adapter, Path(folder))
        if found is None:
            raise UserError(
                f"{folder}: its base {base} is not there: it has no config.json; put it back, or say where it is: "
                "yanmo.load(folder, base=...), yanmo merge --base"
            )
        base = found
    if adapter.base_hash is None:
        warnings.warn(f"{folder}: written without the hash of its base: nobody knows whether {base} is the one", stacklevel=3)
    elif (found := base_hash(base)) != adapter.base_hash:
        raise UserError(
            f"{folder}: this adapter was learned on another base than {base}: the weights there have sha256 {found[:12]}, and "
            f"those of its base ({adapter.base}) had {adapter.base_hash[:12]}; give the folder that it was learned on"
        )
    return base


def _moved(adapter: Adapter, folder: Path) -> Path | None:
    """The base where its whole run was moved: under one of the folders above the adapter, by the longest part of its old path."""
    old = adapter.base.parts[1:]
    for cut in range(len(old) - 1):
        for above in folder.resolve().parents:
            found = above.joinpath(*old[cut:])
            if (found / "config.json").is_file() and base_hash(found) == adapter.base_hash:
                return found
    return None


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: missing, broken or half written: {error}") from None
