"""Networks that go on from a beginning, whichever they are: read it, and then one more token of every row at a time.

Letters: R rows, T tokens of a row, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yanmo.batch import Packed
from yanmo.models.cache import Cache
from yanmo.models.decoder import Decoder
from yanmo.models.ngram import NGram
from yanmo.models.recurrent import Recurrent
from yanmo.models.seq2seq import Seq2Seq, SourceCache

Writer = Decoder | Recurrent | NGram | Seq2Seq
"""Each has a cache that says what its next input is (see models.cache)."""


def begin(
    network: Writer, beginnings: Sequence[Sequence[int]], places: int, pad: int, source: Packed | None = None
) -> tuple[Cache, Tensor]:
    """A cache that has read a beginning in every row, with room for `places` tokens a row, and the hidden states that the next
    tokens come from, (R, D). source: what an encoder-decoder reads, a document a row."""
    device = network.device
    counts = torch.tensor([len(ids) for ids in beginnings], device=device)
    tokens_RT = torch.full((len(beginnings), int(counts.max())), pad, device=device)
    for row, ids in enumerate(beginnings):
        tokens_RT[row, : len(ids)] = torch.tensor(ids, device=device)
    if isinstance(network, Seq2Seq):
        assert source is not None, "an encoder-decoder reads a source"
        cache = network.cache(source, places)
    else:
        cache = network.cache(len(beginnings), places)
    hidden_RTD = _read(network, cache.take(tokens_RT, counts), cache)
    return cache, hidden_RTD[torch.arange(len(beginnings), device=device), counts - 1]


def go_on(network: Writer, cache: Cache, tokens: Tensor) -> Tensor:
    """The hidden states (R, D) after one more token of every row, (R)."""
    return _read(network, cache.take(tokens[:, None]), cache)[:, 0]


def _read(network: Writer, packed: Packed, cache: Cache) -> Tensor:
    if isinstance(network, Seq2Seq):
        assert isinstance(cache, SourceCache), "as its own `cache` makes it"
        return network.write(packed, cache)
    return network(packed, cache)


def compact(going: Sequence[bool]) -> list[int]:
    """The numbers of those that go on, for Cache.reorder: the last ones in the places of those that do not, so that most stay."""
    order, last = list(range(len(going))), len(going)
    for place, stays in enumerate(going):
        if place >= last:
            break
        if not stays:
            last = next((one for one in range(last - 1, place, -1) if going[one]), place)
            order[place] = last
    return order[:last]
