"""The gradients of a step's micro-batches: each loss's sum over its count in the whole step, backwards, added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from yanmo.batch import to_device
from yanmo.measured import totals_of
from yanmo.objectives.objective import Objective
from yanmo.optim import Apart, Weights
from yanmo.parallel import Ranks


def add_up(
    objective: Objective, player: str, batches: Sequence[Any], counts: Mapping[str, float], weights: Weights, ranks: Ranks
) -> tuple[Tensor, dict[str, float], Apart | None]:
    """Sum a player's gradients over micro-batches and ranks, into `weights.gradient` or into those that are wanted apart.

    counts: each loss's over the whole step. Returns sums and counts of this rank's losses, (2, names), the weights of those that
    are of this turn, and the gradients that are still to be joined.
    """
    groups = objective.apart(player)
    apart = weights.apart(len(groups)) if groups else None
    sums = [weights.sum] if apart is None else apart.sums
    for one in sums:
        one.begin()
    totals, weighed = [torch.zeros(2, len(counts), device=ranks.device)], dict[str, float]()
    for batch in batches:
        losses = objective(to_device(batch, ranks.device), player)
        parts = {name: loss.total * (loss.weight / counts[name]) for name, loss in losses.items() if counts[name]}
        learned = {name: part for name, part in parts.items() if part.requires_grad}
        asked = groups or [list(learned)]
        assert learned.keys() <= {name for group in asked for name in group}, "what is learned is in one of the groups"
        for one, group in zip(sums, asked, strict=True):
            own = [learned[name] for name in group if name in learned]
            if own:
                with weights.into(one):
                    torch.stack(own).sum().backward()
        weighed = {name: loss.weight for name, loss in losses.items()}
        totals.append(totals_of(losses, list(counts)))
    for one in sums:
        ranks.sum_(one.finish())
    return torch.stack(totals).sum(0), weighed, apart
