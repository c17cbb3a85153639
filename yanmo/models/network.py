"""The contract of a network: Packed in, hidden states out, and the vocabulary only for the places asked for.

Letters: R rows, T tokens of a row, D width, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

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
    regularise,
    regularisers,
    start_weights,
)
from yanmo.models.absent import Absent
from yanmo.models.taskhead import TaskKind

SCORE_BYTES = 32 << 20
"""Scores over the vocabulary that are held at once where only some answers' are asked for."""
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


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What every network says of itself. Families read it from `settings`: transformers' own configuration, as it is saved."""

    family: str
    vocabulary: int
    """Rows of the embedding."""
    tokens: int
    """Ids the tokenizer uses; the rows after these only pad the vocabulary."""
    length: int
    """The longest document, in tokens."""
    width: int
    """Of the hidden states."""
    start: StartConfig = field(default_factory=StartConfig)
    pair: bool = False
    """Whether there is a head that says how the second part of a pair belongs to the first (BERT)."""
    settings: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class StackConfig(NetworkConfig):
    """One stack of blocks between an embedding and a head."""

    embedding: EmbeddingConfig
    blocks: tuple[BlockConfig, ...]
    head: HeadConfig
    final_norm: NormConfig | None = None

    @property
    def layers(self) -> int:
        return len(self.blocks)


class Network(nn.Module, ABC):
    """Tokens to hidden states; `head` turns those into scores over the vocabulary.

    What goes into `forward` is each kind's own: one Packed where there is one text, two where one becomes another. An
    objective says which kinds it can train.
    """

    config: NetworkConfig
    head: VocabularyHead
    continues: bool = False
    """Whether it goes on from a beginning, token by token: then transformers is told how."""
    kept_for: tuple[TaskKind, ...] = ()
    """The tasks that it was reduced to, where it has nothing else."""
    judges: str | None = None
    """Of a network that gives tokens no probability: what it says instead, and who knows more, for whoever asks it for one."""

    @abstractmethod
    def start(self) -> None:
        """Draw all weights anew from torch's random state."""

    @cached_property
    def regularisers(self) -> Mapping[str, float]:
        """Losses that the network adds by itself (the balance of a router), and their weights; most have none."""
        return regularisers(self)

    def regularise(self) -> dict[str, Tensor]:
        """The value of each of `regularisers` for the last forward pass, a mean over tokens, with its gradient."""
        return regularise(self)

    def adopt(self, half: str, network: Network) -> None:
        """Let one half begin with the weights of a pretrained network; only networks of two halves can."""
        raise AssertionError(f"a {self.config.family} has no {half} of its own")

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def states(self, packed: Packed, kind: TaskKind) -> Tensor:
        """The hidden states (R, T, D) that a task of this kind reads."""
        return self(packed)

    def unread(self, kind: TaskKind) -> frozenset[str]:
        """The parts that no task of this kind reads."""
        return frozenset({"head"})

    def keep_for(self, *kinds: TaskKind) -> Self:
        """Let go of the parts that no task of these kinds reads, the head over the vocabulary above all; of none without kinds.
        Who asks them for something gets a UserError."""
        if not kinds:
            return self
        reads = "a task" if len(kinds) == 1 else "tasks"
        has_no = f"was reduced to what {reads} of kind {', '.join(kinds)} needs, and has no"
        for part in frozenset.intersection(*map(self.unread, kinds)):
            if getattr(self, part) is not None:
                setattr(self, part, Absent(f"this {self.config.family} {has_no} {part} any more; take the pretrained folder"))
        self.kept_for = kinds
        self.judges = f"{has_no} head over the vocabulary; take the pretrained folder that it began from"
        return self

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return self.head(hidden)

    def log_probabilities(self, hidden: Tensor, answers: Tensor) -> Tensor:
        """The log-probability of each of (N,) answers from hidden states (N, D): (N,) float64 on the CPU, in nats."""
        chunk = max(1, SCORE_BYTES // (4 * self.config.vocabulary))
        found = []
        for part, asked in zip(hidden.split(chunk), answers.split(chunk), strict=True):
            logits = self.logits(part).float()
            given = logits.gather(1, asked[:, None])[:, 0]
            found.append((given - logits.logsumexp(-1)).cpu())
        return torch.cat(found).double()

    @torch.no_grad()
    def silence_unused(self, tokens: nn.Embedding) -> None:
        """Ids that only pad the vocabulary get no probability where the head has a bias; where it has none their rows are
        zero: they score 0 as an untrained token does, and training lowers them."""
        used = self.config.tokens
        tokens.weight[used:].zero_()
        self.head.weight[used:].zero_()
        if self.head.bias is not None:
            self.head.bias.zero_()
            self.head.bias[used:] = UNUSED_BIAS

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


class Stack(Network):
    """Networks of one stack: encoders and decoders."""

    def __init__(self, config: StackConfig):
        super().__init__()
        self.config: StackConfig = config  # pyright: ignore[reportIncompatibleVariableOverride]  # narrower
        self.embed = Embedding(config.embedding)
        self.blocks = nn.ModuleList(Block(block) for block in config.blocks)
        self.norm = build_norm(config.width, config.final_norm)  # none after post-norm blocks: the last one has normed
        self.head = VocabularyHead(config.head, self.embed.tokens)

    @abstractmethod
    def forward(self, packed: Packed) -> Tensor:
        """Hidden states, (R, T, D)."""

    def start(self) -> None:
        start_weights(self, self.config.layers, self.config.start)
        self.silence_unused(self.embed.tokens)

    def views(self, make: Callable[[int | None, RotaryConfig | None], View]) -> list[View]:
        """Each block's view, made once for every window and rotary configuration there is."""
        kinds = [(block.attention.window, block.attention.rotary) for block in self.config.blocks]
        made = {kind: make(*kind) for kind in dict.fromkeys(kinds)}
        return [made[kind] for kind in kinds]


@contextmanager
def in_mode(network: nn.Module, training: bool = False) -> Iterator[None]:
    """The network as it is used (or trained), and afterwards as it was before."""
    before = network.training
    network.train(training)
    try:
        yield
    finally:
        network.train(before)


def compute_dtype(hidden: Tensor) -> torch.dtype:
    """What the blocks will compute in: autocast's type where that is on."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
