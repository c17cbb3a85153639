"""Masked language model: some of the text is hidden, the network says what stood there.

Masking: Devlin et al. 2018, arXiv:1810.04805, section 3.1; whole words: google-research/bert create_pretraining_data.py;
spans: Joshi et al. 2019, arXiv:1907.10529, section 3.1; sentence order: Lan et al. 2019, arXiv:1909.11942, section 3.1.
Letters: R rows, T places of a row, N picked places, P pairs, U units (tokens, words or spans: what is hidden as a whole).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from yanmo.batch import Packed, Piece, Row, cut
from yanmo.errors import UserError
from yanmo.models.network import Network
from yanmo.objectives.cross_entropy import cross_entropy
from yanmo.objectives.layout import Layout, Segment, Text, hidden_at, lay_out
from yanmo.objectives.objective import Loss, Objective
from yanmo.recipe import MaskedObjective
from yanmo.tokenizer import Tokens

SPAN_STOP, SPAN_LIMIT = 0.2, 10
"""Spans have a geometric number of words, of at most so many (Joshi et al. 2019): 3.8 on average."""
TRIES = 100
"""Random pieces looked at to find one of another document."""


@dataclass(frozen=True)
class MaskedBatch:
    """picked, answers: (N,) places in R*T and the tokens that stood there. pairs, pair_labels: (P,) places of the first
    token of each pair; 0 where the second part follows the first, 1 where it does not."""

    packed: Packed
    picked: Tensor
    answers: Tensor
    pairs: Tensor
    pair_labels: Tensor
    counts: dict[str, int]

    @property
    def tokens(self) -> int:
        return self.packed.real


class Masked(Objective):
    """Every unit is picked with the same chance `rate`; a row's number of picked units is as near to it as whole numbers go.

    Special tokens inside the text ([UNK]), and words that have one, are never picked.
    """

    def __init__(self, network: Network, tokens: Tokens, recipe: MaskedObjective):
        super().__init__(network)
        if tokens.mask is None:
            raise UserError("objective masked: the tokenizer has no mask token; train one for an encoder, or add [MASK]")
        if recipe.sentences != "none" and (tokens.separator is None or not network.config.pair):
            raise UserError(
                f"objective.sentences {recipe.sentences}: family {network.config.family} has no pair head or its "
                "tokenizer no separator; use family bert, or objective.sentences=none"
            )
        self.recipe = recipe
        self.prefix, self.suffix, self.pad, self.mask = tokens.prefix, tokens.suffix, tokens.pad, tokens.mask
        self.separator = () if recipe.sentences == "none" or tokens.separator is None else (tokens.separator,)
        self.special = np.isin(np.arange(tokens.size), list(tokens.special))
        self.drawable = np.flatnonzero(~self.special)     # what a picked token may be replaced by

    def places(self, tokens: int) -> int:
        return tokens + len(self.prefix) + len(self.separator) + len(self.suffix)

    def collate(self, rows: Sequence[Row], length: int) -> MaskedBatch:
        texts, labels = [], []
        for row in rows:
            made = [self._text(piece, row) for piece in row.pieces]
            texts.append([text for text, _ in made])
            labels += [label for _, label in made]
        layout = lay_out(texts, length, self.prefix, self.separator, self.pad)
        picked, replaced = self._pick(layout, rows)
        answers = layout.text[picked]
        layout.tokens.reshape(-1)[layout.places[picked]] = replaced
        pair_labels = np.array(labels)
        paired = np.flatnonzero(pair_labels >= 0)
        counts = {"masked": len(picked), "accuracy": len(picked)}
        if self.recipe.sentences != "none":
            counts |= {self.recipe.sentences: len(paired), f"{self.recipe.sentences}_accuracy": len(paired)}
        return MaskedBatch(
            packed=layout.packed(typed=self.recipe.sentences != "none"),
            picked=torch.from_numpy(layout.places[picked]),
            answers=torch.from_numpy(answers),
            pairs=torch.from_numpy(layout.firsts[paired]),
            pair_labels=torch.from_numpy(pair_labels[paired]),
            counts=counts,
        )

    def losses(self, batch: MaskedBatch, turn: str) -> dict[str, Loss]:
        return self.losses_of(self.network(batch.packed), batch)

    def losses_of(self, hidden_RTD: Tensor, batch: MaskedBatch) -> dict[str, Loss]:
        """The losses from hidden states that are there already."""
        total, correct = cross_entropy(self.network.head, hidden_at(hidden_RTD, batch.picked), batch.answers)
        losses = {"masked": Loss(total, len(batch.answers)), "accuracy": Loss(correct, len(batch.answers), weight=0)}
        if (name := self.recipe.sentences) != "none":
            firsts_PD = hidden_at(hidden_RTD, batch.pairs)
            scores_P2 = self.network.pair_logits(firsts_PD).float()  # pyright: ignore[reportCallIssue]
            count = len(batch.pair_labels)
            losses[name] = Loss(F.cross_entropy(scores_P2, batch.pair_labels, reduction="sum"), count)
            right = (scores_P2.argmax(-1) == batch.pair_labels).sum()
            losses[f"{name}_accuracy"] = Loss(right, count, weight=0)
        return losses

    def _pick(self, layout: Layout, rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
        """Which tokens of text are hidden, (N,) sorted, and what stands there instead."""
        sizes = np.bincount(layout.rows, minlength=len(rows))
        draws = [row.rng.random(4 * size + 1) for row, size in zip(rows, sizes.tolist(), strict=True)]
        rounding = np.array([drawn[-1] for drawn in draws])
        key, action, token, stop = np.concatenate([drawn[:-1].reshape(4, -1) for drawn in draws], axis=1)

        blocked = self.special[layout.text]
        starts = self._units(layout, blocked, stop)
        usable = np.flatnonzero(~np.logical_or.reduceat(blocked, starts))
        row = layout.rows[starts[usable]]
        in_row = np.bincount(row, minlength=len(rows))
        wanted = np.floor(in_row * self.recipe.rate + rounding)
        by_key = np.lexsort((key[starts[usable]], row))
        rank = np.arange(len(usable)) - (np.cumsum(in_row) - in_row)[row]
        chosen = np.zeros(len(starts), dtype=bool)
        chosen[usable[by_key[rank < wanted[row]]]] = True
        unit = np.cumsum(np.isin(np.arange(len(blocked)), starts, assume_unique=True)) - 1
        picked = np.flatnonzero(chosen[unit])

        if self.recipe.replace == "mask":
            return picked, np.full(len(picked), self.mask)
        # Devlin et al. decide for every token, inside whole words too; Joshi et al. once for a span.
        act = action[starts[unit[picked]] if self.recipe.unit == "span" else picked]
        drawn = self.drawable[(token[picked] * len(self.drawable)).astype(np.int64)]
        return picked, np.select([act < 0.8, act < 0.9], [self.mask, drawn], layout.text[picked])

    def _units(self, layout: Layout, blocked: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """Where in the text units start, (U,); spans tile the words of a segment, so that all have the same chance."""
        if self.recipe.unit == "token":
            return np.arange(len(layout.text))
        words = np.flatnonzero(layout.words)
        if self.recipe.unit == "word":
            return words
        barred = np.logical_or.reduceat(blocked, words)
        fresh = np.isin(words, layout.segment_starts) | barred | np.append(False, barred[:-1])
        borders = np.append(np.flatnonzero(fresh), len(words))
        limit = borders[np.searchsorted(borders, np.arange(len(words)), side="right")]
        chances = SPAN_STOP * (1 - SPAN_STOP) ** np.arange(SPAN_LIMIT)
        lengths = 1 + np.searchsorted(np.cumsum(chances / chances.sum())[:-1], stop[words], side="right")
        following = np.minimum(np.arange(len(words)) + lengths, limit).tolist()
        spans, at = [], 0
        while at < len(words):
            spans.append(at)
            at = following[at]
        return words[spans]

    def _text(self, piece: Piece, row: Row) -> tuple[Text, int]:
        """The piece as it goes into a row, and its label: -1 where it is no pair."""
        whole = Segment(piece.tokens, piece.words)
        if self.recipe.sentences == "none" or len(piece.sentences) < 2:
            return Text((whole,), self.suffix), -1
        middle = int(piece.sentences[1 + row.rng.integers(len(piece.sentences) - 1)])
        first, second = _part(whole, 0, middle), _part(whole, middle, len(piece.tokens))
        label = int(row.rng.random() < 0.5)
        if label and self.recipe.sentences == "order":
            first, second = second, first
        elif label:
            second = self._stranger(piece, second, row)
        return Text((first, second), self.suffix), label

    def _stranger(self, piece: Piece, second: Segment, row: Row) -> Segment:
        """Sentences of another document, in no more places than the true second part."""
        for _ in range(TRIES):
            other = row.other(row.rng)
            if other.document == piece.document:
                continue
            begin, room = int(row.rng.choice(other.sentences)), len(second.tokens)
            end = len(other.tokens)
            if end - begin > room:
                end = int(cut(np.array([begin]), room, other.sentences, other.words, room)[0])
            found = _part(Segment(other.tokens, other.words), begin, end)
            if not np.array_equal(found.tokens, second.tokens):
                return found
        raise UserError(
            f"objective.sentences next: {TRIES} random pieces of text were all of one document or the same as its own "
            "next sentence; give more documents (corpus.sources), or use objective.sentences=order"
        )


def _part(segment: Segment, begin: int, end: int) -> Segment:
    low, high = np.searchsorted(segment.words, (begin, end))
    return Segment(segment.tokens[begin:end], segment.words[low:high].astype(np.int64) - begin)
