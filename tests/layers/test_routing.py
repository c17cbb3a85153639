"""Routers against their definitions, and the balanced assignment against every assignment that there is."""

import itertools
import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from yanmo.errors import UserError
from yanmo.layers import Experts, ExpertsConfig, FeedForward, FeedForwardConfig, View
from yanmo.layers.assignment import assign
from yanmo.layers.routing import balance_loss, balanced, expert_choice, top_k

torch.set_num_threads(1)


def scores_of(kind: str, tokens: int, experts: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(tokens, experts))
    return {
        "plain": lambda: scores,
        "one loved": lambda: 0.3 * scores + 5 * rng.normal(size=experts),
        "ties": lambda: scores.round(),
        "three kinds": lambda: scores[rng.integers(0, 3, size=tokens)],
        "near ties": lambda: scores[rng.integers(0, 3, size=tokens)] + 1e-6 * scores,
        "two directions": lambda: 100 * rng.normal(size=(tokens, 2)) @ rng.normal(size=(2, experts)),
        "all equal": lambda: np.full_like(scores, 0.5),
    }[kind]()


KINDS = ("plain", "one loved", "ties", "three kinds", "near ties", "two directions", "all equal")


def is_even(taken: np.ndarray, top_k: int) -> bool:
    """Whether every token has K experts, each once, and no expert more than one token more than another."""
    loads = taken.sum(0)
    return bool((taken.sum(1) == top_k).all()) and loads.max() - loads.min() <= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("tokens", "experts", "top_k"),
    [(6, 2, 1), (6, 3, 1), (7, 3, 1), (5, 4, 1), (8, 3, 1), (6, 3, 2), (7, 3, 2), (5, 4, 2), (6, 4, 3), (4, 5, 2), (3, 6, 3)],
)
def test_no_even_assignment_is_worth_more(kind: str, tokens: int, experts: int, top_k: int) -> None:
    """Against every way of giving each token K different experts."""
    sets = np.array([np.isin(np.arange(experts), chosen) for chosen in itertools.combinations(range(experts), top_k)])
    every = sets[list(itertools.product(range(len(sets)), repeat=tokens))]
    loads = every.sum(1)
    even = every[loads.max(1) - loads.min(1) <= 1].reshape(-1, tokens * experts).astype(float)
    for seed in range(5):
        scores = scores_of(kind, tokens, experts, seed)
        taken, share = assign(scores, top_k)
        assert is_even(taken, top_k)
        assert scores[taken].sum() == pytest.approx((even @ scores.flatten()).max(), abs=1e-6)
        assert 0.999 <= share <= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("tokens", "experts"), [(96, 8), (93, 8), (200, 3), (67, 32)])
def test_the_assignment_is_scipys(kind: str, tokens: int, experts: int) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    scores = scores_of(kind, tokens, experts, 1)
    few, more = divmod(tokens, experts)
    seats = np.repeat(scores, few, axis=1) + (1e5 if more else 0)   # these must be taken; of the others each expert has one
    seats = np.concatenate([seats, scores], axis=1) if more else seats
    best = seats[optimize.linear_sum_assignment(seats, maximize=True)].sum() - (1e5 * few * experts if more else 0)
    check_assignment(scores, 1, best)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("tokens", "experts", "top_k"), [(96, 8, 2), (93, 8, 3), (200, 3, 2), (67, 32, 4), (40, 5, 4), (20, 64, 2)]
)
def test_several_experts_of_a_token_are_scipys_linear_programme(kind: str, tokens: int, experts: int, top_k: int) -> None:
    """Shares of pairs between 0 and 1, K a token, an even load: its best corner is whole, the matrix being totally unimodular."""
    optimize, sparse = pytest.importorskip("scipy.optimize"), pytest.importorskip("scipy.sparse")
    scores = scores_of(kind, tokens, experts, 1)
    of_tokens = sparse.kron(sparse.eye(tokens), np.ones((1, experts)))
    of_experts = sparse.kron(np.ones((1, tokens)), sparse.eye(experts))
    few, more = divmod(top_k * tokens, experts)
    limits = np.concatenate([np.full(experts, few + bool(more)), np.full(experts, -few)])
    found = optimize.linprog(
        -scores.flatten(), sparse.vstack([of_experts, -of_experts]), limits, of_tokens, np.full(tokens, top_k), bounds=(0, 1)
    )
    assert found.success
    check_assignment(scores, top_k, -found.fun)


