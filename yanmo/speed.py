"""How fast a training run is against what its machine can do: floating-point work of a step, and the rate of matrix products.

The work is counted as in Kaplan et al. 2020, arXiv:2001.08361, section 2.1, with attention and the vocabulary as they are
really computed: 2 for each weight a token meets, three times as much with the backward pass.
"""

from __future__ import annotations

import time
from statistics import median

import torch
from torch import Tensor, nn

from yanmo.layers import Attention, CrossAttention, experts_of
from yanmo.layers.relative import RelativeAttention
from yanmo.models.network import Network
from yanmo.models.seq2seq import Seq2Seq
from yanmo.optim import blocks_of


def work_per_token(network: Network, length: int, targets: float) -> float:
    """Floating-point operations of forward and backward for a token of a row of `length` tokens.

    targets: the share of tokens at which the vocabulary is computed; of an encoder-decoder, those that it writes.
    """
    head = sum(weight.numel() for weight in network.head.parameters() if weight.ndim == 2)
    if not isinstance(network, Seq2Seq):
        return 6 * (_met(network, length) + targets * head)
    reading = sum(part.key_value.weight.numel() for part in network.modules() if isinstance(part, CrossAttention))
    read, written = _met(network.encoder, length) + reading, _met(network.decoder, length) - reading + head
    return 6 * ((1 - targets) * read + targets * written)


def _met(part: nn.Module, length: int) -> float:
    """How many weights and numbers of its row's attention a token meets in the blocks of `part`."""
    matrices = sum(weight.numel() for weight in _matrices(part))
    for brick in experts_of(part):                        # a token meets some of them
        matrices -= (1 - brick.config.met / brick.config.number) * sum(weight.numel() for weight in brick.experts.parameters())
    kinds = [module.config for module in part.modules() if isinstance(module, Attention | CrossAttention | RelativeAttention)]
    return matrices + sum(2 * length * kind.heads * kind.head_width for kind in kinds)


def matrix_rate(device: torch.device, dtype: torch.dtype, tokens: int, width: int, inner: int, repeats: int = 7) -> float:
    """Operations a second of the products a feed-forward brick makes: (tokens, width) x (width, inner) and back; a median."""
    x, up = torch.randn(tokens, width, device=device, dtype=dtype), torch.randn(inner, width, device=device, dtype=dtype)
    down, target = torch.randn(width, inner, device=device, dtype=dtype), torch.randn(tokens, inner, device=device, dtype=dtype)
    products = (lambda: x @ up.T, lambda: target @ down.T, lambda: target.T @ x)   # forward, forward, a weight's gradient
    seconds = []
    for repeat in range(repeats + 2):
        _wait(device)
        start = time.perf_counter()
        for product in products:
            product()
        _wait(device)
        if repeat >= 2:
            seconds.append(time.perf_counter() - start)
    return len(products) * 2 * tokens * width * inner / median(seconds)


def inner_width(network: Network) -> int:
    """The most numbers that a matrix inside the blocks gives: with the width, the shape of the network's largest product."""
    return max((weight.shape[0] for weight in _matrices(network)), default=network.config.width)


def _matrices(part: nn.Module) -> list[Tensor]:
    return [weight for block in blocks_of(part) for weight in block.parameters() if weight.ndim == 2]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
