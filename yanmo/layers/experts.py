"""A mixture of experts in the place of the feed-forward brick: each token is computed by a few of many such bricks.

Shazeer et al. 2017, arXiv:1701.06538; Fedus et al. 2021, arXiv:2101.03961. Which expert computes what: yanmo.layers.routing.
Tokens are sorted by expert, so that each expert is one brick on one slice; its matrices are its own, as Muon needs them (2,048
tokens, 8 matrices of 512 x 2,816, bf16, forward and backward on a Xeon core: 32 ms, one batched product of stacked ones 44).
Letters: R rows, T tokens of a row, D width, N tokens without padding, E experts, M pairs of a token and an expert.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yanmo.errors import UserError
from yanmo.layers.feedforward import FeedForward, FeedForwardConfig
from yanmo.layers.routing import ROUTERS, Routes, among, balance_loss
from yanmo.layers.view import View


class Experts(nn.Module):
    """Scores are computed in float32 whatever the rest is (Fedus et al. 2021, section 2.4). What no expert takes comes out as 0.

    `routes` are those of the last forward pass: a pass that recomputes activations replaces them by the same. A capacity, a
    balanced assignment and the balance loss are of one micro-batch: with micro-batches of another size they are others.
    """

    def __init__(self, width: int, config: FeedForwardConfig):
        super().__init__()
        assert config.experts is not None, "the configuration says how many"
        self.config = config.experts
        self.router = nn.Linear(width, self.config.number, bias=False)
        self.experts = nn.ModuleList(FeedForward(width, replace(config, experts=None)) for _ in range(self.config.number))
        self.routes: Routes | None = None

    @torch.compiler.disable  # how many tokens an expert has is known only when the scores are
    def forward(self, x_RTD: Tensor, view: View) -> Tensor:  # (R, T, D)  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.config.router == "expert-choice" and view.causal:
            raise UserError("expert-choice lets earlier tokens know later ones: set model.experts.router to top-k or balanced")
        documents, places = _documents(x_RTD, view)
        x_ND = x_RTD.flatten(0, 1)
        scores_NE = F.linear(x_ND.float(), self.router.weight.float())
        if places is None:
            routes = ROUTERS[self.config.router](scores_NE, documents, self.config, self.training)
        else:
            routes = among(ROUTERS[self.config.router](scores_NE[places], documents, self.config, self.training), places)
        self.routes = routes
        slices = x_ND.index_select(0, routes.tokens).split(routes.counts)
        made = [expert(x_MD) for expert, x_MD in zip(self.experts, slices, strict=True) if len(x_MD)]
        weighted_MD = torch.cat(made) * routes.gates.to(x_ND.dtype)[:, None] if made else x_ND[:0]
        return torch.zeros_like(x_ND).index_add(0, routes.tokens, weighted_MD).view_as(x_RTD)


def _documents(x_RTD: Tensor, view: View) -> tuple[Tensor, Tensor | None]:
    """The document of each token, (N,), those of all rows numbered apart; and where the tokens stand, None without padding."""
    rows, length, _ = x_RTD.shape
    row = torch.arange(rows, device=x_RTD.device).repeat_interleave(length)
    if view.documents is None:
        return row, None
    flat = view.documents.flatten()
    places = flat.nonzero()[:, 0]
    apart = row * (length + 1) + flat
    return (apart, None) if len(places) == len(flat) else (apart[places], places)


def experts_of(network: nn.Module) -> list[Experts]:
    """Every mixture of experts in a network, in order."""
    return [part for part in network.modules() if isinstance(part, Experts)]


def regularisers(network: nn.Module) -> Mapping[str, float]:
    """What the routers of a network add to its losses, and the weights: `balance` is learned, the others are measured.

    expert_load: the largest load of any expert in any block, 1 where it is even. dropped_tokens: the share that no expert
    takes. assignment_optimum: how near to the best balanced assignment, 1 where it is the best.
    """
    found = experts_of(network)
    if not found:
        return {}
    config = found[0].config                              # all have the same
    weights = {"balance": config.balance_weight} if config.router == "top-k" or config.balance_weight else {}
    weights |= {"expert_load": 0.0, "dropped_tokens": 0.0}
    return weights | ({"assignment_optimum": 0.0} if config.router == "balanced" else {})


def regularise(network: nn.Module) -> dict[str, Tensor]:
    """The values of `regularisers` for the last forward pass; the balance loss only while training, so that what is held out
    is measured by what is learned of the text alone."""
    parts = [part for part in experts_of(network) if part.routes is not None]
    routes = [part.routes for part in parts if part.routes is not None]
    if not parts:
        return {}
    device = parts[0].router.weight.device
    figures = {
        "expert_load": max(route.load for route in routes),
        "dropped_tokens": sum(route.dropped for route in routes) / len(routes),
    }
    if optima := [route.optimum for route in routes if route.optimum is not None]:
        figures["assignment_optimum"] = sum(optima) / len(optima)
    balance = balance_loss(routes, parts[0].config.pooled) if network.training else None
    for part in parts:
        part.routes = None
    measured = {name: torch.tensor(value, device=device) for name, value in figures.items()}
    return measured if balance is None else {"balance": balance} | measured
