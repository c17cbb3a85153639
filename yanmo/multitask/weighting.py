"""How much each of several losses counts: fixed, or by what is seen of the losses and of their gradients while it learns.

A part's loss is the mean over a whole step, all micro-batches and ranks; what is remembered is in buffers, as checkpoints keep.
Letters: K parts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from yanmo.objectives.objective import Loss
from yanmo.optim import Apart

PERIODS = 20
"""Stretches of a run over which dynamic weight average takes means. Liu et al. take epochs, of which they have 200."""
SOFTNESS = 2.0
"""Its temperature (Liu et al. 2019, section 3.2)."""
PACE = 20.0
"""How much faster than the network the logarithms of variances are learned: at a network's rate they would hardly move."""
GRADNORM_RATE = 0.025
"""How far GradNorm's weights move in a step, about."""

Losses = Sequence[float | None]
"""Each part's, None where it had no targets in the step."""


class Weighting(nn.Module):
    """Fixed: every part counts once, besides what the recipe multiplies its loss by."""

    weights: Tensor
    """(K,), what each part's loss is multiplied by now."""
    apart: bool = False
    """Whether it needs each part's gradient by itself: then it has `factors`."""

    def __init__(self, parts: int):
        super().__init__()
        self.register_buffer("weights", torch.ones(parts))

    def begin(self, step: int, steps: int) -> None:
        """Told before every step where it stands."""

    def now(self) -> list[float]:
        """What the report shows as each part's weight."""
        return self.weights.tolist()

    def weigh(self, part: int, loss: Loss) -> Loss:
        """A part's loss as it is learned."""
        return replace(loss, weight=loss.weight * float(self.weights[part])) if loss.weight else loss

    def penalty(self, part: int) -> Tensor | None:
        """What is learned of a part besides its loss, a scalar; nothing as a rule."""
        return None

    def factors(
        self, gradients: Apart, losses: Losses, shared: Sequence[Collection[str]], own: Sequence[float]
    ) -> list[float]:
        """How much each part's gradient counts by the parameters that parts share, of which `shared` has the names: of all, and
        then of each block. own: by what gradients are multiplied already, whatever the weighting."""
        raise AssertionError("a weighting that wants gradients apart joins them")

    def took(self, losses: Losses) -> None:
        """Told after every step that was taken."""


class Uncertainty(Weighting):
    """The losses are taken for negative log-likelihoods with a variance each, s its learned logarithm: a log-probability is
    divided by it, exp(-s) L + s/2, and a square is that of a Gaussian, exp(-s) L/2 + s/2 (Kendall et al. 2018,
    arXiv:1705.07115, equations 5 to 10)."""

    def __init__(self, parts: int, squares: Sequence[bool] = ()):
        super().__init__(parts)
        self.log_variances = nn.Parameter(torch.zeros(parts))
        self._scales = [0.5 if square else 1.0 for square in squares or (False,) * parts]

    def now(self) -> list[float]:
        found = torch.exp(-self.log_variances.detach().float()).tolist()
        return [weight * scale for weight, scale in zip(found, self._scales, strict=True)]

    def weigh(self, part: int, loss: Loss) -> Loss:
        if not loss.weight:
            return loss
        s = self.log_variances[part].float()
        one = torch.exp(s.detach() - s)                   # is 1, and has the gradient that the variance gets of the loss
        return Loss(loss.total * one, loss.count, loss.weight * self.now()[part])

    def penalty(self, part: int) -> Tensor:
        return self.log_variances[part].float() / 2


class Average(Weighting):
    """Dynamic weight average: K softmax(r/2), where r is by what a part's mean loss of the last period was divided since the one
    before (Liu et al. 2019, arXiv:1803.10704, equation 7). The first two periods weigh all alike."""

    period: Tensor
    sums: Tensor
    """(2, K): the losses of this period and how many there were."""
    means: Tensor
    """(2, K): of the last two periods, the older first; NaN where there was none."""

    def __init__(self, parts: int):
        super().__init__(parts)
        self.register_buffer("period", torch.zeros((), dtype=torch.int64))
        self.register_buffer("sums", torch.zeros(2, parts))
        self.register_buffer("means", torch.full((2, parts), math.nan))

    def begin(self, step: int, steps: int) -> None:
        period = step * PERIODS // steps
        if period <= int(self.period):
            return
        self.period.fill_(period)
        fresh = self.sums[0] / self.sums[1]               # NaN where a part had no targets: the one before stays
        self.means.copy_(torch.stack((self.means[1], torch.where(fresh.isnan(), self.means[1], fresh))))
        self.sums.zero_()
        ratios = self.means[1] / self.means[0]
        if bool(ratios.isfinite().all()):
            self.weights.copy_(len(ratios) * torch.softmax(ratios / SOFTNESS, 0))

    def took(self, losses: Losses) -> None:
        for part, loss in enumerate(losses):
            if loss is not None:
                self.sums[:, part] += self.sums.new_tensor((loss, 1.0))


