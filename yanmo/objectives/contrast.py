"""Contrastive sentence vectors: a text is read twice through different dropout, and is to be nearest to itself.

SimCSE without labels: Gao et al. 2021, arXiv:2104.08821, section 3. Alignment and uniformity: Wang and Isola 2020,
arXiv:2005.10242, section 4.1, with their exponents 2 and 2.
Letters: R rows, T places of a row, S texts, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yanmo.batch import Packed, Row
from yanmo.errors import UserError
from yanmo.layers import Attention
from yanmo.layers.texts import Texts
from yanmo.models.decoder import Decoder
from yanmo.models.encoder import Bidirectional
from yanmo.models.network import Network, in_mode
from yanmo.models.recurrent import Recurrent
from yanmo.models.twostream import TwoStream
from yanmo.objectives.layout import Text, lay_out
from yanmo.objectives.objective import Loss, Objective
from yanmo.recipe import ContrastObjective, article
from yanmo.tokenizer import Tokens

VECTOR_KEY = "yanmo_vector"
"""In config.json: what a text's vector is."""
PAIRS = 1024
"""Texts whose distances to all others are held at once."""

Vector = Literal["first", "mean", "last"]


@dataclass(frozen=True)
class ContrastBatch:
    packed: Packed
    counts: dict[str, int]

    @property
    def tokens(self) -> int:
        return self.packed.real