def check_assignment(scores: np.ndarray, top_k: int, best: float) -> None:
    """That it is even and as good as the best, and says so."""
    taken, share = assign(scores, top_k)
    by_chance = top_k * scores.mean(1).sum()
    assert is_even(taken, top_k)
    reached = (scores[taken].sum() - by_chance) / (best - by_chance) if best - by_chance > 1e-6 else 1
    assert reached >= 0.99999
    assert share == pytest.approx(reached, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("experts", "top_k"), [(8, 1), (16, 2)])
def test_many_tokens_are_assigned_evenly_and_always_alike(kind: str, experts: int, top_k: int) -> None:
    scores = scores_of(kind, 2048, experts, 2)
    taken, share = assign(scores, top_k)
    assert taken.sum(0).tolist() == [256] * experts
    assert is_even(taken, top_k)
    assert share >= 0.99999
    assert (assign(scores, top_k)[0] == taken).all()


def test_what_is_no_number_is_assigned_as_well() -> None:
    scores = scores_of("plain", 40, 4, 0)
    scores[3, 1], scores[5] = np.inf, np.nan
    for number in (1, 3, 4):
        assert is_even(assign(scores, number)[0], number)
        assert is_even(assign(np.full((40, 4), np.nan), number)[0], number)


@pytest.mark.parametrize(("number", "top_k"), [(8, 1), (16, 2)])
def test_assigning_costs_less_than_the_experts_products(number: int, top_k: int) -> None:
    """2,048 tokens to experts of width 256 that have 704 inside for each token, on one core, processor time."""

    def seconds(act) -> float:
        times = []
        for _ in range(5):
            start = time.process_time()
            act()
            times.append(time.process_time() - start)
        return min(times)

    torch.manual_seed(0)
    scores = torch.nn.functional.linear(torch.randn(2048, 256), torch.randn(number, 256) * 0.02)
    brick, x = FeedForward(256, FeedForwardConfig(704, "silu", gated=True, bias=False)), torch.randn(2048, 256)
    assert seconds(lambda: assign(scores.double().numpy(), top_k)) < seconds(lambda: brick(x).sum().backward())


NO_DOCUMENTS = torch.zeros(0)


def random_scores(tokens: int, experts: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed))


def as_matrix(routes, tokens: int, experts: int) -> torch.Tensor:
    """The gate of every token and expert, 0 where they do not meet."""
    gates = torch.zeros(tokens, experts)
    expert = torch.arange(experts).repeat_interleave(torch.tensor(routes.counts))
    assert len(expert) == len(routes.tokens) == len(routes.gates)
    assert torch.unique(torch.stack([routes.tokens, expert]), dim=1).shape[1] == len(expert), "no pair twice"
    gates[routes.tokens, expert] = routes.gates.detach()
    return gates


@pytest.mark.parametrize("normed", [True, False])
def test_a_token_has_its_best_experts(normed: bool) -> None:
    scores = random_scores(30, 5)
    chances = scores.softmax(-1)
    expected = torch.zeros(30, 5)
    for token in range(30):
        best = sorted(range(5), key=lambda expert: -scores[token, expert])[:2]
        whole = sum(float(chances[token, expert]) for expert in best) if normed else 1.0
        for expert in best:
            expected[token, expert] = chances[token, expert] / whole
    routes = top_k(scores, NO_DOCUMENTS, ExpertsConfig(5, top_k=2, normed=normed), training=True)
    torch.testing.assert_close(as_matrix(routes, 30, 5), expected)
    assert routes.dropped == 0


def test_what_comes_too_late_is_dropped_and_only_in_training() -> None:
    scores, config = random_scores(30, 5) + torch.tensor([2.0, 0, 0, 0, 0]), ExpertsConfig(5, top_k=2, capacity=1.25)
    room, taken, kept = math.ceil(1.25 * 30 * 2 / 5), [0] * 5, set()
    for choice in range(2):
        for token in range(30):
            expert = int(scores[token].argsort(descending=True)[choice])
            if taken[expert] < room:
                taken[expert] += 1
                kept.add((token, expert))
    routes = top_k(scores, NO_DOCUMENTS, config, training=True)
    assert {(int(t), int(e)) for t, e in as_matrix(routes, 30, 5).nonzero()} == kept
    assert routes.dropped == pytest.approx(1 - len(kept) / 60)
    assert routes.dropped > 0
    assert routes.load == pytest.approx(room * 5 / len(kept))
    everything = top_k(scores, NO_DOCUMENTS, config, training=False)
    assert everything.dropped == 0
    assert torch.equal(everything.shares, routes.shares), "the loss sees what was asked for, not what was granted"


