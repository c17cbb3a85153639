"""The evidence lower bound: annealing by its formula, free bits by their definition, what is hidden, what is said."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from in_memory import SIZE, UNKNOWN, FakeTokens, piece_of

from yanmo import models
from yanmo.batch import Row
from yanmo.errors import UserError
from yanmo.objectives.latent import Elbo, kl_weight
from yanmo.recipe import ElboObjective, Model

TOKENS = FakeTokens()
TOKENS.unknown = UNKNOWN  # type: ignore[attr-defined]


def elbo(**section):
    torch.manual_seed(0)
    model = Model(family="vae", layers=1, width=16, heads=2, feedforward=32, latent=4)
    network = models.build(model, vocabulary=SIZE, length=32)
    with torch.no_grad():
        network.posterior.weight.add_(torch.randn_like(network.posterior.weight))
    return Elbo(network, TOKENS, ElboObjective(**section)).eval()


def batch_of(objective, *sizes, length=32):
    rng = np.random.default_rng(0)
    pieces = [piece_of(rng.integers(6, SIZE, size), document=number) for number, size in enumerate(sizes)]
    rows = [Row(tuple(pieces[:2]), rng, lambda rng: pieces[0]), Row(tuple(pieces[2:]), rng, lambda rng: pieces[0])]
    return objective.collate(rows, length)


def test_the_weight_rises_as_in_the_paper():
    """Fu et al. 2019, equations 6 and 7, at T = 100, M = 4, R = 0.5."""
    weights = [kl_weight(step, 100, cycles=4, rise=0.5) for step in range(100)]
    assert weights[0] == weights[25] == weights[75] == 0
    assert weights[5] == pytest.approx(0.4)
    assert weights[13:25] == [1.0] * 12
    assert weights[:25] == weights[50:75]


def test_one_cycle_is_linear_and_no_rise_is_none():
    assert [kl_weight(step, 10, 1, 1.0) for step in (0, 5, 9)] == pytest.approx([0, 0.5, 0.9])
    assert {kl_weight(step, 10, 4, 0.0) for step in range(10)} == {1.0}
    assert all(0 <= kl_weight(step, 7, 4, 0.5) <= 1 for step in range(7))


def test_the_weight_of_a_step_is_that_of_its_penalty():
    objective = elbo()
    batch = batch_of(objective, 5, 8, 6)
    objective.begin(5, 100)
    found = objective(batch)
    assert found["penalty"].weight == pytest.approx(0.4)
    assert found["kl"].weight == 0
    measured = objective.measure(batch)
    assert (measured["kl"].weight, measured["reconstruction"].weight) == (1.0, 1.0)
    assert "penalty" not in measured


def test_free_bits_cost_nothing_and_give_no_gradient():
    objective = elbo(free_bits=1.0)
    batch = batch_of(objective, 5, 8, 6)
    kl = objective.network.encode(batch.read).kl()
    assert (kl < math.log(2)).any(), "some are below"
    assert (kl > math.log(2)).any(), "some are above"
    penalty = objective(batch)["penalty"].total
    assert penalty.item() == pytest.approx(kl.clamp(min=math.log(2)).sum().item(), rel=1e-5)
    free = elbo(free_bits=1e6)
    free(batch)["penalty"].total.backward()
    assert not free.network.posterior.weight.grad.any()


def test_what_is_asked_is_every_word_and_the_end():
    objective = elbo()
    batch = batch_of(objective, 5, 8, 6)
    assert batch.counts["reconstruction"] == len(batch.answers) == 5 + 8 + 6 + 3
    assert batch.counts["kl_per_text"] == 3
    read, written = batch.read.tokens.flatten(), batch.written.tokens.flatten()
    assert torch.equal(read[batch.places], batch.answers)
    assert torch.equal(written[batch.places], read[batch.places - 1])


def test_a_text_that_was_cut_does_not_end():
    objective = elbo()
    cut = replace(piece_of([7, 8, 9]), ends=False)
    row = Row((cut,), np.random.default_rng(0), lambda rng: cut)
    assert objective.collate([row], 32).answers.tolist() == [7, 8, 9]


def test_losses_of_packed_texts_are_those_of_texts_apart():
    objective = elbo(samples=1)
    pieces = [piece_of([7, 8, 9, 10]), piece_of([20, 21]), piece_of([30, 31, 32])]
    rng = np.random.default_rng(0)
    together = objective.collate([Row(tuple(pieces), rng, lambda rng: pieces[0])], 32)
    apart = objective.collate([Row((piece,), rng, lambda rng: pieces[0]) for piece in pieces], 32)
    assert together.counts == apart.counts
    torch.manual_seed(1)
    mine = objective(together)
    torch.manual_seed(1)
    alone = objective(apart)
    for name in mine:
        assert mine[name].total.item() == pytest.approx(alone[name].total.item(), rel=1e-5), name


def test_words_are_hidden_at_the_rate_and_only_in_training():
    objective = elbo(word_dropout=0.3)
    batch = batch_of(objective, *[13] * 4, length=64)
    torch.manual_seed(0)
    hidden = torch.stack([objective._with_words_dropped(batch).tokens for _ in range(200)]) == UNKNOWN
    may = batch.droppable & (batch.written.documents > 0)
    assert hidden[:, may].float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert not hidden[:, ~batch.droppable].any()
    assert not (batch.written.tokens[may] == TOKENS.prefix[0]).any(), "the beginning is never hidden"
    torch.manual_seed(2)
    first = objective(batch)["reconstruction"].total
    torch.manual_seed(2)
    objective.train()
    assert objective(batch)["reconstruction"].total != first


def test_nothing_to_hide_words_with_is_refused():
    tokens = FakeTokens(mask=None)
    tokens.unknown = None  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="neither an unknown token nor a mask"):
        Elbo(elbo().network, tokens, ElboObjective(word_dropout=0.2))


def test_more_samples_tighten_the_bound():
    objective = elbo()
    batch = batch_of(objective, 5, 8, 6)
    torch.manual_seed(0)
    few = torch.stack([objective.bound(batch, 1) for _ in range(200)]).mean()
    many = torch.stack([objective.bound(batch, 20) for _ in range(40)]).mean()
    assert many > few
    measured = objective.measure(batch)
    elbo_of = -(measured["reconstruction"].total + measured["kl"].total)
    assert few.item() * 3 == pytest.approx(elbo_of.item(), rel=0.1), "with one sample it is the ELBO, on average"


def test_what_is_observed_is_where_texts_were_measured():
    objective = elbo()
    batch = batch_of(objective, 5, 8, 6)
    reads = []
    objective.network.encoder.register_forward_hook(lambda *_: reads.append(1))
    with torch.no_grad():
        losses, observed = objective.observe(batch)
        assert len(reads) == 2, "once for the bound and once for the tighter one"
        posterior = objective.network.encode(batch.read)
    torch.testing.assert_close(observed, torch.cat((posterior.mean, posterior.log_variance), -1))
    torch.testing.assert_close(losses["kl_per_text"].total, posterior.kl().sum())


MEANS = {"bound": 3.0, "kl_per_text": 2.0}


def test_figures_of_a_validation():
    objective = elbo()
    observed = torch.cat((torch.randn(500, 4) * torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.zeros(500, 4)), 1)
    figures, said = objective.summarise(observed, MEANS)
    assert figures["active_units"] == 2
    assert figures["perplexity"] == pytest.approx(math.exp(3))
    assert figures["mutual_information"] == pytest.approx(math.log(2), abs=0.15)
    assert said == []


def test_a_collapse_is_said_with_what_to_change():
    objective = elbo(free_bits=0.0, rise=0.0)
    observed = torch.zeros(100, 8)
    objective.begin(10, 100)
    assert objective.summarise(observed, MEANS)[1] == [], "not before the latent had its time"
    objective.begin(50, 100)
    (sentence,) = objective.summarise(observed, MEANS | {"kl_per_text": 0.01})[1]
    assert sentence.startswith("POSTERIOR COLLAPSE: 0 of 4 latent units are active and the KL is 0.01 nats a text")
    for way in ("objective.free_bits", "objective.rise=0.5", "objective.word_dropout"):
        assert way in sentence
