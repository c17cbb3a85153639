"""Encoder-decoders: one text is read, another is written; every token written sees the whole of what is read.

Vaswani et al. 2017, arXiv:1706.03762; T5: Raffel et al. 2020, arXiv:1910.10683; BART: Lewis et al. 2019, arXiv:1910.13461.
They differ in data, not in order of operations. Rows are packed on both sides: document n of a target row reads document n
of the source row of the same number, and nothing else.
Letters: R rows, T tokens of a source row, U tokens of a target row, D width, S places of the cache.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from yanmo.batch import Packed
from yanmo.layers import (
    Block,
    BlockConfig,
    CrossBlock,
    Embedding,
    EmbeddingConfig,
    HeadConfig,
    Memory,
    NormConfig,
    Read,
    RelativeBias,
    RelativeConfig,
    View,
    VocabularyHead,
    build_norm,
    start_weights,
)
from yanmo.models.decoder import KeyValueCache, overwrite
from yanmo.models.network import Network, NetworkConfig, compute_dtype
from yanmo.models.taskhead import TaskKind


@dataclass(frozen=True, kw_only=True)
class HalfConfig:
    """One of the two stacks. dropout: of what comes out of it."""

    embedding: EmbeddingConfig
    blocks: tuple[BlockConfig, ...]
    final_norm: NormConfig | None = None
    relative: RelativeConfig | None = None
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig(NetworkConfig):
    """Both stacks have one table of tokens. length: of either text."""

    encoder: HalfConfig
    decoder: HalfConfig
    head: HeadConfig
    decoder_start: int
    """The token that every target begins with as the decoder reads it."""

    @property
    def blocks(self) -> tuple[BlockConfig, ...]:
        """Of the decoder, whose bricks are as wide as the encoder's."""
        return self.decoder.blocks

    @property
    def layers(self) -> int:
        """Of either stack where they have the same number, else of the encoder."""
        return len(self.encoder.blocks)


class Half(nn.Module):
    """A stack of blocks between an embedding and a norm."""

    def __init__(self, config: HalfConfig, tokens: nn.Embedding | None = None):
        super().__init__()
        self.config = config
        self.embed = Embedding(config.embedding, tokens)
        self.blocks = nn.ModuleList((CrossBlock if block.cross else Block)(block) for block in config.blocks)
        self.relative = RelativeBias(config.relative) if config.relative else None
        self.norm = build_norm(config.embedding.width, config.final_norm)
        self.dropout = nn.Dropout(config.dropout)

    def view(self, packed: Packed, causal: bool, dtype: torch.dtype) -> View:
        """What a place of whole rows sees of its own text."""
        view = View.of(packed, causal, dtype)
        return view if self.relative is None else view.biased_by_distance(self.relative(packed.tokens.shape[1]), dtype)


class SourceCache(KeyValueCache):
    """The keys and values of what is written, and those of what was read: one document a row, on both sides. Rows that were
    forked read the same source, which is kept once."""

    def __init__(self, network: Seq2Seq, source: Packed, places: int):
        table = network.decoder.embed.tokens.weight.detach()
        super().__init__(network.config, network.config.decoder.blocks, len(source.tokens), places, table)
        self.reads = [(keys.contiguous(), values.contiguous()) for keys, values in network.reads(network.encode(source))]
        self.source = source

    def keep(self, rows: Tensor) -> None:
        assert self.beams == 1, "sources that several rows read are reordered"
        super().keep(rows)
        self.reads = [(keys[rows], values[rows]) for keys, values in self.reads]
        self._keep_sources(rows)

    def reorder(self, origins: Tensor) -> None:
        super().reorder(origins)
        kept = origins[:: self.beams] // self.beams
        moved = (kept != torch.arange(len(kept), device=kept.device)).nonzero()[:, 0]
        if len(moved) or len(kept) < len(self.source.tokens):
            overwrite([stored for read in self.reads for stored in read], moved, kept, slice(None))
            self.reads = [(keys[: len(kept)], values[: len(kept)]) for keys, values in self.reads]
            self._keep_sources(kept)

    def _keep_sources(self, kept: Tensor) -> None:
        source = self.source
        self.source = replace(
            source, tokens=source.tokens[kept], documents=source.documents[kept], positions=source.positions[kept]
        )


