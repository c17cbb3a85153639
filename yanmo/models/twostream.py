"""Two streams over one text: what each place holds, and what can be known of it without looking at it.

Yang et al. 2019, arXiv:1906.08237, section 2.3; with relative positions and segments that are remembered (section 2.4; Dai et al.
2019, arXiv:1901.02860). A place of the content stream sees itself and what comes before it in the factorisation order; one of
the query stream sees only what comes before it. Both streams have the same weights and go through them side by side.
Letters: R rows, T places of a row, N places that the query stream is asked for, Q = T + N, M remembered places, S = M + T,
P = S + T distances, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from yanmo.batch import Packed
from yanmo.layers import (
    Embedding,
    EmbeddingConfig,
    FeedForward,
    FeedForwardConfig,
    HeadConfig,
    NormConfig,
    VocabularyHead,
    build_norm,
    start_weights,
)
from yanmo.layers.relative import RelativeAttention, RelativeAttentionConfig, RelativeView, sinusoids
from yanmo.models.network import Network, NetworkConfig, compute_dtype

CONTEXT = -1
"""The rank of what every place of its document may see."""
NO_PLACE = -1
"""Fills up the places that are asked for in rows that have fewer."""


@dataclass(frozen=True)
class Factorisation:
    """In which order the tokens of a text are known, and which are asked for.

    ranks: (R, T) int64; a place sees those of its document that have a smaller rank, and no two but those of rank CONTEXT have
    the same. asked: (R, N) int64, places of the query stream; NO_PLACE where a row has fewer.
    """

    ranks: Tensor
    asked: Tensor


class SegmentMemory:
    """What every block has read of the last `places` places (None: of all so far), without gradient.

    Documents go on in the next segment under the same number. Made by TwoStream.memory, filled by its forward pass.
    """

    def __init__(self, places: int | None):
        self.places = places
        self.hidden: list[Tensor] = []
        self.documents: Tensor | None = None

    def __len__(self) -> int:
        """How many places are remembered."""
        return 0 if self.documents is None else self.documents.shape[1]

    def remember(self, hidden: list[Tensor], documents: Tensor) -> None:
        """Add what went into each block, (R, T, D) each, and the documents (R, T); forget what is too far back."""
        first = 0 if self.places is None else max(0, len(self) + documents.shape[1] - self.places)
        before = self.hidden or [states[:, :0] for states in hidden]
        self.hidden = [torch.cat([old, new.detach()], dim=1)[:, first:] for old, new in zip(before, hidden, strict=True)]
        self.documents = documents if self.documents is None else torch.cat([self.documents, documents], dim=1)
        self.documents = self.documents[:, first:]


@dataclass(frozen=True, kw_only=True)
class TwoStreamConfig(NetworkConfig):
    layers: int
    embedding: EmbeddingConfig
    attention: RelativeAttentionConfig
    feedforward: FeedForwardConfig
    norm: NormConfig
    head: HeadConfig
    dropout: float = 0.0
    """Of the query stream's first vectors, of distances and of the last hidden states."""
    memory: int | None = None
    """Places that are remembered from segment to segment where nobody says how many; None: all."""


class TwoStreamBlock(nn.Module):
    """Attention and feed-forward, each added to what came in and normed. With memory its hidden states come first."""

    def __init__(self, config: TwoStreamConfig):
        super().__init__()
        self.attention = RelativeAttention(config.width, config.attention)
        self.attention_norm = build_norm(config.width, config.norm)
        self.feedforward = FeedForward(config.width, config.feedforward)
        self.feedforward_norm = build_norm(config.width, config.norm)

    def forward(self, x_RQD: Tensor, view: RelativeView, memory_RMD: Tensor | None = None) -> Tensor:
        """Both streams of (R, Q, D), or what the view says is wanted of them."""
        content = x_RQD[:, : view.places]
        if memory_RMD is not None:
            content = torch.cat([memory_RMD.to(content.dtype), content], dim=1)
        asking = x_RQD if view.in_order else x_RQD[:, view.places :]
        x_RQD = self.attention_norm(asking + self.attention(asking, content, view))
        return self.feedforward_norm(x_RQD + self.feedforward(x_RQD))


