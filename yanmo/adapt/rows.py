"""Tokens that are new to a pretrained network: their rows are learned, whatever of the rest is frozen.

A task may have special tokens of its own (markers of a relation, turns of a chat). In the network's tables they begin near the
mean of the rows that are known (yanmo.models.grow), all of them nearly the same; where the tables are frozen they would stay so.
Here a few rows stand beside each table, and take the place of its own. It is what peft calls trainable tokens, and lies in a
folder as they do. A gradient that reaches the tables passes through all blocks, also where only a head is learned.
Letters: V vocabulary, n rows that are learned, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yanmo.adapt.freezing import Touched
from yanmo.errors import UserError
from yanmo.layers import Embedding, VocabularyHead, look_up
from yanmo.models import grow
from yanmo.models.family import TOKENS_KEY
from yanmo.models.folder import FAMILIES, family_of, parameters, read_settings
from yanmo.models.network import Network


class LearnedRows(nn.Module):
    """A table (V, D), some of whose rows stand elsewhere. name: what the network calls the table without them."""

    def __init__(self, table: nn.Module, name: str, ids: Iterable[int]):
        super().__init__()
        weight = table.get_parameter("weight")
        self.table, self.name, self.ids = table, name, tuple(ids)
        index = torch.tensor(self.ids, device=weight.device)
        self.rows = nn.Embedding(len(index), weight.shape[1], _weight=weight.detach()[index].clone())
        places = torch.full((len(weight),), -1, device=weight.device)
        places[index] = torch.arange(len(index), device=weight.device)
        self.places: Tensor
        self.index: Tensor
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("index", index, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The whole table, (V, D), made anew."""
        return self.table.get_parameter("weight").index_copy(0, self.index, self.rows.weight)

    def forward(self, tokens: Tensor) -> Tensor:  # (...) -> (..., D)
        places = self.places[tokens]
        learned = look_up(self.rows.weight, places.clamp(min=0))
        return torch.where((places >= 0)[..., None], learned, self.table(tokens))

    @torch.no_grad()
    def fold(self) -> None:
        """Write the rows into the table."""
        self.table.get_parameter("weight")[self.index] = self.rows.weight


class LearnedHead(nn.Module):
    """A head over the vocabulary, some of whose rows stand elsewhere: those of the token embedding where it is tied to that."""

    def __init__(self, plain: VocabularyHead, rows: LearnedRows):
        super().__init__()
        self.plain, self.rows = plain, rows

    @property
    def weight(self) -> Tensor:
        return self.rows.weight

    @property
    def bias(self) -> Tensor | None:
        return self.plain.bias

    def features(self, hidden: Tensor) -> Tensor:  # (..., D) -> (..., D)
        return self.plain.features(hidden)

    def forward(self, hidden: Tensor) -> Tensor:  # (..., D) -> (..., V)
        index, bias = self.rows.index, self.bias
        learned = F.linear(self.features(hidden), self.rows.rows.weight, None if bias is None else bias[index])
        return self.plain(hidden).index_copy(-1, index, learned)


def sizes_of(folder: Path) -> tuple[int, int]:
    """How many rows the tables of a model folder have, and how many of those are of tokens; the rest only pads."""
    settings = read_settings(folder)
    rows = int({**family_of(settings, folder).defaults, **settings}["vocab_size"])
    return rows, int(settings.get(TOKENS_KEY, rows))


def grown(network: Network, tokens: int, known: int) -> Network:
    """The network with rows for `tokens` tokens, of which it knows the first `known`: always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return grow(network, tokens, known)


def learn_rows(network: Network, ids: Iterable[int]) -> Touched:
    """Let the rows of these tokens be learned, in every table that has rows of tokens, and change nothing else. Returns what the
    tables are called. Raises UserError for a token that has no row, and where rows are learned already."""
    ids = tuple(ids)
    if rows_of(network):
        raise UserError("rows of this network are learned already: fold them first")
    if bad := [number for number in ids if not 0 <= number < network.config.vocabulary]:
        raise UserError(f"tokens {', '.join(map(str, bad[:4]))} have no row in a table of {network.config.vocabulary}")
    names = {id(parameter): name for name, parameter in parameters(network).items()}
    made: dict[int, LearnedRows] = {}

    def beside(table: nn.Module) -> LearnedRows:
        weight = table.get_parameter("weight")
        if id(weight) not in made:
            made[id(weight)] = LearnedRows(table, names[id(weight)], ids)
        return made[id(weight)]

    for part in list(network.modules()):
        if isinstance(part, Embedding):
            part.tokens = beside(part.tokens)  # pyright: ignore[reportAttributeAccessIssue]
    for part in list(network.modules()):
        head = getattr(part, "head", None)
        if isinstance(head, VocabularyHead) and len(head.weight) == network.config.vocabulary:  # ELECTRA's has one output
            part.head = LearnedHead(head, beside(head))  # pyright: ignore[reportAttributeAccessIssue]
    if not made:
        raise UserError(f"a {network.config.family} has no table of tokens")
    return Touched(tuple(rows.name for rows in made.values()), sum(rows.rows.weight.numel() for rows in made.values()))


def fold_rows(network: Network) -> Touched:
    """Write rows that are learned into their tables, and leave the network as it was before, with other numbers there."""
    found = _tables(network)
    for table in found:
        table.fold()
    for part in list(network.modules()):
        if isinstance(part, Embedding) and isinstance(part.tokens, LearnedRows):
            part.tokens = part.tokens.table  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(head := getattr(part, "head", None), LearnedHead):
            part.head = head.plain  # pyright: ignore[reportAttributeAccessIssue]
    return Touched(tuple(table.name for table in found), sum(table.rows.weight.numel() for table in found))


def rows_of(network: Network) -> dict[str, Tensor]:
    """The rows that are learned, (n, D), by our name of their table."""
    return {table.name: table.rows.weight for table in _tables(network)}


def ids_of(network: Network) -> tuple[int, ...]:
    """The tokens whose rows are learned."""
    return next((table.ids for table in _tables(network)), ())


def tables_of(network: Network) -> dict[str, str]:
    """transformers' name of the layer, by our name of its table."""
    names = FAMILIES[network.config.family].names(network.config)
    return {name: names.find(name)[1][0].removesuffix(".weight") for name in rows_of(network)}


@torch.no_grad()
def set_rows(network: Network, rows: Mapping[str, Tensor], where: str) -> None:
    """Give a network the rows that `rows_of` gave. Raises UserError where tables or shapes differ."""
    own = rows_of(network)
    if own.keys() != rows.keys() or any(own[name].shape != rows[name].shape for name in own):
        given = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in rows.items())
        wanted = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in own.items())
        raise UserError(f"{where}: rows of new tokens for another network: {given}; this one has {wanted}")
    for name, parameter in own.items():
        parameter.copy_(rows[name])


def _tables(network: Network) -> list[LearnedRows]:
    return [part for part in network.modules() if isinstance(part, LearnedRows)]
