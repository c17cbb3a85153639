"""A linear layer with changes of low rank beside its rows, computed as a whole: peft has the parameters, we have the products.

y = x W^T + b + scale (x A^T) B^T. peft computes every matrix of query, key and value by itself, and in every product of the
change goes over all tokens again. Here W stays one matrix, the changes' A stand on top of each other and their B in the corners
of one matrix, and a product with few columns is added to a wide one by making that one wider, where the copy is the smaller.
Letters: N tokens, I inputs, O outputs, K ranks of all changes of a layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yanmo.layers.linear import weight_gradient

NAME = "default"
"""What peft calls an adapter that nobody has named."""
TILE = 32
"""Numbers that a CPU's matrix unit sums at once."""


class Rows(nn.Linear):
    """Some rows of a layer, as a layer: what peft puts a change beside. It has no numbers of its own."""

    def __init__(self, whole: nn.Linear, start: int, stop: int):
        nn.Module.__init__(self)
        self.in_features, self.out_features = whole.in_features, stop - start
        self.start, self.stop = start, stop
        self.__dict__["whole"] = whole                    # not a part of this module, and copied with it

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.__dict__["whole"].weight[self.start : self.stop]

    @property
    def bias(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        bias = self.__dict__["whole"].bias
        return None if bias is None else bias[self.start : self.stop]

    def copied(self) -> nn.Linear:
        """The same with numbers of its own."""
        made = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        made.weight = nn.Parameter(self.weight.detach().clone(), requires_grad=False)
        if self.bias is not None:
            made.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=False)
        return made


class Changed(nn.Module):
    """A layer, and its rows by their roles: each as it is, or inside one of peft's layers."""

    def __init__(self, base: nn.Linear, roles: Iterable[str], rows: Iterable[int]):
        super().__init__()
        self.base_layer = base
        stops = torch.tensor([0, *rows]).cumsum(0).tolist()
        each = (Rows(base, start, stop) for start, stop in pairwise(stops))
        self.parts = nn.ModuleDict(dict(zip(roles, each, strict=True)))

    def forward(self, x: Tensor) -> Tensor:  # (..., I) -> (..., O)
        layers: list[Any] = [part for part in self.parts.values() if hasattr(part, "lora_A") and not part.disable_adapters]
        if not layers:
            return self.base_layer(x)
        drops = self.training and any(isinstance(layer.lora_dropout[NAME], nn.Dropout) for layer in layers)
        dora = any(layer.use_dora[NAME] for layer in layers)
        mixed = not torch.compiler.is_compiling() and torch.is_autocast_enabled(x.device.type)
        if mixed or (dora and drops):                     # as peft computes it: without the savings, and rare
            return torch.cat([part(x) for part in self.parts.values()], dim=-1)
        changes = [Change.of(layer, x if not drops else layer.lora_dropout[NAME](x)) for layer in layers]
        weight, bias, scale = self.base_layer.weight, self.base_layer.bias, layers[0].scaling[NAME]
        if not dora:
            return changed(x, weight, bias, scale, changes)
        y = changed(x, weight, None, scale, changes) * magnitudes(weight, scale, layers, changes)
        return y if bias is None else y + bias


@dataclass(frozen=True)
class Change:
    """down: (k, I), A. up: (o, k), B, of the layer's rows from `start`. source: what goes into it, x or what dropout leaves."""

    start: int
    down: Tensor
    up: Tensor
    source: Tensor

    @classmethod
    def of(cls, layer: Any, source: Tensor) -> Change:
        rows: Rows = layer.get_base_layer()
        return cls(rows.start, layer.lora_A[NAME].weight, layer.lora_B[NAME].weight, source)


def changed(x: Tensor, weight: Tensor, bias: Tensor | None, scale: float, changes: Sequence[Change]) -> Tensor:
    """x W^T + b (..., O), with each change, times `scale`, added to its outputs. W and b have no gradient."""
    sources = [change.source for change in changes if change.source is not x]
    starts = [change.start for change in changes]
    downs, ups = [change.down for change in changes], [change.up for change in changes]
    return _Changed.apply(x, weight, bias, scale, starts, *downs, *ups, *sources)  # pyright: ignore[reportReturnType]