class Seq2Seq(Network):
    continues = True

    def __init__(self, config: Seq2SeqConfig):
        super().__init__()
        self.config: Seq2SeqConfig = config  # pyright: ignore[reportIncompatibleVariableOverride]  # narrower
        self.encoder = Half(config.encoder)
        self.decoder = Half(config.decoder, self.encoder.embed.tokens)
        self.head = VocabularyHead(config.head, self.encoder.embed.tokens)

    def start(self) -> None:
        start_weights(self, self.config.layers, self.config.start)
        self.silence_unused(self.encoder.embed.tokens)

    def forward(self, source: Packed, target: Packed) -> Tensor:
        """Hidden states of the decoder, (R, U, D), at the places of a target (R, U) that begins with the start token; source is
        (R, T). Raises UserError where a text on either side is longer than the positions."""
        self.check_length(target)
        hidden_RTD = self.encode(source)
        x_RUD = self.decoder.embed(target)
        dtype = compute_dtype(x_RUD)
        view, across = self.decoder.view(target, True, dtype), View.across(target, source, dtype)
        for block, read in zip(self.decoder.blocks, self.reads(hidden_RTD), strict=True):
            x_RUD = block(x_RUD, view, read, across)
        return self.decoder.dropout(self.decoder.norm(x_RUD))

    def encode(self, source: Packed) -> Tensor:
        """Hidden states of the encoder, (R, T, D)."""
        self.check_length(source)
        x_RTD = self.encoder.embed(source)
        view = self.encoder.view(source, False, compute_dtype(x_RTD))
        for block in self.encoder.blocks:
            x_RTD = block(x_RTD, view)
        return self.encoder.dropout(self.encoder.norm(x_RTD))

    def states(self, packed: Packed, kind: TaskKind) -> Tensor:
        """Tokens are labelled where the encoder reads them, as transformers' T5 does. For whole texts, and for spans, the decoder
        reads the same text once more, at each place the token before it (Lewis et al. 2019, section 3.1)."""
        if kind == "token":
            return self.encode(packed)
        shifted = packed.tokens.roll(1, 1).masked_fill(packed.positions == 0, self.config.decoder_start)
        return self(packed, replace(packed, tokens=shifted))

    def unread(self, kind: TaskKind) -> frozenset[str]:
        return frozenset({"head", "decoder"} if kind == "token" else {"head"})

    def reads(self, hidden_RTD: Tensor) -> list[Read]:
        """Keys and values of a source for each block of the decoder."""
        return [block.cross.read(hidden_RTD) for block in self.decoder.blocks]  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]

    @torch.no_grad()
    def cache(self, source: Packed, places: int) -> SourceCache:
        """Read a source of one document a row; nothing is written yet, and at most `places` tokens a row will be."""
        return SourceCache(self, source, places)

    @torch.no_grad()
    def write(self, packed: Packed, cache: SourceCache) -> Tensor:
        """Hidden states (R, U, D) at new places, which `cache.take` made and `cache` remembers; without gradient."""
        used = cache.with_room_for(packed)
        x_RUD = self.decoder.embed(packed)
        dtype = compute_dtype(x_RUD)
        view, across = View.of_memory(packed, used, dtype), View.across(packed, cache.source, dtype)
        if self.decoder.relative is not None:
            stored = torch.arange(used, device=packed.positions.device)
            view = view.biased(self.decoder.relative.at(stored - packed.positions[:, :, None], dtype))
        for block, read, keys, values in zip(self.decoder.blocks, cache.reads, cache.keys, cache.values, strict=True):
            x_RUD = block(x_RUD, view, read, across, Memory(keys, values, used))
        cache.advance(packed)
        return self.decoder.dropout(self.decoder.norm(x_RUD))
