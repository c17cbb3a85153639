"""More tokens for a network that has been trained: rows of its tables for tokens that it has never seen."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from yanmo.models.family import TOKENS_KEY, multiple
from yanmo.models.folder import FAMILIES, parameters
from yanmo.models.network import UNUSED_BIAS, Network

SPREAD = 1e-5
"""The covariance of new rows, as a share of that of the old ones."""


@torch.no_grad()
def grow(network: Network, tokens: int, known: int, pieces: Mapping[int, Sequence[int]] | None = None) -> Network:
    """The network with rows for `tokens` tokens, of which it knows the first `known`; itself where these are all.

    New rows are drawn around the mean of the known ones, so that every new token is about as likely as the average one and no
    known one becomes much less so (Hewitt 2021, "Initializing new word embeddings for pretrained language models"). Rows that
    begin at 0 or at random would take most of the probability where scores are low. pieces: the known tokens that a new one
    stands for; then its rows begin at the mean of theirs.
    """
    if tokens <= known:
        return network
    vocabulary = max(network.config.vocabulary, multiple(tokens))
    grown = _with(network, vocabulary, tokens)
    with torch.device("meta"):
        other = {name: tensor.shape for name, tensor in parameters(_with(network, vocabulary + 64, tokens)).items()}
    old = parameters(network)
    for name, parameter in parameters(grown).items():
        if parameter.shape == other[name]:
            parameter.copy_(old[name])
        else:                                             # its rows are tokens
            parameter[:known] = old[name][:known]
            parameter[known:tokens] = _drawn(old[name][:known].float(), tokens - known)
            for number, old_ones in (pieces or {}).items():
                parameter[number] = old[name][list(old_ones)].float().mean(0)
            parameter[tokens:] = 0 if parameter.dim() > 1 else UNUSED_BIAS
    return grown.train(network.training)


def _with(network: Network, vocabulary: int, tokens: int) -> Network:
    """A network of the same settings, but for the vocabulary; weights without meaning."""
    family = FAMILIES[network.config.family]
    settings = {**network.config.settings, "vocab_size": vocabulary, TOKENS_KEY: tokens}
    with warnings.catch_warnings():                       # said when it was loaded
        warnings.simplefilter("ignore")
        config = family.understand(settings, pair=network.config.pair, where=f"{family.name} with more tokens")
    return family.network(config).keep_for(*network.kept_for)


def _drawn(rows: Tensor, count: int) -> Tensor:
    """(count, ...) drawn from a normal distribution with the mean of `rows` (V, ...) and SPREAD times their covariance."""
    mean = rows.mean(0)
    weights = torch.randn(count, len(rows)) * math.sqrt(SPREAD / len(rows))
    return mean + weights @ (rows - mean)                 # mixtures of deviations have their covariance
