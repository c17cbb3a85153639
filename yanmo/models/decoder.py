"""Decoders: every token sees itself and what stands before it in its document.

GPT-2: Radford et al. 2019; openai/gpt-2 src/model.py. Llama: Touvron et al. 2023, arXiv:2302.13971. Qwen3: Yang et al.
2025, arXiv:2505.09388. They differ in data, not in order of operations. Documents of a row are apart where `packed`
numbers them apart; a row whose documents are to see one another is one document here, its positions running through.
Letters: R rows, T tokens of a row, S places of the cache, D width, K key-value heads, W width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from yanmo.batch import Packed
from yanmo.errors import UserError
from yanmo.layers import BlockConfig, Memory, View
from yanmo.models.cache import Cache
from yanmo.models.network import NetworkConfig, Stack, compute_dtype


class KeyValueCache(Cache):
    """The keys and values of every block. Raises UserError when a row would pass `places`."""

    def __init__(self, config: NetworkConfig, blocks: Sequence[BlockConfig], rows: int, places: int, like: Tensor):
        """`like` gives the device and the number type."""
        if places > config.length:
            raise UserError(
                f"{places} tokens are longer than the {config.length} positions of this {config.family}; "
                "ask for fewer new tokens or shorten the prompt"
            )
        shapes = [(rows, kind.attention.kv_heads, places, kind.attention.head_width) for kind in blocks]
        dtype = compute_dtype(like)
        self.keys = [like.new_zeros(shape, dtype=dtype) for shape in shapes]
        self.values = [like.new_zeros(shape, dtype=dtype) for shape in shapes]
        super().__init__(rows, like.device)
        self.places = places
        self.used = self.shared = 0

    def advance(self, packed: Packed) -> None:
        super().advance(packed)
        self.used = int(self.lengths.max())

    def take_rows(self, rows: Tensor) -> None:
        self.keys = [keys[rows] for keys in self.keys]
        self.values = [values[rows] for values in self.values]
        super().take_rows(rows)
        self.used = int(self.lengths.max())

    def fork(self, beams: int) -> None:
        super().fork(beams)
        self.shared = int(self.lengths.min())

    def reorder(self, origins: Tensor) -> None:
        """Copies what is in use, and between rows of one beginning only what they do not share."""
        rows = torch.arange(len(origins), device=origins.device)
        far = origins // self.beams != rows // self.beams
        for moved, first in ((far, 0), ((origins != rows) & ~far, self.shared)):  # what is far is not overwritten by what is near
            overwrite([*self.keys, *self.values], moved.nonzero()[:, 0], origins, slice(first, self.used))
        self.keys, self.values = [keys[: len(rows)] for keys in self.keys], [values[: len(rows)] for values in self.values]
        super().take_rows(origins)
        self.used = int(self.lengths.max())

    def with_room_for(self, packed: Packed) -> int:
        """Places in use when `packed` has been read. Raises UserError when there are not so many."""
        used = self.used + packed.tokens.shape[1]
        if used > self.places:
            raise UserError(f"the cache holds {self.places} tokens a row and {used} are needed; make it larger")
        return used


def overwrite(stored: Sequence[Tensor], moved: Tensor, origins: Tensor, places: slice) -> None:
    """In each of (R, K, S, W), let the rows `moved` be what their origins, of (R) for all rows, are at some places."""
    if len(moved):
        for tensor in stored:
            tensor[moved, :, places] = tensor[origins[moved], :, places]


class Decoder(Stack):
    continues = True

    def cache(self, rows: int, places: int) -> KeyValueCache:
        """An empty cache for `rows` rows of at most `places` tokens, prompt included."""
        return KeyValueCache(self.config, self.config.blocks, rows, places, self.embed.tokens.weight.detach())

    def forward(self, packed: Packed, cache: KeyValueCache | None = None) -> Tensor:
        """Hidden states, (R, T, D). With a cache, `packed` is what `cache.take` made; it is remembered, without gradient."""
        if cache is not None:
            return self._continue(packed, cache)
        self.check_length(packed)
        x_RTD = self.embed(packed)
        views = self.views(partial(View.of, packed, True, compute_dtype(x_RTD)))
        for block, view in zip(self.blocks, views, strict=True):
            x_RTD = block(x_RTD, view)
        return self.norm(x_RTD)

    @torch.no_grad()
    def _continue(self, packed: Packed, cache: KeyValueCache) -> Tensor:
        used = cache.with_room_for(packed)
        x_RTD = self.embed(packed)
        views = self.views(partial(View.of_memory, packed, used, compute_dtype(x_RTD)))
        for block, view, keys, values in zip(self.blocks, views, cache.keys, cache.values, strict=True):
            x_RTD = block(x_RTD, view, Memory(keys, values, used))
        cache.advance(packed)
        return self.norm(x_RTD)