class Contrast(Objective):
    """The negatives of a text are the other texts of its micro-batch, also where a step has several: more of them need larger
    `training.micro_rows`, or shorter texts. A text is what a piece is: a document, or as much of it as fits into a row.

    With vectors of the first token there is a layer with tanh over them while they are learned, and not afterwards (section
    6.3 of the paper). Held-out rows are read with dropout too, for there would be nothing to tell apart without.
    """

    def __init__(self, network: Network, tokens: Tokens, recipe: ContrastObjective):
        super().__init__(network)
        self.recipe = recipe
        self.prefix, self.suffix, self.pad = tokens.prefix, tokens.suffix, tokens.pad
        if recipe.dropout is not None:
            set_dropout(network, recipe.dropout)
        if not has_dropout(network):
            raise UserError(
                "objective contrast: this network has dropout 0, so a text read twice would not differ; set objective.dropout "
                "(0.1 in the paper), or model.dropout for a new network"
            )
        if recipe.vector == "first" and not tokens.prefix:
            raise UserError(
                f"objective.vector first: the tokenizer of this {network.config.family} puts nothing before a text; use mean"
            )
        network.config = replace(network.config, settings={**network.config.settings, VECTOR_KEY: recipe.vector})
        width = network.config.width
        self.dense = nn.Linear(width, width) if recipe.vector == "first" else None
        if self.dense is not None:
            nn.init.normal_(self.dense.weight, std=0.02)
            nn.init.zeros_(self.dense.bias)

    @property
    def mixes_rows(self) -> bool:
        return True

    def places(self, tokens: int) -> int:
        return tokens + len(self.prefix) + len(self.suffix)

    def collate(self, rows: Sequence[Row], length: int) -> ContrastBatch:
        texts = [[Text.of(piece, self.suffix) for piece in row.pieces] for row in rows]
        layout = lay_out(texts, length, self.prefix, (), self.pad)
        count = len(layout.firsts) if len(layout.firsts) > 1 else 0
        return ContrastBatch(layout.packed(), {"contrast": count, "accuracy": count})

    def losses(self, batch: ContrastBatch, turn: str) -> dict[str, Loss]:
        return self._told_apart(batch, *self._read_twice(batch.packed, self.dense))

    def measure(self, batch: ContrastBatch) -> dict[str, Loss]:
        return self.observe(batch)[0]

    def observe(self, batch: ContrastBatch) -> tuple[dict[str, Loss], Tensor]:
        """With both vectors of each text, (S, 2 D)."""
        vectors = self._read_twice(batch.packed, None)
        return self._told_apart(batch, *vectors), torch.cat(vectors, -1)

    def summarise(self, observed: Tensor, means: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
        first_SD, second_SD = observed.chunk(2, -1)
        figures = {"alignment": alignment(first_SD, second_SD)}
        return figures | ({"uniformity": uniformity(first_SD)} if len(first_SD) > 1 else {}), []

    def _read_twice(self, packed: Packed, dense: nn.Linear | None) -> tuple[Tensor, Tensor]:
        """Two vectors of each text, (S, D) each, of length 1."""
        with in_mode(self.network, training=True):  # dropout is on
            first, second = (vectors_of(self.network(packed), packed, self.recipe.vector) for _ in range(2))
        if dense is not None:
            first, second = (torch.tanh(dense(one.to(dense.weight.dtype))).float() for one in (first, second))
        return F.normalize(first, dim=-1), F.normalize(second, dim=-1)

    def _told_apart(self, batch: ContrastBatch, first_SD: Tensor, second_SD: Tensor) -> dict[str, Loss]:
        count = batch.counts["contrast"]
        if not count:
            nothing = (first_SD * 0).sum()
            return {"contrast": Loss(nothing, 0), "accuracy": Loss(nothing.detach(), 0, weight=0)}
        scores_SS = first_SD @ second_SD.T / self.recipe.temperature
        own = torch.arange(len(scores_SS), device=scores_SS.device)
        return {
            "contrast": Loss(F.cross_entropy(scores_SS, own, reduction="sum"), count),
            "accuracy": Loss((scores_SS.argmax(-1) == own).sum(), count, weight=0),
        }


def vectors_of(hidden_RTD: Tensor, packed: Packed, vector: Vector) -> Tensor:
    """A vector for each text, (S, D) in float32: the hidden state of its first or last token, or the mean over all its places."""
    texts, hidden = Texts.of(packed), hidden_RTD.flatten(0, 1)
    if vector != "mean":
        return hidden.index_select(0, texts.firsts if vector == "first" else texts.firsts + texts.sizes - 1).float()
    return texts.sum(hidden.float()) / texts.sizes[:, None]


def known_vectors(network: Network) -> tuple[Vector, ...]:
    """What a vector of a text can be, the best first. Raises UserError where none of a network's states is of a text alone."""
    if isinstance(network, Bidirectional | TwoStream):
        return "mean", "first", "last"
    if isinstance(network, Decoder | Recurrent):
        return "last", "mean"
    raise UserError(f"{article(network.config.family)} has no states of a text alone; use an encoder: bert, roberta, modernbert")


def check_vector(network: Network, tokens: Tokens, vector: Vector | None = None) -> Vector:
    """What is asked for, else what the network was trained for, else the mean of an encoder's states. Raises UserError for other
    networks that were not trained for any, and for a vector that there is none of."""
    chosen: Vector | None = vector or network.config.settings.get(VECTOR_KEY)
    if chosen is None and not isinstance(network, Bidirectional):
        raise UserError(
            f"{article(network.config.family)} does not read both ways, so none of its states is of a whole text, and it was not "
            "trained for that; use an encoder: bert, roberta, modernbert, a discriminator: electra, or adapt it by task retrieval"
        )
    known = known_vectors(network)
    chosen = chosen or known[0]
    if chosen not in known:
        raise UserError(f"vector {chosen}: of {article(network.config.family)} there are {', '.join(known)}; take one of these")
    if chosen == "first" and not tokens.prefix:
        raise UserError(f"vector first: the tokenizer of this {network.config.family} puts nothing before a text; use mean")
    return chosen


def alignment(first_SD: Tensor, second_SD: Tensor) -> float:
    """The mean squared distance between the two vectors of a text, of length 1 each: 0 at best."""
    return float((first_SD - second_SD).square().sum(-1).mean())


def uniformity(vectors_SD: Tensor) -> float:
    """The logarithm of the mean of exp(-2 squared distance) over all pairs of texts: 0 at worst, about -4 at best.

    Vectors have length 1; there are at least two.
    """
    count, total = len(vectors_SD), 0.0
    for part in vectors_SD.split(PAIRS):
        squares = (2 - 2 * part @ vectors_SD.T).clamp(min=0)
        total += float(torch.exp(-2 * squares).sum(dtype=torch.float64))
    own = float(torch.exp(-2 * (2 - 2 * vectors_SD.square().sum(-1)).clamp(min=0)).sum(dtype=torch.float64))
    return float(torch.tensor((total - own) / (count * (count - 1)), dtype=torch.float64).log())


def has_dropout(network: nn.Module) -> bool:
    """Whether anything in a network is dropped in training."""
    return any(
        (isinstance(part, nn.Dropout) and part.p > 0) or (isinstance(part, Attention) and part.config.dropout > 0)
        for part in network.modules()
    )


def set_dropout(network: nn.Module, share: float) -> None:
    """Drop this share wherever a network can drop something; its configuration, which is saved, stays as it is."""
    for part in network.modules():
        if isinstance(part, nn.Dropout):
            part.p = share
        elif isinstance(part, Attention):
            part.config = replace(part.config, dropout=share)