def magnitudes(weight: Tensor, scale: float, layers: Sequence[Any], changes: Sequence[Change]) -> Tensor:
    """What DoRA multiplies each output by, (O,): a learned magnitude over the norm of the changed row, which counts as a constant
    (Liu et al. 2024, arXiv:2402.09353, section 4.3); 1 for rows without a change."""
    factors, stop = [], 0
    for layer, change in zip(layers, changes, strict=True):
        rows = weight[change.start : change.start + len(change.up)]
        with torch.no_grad():
            norms = torch.addmm(rows, change.up, change.down, alpha=scale).norm(dim=1)
        factors += [weight.new_ones(change.start - stop), layer.lora_magnitude_vector[NAME].weight / norms]
        stop = change.start + len(change.up)
    return torch.cat([*factors, weight.new_ones(len(weight) - stop)])


class _Changed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, scale: float, starts: list[int], *parts: Tensor
    ) -> Tensor:
        count, (outputs, inputs) = len(starts), weight.shape
        downs, ups, sources = parts[:count], parts[count : 2 * count], parts[2 * count :]
        x_NI = x.reshape(-1, inputs)
        sources_NI = [source.reshape(x_NI.shape) for source in sources]
        down_KI, up_OK = _stacked(downs), _corners(ups, starts, outputs)
        if sources:
            each = [source @ down.t() for source, down in zip(sources_NI, downs, strict=True)]
            small_NK = F.pad(torch.cat(each, 1), (0, up_OK.shape[1] - sum(map(len, downs))))
        else:
            small_NK = x_NI @ down_KI.t()
        small_NK.mul_(scale)
        ctx.scale, ctx.places = scale, [(start, start + len(up)) for start, up in zip(starts, ups, strict=True)]
        ctx.ranks, ctx.shape = [len(down) for down in downs], x.shape
        ctx.save_for_backward(x_NI, weight, small_NK, down_KI, up_OK, *sources_NI)
        if inputs < outputs:
            y_NO = F.linear(torch.cat([x_NI, small_NK], 1), torch.cat([weight, up_OK], 1), bias)
        else:
            y_NO = F.linear(x_NI, weight, bias).addmm_(small_NK, up_OK.t())
        return y_NO.view(*x.shape[:-1], outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_NI, weight, small_NK, down_KI, up_OK, *sources = ctx.saved_tensors
        outputs, inputs = weight.shape
        gradient_NO = gradient.reshape(-1, outputs)
        back_NK = (gradient_NO @ up_OK).mul_(ctx.scale)
        used = sum(ctx.ranks)
        corners = weight_gradient(small_NK, gradient_NO)[:used].split(ctx.ranks)
        grad_ups = [part[:, start:stop].t() for part, (start, stop) in zip(corners, ctx.places, strict=True)]
        to_sources: list[Tensor] = []
        if sources:
            each = list(zip(back_NK[:, :used].split(ctx.ranks, 1), down_KI[:used].split(ctx.ranks), sources, strict=True))
            grad_downs = [weight_gradient(back, source) for back, _, source in each]
            to_sources = [(back @ down).view(ctx.shape) for back, down, _ in each]
        else:
            grad_downs = weight_gradient(back_NK, x_NI)[:used].split(ctx.ranks)
        to_x: Tensor | None = None
        if ctx.needs_input_grad[0]:
            if sources:
                to_x = gradient_NO @ weight
            elif outputs < inputs:
                to_x = torch.cat([gradient_NO, back_NK], 1) @ torch.cat([weight, down_KI])
            else:
                to_x = (gradient_NO @ weight).addmm_(back_NK, down_KI)
        return None if to_x is None else to_x.view(ctx.shape), None, None, None, None, *grad_downs, *grad_ups, *to_sources


def _stacked(downs: Sequence[Tensor]) -> Tensor:
    """Every A on top of the next, (K, I), zeros below."""
    used = sum(map(len, downs))
    return torch.cat([*downs, downs[0].new_zeros(_whole(used, downs[0]) - used, downs[0].shape[1])])


def _corners(ups: Sequence[Tensor], starts: Sequence[int], outputs: int) -> Tensor:
    """Every B in one matrix, (O, K): at its rows, in columns of its own, zeros elsewhere."""
    made, column = ups[0].new_zeros(outputs, _whole(sum(up.shape[1] for up in ups), ups[0])), 0
    for up, start in zip(ups, starts, strict=True):
        made[start : start + len(up), column : column + up.shape[1]] = up
        column += up.shape[1]
    return made


def _whole(ranks: int, x: Tensor) -> int:
    """Room for so many ranks: in bf16 whole steps of a CPU's matrix unit, which takes 8 columns no faster than TILE."""
    return -(-ranks // TILE) * TILE if x.dtype == torch.bfloat16 and x.device.type == "cpu" else ranks
