"""The n-gram language model: tables of counts, smoothed by Kneser-Ney, behind the contract of a network.

Its "hidden state" at a token is where the contexts of 1, 2 ... n - 1 tokens that end there stand in the tables: all that the next
token depends on. So it is read, scored and continued as every other network is, and has no gradient.
Letters: R rows, T tokens of a row, N places asked for, C contexts (n - 1), G n-grams of an order, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from yanmo.batch import Documents, Packed
from yanmo.errors import UserError
from yanmo.models.bert import PRESETS
from yanmo.models.cache import Cache
from yanmo.models.family import REQUIRED, Family, Sizes
from yanmo.models.kneser_ney import Level, estimate
from yanmo.models.names import SAME
from yanmo.models.network import Network, NetworkConfig, Special
from yanmo.progress import Progress, silent

ORDER = 5
"""By default, as KenLM's and SRILM's users have it."""
POSITIONS = 1 << 14
"""The longest document that is read at once; what a token is given reaches back n - 1 tokens whatever this is."""
GRAMS_KEY = "ngrams"
DEFAULTS: dict[str, Any] = {"vocab_size": REQUIRED, "order": REQUIRED, GRAMS_KEY: (), "max_position_embeddings": POSITIONS}


@dataclass(frozen=True, kw_only=True)
class NGramConfig(NetworkConfig):
    order: int
    grams: tuple[int, ...]
    """How many different n-grams each order from 2 on has; none before they have been counted."""


class NGramCache(Cache):
    """The contexts of the last token, (R, C)."""

    def __init__(self, rows: int, contexts: int, device: torch.device):
        super().__init__(rows, device)
        self.contexts = torch.full((rows, contexts), -1, device=device)

    def take_rows(self, rows: Tensor) -> None:
        super().take_rows(rows)
        self.contexts = self.contexts[rows]


class NGram(Network):
    config: NGramConfig
    continues = True

    def __init__(self, config: NGramConfig):
        super().__init__()
        self.config = config
        sizes = [config.vocabulary, *config.grams]
        self.keys = nn.ParameterList(_frozen(torch.zeros(size, dtype=torch.int64)) for size in sizes[1:])
        self.chances = nn.ParameterList(_frozen(torch.zeros(size)) for size in sizes)
        self.left = nn.ParameterList(_frozen(torch.ones(size)) for size in sizes[:-1])

    def start(self) -> None:
        """There is nothing to draw: tables come from `count`."""

    @property
    def device(self) -> torch.device:
        return self.chances[0].device

    def count(self, documents: Documents, lead: Sequence[int], tail: Sequence[int], progress: Progress = silent) -> None:
        """Take the tables from some texts, see kneser_ney.estimate. Raises UserError for an order that no text is long enough
        for, and when there are tables already: discounts belong to the counts of one text."""
        order, longest = self.config.order, int(documents.lengths.max(initial=0)) + len(lead) + len(tail)
        if self.chances[0].any():
            raise UserError(
                "model.start: an n-gram model cannot go on from another one's counts; leave model.start out, set model.family to "
                "ngram, and give all text at once (corpus.sources)"
            )
        if order > longest:
            raise UserError(
                f"model.order {order} is larger than the longest text, which has {longest} tokens with its beginning and end; "
                "lower model.order or give longer texts"
            )
        self.fill(estimate(documents, order, self.config.tokens, lead, tail, progress))

    def fill(self, levels: Sequence[Level]) -> None:
        """Take tables over. Their keys are for the ids in use, ours for the whole vocabulary."""
        config, spare = self.config, self.config.vocabulary - self.config.tokens
        grams = tuple(len(level.keys) for level in levels[1:])
        settings = {**config.settings, GRAMS_KEY: list(grams)}
        self.config = replace(config, grams=grams, settings=settings)  # pyright: ignore[reportIncompatibleVariableOverride]
        # numpy's division by one number multiplies; torch's does not, and starts threads for it
        keys = [torch.from_numpy(level.keys + level.keys // config.tokens * spare) for level in levels[1:]]
        chances, left = ([torch.from_numpy(getattr(level, name)) for level in levels] for name in ("chances", "left"))
        chances[0] = torch.cat([chances[0], torch.zeros(spare)])
        left[0] = torch.cat([left[0], torch.ones(spare)])
        self.keys, self.chances, self.left = (
            nn.ParameterList(_frozen(table.to(self.device)) for table in tables) for tables in (keys, chances, left[:-1])
        )

    def cache(self, rows: int, places: int) -> NGramCache:
        """An empty cache for `rows` rows; it takes no more memory for more `places`."""
        return NGramCache(rows, self.config.order - 1, self.device)

    def forward(self, packed: Packed, cache: NGramCache | None = None) -> Tensor:
        """The contexts that end at every token, shortest first, -1 where the texts had none such: (R, T, C) int64."""
        real, begins = packed.documents > 0, packed.positions == 0
        nodes = packed.tokens.masked_fill(~real, -1)
        found = [nodes]
        for level in range(1, self.config.order - 1):
            earlier = nodes.new_full((len(nodes), 1), -1) if cache is None else cache.contexts[:, level - 1 : level]
            before = torch.cat([earlier, nodes[:, :-1]], 1).masked_fill(begins | ~real, -1)
            nodes = self._find(level, before, packed.tokens)
            found.append(nodes)
        hidden_RTC = torch.stack(found, -1)[..., : self.config.order - 1]
        if cache is not None:
            last = real.sum(1) - 1
            assert bool((last >= 0).all()), "every row goes on by a token at least"
            cache.contexts = hidden_RTC[torch.arange(len(last), device=last.device), last]
            cache.advance(packed)
        return hidden_RTC

    def logits(self, hidden: Tensor) -> Tensor:
        """The logarithm of every token's probability after some contexts: (..., C) -> (..., V)."""
        contexts_NC = hidden.reshape(hidden.shape[:-1].numel(), hidden.shape[-1])
        vocabulary = self.config.vocabulary
        chances_NV = self.chances[0].double().repeat(len(contexts_NC), 1)
        for level, contexts in enumerate(contexts_NC.unbind(1), 1):
            keys = self.keys[level - 1]
            chances_NV *= self._left_after(level, contexts)[:, None]
            begins = torch.searchsorted(keys, (contexts * vocabulary).clamp(min=0))
            ends = torch.searchsorted(keys, (contexts + 1) * vocabulary)   # none where there is no context: 0 to 0
            sizes = (ends - begins).clamp(min=0)
            rows = torch.repeat_interleave(sizes)
            grams = torch.arange(len(rows), device=rows.device) + (begins - (sizes.cumsum(0) - sizes))[rows]
            chances_NV[rows, keys[grams] % vocabulary] += self.chances[level][grams]
        return chances_NV.log().view(*hidden.shape[:-1], vocabulary)

    def log_probabilities(self, hidden: Tensor, answers: Tensor) -> Tensor:
        """Without the other tokens' probabilities."""
        chances = self.chances[0][answers].double()
        for level, contexts in enumerate(hidden.unbind(1), 1):
            grams = self._find(level, contexts, answers)
            own = self.chances[level][grams.clamp(min=0)].masked_fill(grams < 0, 0)
            chances = chances * self._left_after(level, contexts) + own
        return chances.log().cpu()

    def _left_after(self, level: int, contexts: Tensor) -> Tensor:
        """What the order of `level` + 1 leaves to the order below after each context."""
        return self.left[level - 1][contexts.clamp(min=0)].masked_fill(contexts < 0, 1).double()

    def _find(self, level: int, contexts: Tensor, tokens: Tensor) -> Tensor:
        """Where the n-grams of a context and a token stand among those of order `level` + 1, -1 where they do not."""
        keys = self.keys[level - 1]
        asked = contexts * self.config.vocabulary + tokens
        place = torch.searchsorted(keys, asked).clamp(max=len(keys) - 1)
        return place.masked_fill((contexts < 0) | (keys[place] != asked), -1)


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def read(settings: Mapping[str, Any], tokens: int, pair: bool) -> NGramConfig:
    order, grams = settings["order"], tuple(settings[GRAMS_KEY])
    if order < 1 or len(grams) not in (0, order - 1):
        raise UserError(f"config.json: order {order} needs {GRAMS_KEY} of {max(order, 1) - 1} orders, not {len(grams)}")
    return NGramConfig(
        family="ngram",
        vocabulary=settings["vocab_size"],
        tokens=tokens,
        length=settings["max_position_embeddings"],
        width=order - 1,
        order=order,
        grams=grams or (0,) * (order - 1),
    )


def describe(sizes: Sizes, special: Special) -> dict[str, Any]:
    return {
        "vocab_size": sizes.vocabulary,
        "order": sizes.order or ORDER,
        "max_position_embeddings": sizes.positions,
        "pad_token_id": special.pad,
        "bos_token_id": special.bos,
        "eos_token_id": special.eos,
    }


NGRAM = Family(
    "ngram",
    NGram,
    PRESETS,
    positions=POSITIONS,
    defaults=DEFAULTS,
    describe=describe,
    read=read,
    names=lambda config: SAME,
    architecture="YanmoNgram",
    shared_type="yanmo-ngram",
)
