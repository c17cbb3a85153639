"""A convolutional network that gives a text a score: what tells written texts from real ones in a game.

Kim 2014, arXiv:1408.5882 (filters of several sizes, the largest value over the text); with a highway layer as in SeqGAN (Yu et
al. 2017, arXiv:1609.05473, section 3.3), and over several small embeddings of each token, each scored by itself, as in RelGAN
(Nie et al. 2019, openreview rJedV3R5tm, section 3.3).
Letters: N texts, L places of a text, D width of all embeddings, S embeddings, E width of one, F filters, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yanmo.layers import HeadConfig, VocabularyHead
from yanmo.layers.linear import Linear
from yanmo.models.family import REQUIRED, TOKENS_KEY, Family
from yanmo.models.names import SAME
from yanmo.models.network import Network, NetworkConfig

DEFAULTS: dict[str, Any] = {
    "vocab_size": REQUIRED,
    "max_position_embeddings": REQUIRED,
    "hidden_size": 64,
    "representations": 4,
    "filters": 96,
    "filter_sizes": [2, 3, 4, 5],
    "dropout": 0.25,
}


@dataclass(frozen=True, kw_only=True)
class TextCnnConfig(NetworkConfig):
    """width: of all embeddings of a token together. filters: of each of the sizes, which are in tokens."""

    representations: int
    filters: int
    sizes: tuple[int, ...]
    dropout: float


class TextCnn(Network):
    """(N, L) texts to (N, S, F) features; `logits` makes of them scores, above 0 where a text looks real."""

    judges = "tells written texts from real ones; the generator that it played against lies in the folder around it"

    def __init__(self, config: TextCnnConfig):
        super().__init__()
        self.config: TextCnnConfig = config  # pyright: ignore[reportIncompatibleVariableOverride]  # narrower
        features = config.filters * len(config.sizes)
        self.embed = nn.Embedding(config.vocabulary, config.width)
        one = config.width // config.representations
        self.filters = nn.ModuleList(Linear(size * one, config.filters) for size in config.sizes)
        self.gate, self.change = Linear(features, features), Linear(features, features)
        self.dropout = nn.Dropout(config.dropout)
        self.head = VocabularyHead(HeadConfig(1, features, bias=True, tied=False), self.embed)

    def start(self) -> None:
        for part in self.modules():
            if isinstance(part, nn.Embedding):
                nn.init.normal_(part.weight, std=self.config.representations**0.5 * self.config.width**-0.5)
            elif isinstance(part, nn.Linear):
                part.reset_parameters()
        nn.init.normal_(self.head.weight, std=self.head.weight.shape[1] ** -0.5)

    def forward(self, texts_NL: Tensor, soft_MV: Tensor | None = None, places_M: Tensor | None = None) -> Tensor:
        """Features, (N, S, F). soft: what stands at some places of N*L instead of one token: shares of all tokens."""
        x_ND = self.embed(texts_NL.flatten())
        if soft_MV is not None and places_M is not None:
            x_ND = x_ND.index_copy(0, places_M, soft_MV.to(x_ND.dtype) @ self.embed.weight[: soft_MV.shape[1]].to(x_ND.dtype))
        x_NSLE = x_ND.view(*texts_NL.shape, self.config.representations, -1).transpose(1, 2)
        one, lacking = x_NSLE.shape[-1], max(self.config.sizes) - texts_NL.shape[1]
        line = F.pad(x_NSLE, (0, 0, 0, max(0, lacking))).flatten(2)
        runs = [line.unfold(2, size * one, one) for size in self.config.sizes]  # of tokens that follow one another
        found = [F.relu(filters(run).amax(2)) for filters, run in zip(self.filters, runs, strict=True)]
        pooled = torch.cat(found, -1)
        share = torch.sigmoid(self.gate(pooled))
        return self.dropout(share * F.relu(self.change(pooled)) + (1 - share) * pooled)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., F) -> (...)."""
        return self.head(hidden).squeeze(-1)


def read(settings: Mapping[str, Any], tokens: int, pair: bool) -> TextCnnConfig:
    return TextCnnConfig(
        family="text-cnn",
        vocabulary=settings["vocab_size"],
        tokens=tokens,
        length=settings["max_position_embeddings"],
        width=settings["hidden_size"],
        representations=settings["representations"],
        filters=settings["filters"],
        sizes=tuple(settings["filter_sizes"]),
        dropout=settings["dropout"],
    )


TEXT_CNN = Family(
    "text-cnn",
    TextCnn,
    {},
    positions=0,
    defaults=DEFAULTS,
    describe=lambda sizes, special: {},
    read=read,
    names=lambda config: SAME,
    architecture="YanmoTextCnn",
    shared_type="yanmo-text-cnn",
)


def judge_for(generator: Network, length: int) -> TextCnn:
    """A new network that judges what another writes, in texts of at most `length` tokens."""
    settings = {"model_type": TEXT_CNN.model_type, "vocab_size": generator.config.vocabulary,
                "max_position_embeddings": length, TOKENS_KEY: generator.config.tokens}
    config = TEXT_CNN.understand(settings, pair=False, where="discriminator")
    judge = TextCnn(config)  # pyright: ignore[reportArgumentType]  # as `read` gives it
    judge.start()
    return judge
