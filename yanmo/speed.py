"""How fast a training run is against what its machine can do: floating-point work of a step, and the rate of matrix products.

The work is counted as in Kaplan et al. 2020, arXiv:2001.08361, section 2.1, with attention and the vocabulary as they are
really computed: 2 for each weight a token meets, three times as much with the backward pass.
"""

from __future__ import annotations

import time
from statistics import median

import torch
from torch import Tensor

from yanmo.layers import Attention
from yanmo.models.network import Network
from yanmo.optim import blocks_of


def work_per_token(network: Network, length: int, targets: float) -> float:
    """Floating-point operations of forward and backward for a token of a row of `length` tokens.

    targets: the share of tokens at which the vocabulary is computed.
    """
    matrices = sum(weight.numel() for weight in _matrices(network))
    kinds = [module.config for module in network.modules() if isinstance(module, Attention)]
    scores = sum(2 * length * kind.heads * kind.head_width for kind in kinds)
    head = sum(weight.numel() for name, weight in network.head.named_parameters() if weight.ndim == 2 and name != "weight")
    head += network.config.vocabulary * network.config.width
    return 6 * (matrices + scores + targets * head)


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


def _matrices(network: Network) -> list[Tensor]:
    return [weight for block in blocks_of(network) for weight in block.parameters() if weight.ndim == 2]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