class TwoStream(Network):
    def __init__(self, config: TwoStreamConfig):
        super().__init__()
        self.config: TwoStreamConfig = config  # pyright: ignore[reportIncompatibleVariableOverride]  # narrower
        self.embed = Embedding(config.embedding)
        self.asking = nn.Parameter(torch.zeros(config.width))
        self.blocks = nn.ModuleList(TwoStreamBlock(config) for _ in range(config.layers))
        self.dropout = nn.Dropout(config.dropout)
        self.head = VocabularyHead(config.head, self.embed.tokens)

    def start(self) -> None:
        std = self.config.start.std
        start_weights(self, self.config.layers, self.config.start)
        with torch.no_grad():
            self.asking.normal_(0.0, std)
        for part in self.modules():
            if isinstance(part, RelativeAttention):
                part.start(std)
        self.silence_unused(self.embed.tokens)

    def memory(self, places: int | None = None) -> SegmentMemory:
        """An empty memory of so many places, by default as many as the configuration says."""
        return SegmentMemory(self.config.memory if places is None else places)

    def forward(
        self, packed: Packed, factorisation: Factorisation | None = None, memory: SegmentMemory | None = None
    ) -> Tensor:
        """Hidden states: without a factorisation of the content stream, (R, T, D), where every place sees its whole document;
        with one of the query stream, (R, N, D), at the places that are asked for.

        A memory is read, and then has this segment's hidden states as well. Remembered places count as of the first part of a
        pair. The last block leaves out the content stream where nobody reads it.
        """
        x_RQD = self.embed(packed)
        places = packed.tokens.shape[1]
        if factorisation is not None:
            asking = self.dropout(self.asking.to(x_RQD.dtype).expand(*factorisation.asked.shape, -1))
            x_RQD = torch.cat([x_RQD, asking], dim=1)
        view = self._view(packed, factorisation, memory, compute_dtype(x_RQD))
        last = view if factorisation is None else view.of_asked()
        read, remembered = [], memory.hidden if memory is not None and len(memory) else [None] * len(self.blocks)
        for number, (block, old) in enumerate(zip(self.blocks, remembered, strict=True), 1):
            read.append(x_RQD[:, :places])
            x_RQD = block(x_RQD, last if number == len(self.blocks) else view, old)
        if memory is not None:
            memory.remember(read, packed.documents)
        return self.dropout(x_RQD)

    def _view(
        self, packed: Packed, factorisation: Factorisation | None, memory: SegmentMemory | None, dtype: torch.dtype
    ) -> RelativeView:
        remembered = 0 if memory is None else len(memory)
        places = packed.tokens.shape[1]
        keys = packed.documents
        if memory is not None and memory.documents is not None:
            keys = torch.cat([memory.documents, keys], dim=1)
        distances = sinusoids(places, remembered + places, self.config.width, keys.device).to(dtype)
        asked = None if factorisation is None else factorisation.asked
        if asked is None and packed.whole and memory is None:
            seen = None
        else:
            seen = _at_queries(packed.documents, asked)[:, :, None] == keys[:, None]
        if factorisation is not None and asked is not None and seen is not None:
            ranks = factorisation.ranks
            known = torch.cat([ranks.new_full((len(ranks), remembered), CONTEXT), ranks], dim=1)
            upto = torch.cat([ranks, _picked(ranks, asked) - 1], dim=1)
            seen &= known[:, None] <= upto[:, :, None]
            seen[:, places:] |= (asked == NO_PLACE)[:, :, None]  # nobody reads these: they see all, so as to see something
        return RelativeView(
            distances=self.dropout(distances),
            places=places,
            in_order=places,
            asked=asked,
            mask=None if seen is None else _additive(seen, dtype),
            empty=None if seen is None else _blind(seen),
            apart=_apart(packed.types, asked, remembered),
        )


def _picked(of_places: Tensor, asked: Tensor) -> Tensor:
    """The numbers (R, N) at the places that are asked for."""
    return of_places.gather(1, asked.clamp(min=0))


def _at_queries(of_places: Tensor, asked: Tensor | None) -> Tensor:
    """The numbers (R, Q) at all places and at those that are asked for."""
    return of_places if asked is None else torch.cat([of_places, _picked(of_places, asked)], dim=1)


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where seen; elsewhere so low that a softmax gives nothing, and finite, so that it divides by no zero."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min / 2)


def _blind(seen: Tensor) -> Tensor | None:
    """Queries that see nothing, (R, Q); on a CPU None where there are none."""
    blind = ~seen.any(-1)
    return None if blind.device.type == "cpu" and not blind.any() else blind


def _apart(types: Tensor | None, asked: Tensor | None, remembered: int) -> Tensor | None:
    """Whether query and key are of different parts of a pair, (R, Q, S)."""
    if types is None:
        return None
    keys = torch.cat([types.new_zeros(len(types), remembered), types], dim=1)
    return _at_queries(types, asked)[:, :, None] != keys[:, None]
