"""Filling in: what an encoder puts where a text has a gap."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from yanmo.batch import Packed
from yanmo.errors import UserError
from yanmo.models import Encoder, Network
from yanmo.models.network import in_mode
from yanmo.recipe import article
from yanmo.tokenizer import Tokens

SPELLINGS = ("[MASK]", "<mask>")
"""A gap as people write it, whatever the tokenizer calls it."""


@dataclass(frozen=True)
class Candidate:
    """token: as it reads. probability: among all tokens, for this gap alone. text: the whole with this gap filled by it."""

    token: str
    probability: float
    text: str


@torch.no_grad()
def fill(network: Network, tokens: Tokens, text: str, k: int = 5) -> list[list[Candidate]]:
    """The k best tokens for each gap of a text, the best first. A gap is [MASK], <mask> or the tokenizer's own mask token.

    Several gaps are filled each for itself, the others staying gaps. Raises UserError for a text without a gap, a decoder,
    a tokenizer without a mask, and a text longer than the positions.
    """
    if network.judges:
        raise UserError(f"fill: {article(network.config.family)} fills no gaps: it {network.judges}")
    if not isinstance(network, Encoder):
        raise UserError(
            f"{article(network.config.family)} continues text and fills no gaps; use generate "
            "(`yanmo generate MODEL --prompt TEXT`), or train an encoder: bert, roberta, modernbert"
        )
    if tokens.mask is None:
        raise UserError("this tokenizer has no mask token, so there are no gaps to fill; load the tokenizer of an encoder")
    if not 1 <= k <= tokens.size:
        raise UserError(f"k {k}: it must be at least 1 and at most the {tokens.size} tokens there are")
    mask = tokens.tokenizer.id_to_token(tokens.mask)
    assert mask is not None, "the mask has a name"
    spellings = "|".join(re.escape(spelling) for spelling in {mask, *SPELLINGS})
    pieces = re.split(f"({spellings})", text)  # text and gap in turn
    if len(pieces) == 1:
        raise UserError(f"{text[:60]!r} has no gap; write {mask} where a token is to be filled in")
    ids = [*tokens.prefix, *tokens.encode([mask.join(pieces[::2])], named=True)[0], *tokens.suffix]
    packed = _one_document(ids, network)
    places = torch.tensor([place for place, token in enumerate(ids) if token == tokens.mask])
    assert len(places) == len(pieces) // 2, "every gap is one mask token"
    with in_mode(network):
        logits_NV = network.logits(network(packed)[0, places]).float().cpu()
    best = logits_NV.softmax(-1)[:, : tokens.size].topk(k)  # ids after these only pad the vocabulary
    return [
        [
            Candidate(read := _read(tokens, index), probability, _filled(pieces, 2 * gap + 1, read))
            for index, probability in zip(indices, probabilities, strict=True)
        ]
        for gap, (indices, probabilities) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    ]


def _one_document(ids: list[int], network: Network) -> Packed:
    tokens = torch.tensor([ids], device=network.device)
    positions = torch.arange(len(ids), device=tokens.device)[None]
    return Packed(tokens, torch.ones_like(tokens), positions, whole=True)


def _read(tokens: Tokens, index: int) -> str:
    """A token as it reads: its text, or its name where it has no text by itself (special tokens, parts of a character)."""
    read = tokens.decode([index])
    return read if read and "\N{REPLACEMENT CHARACTER}" not in read else tokens.tokenizer.id_to_token(index) or f"<{index}>"


def _filled(pieces: list[str], place: int, read: str) -> str:
    """The text with the gap at `place` filled; "##ing" goes on with the word before it, and a space is not written twice."""
    before, after = "".join(pieces[:place]), "".join(pieces[place + 1 :])
    if not before or before[-1].isspace():
        read = read.lstrip(" ")
    return before + (read[2:] if len(read) > 2 and read.startswith("##") else read) + after
