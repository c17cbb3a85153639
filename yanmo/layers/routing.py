"""Which expert computes which token: three routers, as functions from scores to routes.

Top-k: Shazeer et al. 2017, arXiv:1701.06538; Fedus et al. 2021, arXiv:2101.03961, section 2. Expert choice: Zhou et al. 2022,
arXiv:2202.09368. Balanced assignment: BASE layers, Lewis et al. 2021, arXiv:2103.16716; solved in yanmo.layers.assignment.
Letters: N tokens, E experts, K experts of a token, M = pairs of a token and an expert that computes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from yanmo.errors import UserError
from yanmo.layers.assignment import assign


@dataclass(frozen=True)
class ExpertsConfig:
    number: int
    router: Literal["top-k", "expert-choice", "balanced"] = "top-k"
    top_k: int | None = None
    """Experts of a token: by default 2 of top-k, 1 of balanced."""
    normed: bool = True
    """The gates of a token's experts add up to 1 (Mixtral); else they are the router's probabilities (Fedus et al.)."""
    capacity: float | None = None
    """top-k: the most tokens of an expert while training, as a multiple of an even share; expert-choice: the experts that a
    token meets on average."""
    balance: float | None = None
    """Weight of the balance loss: by default 0.01 of top-k; of balanced 0.05 with several experts of a token, 0 with one."""
    pooled: bool = False
    """The balance loss is that of all blocks together, as transformers' Mixtral has it, and not the mean of each block's."""

    @property
    def each(self) -> int:
        """The experts of every token (top-k, balanced)."""
        return self.top_k or {"top-k": 2, "balanced": 1}[self.router]

    @property
    def balance_weight(self) -> float:
        """0: there is no balance loss, or it is only measured (top-k)."""
        if self.balance is not None:
            return self.balance
        return {"top-k": 0.01, "expert-choice": 0.0, "balanced": 0.05 if (self.top_k or 1) > 1 else 0.0}[self.router]

    @property
    def met(self) -> float:
        """The experts that a token meets on average."""
        return self.capacity or 0.0 if self.router == "expert-choice" else float(self.each)


@dataclass(frozen=True)
class Routes:
    """tokens: (M,) token of each pair, sorted by expert; gates: (M,) float32, with gradient; counts: the pairs of each expert.

    shares, probabilities: (E,) what the balance loss is made of: pairs a token as tokens pick them, before any is dropped or
    assigned; mean probabilities, with gradient. None where there is no such loss. dropped: the share of tokens (top-k: of
    pairs) that no expert takes. optimum: a lower bound of how good the assignment is (see yanmo.layers.assignment), None where
    there was none.
    """

    tokens: Tensor
    gates: Tensor
    counts: list[int]
    shares: Tensor | None = None
    probabilities: Tensor | None = None
    dropped: float = 0.0
    optimum: float | None = None

    @property
    def load(self) -> float:
        """The largest expert's pairs as a multiple of an even share: 1 is even, E is one expert for all."""
        pairs = sum(self.counts)
        return max(self.counts) * len(self.counts) / pairs if pairs else 1.0


Router = Callable[[Tensor, Tensor, ExpertsConfig, bool], Routes]
"""(scores (N, E) float32, documents (N,), configuration, whether this is training) to routes."""


def top_k(scores_NE: Tensor, documents: Tensor, config: ExpertsConfig, training: bool) -> Routes:
    """Every token picks its K best experts. With a capacity, what comes too late to an expert while training is dropped: first
    choices come before second ones, and tokens in their order (Lepikhin et al. 2020, arXiv:2006.16668, algorithm 1)."""
    tokens, experts = scores_NE.shape
    probabilities_NE = scores_NE.softmax(-1)
    gates_NK, picked_NK = probabilities_NE.topk(config.each, dim=-1)
    if config.normed:
        gates_NK = gates_NK / gates_NK.sum(-1, keepdim=True)
    picked, order = picked_NK.t().flatten().sort(stable=True)  # by expert, then by choice, then by place in the text
    counts = torch.bincount(picked, minlength=experts)
    shares, pairs = counts / max(1, tokens), len(order)
    if config.capacity is not None and training:
        room = math.ceil(config.capacity * pairs / experts)
        starts = counts.cumsum(0) - counts
        order = order[torch.arange(pairs, device=order.device) - starts[picked] < room]
        counts = counts.clamp(max=room)
    return Routes(
        order % max(1, tokens),
        gates_NK.t().flatten()[order],
        counts.tolist(),
        shares,
        probabilities_NE.mean(0),
        1 - len(order) / max(1, pairs),
    )