def test_an_expert_has_its_best_tokens_of_each_document() -> None:
    documents = torch.tensor([7] * 10 + [3] * 5 + [9] * 1)
    scores, config = random_scores(16, 4), ExpertsConfig(4, "expert-choice", capacity=1.5)
    chances, expected = scores.softmax(-1), torch.zeros(16, 4)
    for document in (7, 3, 9):
        places = (documents == document).nonzero()[:, 0].tolist()
        for expert in range(4):
            for token in sorted(places, key=lambda token: -chances[token, expert])[: math.ceil(1.5 * len(places) / 4)]:
                expected[token, expert] = chances[token, expert]
    routes = expert_choice(scores, documents, config, training=True)
    torch.testing.assert_close(as_matrix(routes, 16, 4), expected)
    assert routes.load == 1
    assert routes.dropped == pytest.approx(float((expected.sum(1) == 0).float().mean()))
    alone = expert_choice(scores[10:15], documents[10:15], config, training=False)
    torch.testing.assert_close(as_matrix(alone, 5, 4), expected[10:15])


def test_balanced_shares_out_in_training_and_is_greedy_afterwards() -> None:
    scores = random_scores(41, 4) + torch.tensor([3.0, 0, 0, 0])
    routes = balanced(scores, NO_DOCUMENTS, ExpertsConfig(4, "balanced"), training=True)
    assert sorted(routes.counts) == [10, 10, 10, 11]
    assert routes.dropped == 0
    assert routes.optimum is not None
    assert routes.optimum >= 0.999
    greedy = balanced(scores, NO_DOCUMENTS, ExpertsConfig(4, "balanced"), training=False)
    best = scores.argmax(1)
    expected = torch.zeros(41, 4)
    expected[torch.arange(41), best] = scores[torch.arange(41), best].sigmoid()
    torch.testing.assert_close(as_matrix(greedy, 41, 4), expected)
    assert greedy.load == pytest.approx(4 * torch.bincount(best).max().item() / 41)


def test_balanced_gives_a_token_several_experts_and_its_best_ones_afterwards() -> None:
    scores = random_scores(42, 6) + torch.tensor([3.0, 0, 0, 0, 0, 0])
    config = ExpertsConfig(6, "balanced", top_k=3)
    routes = balanced(scores, NO_DOCUMENTS, config, training=True)
    assert routes.counts == [21] * 6
    assert (routes.load, routes.dropped, routes.optimum) == (1, 0, pytest.approx(1, abs=1e-6))
    met = as_matrix(routes, 42, 6)
    taken = torch.from_numpy(assign(scores.double().numpy(), 3)[0])
    chances = scores.softmax(-1)
    torch.testing.assert_close(met, chances * taken / (chances * taken).sum(-1, keepdim=True))
    greedy = balanced(scores, NO_DOCUMENTS, config, training=False)
    picked = top_k(scores, NO_DOCUMENTS, ExpertsConfig(6, top_k=3), training=False)
    torch.testing.assert_close(as_matrix(greedy, 42, 6), as_matrix(picked, 42, 6))
    assert greedy.load > 1
    found = balance_loss([routes], pooled=False)
    assert found is not None
    torch.testing.assert_close(found, balance_loss([picked], pooled=False))   # of what tokens would pick, not of what they get
    assert balance_loss([balanced(scores, NO_DOCUMENTS, replace(config, balance=0.0), training=True)], False) is None


def test_fewer_tokens_than_experts_cannot_be_shared_out() -> None:
    with pytest.raises(UserError, match="a micro-batch of 3 tokens cannot be shared out to 4 experts"):
        balanced(random_scores(3, 4), NO_DOCUMENTS, ExpertsConfig(4, "balanced"), training=True)
    assert sum(balanced(random_scores(3, 4), NO_DOCUMENTS, ExpertsConfig(4, "balanced"), training=False).counts) == 3


