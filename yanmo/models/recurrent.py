"""The LSTM language model, as data and as a network: what every other family is compared with.

Zaremba et al. 2014, arXiv:1409.2329: layers of LSTM, dropout on what goes from one to the next, into the first and out of the
last, none on what goes from one token to the next (section 3.1). The embedding's matrix also makes the scores (Press and Wolf
2017, arXiv:1608.05859), unless config.json unties them. The state starts anew with every document of a row.
Letters: R rows, T tokens of a row, N real tokens of all rows, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from yanmo.batch import Packed
from yanmo.layers import Embedding, EmbeddingConfig, HeadConfig, StartConfig, VocabularyHead, start_weights
from yanmo.layers.lstm import Lstm, LstmState, Steps
from yanmo.layers.texts import Texts
from yanmo.models.bert import PRESETS
from yanmo.models.cache import Cache
from yanmo.models.family import REQUIRED, Family, Sizes, padding_row
from yanmo.models.names import SAME
from yanmo.models.network import Network, NetworkConfig, Special
from yanmo.models.taskhead import HeadSteps, TaskForm

POSITIONS = 1 << 14
"""The longest document that is read at once. The state has no such bound, the memory for what is read has."""
START = 2.0
"""Of the embedding, over the root of the width. The states that it makes scores of are below one and mostly near zero: at the
0.02 to 0.05 of other networks scores stay so small that after 220 steps a batch is not known by heart."""
DEFAULTS: dict[str, Any] = {
    "vocab_size": REQUIRED,
    "hidden_size": REQUIRED,
    "num_hidden_layers": REQUIRED,
    "max_position_embeddings": POSITIONS,
    "dropout": 0.0,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig(NetworkConfig):
    layers: int
    dropout: float = 0.0
    """Of what goes into, between and out of the layers."""
    tied: bool = True
    padding: int | None = None


class RecurrentCache(Cache):
    """The state of every layer."""

    def __init__(self, layers: int, rows: int, like: Tensor):
        """`like`: (V, D), gives the width, the device and the number type."""
        super().__init__(rows, like.device)
        start = like.new_zeros(rows, like.shape[1])
        self.states = [LstmState(start, start)] * layers

    def take_rows(self, rows: Tensor) -> None:
        self.states = [LstmState(state.given[rows], state.held[rows]) for state in self.states]
        super().take_rows(rows)


class Recurrent(Network):
    continues = True

    def __init__(self, config: RecurrentConfig):
        super().__init__()
        self.config: RecurrentConfig = config  # pyright: ignore[reportIncompatibleVariableOverride]  # narrower
        width, vocabulary = config.width, config.vocabulary
        self.embed = Embedding(EmbeddingConfig(vocabulary, width, padding=config.padding, dropout=config.dropout))
        self.blocks = nn.ModuleList(Lstm(width, width) for _ in range(config.layers))
        self.dropout = nn.Dropout(config.dropout)
        self.head = VocabularyHead(HeadConfig(vocabulary, width, tied=config.tied), self.embed.tokens)

    def start(self) -> None:
        start_weights(self, self.config.layers, self.config.start)
        for block in self.blocks:
            assert isinstance(block, Lstm), "all blocks are"
            block.start()
        self.silence_unused(self.embed.tokens)

    def cache(self, rows: int, places: int) -> RecurrentCache:
        """An empty cache for `rows` rows; it takes no more memory for more `places`."""
        return RecurrentCache(self.config.layers, rows, self.embed.tokens.weight.detach())

    def forward(self, packed: Packed, cache: RecurrentCache | None = None) -> Tensor:
        """Hidden states, (R, T, D). With a cache, `packed` is what `cache.take` made; it is remembered, without gradient."""
        if cache is not None:
            return self._continue(packed, cache)
        self.check_length(packed)
        steps = Steps.of(Texts.of(packed))
        return steps.scatter(self._through(packed, steps, [None] * self.config.layers)[0], *packed.tokens.shape)

    @torch.no_grad()
    def _continue(self, packed: Packed, cache: RecurrentCache) -> Tensor:
        assert bool((packed.documents[:, 0] > 0).all()), "every row goes on by a token at least"
        here = torch.arange(packed.tokens.shape[1], device=packed.tokens.device).expand_as(packed.tokens)
        steps = Steps.of(Texts.of(replace(packed, positions=here)))
        x_ND, cache.states = self._through(packed, steps, cache.states)
        cache.advance(packed)
        return steps.scatter(x_ND, *packed.tokens.shape)

    def _through(
        self, packed: Packed, steps: Steps, states: list[LstmState] | list[None]
    ) -> tuple[Tensor, list[LstmState]]:
        x_ND, lasts = steps.gather(self.embed(packed)), []
        for block, state in zip(self.blocks, states, strict=True):
            x_ND, last = block(x_ND, steps, state)
            x_ND = self.dropout(x_ND)
            lasts.append(last)
        return x_ND, lasts


def read(settings: Mapping[str, Any], tokens: int, pair: bool) -> RecurrentConfig:
    return RecurrentConfig(
        family="lstm",
        vocabulary=settings["vocab_size"],
        tokens=tokens,
        length=settings["max_position_embeddings"],
        width=settings["hidden_size"],
        start=StartConfig(START * settings["hidden_size"] ** -0.5),
        layers=settings["num_hidden_layers"],
        dropout=settings["dropout"],
        tied=settings["tie_word_embeddings"],
        padding=padding_row(settings),
    )


def describe(sizes: Sizes, special: Special) -> dict[str, Any]:
    return {
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "max_position_embeddings": sizes.positions,
        "dropout": sizes.dropout,
        "tie_word_embeddings": True,
        "pad_token_id": special.pad,
        "bos_token_id": special.bos,
        "eos_token_id": special.eos,
    }


LSTM = Family(
    "lstm",
    Recurrent,
    {size: (2, width, width) for size, (_, width, _) in PRESETS.items()},  # two layers, as Zaremba et al. 2014
    positions=POSITIONS,
    defaults=DEFAULTS,
    describe=describe,
    read=read,
    names=lambda config: SAME,
    architecture="YanmoLstm",
    tasks={  # without dropout: what comes out of the last layer has had it
        "sequence": TaskForm("YanmoLstmForSequenceClassification", "classifier", lambda _: HeadSteps("last")),
        "token": TaskForm("YanmoLstmForTokenClassification", "classifier"),
        "span": TaskForm("YanmoLstmForQuestionAnswering", "qa_outputs"),
    },
    shared_type="yanmo-lstm",
)
