"""Tokens shared out evenly to experts, with the greatest total score: a balanced linear assignment (a transport problem).

Smoothed dual prices by Newton's method, the temperature falling (entropic transport: Cuturi 2013, arXiv:1306.0895), then the
few tokens that are still too many somewhere are moved along shortest paths between experts (successive shortest paths:
Bertsekas 1998, Network Optimization, section 7.1; Ahuja et al. 1993, section 9.7). Assigned at prices, tokens are optimal
for the loads they make, and shortest paths keep that so: the result is an optimum, whatever the prices were.
Letters: N tokens, E experts.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

COOLING, STAGES, STEPS = 0.25, 30, 6
"""The temperature falls by this factor, at most so often; steps at each temperature."""
NEAR, DONE = 0.5, 0.05
"""Loads so near to even, as a share: Newton's steps, not Sinkhorn's; enough at this temperature."""
TIES, GOLDEN = 1e-9, 0.6180339887498949
"""Equal tokens are told apart by so much of the scores' spread, by the fractions of multiples of the golden ratio."""
ROUNDING = 1e-12


def assign(scores_NE: np.ndarray) -> tuple[np.ndarray, float]:
    """The expert of each token, (N,) int64, and how good that is: 1 is the optimum, 0 an even load drawn at random.

    scores: float64; every expert gets N / E tokens, rounded down or up. The second number is a lower bound that the dual
    problem gives. The same scores give the same assignment; scores that are no numbers count as 0.
    """
    tokens, experts = scores_NE.shape
    scores_NE = np.nan_to_num(scores_NE, posinf=0.0, neginf=0.0)
    scores_NE = (scores_NE - scores_NE.mean()) / (scores_NE.std() or 1.0)
    scores_NE += TIES * np.modf(np.arange(scores_NE.size) * GOLDEN)[0].reshape(scores_NE.shape)
    few, more = divmod(tokens, experts)
    chosen = _at_prices(scores_NE, few)
    prices = _mend(scores_NE, chosen, few, few + bool(more))
    reached = scores_NE[np.arange(tokens), chosen].sum()
    bound = (scores_NE - prices).max(1).sum() + few * prices.sum() + np.sort(prices)[experts - more :].sum()
    chance = scores_NE.sum() / experts
    return chosen, min(1.0, float((reached - chance) / (bound - chance))) if bound > chance else 1.0


def _at_prices(scores_NE: np.ndarray, few: int) -> np.ndarray:
    """Each token's best expert after prices that make the load nearly even, (N,)."""
    tokens, experts = scores_NE.shape
    even, prices, temperature = tokens / experts, np.zeros(experts), 1.0
    chosen = scores_NE.argmax(1)
    for _ in range(STAGES):
        loads = np.bincount(chosen, minlength=experts)
        if np.maximum(loads - few - 1, 0).sum() + np.maximum(few - loads, 0).sum() <= experts:
            break
        for _ in range(STEPS):
            shares_NE = (scores_NE - prices) / temperature
            shares_NE -= shares_NE.max(1, keepdims=True)
            np.exp(shares_NE, out=shares_NE)
            shares_NE /= shares_NE.sum(1, keepdims=True)
            load = shares_NE.sum(0)
            if np.abs(load - even).max() < NEAR * even:
                prices += _newton(shares_NE, load, even) * temperature
            else:
                prices += temperature * np.log(np.maximum(load, 1e-300) / even)
            if np.abs(load - even).max() < DONE * even:
                break
        chosen = (scores_NE - prices).argmax(1)
        temperature *= COOLING
    return chosen


def _newton(shares_NE: np.ndarray, load: np.ndarray, even: float) -> np.ndarray:
    """By how much prices rise, (E,), in units of the temperature; all prices together are free."""
    experts = len(load)
    bend_EE = np.diag(load) - shares_NE.T @ shares_NE
    scale = bend_EE.trace() / experts + ROUNDING
    step = np.linalg.solve(bend_EE + scale * (1 / experts + 1e-6 * np.eye(experts)), load - even)
    return step * min(1.0, 8 / (np.abs(step).max() + ROUNDING))


def _mend(scores_NE: np.ndarray, chosen: np.ndarray, few: int, most: int) -> np.ndarray:
    """Move tokens, in `chosen`, until every expert has between `few` and `most`, at the least loss; then prices, (E,), at which
    every token has its best expert."""
    experts = scores_NE.shape[1]
    loads = np.bincount(chosen, minlength=experts)
    loss_EE, mover_EE = np.full((experts, experts), np.inf), np.zeros((experts, experts), dtype=np.int64)

    def refresh(expert: int) -> None:
        """What it costs to move a token from here to each other expert, and which token that is."""
        members = np.flatnonzero(chosen == expert)
        if len(members):
            losses = scores_NE[members, expert, None] - scores_NE[members]
            best = losses.argmin(0)
            loss_EE[expert], mover_EE[expert] = losses[best, np.arange(experts)], members[best]
        else:
            loss_EE[expert] = np.inf
        loss_EE[expert, expert] = 0.0

    for expert in range(experts):
        refresh(expert)
    while True:
        over, under = loads > most, loads < few
        start = over if over.any() else loads > few
        end = under if under.any() and not over.any() else loads < most
        if not start.any() or not end.any():
            break
        distance, before = _shortest(loss_EE, start)
        last = int(np.where(end, distance, np.inf).argmin())
        if not (over.any() or under.any()) and distance[last] >= -ROUNDING:
            break
        path = [last]
        while before[path[-1]] >= 0:
            path.append(int(before[path[-1]]))
        for to, origin in pairwise(path):
            chosen[mover_EE[origin, to]] = to
        loads[path[-1]] -= 1
        loads[last] += 1
        for expert in path:
            refresh(expert)
    return _prices(loss_EE, loads < most if most > few else np.arange(experts) == 0)


def _shortest(loss_EE: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least loss of a path from `start` to each expert, and the expert before it on that path, -1 at the beginning."""
    distance, before = np.where(start, 0.0, np.inf), np.full(len(loss_EE), -1)
    for _ in range(len(loss_EE)):
        ways = distance[:, None] + loss_EE
        best = ways.argmin(0)
        nearer = ways.min(0) < distance - ROUNDING
        if not nearer.any():
            break
        distance = np.where(nearer, ways.min(0), distance)
        before = np.where(nearer, best, before)
    return distance, before


def _prices(loss_EE: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Each expert's least loss to reach one that is `free` (its price is 0)."""
    prices = np.where(free, 0.0, np.inf)
    for _ in range(len(loss_EE)):
        nearer = (loss_EE + prices).min(1)
        if not (nearer < prices - ROUNDING).any():
            break
        prices = np.minimum(prices, nearer)
    return prices