def test_the_balance_loss_in_closed_form() -> None:
    """An even load costs K, one expert for all E; between blocks it is a mean unless it is of all blocks together."""
    config = ExpertsConfig(4, top_k=1)
    even = top_k(20 * torch.eye(4).repeat(5, 1), NO_DOCUMENTS, config, training=True)
    one, other = (top_k(20 * torch.eye(4)[[expert] * 8], NO_DOCUMENTS, config, training=True) for expert in (0, 1))
    assert float(balance_loss([even], pooled=False)) == pytest.approx(1, abs=1e-6)
    assert float(balance_loss([one], pooled=False)) == pytest.approx(4, abs=1e-6)
    assert float(balance_loss([one, other], pooled=False)) == pytest.approx(4, abs=1e-6)
    assert float(balance_loss([one, other], pooled=True)) == pytest.approx(2, abs=1e-6)
    assert balance_loss([balanced(random_scores(8, 4), NO_DOCUMENTS, ExpertsConfig(4, "balanced"), True)], False) is None


def brick(router: str, **settings) -> Experts:
    torch.manual_seed(1)
    made = Experts(12, FeedForwardConfig(20, "gelu", experts=ExpertsConfig(4, router, **settings)))
    for parameter in made.parameters():
        nn.init.normal_(parameter, 0.0, 0.5)
    return made


@pytest.mark.parametrize(
    ("router", "settings"),
    [("top-k", {"top_k": 2}), ("top-k", {"top_k": 1, "normed": False, "capacity": 0.8}), ("balanced", {}),
     ("balanced", {"top_k": 3}), ("expert-choice", {"capacity": 1.5})],
)  # fmt: skip
def test_a_mixture_is_the_sum_of_its_experts_by_their_gates(router: str, settings: dict) -> None:
    """Values and gradients against the same routes written out with every token through every expert; padding comes out 0."""
    mixture = brick(router, **settings)
    x = torch.randn(2, 9, 12, generator=torch.Generator().manual_seed(2), requires_grad=True)
    documents = torch.tensor([[1] * 5 + [2] * 4, [1] * 6 + [0] * 3])
    out = mixture(x, View(documents=documents))
    routes = mixture.routes
    assert routes is not None
    real = documents.flatten() > 0
    assert out.flatten(0, 1)[~real].eq(0).all()
    assert real[routes.tokens].all()
    loss = (out**3).sum()
    parameters = [x, *mixture.parameters()]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)

    flat = x.flatten(0, 1)
    scores = flat @ mixture.router.weight.t()
    used = as_matrix(routes, 18, 4) > 0
    several = settings.get("top_k", 1) > 1
    gates = scores.sigmoid() if router == "balanced" and not several else scores.softmax(-1)
    gates = gates * used
    if several:
        gates = gates / gates.sum(-1, keepdim=True).where(real[:, None], torch.ones(()))
    every = torch.stack([expert(flat) for expert in mixture.experts], dim=1)
    explicit = (gates[:, :, None] * every).sum(1).view_as(x)
    torch.testing.assert_close(out, explicit)
    expected = torch.autograd.grad((explicit**3).sum(), parameters, allow_unused=True)
    for ours, theirs in zip(found, expected, strict=True):
        none = torch.zeros(())
        torch.testing.assert_close(none if ours is None else ours, none if theirs is None else theirs, atol=1e-5, rtol=1e-4)


def test_experts_do_not_choose_among_later_tokens() -> None:
    mixture = brick("expert-choice", capacity=1.0)
    with pytest.raises(UserError, match="expert-choice lets earlier tokens know later ones"):
        mixture(torch.randn(1, 6, 12), View(causal=True))


def test_scores_are_float32_in_half_precision() -> None:
    mixture = brick("balanced").bfloat16()
    x = torch.randn(4, 64, 12, generator=torch.Generator().manual_seed(2)).bfloat16()
    out = mixture(x, View())
    assert out.dtype == torch.bfloat16
    assert mixture.routes is not None
    assert mixture.routes.gates.dtype == torch.float32
    assert mixture.routes.counts == [64] * 4
    plain = replace(mixture.config, router="top-k", top_k=1, normed=False)
    assert plain.met == 1
