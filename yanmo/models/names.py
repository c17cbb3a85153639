"""One table of names per family, read in both directions: our parameters and transformers'.

An entry says which of ours is which of theirs; `{i}` stands for a block's number, `{e}` for an expert's. Where several of
theirs stand together in one of ours, the entry lists them in order (they are stacked along the first dimension); Conv1D
matrices are transposed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from yanmo.errors import UserError
from yanmo.models.network import NetworkConfig, StackConfig

Parts = Callable[[Any], tuple[int, ...]]


def qkv_rows(config: StackConfig) -> tuple[int, ...]:
    return config.blocks[0].attention.rows


def gate_rows(config: StackConfig) -> tuple[int, ...]:
    return (config.blocks[0].feedforward.width,) * 2


@dataclass(frozen=True)
class Name:
    """Ours and theirs, without `.weight` or `.bias` where `suffixes` lists both."""

    ours: str
    theirs: str | tuple[str, ...]
    parts: Parts | None = None
    """Rows of each of theirs, where there are several."""
    transposed: bool = False
    suffixes: tuple[str, ...] = (".weight", ".bias")
    shape: Callable[[Any], tuple[int, ...]] | None = None
    """Of each of theirs, where the same numbers have more dimensions than ours (heads apart)."""


def layer(ours: str, theirs: str | tuple[str, ...], parts: Parts | None = None, *, transposed: bool = False) -> Name:
    """A layer's weight, and its bias where it has one."""
    return Name(ours, theirs, parts, transposed)


def single(ours: str, theirs: str) -> Name:
    """One parameter by its full name."""
    return Name(ours, theirs, suffixes=("",))


@dataclass(frozen=True)
class Names:
    """entries: the table. copies: theirs that repeat another of theirs, and must be equal when read. ignored: patterns of
    theirs that hold nothing learned. unread: patterns of theirs that were learned and have no place here. doubled: the copies
    are written as well; otherwise transformers keeps only the first of each."""

    entries: tuple[Name, ...]
    copies: Mapping[str, str]
    ignored: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    doubled: bool = False

    def find(self, ours: str) -> tuple[Name, tuple[str, ...]]:
        """The entry of one of our parameters and the full names of theirs."""
        number, expert = re.search(r"\.(\d+)\.", ours), re.search(r"\.experts\.(\d+)\.", ours)
        index, chosen = number[1] if number else "", expert[1] if expert else ""
        plain = re.sub(r"\.experts\.\d+\.", ".experts.{e}.", re.sub(r"\.\d+\.", ".{i}.", ours, count=1))
        for entry in (*self.entries, *_of_experts(self.entries)):
            for suffix in entry.suffixes:
                if entry.ours + suffix == plain:
                    theirs = (entry.theirs,) if isinstance(entry.theirs, str) else entry.theirs
                    return entry, tuple(name.replace("{i}", index).replace("{e}", chosen) + suffix for name in theirs)
        raise AssertionError(f"the table of names has no {ours}")

    def write(self, ours: Mapping[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
        """Our parameters under their names, in their shapes."""
        written: dict[str, Tensor] = {}
        for name, tensor in ours.items():
            entry, theirs = self.find(name)
            pieces = tensor.split(entry.parts(config)) if entry.parts and len(theirs) > 1 else (tensor,)
            pieces = [piece.t() if entry.transposed and piece.dim() == 2 else piece for piece in pieces]
            pieces = [piece.reshape(entry.shape(config)) if entry.shape else piece for piece in pieces]
            written.update(zip(theirs, pieces, strict=True))
        return written

    def read(self, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
        """Their tensors for our parameters; `ours` gives names and shapes. Raises UserError naming each tensor that is missing,
        has another shape, or has no place."""
        read: dict[str, Tensor] = {}
        missing: list[str] = []
        shapes: list[str] = []
        left = set(theirs) - {name for name in theirs if _matches(name, (*self.ignored, *self.unread))}
        for name, target in ours.items():
            entry, sources = self.find(name)
            left -= set(sources)
            absent = [source for source in sources if source not in theirs]
            if absent:
                missing += absent
                continue
            wanted = self._shapes(entry, target, len(sources), config)
            wrong = [
                f"{source} is {list(theirs[source].shape)}, the configuration needs {list(shape)}"
                for source, shape in zip(sources, wanted, strict=True)
                if theirs[source].shape != shape
            ]
            shapes += wrong
            if not wrong:
                flat = self._flat_shapes(entry, target, len(sources), config)
                tensors = [theirs[source].reshape(shape) for source, shape in zip(sources, flat, strict=True)]
                tensors = [tensor.t() if entry.transposed and target.dim() == 2 else tensor for tensor in tensors]
                read[name] = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
        left -= {name for name in left if self._is_copy(name, theirs)}
        problems = [f"missing: {', '.join(sorted(missing))}"] if missing else []
        problems += [f"wrong shape: {shape}" for shape in shapes]
        unequal = sorted(left & self.copies.keys())
        problems += [f"{name} differs from {self.copies[name]}, to which the configuration ties it" for name in unequal]
        left -= set(unequal)
        problems += [f"no place for: {', '.join(sorted(left))}"] if left else []
        if problems:
            raise UserError("; ".join(problems))
        return read

    def unread_in(self, theirs: Iterable[str]) -> list[str]:
        """Which of theirs we leave out although they were learned."""
        return sorted(name for name in theirs if _matches(name, self.unread))

    def _shapes(self, entry: Name, target: Tensor, count: int, config: NetworkConfig) -> list[torch.Size]:
        """The shape of each of theirs."""
        return [torch.Size(entry.shape(config))] * count if entry.shape else self._flat_shapes(entry, target, count, config)

    def _flat_shapes(self, entry: Name, target: Tensor, count: int, config: NetworkConfig) -> list[torch.Size]:
        """The same in as many dimensions as ours."""
        rows = entry.parts(config) if entry.parts and count > 1 else (target.shape[0],)
        shapes = [torch.Size((number, *target.shape[1:])) for number in rows]
        return [torch.Size(reversed(shape)) if entry.transposed and target.dim() == 2 else shape for shape in shapes]

    def _is_copy(self, name: str, theirs: Mapping[str, Tensor]) -> bool:
        original = self.copies.get(name)
        return original is not None and original in theirs and torch.equal(theirs[name], theirs[original])


class _Same(Names):
    def find(self, ours: str) -> tuple[Name, tuple[str, ...]]:
        return single(ours, ours), (ours,)


SAME = _Same((), {})
"""Of networks that transformers does not know: what lies in the folder has our own names."""


def _of_experts(entries: Iterable[Name]) -> Iterator[Name]:
    """What experts are called where transformers has none: as the brick that they stand for, `experts.{e}.` before the last part;
    and `router` is what comes last in the name of theirs."""
    for entry in entries:
        stem, _, last = entry.ours.rpartition(".")
        if stem.endswith("feedforward"):
            theirs = [name.rpartition(".") for name in ((entry.theirs,) if isinstance(entry.theirs, str) else entry.theirs)]
            named = tuple(f"{place}.experts.{{e}}.{name}" for place, _, name in theirs)
            yield replace(entry, ours=f"{stem}.experts.{{e}}.{last}", theirs=named)
            if last == "inner":
                yield layer(f"{stem}.router", f"{theirs[0][0]}.router")


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)
