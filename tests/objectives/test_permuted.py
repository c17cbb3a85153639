"""Permutation LM: which tokens are asked for, in which order, given what."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from in_memory import FIRST, FakeTokens, piece_of, random_shards, row_of

from yanmo import models
from yanmo.batch import Order, Packed
from yanmo.errors import UserError
from yanmo.models.twostream import CONTEXT, NO_PLACE
from yanmo.objectives import Permuted, PermutedBatch
from yanmo.objectives.permuted import spans
from yanmo.recipe import Model, PermutedObjective, parse_recipe

torch.set_num_threads(1)
SPECIAL = (4, 3)                                          # <sep> <cls> after every text, nothing before it


def objective(**settings) -> Permuted:
    network = models.build(Model(family="xlnet", layers=2, width=32, heads=2), vocabulary=1000, length=64)
    tokens = FakeTokens(prefix=(), suffix=SPECIAL)
    return Permuted(network, tokens, PermutedObjective(**settings))  # type: ignore[arg-type]


def batches(learned: Permuted, length: int = 128, rows: int = 16, count: int = 6) -> list[PermutedBatch]:
    order = Order(random_shards(300, mean=40), length, learned, seed=0)
    return [learned.collate([order.row(n) for n in range(at, at + rows)], length) for at in range(0, rows * count, rows)]


def test_spans_have_the_papers_lengths_and_places() -> None:
    rng = np.random.default_rng(0)
    lengths: list[int] = []
    covered = np.zeros(601)
    for _ in range(800):
        starts, sizes = spans(601, 6, 5, rng)
        assert sizes.sum() in (100, 101)                  # 601 / 6, to the nearest whole numbers
        for start, size in zip(starts, sizes, strict=True):
            covered[np.arange(start, start + size) % 601] += 1
        lengths += sizes[:-1].tolist()                    # the last one has what was left over
    assert covered.sum() == pytest.approx(800 * 601 / 6, rel=2e-3)  # no token twice: nothing is lost to overlaps
    assert covered.max() <= 800
    shares = np.bincount(lengths, minlength=6)[1:] / len(lengths)
    chances = 1 / np.arange(1, 6)
    assert shares == pytest.approx(chances / chances.sum(), abs=0.01)
    # Every token has the same chance: five standard deviations of a share of 800 draws.
    assert np.abs(covered / 800 - 1 / 6).max() < 5 * np.sqrt(1 / 6 * 5 / 6 / 800)


@pytest.mark.parametrize(("tokens", "one_in", "longest"), [(0, 6, 5), (1, 6, 5), (3, 6, 5), (7, 1, 5), (12, 1, 1), (5, 2, 9)])
def test_spans_of_short_texts_have_their_share(tokens: int, one_in: int, longest: int) -> None:
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(2000):
        starts, sizes = spans(tokens, one_in, longest, rng)
        places = [(start + step) % tokens for start, size in zip(starts, sizes, strict=True) for step in range(size)]
        assert len(set(places)) == len(places)
        found += len(places)
    assert found / 2000 == pytest.approx(tokens / one_in, abs=0.05)


@pytest.mark.parametrize("one_in", [6, 3, 1])
def test_one_token_in_k_is_asked_for_and_special_tokens_never(one_in: int) -> None:
    asked = text = 0
    for batch in batches(objective(one_in=one_in)):
        tokens = batch.packed.tokens
        text += int((tokens >= FIRST).sum())
        asked += len(batch.answers)
        assert (batch.answers >= FIRST).all()
        assert batch.counts == {"permuted": len(batch.answers), "accuracy": len(batch.answers)}
        places = batch.factorisation.asked
        row = batch.picked // places.shape[1]
        assert torch.equal(tokens[row, places.flatten()[batch.picked]], batch.answers)
        assert (places.flatten()[batch.picked] != NO_PLACE).all()
        assert int((places != NO_PLACE).sum()) == len(batch.answers)
    assert asked / text == pytest.approx(1 / one_in, rel=0.01)


def test_a_target_sees_the_whole_text_but_what_comes_after_it_in_the_order() -> None:
    """Visible to each target: all tokens of its document that are not asked for, and of those that are, and the special ones, as
    many as stand before it in one order of the document; each number of these is as likely."""
    shares: list[float] = []
    for batch in batches(objective()):
        packed, order = batch.packed, batch.factorisation
        for row in range(len(packed.tokens)):
            asked = order.asked[row][order.asked[row] != NO_PLACE].tolist()
            for document in range(1, int(packed.documents[row].max()) + 1):
                inside = (packed.documents[row] == document).nonzero()[:, 0].tolist()
                ordered = [place for place in inside if place in asked or int(packed.tokens[row, place]) in SPECIAL]
                assert all(order.ranks[row, place] == CONTEXT for place in inside if place not in ordered)
                ranks = [int(order.ranks[row, place]) for place in ordered]
                assert len(set(ranks)) == len(ranks)
                assert min(ranks) >= 0
                for place in sorted(set(ordered) & set(asked)):
                    before = sum(int(order.ranks[row, other] < order.ranks[row, place]) for other in ordered)
                    shares.append((before + 0.5) / len(ordered))
    assert np.mean(shares) == pytest.approx(0.5, abs=0.02)
    assert np.var(shares) == pytest.approx(1 / 12, abs=0.01)


def test_the_order_is_a_function_of_the_row() -> None:
    learned = objective()
    first, second = (learned.collate([row_of(piece_of(np.arange(10, 40)), seed=seed) for seed in seeds], 40)
                     for seeds in ((1, 2), (2, 1)))
    assert torch.equal(first.factorisation.ranks, second.factorisation.ranks.flip(0))
    assert not torch.equal(first.factorisation.ranks[0], first.factorisation.ranks[1])


def test_the_loss_is_that_of_each_document_alone() -> None:
    learned = objective().eval()
    documents = [np.arange(10, 30), np.arange(50, 62), np.arange(200, 207)]
    row = row_of(*(piece_of(ids, document=n) for n, ids in enumerate(documents)))
    batch = learned.collate([row], 50)
    total = learned.losses(batch, "model")["permuted"].total.item()
    alone, order = 0.0, batch.factorisation
    bounds = [0, 22, 36, 45]
    for begin, end in pairwise(bounds):
        inside = order.asked[:, ((order.asked >= begin) & (order.asked < end))[0]]
        whole = batch.packed
        packed = Packed(whole.tokens[:, begin:end], whole.documents[:, begin:end], whole.positions[:, begin:end])
        factorisation = type(order)(order.ranks[:, begin:end], inside - begin)
        answers = batch.packed.tokens[0, inside[0]]
        counted = PermutedBatch(packed, factorisation, torch.arange(len(answers)), answers, {})
        alone += learned.losses(counted, "model")["permuted"].total.item() if len(answers) else 0.0
    assert alone == pytest.approx(total, rel=1e-5)


def test_memory_is_read_first_and_without_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    learned = objective(memory=24).eval()
    batch = learned.collate([row_of(piece_of(np.arange(10, 72)))], 64)
    assert batch.factorisation.ranks.shape == (1, 40)
    assert len(batch.answers) in (6, 7)                   # one in six of the 38 tokens of text among the last 40 places
    assert batch.tokens == 64
    read, forward = [], learned.network.forward

    def recorded(packed, factorisation=None, memory=None):
        read.append((packed.tokens.tolist()[0], torch.is_grad_enabled(), len(memory)))
        return forward(packed, factorisation, memory)

    monkeypatch.setattr(learned.network, "forward", recorded)
    loss = learned.losses(batch, "model")["permuted"].total.detach()
    row = batch.packed.tokens.tolist()[0]
    assert read == [(row[:24], False, 0), (row[24:], True, 24)]
    batch.packed.tokens[0, :24] = torch.arange(500, 524)
    assert abs(learned.losses(batch, "model")["permuted"].total.detach() - loss) > 1e-6  # what is remembered is used


@pytest.mark.parametrize("memory", [64, 100])
def test_a_memory_longer_than_the_row_is_refused_when_the_recipe_is_read(memory: int) -> None:
    tree = {"model": {"family": "xlnet"}, "objective": {"memory": memory}, "training": {"length": 64}}
    with pytest.raises(UserError, match=rf"objective.memory {memory} leaves nothing to learn from in rows of training.length 64"):
        parse_recipe(tree, "recipe")


def test_other_networks_cannot_learn_it() -> None:
    with pytest.raises(UserError, match="objective permuted does not fit family bert, an encoder: it is for xlnet"):
        parse_recipe({"model": {"family": "bert"}, "objective": {"kind": "permuted"}}, "recipe")
    with pytest.raises(UserError, match=r"evaluation.prompts does not fit family xlnet: it neither fills nor continues"):
        parse_recipe({"model": {"family": "xlnet"}, "evaluation": {"prompts": ["a"]}}, "recipe")
