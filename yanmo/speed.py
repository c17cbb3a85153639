"""How fast a training run is against what its machine can do: floating-point work of a step, and the rate of matrix products.

The work is counted as in Kaplan et al. 2020, arXiv:2001.08361, section 2.1, with attention and the vocabulary as they are
really computed: 2 for each weight a token meets, three times as much with the backward pass.
"""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from yanmo.models.network import Network


def work_per_token(network: Network, length: int, targets: float) -> float:
    """Floating-point operations of forward and backward for a token of a row of `length` tokens.

    targets: the share of tokens at which the vocabulary is computed.
    """
    matrices = sum(weight.numel() for block in network.blocks for weight in block.parameters() if weight.ndim == 2)
    kinds = [block.attention for block in network.config.blocks]
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


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