def expert_choice(scores_NE: Tensor, documents: Tensor, config: ExpertsConfig, training: bool) -> Routes:
    """Every expert picks its best tokens: of each document the same number, `capacity` * tokens / E, rounded up (section 3.2).

    The paper lets experts pick from a whole batch. Here they pick within a document, so that none depends on its neighbours in
    a row, and a packed row is computed as its documents alone are.
    """
    assert config.capacity is not None, "it says how many tokens an expert picks"
    tokens, experts = scores_NE.shape
    chances_EN = scores_NE.softmax(-1).t()
    order_EN = chances_EN.detach().argsort(dim=1, descending=True, stable=True)
    order_EN = order_EN.gather(1, documents[order_EN].argsort(dim=1, stable=True))  # by document, the best first
    sizes = torch.unique_consecutive(documents.sort().values, return_counts=True)[1]
    place = torch.arange(tokens, device=documents.device) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    room = (sizes * (config.capacity / experts)).ceil().long()
    kept = place < room.repeat_interleave(sizes)
    picked_EM = order_EN[:, kept]
    met = torch.zeros(tokens, dtype=torch.bool, device=documents.device).index_fill_(0, picked_EM.flatten(), True)
    dropped = 1 - int(met.sum()) / max(1, tokens)
    return Routes(picked_EM.flatten(), chances_EN.gather(1, picked_EM).flatten(), [picked_EM.shape[1]] * experts, dropped=dropped)


def balanced(scores_NE: Tensor, documents: Tensor, config: ExpertsConfig, training: bool) -> Routes:
    """While training, the assignment of the greatest total score in which a token has K experts and all experts have the same
    number of tokens (or one more or less); otherwise a token goes to its K best.

    The gate of a single expert is the score's sigmoid (section 3.1); those of several add up to 1, in the proportion of the
    router's probabilities, as with top_k: a router that also sets how much all of them count learns less of which to prefer.
    The balance loss is of what tokens would pick: the less that differs from what they get, the less an even load costs.
    An assignment depends on later tokens, too; so what is held out is never assigned (section 3.2.2).
    Raises UserError for fewer tokens than experts while training.
    """
    tokens, experts = scores_NE.shape
    optimum = None
    if training:
        if tokens < experts:
            raise UserError(
                f"a micro-batch of {tokens} tokens cannot be shared out to {experts} experts; "
                "raise training.micro_rows or training.length, or lower model.experts.number"
            )
        found, optimum = assign(scores_NE.detach().double().cpu().numpy(), config.each)
        taken_NE = torch.from_numpy(found).to(scores_NE.device)
    else:
        taken_NE = _best(scores_NE, config.each)
    gates_NE = scores_NE.sigmoid() if config.each == 1 else scores_NE.masked_fill(~taken_NE, -math.inf).softmax(-1)
    expert, order = taken_NE.t().nonzero(as_tuple=True)
    routes = Routes(order, gates_NE[order, expert], taken_NE.sum(0).tolist(), optimum=optimum)
    if not config.balance_weight:
        return routes
    shares = _best(scores_NE, config.each).sum(0) / max(1, tokens)
    return replace(routes, shares=shares, probabilities=scores_NE.softmax(-1).mean(0))


def _best(scores_NE: Tensor, top_k: int) -> Tensor:
    """Each token's best experts, (N, E) bool."""
    best_NK = scores_NE.topk(top_k, dim=-1).indices
    return torch.zeros_like(scores_NE, dtype=torch.bool).scatter_(1, best_NK, True)


ROUTERS: dict[str, Router] = {"top-k": top_k, "expert-choice": expert_choice, "balanced": balanced}


def balance_loss(routes: list[Routes], pooled: bool) -> Tensor | None:
    """E * sum over experts of share and mean probability (Fedus et al. 2021, equations 4 to 6): K where the load is even.

    None where no router is to be balanced. pooled: shares and probabilities are means over all blocks first.
    """
    parts = [(route.shares, route.probabilities) for route in routes]
    pairs = [(shares, chances) for shares, chances in parts if shares is not None and chances is not None]
    if not pairs:
        return None
    if pooled:
        shares, chances = (torch.stack(part).mean(0) for part in zip(*pairs, strict=True))
        return len(shares) * (shares * chances).sum()
    return torch.stack([len(shares) * (shares * chances).sum() for shares, chances in pairs]).mean()


def among(routes: Routes, places: Tensor) -> Routes:
    """The same routes, tokens counted where padding is: token n stands at places[n]."""
    return replace(routes, tokens=places[routes.tokens])
