"""The contract of a network: Packed in, hidden states out, and the vocabulary only for the places asked for.

Letters: R rows, T tokens of a row, D width, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from yanmo.batch import Packed
from yanmo.errors import UserError
from yanmo.layers import (
    Block,
    BlockConfig,
    Embedding,
    EmbeddingConfig,
    HeadConfig,
    NormConfig,
    RotaryConfig,
    StartConfig,
    View,
    VocabularyHead,
    build_norm,
    start_weights,
)

UNUSED_BIAS = -1e4
"""The head's bias for ids that only pad the vocabulary: no softmax gives them anything."""


@dataclass(frozen=True)
class Special:
    """The ids that a network or its transformers configuration must know; None where the tokenizer has none."""

    pad: int | None = None
    bos: int | None = None
    eos: int | None = None
    cls: int | None = None
    sep: int | None = None


@dataclass(frozen=True)
class NetworkConfig:
    """What a network is made of. Families read it from `settings`: transformers' own configuration, as it is saved."""

    family: str
    vocabulary: int
    """Rows of the embedding."""
    tokens: int
    """Ids the tokenizer uses; the rows after these only pad the vocabulary."""
    length: int
    """The longest document, in tokens."""
    embedding: EmbeddingConfig
    blocks: tuple[BlockConfig, ...]
    head: HeadConfig
    start: StartConfig
    final_norm: NormConfig | None = None
    causal: bool = False
    pair: bool = False
    """Whether there is a head that says how the second part of a pair belongs to the first (BERT)."""
    settings: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def width(self) -> int:
        return self.embedding.width

    @property
    def layers(self) -> int:
        return len(self.blocks)


class Network(nn.Module, ABC):
    """Maps Packed to hidden states; `head` turns those into scores over the vocabulary."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.config = config
        self.embed = Embedding(config.embedding)
        self.blocks = nn.ModuleList(Block(block) for block in config.blocks)
        self.norm = build_norm(config.width, config.final_norm)  # none after post-norm blocks: the last one has normed
        self.head = VocabularyHead(config.head, self.embed.tokens)

    @abstractmethod
    def forward(self, packed: Packed) -> Tensor:
        """Hidden states, (R, T, D)."""

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return self.head(hidden)

    @torch.no_grad()
    def start(self) -> None:
        """Draw all weights anew. Ids that only pad the vocabulary get no probability where the head has a bias; where it
        has none their rows are zero: they score 0 as an untrained token does, and training lowers them."""
        start_weights(self, self.config.layers, self.config.start)
        self.embed.tokens.weight[self.config.tokens :].zero_()
        self.head.weight[self.config.tokens :].zero_()
        if self.head.bias is not None:
            self.head.bias.zero_()
            self.head.bias[self.config.tokens :] = UNUSED_BIAS

    def views(self, make: Callable[[int | None, RotaryConfig | None], View]) -> list[View]:
        """Each block's view, made once for every window and rotary configuration there is."""
        kinds = [(block.attention.window, block.attention.rotary) for block in self.config.blocks]
        made = {kind: make(*kind) for kind in dict.fromkeys(kinds)}
        return [made[kind] for kind in kinds]

    def check_length(self, packed: Packed) -> None:
        """Raises UserError where a document is longer than the positions; looks at the numbers only on a CPU."""
        places, longest = packed.tokens.shape[1], self.config.length
        if places <= longest:
            return
        if not packed.whole and packed.positions.device.type == "cpu":
            places = int(packed.positions.max()) + 1
        if places > longest and (packed.whole or packed.positions.device.type == "cpu"):
            raise UserError(
                f"a document of {places} tokens is longer than the {longest} positions of this {self.config.family}; "
                "shorten it or split it, or train with larger model.positions"
            )


def compute_dtype(hidden: Tensor) -> torch.dtype:
    """What the blocks will compute in: autocast's type where that is on."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
