"""The cross entropy's kernel against torch, on the same scores in bf16."""

import sys

import pytest
import torch

import yanmo.objectives.cross_entropy  # noqa: F401
from yanmo.native import library, state

ours = sys.modules["yanmo.objectives.cross_entropy"]
pytestmark = pytest.mark.skipif(library("softmax") is None, reason=f"kernels {state()}")


def totals_and_gradient(scores, answers, threads=1, learns=True, smoothing=None):
    before, scores = torch.get_num_threads(), scores.clone()
    torch.set_num_threads(threads)
    try:
        return ours._to_gradient(scores, answers, torch.float32, learns, smoothing), scores
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("rows", [0, 1, 37])
@pytest.mark.parametrize("width", [1, 7, 16, 100, 4099])
def test_equal_to_torch(rows, width):
    torch.manual_seed(0)
    scores, answers = (3 * torch.randn(rows, width)).bfloat16(), torch.randint(width, (rows,))
    answers[: rows // 2] = scores[: rows // 2].argmax(-1)
    totals, gradient = totals_and_gradient(scores, answers)
    known = scores.clone()
    counted = ours._to_gradient_in_torch(known, answers, torch.float32, True)
    exact = torch.log_softmax(scores.double(), -1)
    torch.testing.assert_close(totals[0], -exact.gather(1, answers[:, None]).sum(), rtol=1e-6, atol=1e-6)
    assert totals[1] == counted[1]
    wanted = exact.exp()
    wanted[range(rows), answers] -= 1
    torch.testing.assert_close(gradient.double(), wanted, rtol=0.004, atol=1e-6)
    assert (gradient - wanted).abs().sum() <= 1.001 * (known - wanted).abs().sum() + 1e-6 * rows


@pytest.mark.parametrize(("width", "tokens"), [(7, 7), (16, 16), (100, 64), (100, 70), (128, 127), (4099, 4001)])
def test_smoothed_over_the_first_columns(width, tokens):
    torch.manual_seed(0)
    scores, answers = (3 * torch.randn(23, width)).bfloat16(), torch.randint(tokens, (23,))
    smoothing = ours.Smoothing(0.1, tokens)
    totals, gradient = totals_and_gradient(scores, answers, smoothing=smoothing)
    known = scores.clone()
    counted = ours._to_gradient_in_torch(known, answers, torch.float32, True, smoothing)
    exact = torch.log_softmax(scores.double(), -1)
    loss = -0.9 * exact.gather(1, answers[:, None]).sum() - 0.1 * exact[:, :tokens].mean(-1).sum()
    torch.testing.assert_close(totals[0], loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(counted[0].double(), loss, rtol=1e-5, atol=1e-5)
    assert totals[1] == counted[1]
    wanted = exact.exp()
    wanted[:, :tokens] -= 0.1 / tokens
    wanted[range(23), answers] -= 0.9
    torch.testing.assert_close(gradient.double(), wanted, rtol=0.004, atol=1e-6)
    assert (gradient - wanted).abs().sum() <= 1.001 * (known - wanted).abs().sum() + 1e-5
    without, untouched = totals_and_gradient(scores, answers, learns=False, smoothing=smoothing)
    assert torch.equal(without, totals)
    assert torch.equal(untouched, scores)
    with pytest.raises(IndexError, match=f"one of the {tokens} columns"):
        totals_and_gradient(scores, torch.full((23,), tokens), smoothing=smoothing)


def test_the_first_of_equals_counts_as_the_answer():
    scores = torch.zeros(4, 50).bfloat16()
    scores[:, 20] = scores[:, 30] = 2
    assert totals_and_gradient(scores, torch.tensor([20, 30, 20, 0]))[0][1] == 2


def test_what_is_no_number_shows():
    for bad in (torch.nan, torch.inf):
        scores = torch.randn(3, 90).bfloat16()
        scores[1, 85] = bad
        totals, gradient = totals_and_gradient(scores, torch.tensor([3, 4, 5]))
        assert totals[0].isnan()
        assert gradient.isnan().any(1).tolist() == [False, True, False]
    scores = torch.randn(1, 90).bfloat16()
    scores[0, :40] = -torch.inf
    totals, gradient = totals_and_gradient(scores, torch.tensor([70]))
    assert totals[0].isfinite()
    assert (gradient[0, :40] == 0).all()


def test_scores_far_apart():
    scores = torch.tensor([[-3e38, 0.0, 3e4, 3e38], [1e4, -1e4, 0.0, 1e4]]).bfloat16()
    totals, gradient = totals_and_gradient(scores, torch.tensor([3, 0]))
    assert totals[0].item() == pytest.approx(0.693147, rel=1e-5)
    assert gradient.tolist() == [[0, 0, 0, 0], [-0.5, 0, 0, 0.5]]


def test_threads_and_learning_change_nothing():
    scores, answers = torch.randn(101, 333).bfloat16(), torch.randint(333, (101,))
    totals, gradient = totals_and_gradient(scores, answers)
    other, same = totals_and_gradient(scores, answers, threads=2)
    assert torch.equal(totals, other)
    assert torch.equal(gradient, same)
    without, untouched = totals_and_gradient(scores, answers, learns=False)
    assert torch.equal(totals, without)
    assert torch.equal(scores, untouched)


def test_an_answer_outside_is_refused():
    for answer in (-1, 50):
        with pytest.raises(IndexError, match="one of the 50 columns"):
            totals_and_gradient(torch.zeros(1, 50).bfloat16(), torch.tensor([answer]))
