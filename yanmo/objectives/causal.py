"""Causal language model: every token says which one comes next.

Letters: R rows, T places of a row, N places that have a next token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from yanmo.batch import Packed, Piece, Row
from yanmo.models.network import Network
from yanmo.objectives.cross_entropy import cross_entropy
from yanmo.objectives.layout import Text, hidden_at, lay_out
from yanmo.objectives.objective import Loss, Objective
from yanmo.recipe import CausalObjective
from yanmo.tokenizer import Tokens


@dataclass(frozen=True)
class CausalBatch:
    """places, answers: (N,) places in R*T and the tokens that come next there."""

    packed: Packed
    places: Tensor
    answers: Tensor
    counts: dict[str, int]

    @property
    def tokens(self) -> int:
        return self.packed.real


class Causal(Objective):
    """Next-token prediction, documents of a row apart or as one running text.

    The suffix, which says that a text ends, follows only pieces that do end: not those cut off because they were too long.
    """

    def __init__(self, network: Network, tokens: Tokens, recipe: CausalObjective):
        super().__init__(network)
        self.recipe = recipe
        # Where a family begins a text with nothing, the end of the text before stands in front: else no first token is learned.
        before = tokens.suffix[-1:] if recipe.documents == "apart" else ()
        self.prefix, self.suffix, self.pad = tokens.prefix or before, tokens.suffix, tokens.pad

    def places(self, tokens: int) -> int:
        return tokens + len(self.prefix) + len(self.suffix)

    def collate(self, rows: Sequence[Row], length: int) -> CausalBatch:
        texts = [[self.text(piece, row.rng) for piece in row.pieces] for row in rows]
        layout = lay_out(texts, length, self.prefix, (), self.pad)
        documents, positions, whole = layout.documents, layout.positions, layout.whole
        if self.recipe.documents == "joined":
            documents = (documents > 0).astype(np.int64)
            positions = np.arange(length) * documents
            whole = bool(documents.all())
        place = np.flatnonzero((documents[:, :-1] == documents[:, 1:]) & (documents[:, 1:] > 0))
        place += place // (length - 1)                    # counted in rows of `length` places, not one less
        packed = Packed(*(torch.from_numpy(array) for array in (layout.tokens, documents, positions)), whole=whole)
        answers = torch.from_numpy(layout.tokens.reshape(-1)[place + 1])
        counts = {"causal": len(place), "accuracy": len(place)}
        return CausalBatch(packed, torch.from_numpy(place), answers, counts)

    def text(self, piece: Piece, rng: np.random.Generator) -> Text:
        """A piece as it is read."""
        return Text.of(piece, self.suffix if piece.ends else ())

    def losses(self, batch: CausalBatch, turn: str) -> dict[str, Loss]:
        return self.losses_of(self.network(batch.packed), batch)

    def losses_of(self, hidden_RTD: Tensor, batch: CausalBatch) -> dict[str, Loss]:
        """The losses from hidden states that are there already."""
        hidden_ND = hidden_at(hidden_RTD, batch.places)  # cheaper than scores for the 2% without an answer
        total, correct = cross_entropy(self.network.head, hidden_ND, batch.answers)
        count = len(batch.answers)
        return {"causal": Loss(total, count), "accuracy": Loss(correct, count, weight=0)}
