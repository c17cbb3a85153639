"""Denoising: a text is spoiled, and the whole of it is asked for.

Lewis et al. 2019, arXiv:1910.13461, section 2.2; facebookresearch/fairseq, data/denoising_dataset.py.
Letters: L tokens of a text, U units (words or tokens), K spans.
"""

from __future__ import annotations

import numpy as np

from yanmo.batch import Piece
from yanmo.errors import UserError
from yanmo.models.network import Network
from yanmo.objectives.rewriting import Example, Rewriting, Sizes
from yanmo.recipe import DenoisingObjective
from yanmo.tokenizer import Tokens


class Denoising(Rewriting):
    """Sentences change places, tokens are left out, spans become masks, the text is rotated: in this order, each as often as the
    recipe says. Special tokens inside the text ([UNK]) are neither left out nor masked."""

    def __init__(self, network: Network, tokens: Tokens, recipe: DenoisingObjective):
        super().__init__(network, tokens, recipe.kind)
        mask = tokens.group("mask")
        if recipe.infill and mask is None:
            raise UserError(
                "objective denoising: the tokenizer has no mask token; tokenizer.add_special=true adds one, "
                "objective.infill=0 does without"
            )
        self.recipe, self.mask = recipe, -1 if mask is None else mask[0]
        self.special = np.isin(np.arange(tokens.size), list(tokens.special))

    def sizes(self, tokens: int) -> Sizes:
        return Sizes(tokens, tokens, 2 * tokens)

    def rewrite(self, piece: Piece, rng: np.random.Generator) -> Example:
        recipe, text = self.recipe, piece.tokens.astype(np.int64)
        units = np.arange(len(text))
        if recipe.unit == "word":
            units = np.cumsum(np.isin(units, piece.words))
        order = permuted(piece.sentences, len(text), recipe.permute, rng)
        text, units = text[order], units[order]
        if recipe.delete:
            left = (rng.random(len(text)) >= recipe.delete) | self.special[text]
            text, units = text[left], units[left]
        if recipe.infill and len(text):
            text = self._filled_in(text, units, rng)
        if recipe.rotate and len(text) and rng.random() < recipe.rotate:
            text = np.roll(text, -int(rng.integers(len(text))))
        return Example(text, piece.tokens)

    def _filled_in(self, text: np.ndarray, units: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The text with spans of units as one mask each. units: (L,) numbers that change where a unit begins."""
        begins = np.flatnonzero(np.append(True, units[1:] != units[:-1]))
        lengths = span_lengths(len(begins), self.recipe.infill, self.recipe.span, rng)
        starts = placed(lengths, len(begins), rng)
        barred = np.add.reduceat(self.special[text], begins) > 0
        hidden = np.zeros(len(begins), dtype=bool)
        kept = []
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            if not barred[start : start + length].any():
                hidden[start : start + length] = True
                kept.append(start)
        masks = np.append(begins, len(text))[kept]        # a mask stands before the first token that it hides
        shown = np.flatnonzero(~np.repeat(hidden, np.diff(np.append(begins, len(text)))))
        places = np.concatenate([2 * masks, 2 * shown + 1])
        return np.concatenate([np.full(len(masks), self.mask), text[shown]])[np.argsort(places, kind="stable")]


def permuted(sentences: np.ndarray, tokens: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """An order of so many tokens, (L,), in which a share of the sentences have changed places among themselves."""
    count = int(np.ceil(len(sentences) * share))
    if count < 2:
        return np.arange(tokens)
    order = np.arange(len(sentences))
    chosen = rng.permutation(len(sentences))[:count]
    order[chosen] = rng.permutation(chosen)
    parts = np.split(np.arange(tokens), np.asarray(sentences[1:]).astype(np.int64))
    return np.concatenate([parts[number] for number in order])


def span_lengths(units: int, rate: float, span: float, rng: np.random.Generator) -> np.ndarray:
    """Poisson lengths, (K,), that hide `rate` of the units together, the last one cut to fit; spans of length 0 are among them,
    but for those that would make the text longer than it was."""
    budget = int(units * rate + rng.random())             # as near as whole numbers go
    lengths = np.zeros(0, dtype=np.int64)
    while lengths.sum() < budget:
        lengths = np.append(lengths, rng.poisson(span, 1 + int(budget / span)))
    last = int(np.searchsorted(lengths.cumsum(), budget))
    lengths = lengths[: last + 1] if budget else lengths[:0]
    if budget:
        lengths[-1] -= lengths.sum() - budget
    filled = lengths[lengths > 0]
    empty = min(len(lengths) - len(filled), budget - len(filled))
    return rng.permutation(np.append(filled, np.zeros(empty, dtype=np.int64)))


def placed(lengths: np.ndarray, units: int, rng: np.random.Generator) -> np.ndarray:
    """Where spans of these lengths start among so many units, (K,) in rising order: they do not overlap, and all ways are as
    likely."""
    between = units - int(lengths.sum())                  # units that are not hidden, and spans, in any order
    slots = np.sort(rng.choice(between + len(lengths), len(lengths), replace=False))
    return slots - np.arange(len(lengths)) + np.cumsum(lengths) - lengths
