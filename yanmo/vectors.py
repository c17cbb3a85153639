"""Texts as vectors, to be compared by their cosine.

Letters: S texts, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from yanmo.errors import UserError
from yanmo.models import Network
from yanmo.models.encoder import Bidirectional
from yanmo.models.network import in_mode
from yanmo.objectives.contrast import VECTOR_KEY, Vector, vectors_of
from yanmo.scoring import PLACES, packed_rows, refuse_long
from yanmo.tokenizer import Tokens


@torch.no_grad()
def embed(network: Network, tokens: Tokens, texts: Sequence[str], vector: Vector | None = None) -> Tensor:
    """A vector of length 1 for each text, (S, D) float32 on the CPU: the product of two is their cosine.

    vector: "first", the hidden state of the first token, or "mean", of all; by default what the network was trained for (see
    objective contrast), else mean. Raises UserError for a network that does not read both ways, and for a text longer than its
    positions.
    """
    if not isinstance(network, Bidirectional):
        raise UserError(
            f"a {network.config.family} does not read both ways, so none of its states is of a whole text; use an encoder: bert, "
            "roberta, modernbert, or a discriminator: electra"
        )
    chosen: Vector = vector or network.config.settings.get(VECTOR_KEY, "mean")
    encoded = [[*tokens.prefix, *ids, *tokens.suffix] for ids in tokens.encode(texts)]
    for number, ids in enumerate(encoded, 1):
        if not ids:
            raise UserError(f"text {number} is empty, and this tokenizer puts nothing around it: it has no vector")
    refuse_long(network, map(len, encoded), "take the vectors of its parts")
    found = torch.zeros(len(encoded), network.config.width)
    with in_mode(network):
        for group in _groups([len(ids) for ids in encoded]):
            packed = packed_rows([encoded[one] for one in group], tokens.pad, network.device)
            found[group] = vectors_of(network(packed), packed, chosen).cpu()
    return F.normalize(found, dim=-1)


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Texts of about the same length, together as many as have PLACES places, padding included."""
    groups: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda one: lengths[one]):
        if not groups or (len(groups[-1]) + 1) * lengths[number] > PLACES:
            groups.append([])
        groups[-1].append(number)
    return groups