class GradNorm(Weighting):
    """Weights by which the gradients of all parts become alike, of those that learn more slowly larger (Chen et al. 2018,
    arXiv:1711.02257, algorithm 1). The norms are those at the last block that all parts read. The gradient by which the weights
    move is divided by the mean norm, so that the same rate does for large and small networks; the paper does not say what its own
    rate stands for.
    """

    apart = True
    first: Tensor
    """(K,), the losses of each part's first step, NaN before it."""

    def __init__(self, parts: int, alpha: float = 1.5):
        super().__init__(parts)
        self.alpha = alpha
        self.register_buffer("first", torch.full((parts,), math.nan))
        self._next: Tensor | None = None

    def factors(
        self, gradients: Apart, losses: Losses, shared: Sequence[Collection[str]], own: Sequence[float]
    ) -> list[float]:
        present = torch.tensor([loss is not None for loss in losses])
        self._next = None
        if int(present.sum()) > 1:
            for names in reversed(shared):
                norms = (gradients.products(names).diagonal().sqrt() / torch.tensor(own))[present]
                if bool((norms > 0).all()):
                    self._next = self._moved(present, norms, torch.tensor([loss for loss in losses if loss is not None]))
                    break
        return [1.0] * len(losses)

    def took(self, losses: Losses) -> None:
        for part, loss in enumerate(losses):
            if loss is not None and bool(self.first[part].isnan()):
                self.first[part] = loss
        if self._next is not None:
            self.weights.copy_(self._next)

    def _moved(self, present: Tensor, norms: Tensor, losses: Tensor) -> Tensor:
        """The weights after a step. norms: of the parts' gradients with their weights, as in `weights`."""
        first, weights = self.first.cpu()[present], self.weights.cpu().double()
        progress = torch.where(first.isnan(), 1.0, losses / first).double()
        target = norms.mean() * (progress / progress.mean()) ** self.alpha
        slopes = torch.sign(norms - target) * norms / weights[present] / norms.mean()
        weights[present] = (weights[present] - GRADNORM_RATE * slopes).clamp(min=GRADNORM_RATE)
        return (weights * len(weights) / weights.sum()).float()


class PCGrad(Weighting):
    """Of each part's gradient what points against another's is taken away, one other after another in random order; then they
    are added up (Yu et al. 2020, arXiv:2001.06782, algorithm 1), by the parameters that parts share. All projections stay in the
    space of the gradients: inner products are all that is needed. `weights` is only shown: what was left of each gradient in the
    last step, less or more than 1 by what the projections of the others took from it or added to it.
    """

    apart = True
    steps: Tensor

    def __init__(self, parts: int):
        super().__init__(parts)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._last: list[float] | None = None

    def weigh(self, part: int, loss: Loss) -> Loss:
        return loss

    def factors(
        self, gradients: Apart, losses: Losses, shared: Sequence[Collection[str]], own: Sequence[float]
    ) -> list[float]:
        generator = torch.Generator().manual_seed(int(self.steps))
        orders = [torch.randperm(len(losses), generator=generator).tolist() for _ in losses]
        self._last = projected(gradients.products(shared[0]), orders).sum(0).tolist()
        return self._last

    def took(self, losses: Losses) -> None:
        self.steps += 1
        if self._last is not None:
            self.weights.copy_(torch.tensor(self._last))


def projected(products: Tensor, orders: Sequence[Sequence[int]]) -> Tensor:
    """Projections of K gradients, (K, K): each as factors of the gradients. products: their inner products (K, K); orders: for
    each, the order in which it meets the others."""
    found = torch.eye(len(products), dtype=products.dtype)
    for part, order in enumerate(orders):
        for other in order:
            against = found[part] @ products[other]
            if other != part and against < 0:             # where it is below 0, the other is no zero
                found[part, other] -= against / products[other, other]
    return found


def build_weighting(kind: str, squares: Sequence[bool], alpha: float = 1.5) -> Weighting:
    """By the recipe's name. squares: of each part, whether its loss is a square. A single part is weighed against nothing."""
    parts = len(squares)
    if kind == "fixed" or parts == 1:
        return Weighting(parts)
    if kind == "uncertainty":
        return Uncertainty(parts, squares)
    if kind == "gradnorm":
        return GradNorm(parts, alpha)
    return {"average": Average, "pcgrad": PCGrad}[kind](parts)
