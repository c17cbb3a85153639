"""Texts as vectors, to be compared by their cosine.

Letters: S texts, P parts of texts, D width, Q queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from yanmo.batch import parts_of
from yanmo.errors import UserError
from yanmo.models import Network
from yanmo.models.network import in_mode
from yanmo.objectives.contrast import Vector, check_vector, vectors_of
from yanmo.scoring import PLACES, packed_rows, refuse_long
from yanmo.tokenizer import Tokens


@dataclass(frozen=True)
class Parts:
    """Vectors of texts, of each at least one. vectors: (P, D) float32, of length 1. firsts: (S + 1,), where each text's begin,
    and P at the end."""

    vectors: Tensor
    firsts: np.ndarray


def embed(network: Network, tokens: Tokens, texts: Sequence[str], vector: Vector | None = None) -> Tensor:
    """A vector of length 1 for each text, (S, D) float32 on the CPU: the product of two is their cosine.

    vector: "first" or "last", the hidden state of that token, or "mean", of all; by default what the network was trained for (see
    objective contrast and task retrieval), else mean. Raises UserError for a network that neither reads both ways nor was trained
    for it, for an empty text of which there is nothing to read, and for a text longer than its positions.
    """
    chosen, encoded = _read(network, tokens, texts, vector)
    refuse_long(network, map(len, encoded), "take the vectors of its parts")
    return _vectors(network, tokens, encoded, chosen)


def embed_parts(network: Network, tokens: Tokens, texts: Sequence[str], vector: Vector | None = None) -> Parts:
    """As `embed`; a text that is longer than the positions is read in windows that overlap by half, and has a vector of each."""
    chosen, encoded = _read(network, tokens, texts, vector)
    before, after = len(tokens.prefix), len(tokens.suffix)
    room = network.config.length - before - after
    parts: list[list[int]] = []
    firsts = [0]
    for ids in encoded:
        inside = len(ids) - before - after
        windows = parts_of(inside, room, stride=0.5)
        parts += [[*tokens.prefix, *ids[before:][begin:end], *tokens.suffix] for begin, end in windows]
        firsts.append(len(parts))
    return Parts(_vectors(network, tokens, parts, chosen), np.array(firsts))


def best_of_parts(scores_QP: np.ndarray, firsts: np.ndarray) -> np.ndarray:
    """The score of the best part of each text, (Q, S). firsts: (S,), where each text's parts begin."""
    return np.maximum.reduceat(scores_QP, firsts, axis=1)


def _read(
    network: Network, tokens: Tokens, texts: Sequence[str], vector: Vector | None
) -> tuple[Vector, list[list[int]]]:
    """What a vector is, and the ids of each text with the special tokens around it."""
    if isinstance(texts, str):
        raise UserError("texts are a list, each with a vector of its own; for one text: [text]")
    chosen = check_vector(network, tokens, vector)
    encoded = [[*tokens.prefix, *ids, *tokens.suffix] for ids in tokens.encode(texts)]
    for number, ids in enumerate(encoded, 1):
        if not ids:
            raise UserError(f"text {number} is empty, and this tokenizer puts nothing around it: it has no vector")
    return chosen, encoded


@torch.no_grad()
def _vectors(network: Network, tokens: Tokens, encoded: Sequence[list[int]], vector: Vector) -> Tensor:
    found = torch.zeros(len(encoded), network.config.width)
    with in_mode(network):
        for group in _groups([len(ids) for ids in encoded]):
            packed = packed_rows([encoded[one] for one in group], tokens.pad, network.device)
            found[group] = vectors_of(network(packed), packed, vector).cpu()
    return F.normalize(found, dim=-1)


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Texts of about the same length, together as many as have PLACES places, padding included."""
    groups: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda one: lengths[one]):
        if not groups or (len(groups[-1]) + 1) * lengths[number] > PLACES:
            groups.append([])
        groups[-1].append(number)
    return groups
