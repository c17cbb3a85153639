"""Tokens shared out evenly to experts, K different ones for each, with the greatest total score: a transport problem.

Prices by Newton's method on a smoothed dual, the temperature falling (entropic transport: Cuturi 2013, arXiv:1306.0895; a pair
is taken once at most, so its share is a logistic function), then what is still too much somewhere is moved along shortest paths
between experts (successive shortest paths: Bertsekas 1998, Network Optimization, section 7.1; Ahuja et al. 1993, section 9.7).
Assigned at prices, tokens are optimal for the loads they make, and shortest paths keep that so: the result is an optimum,
whatever the prices were. Letters: N tokens, E experts, K experts of a token.
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
ALIKE = 8
"""No price tells equal tokens apart: so many for each expert are left to the shortest paths once the excess no longer falls."""
ROUNDING, FAR = 1e-12, 50.0
"""What counts as no difference; temperatures from the edge at which a pair is as good as taken."""


def assign(scores_NE: np.ndarray, top_k: int = 1) -> tuple[np.ndarray, float]:
    """Which experts each token has, (N, E) bool with K in each row, and how good that is: 1 is the optimum, 0 an even load drawn
    at random.

    scores: float64; every expert gets K * N / E tokens, rounded down or up. The second number is a lower bound that the dual
    problem gives. The same scores give the same assignment; scores that are no numbers count as 0.
    """
    tokens, experts = scores_NE.shape
    assert 1 <= top_k <= experts, "a token has each expert once at most"
    if top_k == experts:
        return np.ones((tokens, experts), dtype=bool), 1.0
    scores_NE = np.nan_to_num(scores_NE, posinf=0.0, neginf=0.0)
    scores_NE = (scores_NE - scores_NE.mean()) / (scores_NE.std() or 1.0)
    scores_NE += TIES * np.modf(np.arange(scores_NE.size) * GOLDEN)[0].reshape(scores_NE.shape)
    few, more = divmod(top_k * tokens, experts)
    taken_NE = _at_prices(scores_NE, top_k, few)
    prices = _mend(scores_NE, taken_NE, few, few + bool(more))
    reached = scores_NE[taken_NE].sum()
    left_NE = scores_NE - prices
    bound = left_NE[_best(left_NE, top_k)].sum() + few * prices.sum() + np.sort(prices)[experts - more :].sum()
    chance = top_k * scores_NE.sum() / experts
    return taken_NE, min(1.0, float((reached - chance) / (bound - chance))) if bound > chance else 1.0


def _best(scores_NE: np.ndarray, top_k: int) -> np.ndarray:
    """Each token's best experts, (N, E) bool."""
    taken_NE = np.zeros(scores_NE.shape, dtype=bool)
    np.put_along_axis(taken_NE, np.argpartition(scores_NE, -top_k, axis=1)[:, -top_k:], True, axis=1)
    return taken_NE


def _at_prices(scores_NE: np.ndarray, top_k: int, few: int) -> np.ndarray:
    """Each token's best experts after prices that make the load nearly even, (N, E) bool."""
    tokens, experts = scores_NE.shape
    scores_EN, even = np.ascontiguousarray(scores_NE.T), top_k * tokens / experts
    prices, temperature, before = np.zeros(experts), 1.0, tokens * top_k
    taken_NE = _best(scores_NE, top_k)
    for _ in range(STAGES):
        loads = taken_NE.sum(0)
        excess = np.maximum(loads - few - 1, 0).sum() + np.maximum(few - loads, 0).sum()
        if excess <= experts or before <= excess <= ALIKE * experts:
            break
        before = excess
        for _ in range(STEPS):
            shares_EN = _shares(scores_EN - prices[:, None], temperature, top_k)
            load = shares_EN.sum(1)
            if np.abs(load - even).max() < NEAR * even:
                prices += _newton(shares_EN, load, even) * temperature
            else:
                prices += temperature * np.log(np.maximum(load, 1e-300) / even)
            if np.abs(load - even).max() < DONE * even:
                break
        taken_NE = _best(scores_NE - prices, top_k)
        temperature *= COOLING
    return taken_NE


def _shares(shares_EN: np.ndarray, temperature: float, top_k: int) -> np.ndarray:
    """How much of each pair is taken, K for each token, in the place of the scores less the prices: the edge lies in the middle
    between a token's K-th best and the next."""
    sorted_NE = np.sort(shares_EN.T, axis=1)
    shares_EN -= (sorted_NE[:, -top_k] + sorted_NE[:, -top_k - 1]) / 2
    shares_EN /= -temperature
    np.clip(shares_EN, -FAR, FAR, out=shares_EN)
    np.exp(shares_EN, out=shares_EN)
    shares_EN += 1
    np.reciprocal(shares_EN, out=shares_EN)
    shares_EN *= top_k / shares_EN.sum(0)
    return shares_EN


def _newton(shares_EN: np.ndarray, load: np.ndarray, even: float) -> np.ndarray:
    """By how much prices rise, (E,), in units of the temperature; all prices together are free."""
    experts = len(load)
    bend_EN = np.abs(1 - shares_EN)
    bend_EN *= shares_EN
    bend_EE = np.diag(bend_EN.sum(1)) - bend_EN @ (bend_EN / (bend_EN.sum(0) + ROUNDING)).T
    scale = bend_EE.trace() / experts + ROUNDING
    step = np.linalg.solve(bend_EE + scale * (1 / experts + 1e-6 * np.eye(experts)), load - even)
    return step * min(1.0, 8 / (np.abs(step).max() + ROUNDING))


def _mend(scores_NE: np.ndarray, taken_NE: np.ndarray, few: int, most: int) -> np.ndarray:
    """Move tokens, in `taken_NE`, until every expert has between `few` and `most`, at the least loss; then prices, (E,), at which
    every token has its best experts."""
    experts = scores_NE.shape[1]
    loads = taken_NE.sum(0)
    open_NE = np.where(taken_NE, -np.inf, scores_NE)      # what a token can still take
    loss_EE, mover_EE = np.full((experts, experts), np.inf), np.zeros((experts, experts), dtype=np.int64)

    def refresh(expert: int) -> None:
        """What it costs to move a token from here to each other expert, and which token that is."""
        members = np.flatnonzero(taken_NE[:, expert])
        if len(members):
            losses = scores_NE[members, expert, None] - open_NE[members]
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
        changed = set(path)
        for to, origin in pairwise(path):
            mover = mover_EE[origin, to]
            taken_NE[mover, origin], taken_NE[mover, to] = False, True
            open_NE[mover, origin], open_NE[mover, to] = scores_NE[mover, origin], -np.inf
            changed.update(np.flatnonzero(taken_NE[mover]).tolist())
        loads[path[-1]] -= 1
        loads[last] += 1
        for expert in changed:
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
