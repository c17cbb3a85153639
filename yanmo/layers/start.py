"""The weights before the first step, as the families' papers and reference code have them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from yanmo.layers.attention import Attention
from yanmo.layers.buckets import RelativeBias
from yanmo.layers.cross import CrossAttention
from yanmo.layers.feedforward import FeedForward
from yanmo.layers.head import VocabularyHead


@dataclass(frozen=True)
class StartConfig:
    std: float = 0.02
    cutoff: float | None = None
    """Draw again what is further than so many std from 0."""
    scaled: bool = False
    """What is added to the residual path starts smaller by sqrt(2 * layers) (Radford et al. 2019, section 2.3)."""
    scaled_head: bool = False
    """So do the head's own matrices (ModernBERT)."""
    by_inputs: bool = False
    """A matrix starts with std over the root of its inputs, queries whose scores are not scaled with that over the root of a
    head's width, the embedding with std itself (Shazeer and Stern 2018; mesh TensorFlow, which T5 was trained with)."""


@torch.no_grad()
def start_weights(network: nn.Module, layers: int, config: StartConfig) -> None:
    """Matrices and tables normal around 0, biases 0, norms 1, and the padding id's row 0."""
    if config.by_inputs:
        _start_by_inputs(network, config.std)
        return
    small = config.std / math.sqrt(2 * layers)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            draw(module.weight, config.std, config.cutoff)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            draw(module.weight, config.std, config.cutoff)
            if module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            module.reset_parameters()
    for module in network.modules():
        if isinstance(module, Attention | FeedForward) and config.scaled:
            draw(module.out.weight, small, config.cutoff)
        elif isinstance(module, VocabularyHead):
            std = small if config.scaled_head else config.std
            if module.dense is not None:
                draw(module.dense.weight, std, config.cutoff)
            if not module.tied:
                draw(module.weight, std, config.cutoff)


def _start_by_inputs(network: nn.Module, factor: float) -> None:
    for module in network.modules():
        if isinstance(module, nn.Embedding):
            draw(module.weight, factor, None)
        elif isinstance(module, nn.Linear):
            draw(module.weight, factor * module.in_features**-0.5, None)
            if module.bias is not None:                   # of a task's head; the network has none
                module.bias.zero_()
        elif isinstance(module, nn.RMSNorm):
            module.weight.fill_(factor)
        elif isinstance(module, VocabularyHead) and not module.tied:
            draw(module.weight, factor * module.weight.shape[1] ** -0.5, None)
    for module in network.modules():
        if isinstance(module, RelativeBias):
            module.table.weight *= module.config.start
        elif isinstance(module, Attention | CrossAttention) and module.config.scale is not None:
            queries = module.qkv if isinstance(module, Attention) else module.query
            queries.weight[: module.config.rows[0]] *= module.config.head_width**-0.5


@torch.no_grad()
def draw(weight: Tensor, std: float, cutoff: float | None) -> None:
    """Normal; beyond the cutoff drawn again, as TensorFlow's truncated normal (torch's own takes twenty times as long)."""
    weight.normal_(0.0, std)
    if cutoff is None or weight.is_meta:
        return
    beyond = (weight.abs() > cutoff * std).flatten().nonzero()[:, 0]
    while len(beyond):
        again = torch.empty(len(beyond), dtype=weight.dtype, device=weight.device).normal_(0.0, std)
        weight.view(-1)[beyond] = again
        beyond = beyond[again.abs() > cutoff * std]
