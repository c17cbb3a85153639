"""The chunked cross entropy against torch's own."""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from yanmo.objectives.cross_entropy import Smoothing, cross_entropy

CASES = [(0, True), (1, True), (37, True), (37, False)]


class Head(nn.Module):
    def __init__(self, vocabulary=50, width=8, bias=True, dtype=torch.float32):
        super().__init__()
        self.dense = nn.Linear(width, width, dtype=dtype)
        self.weight = nn.Parameter(torch.randn(vocabulary, width, dtype=dtype))
        self.bias = nn.Parameter(torch.randn(vocabulary, dtype=dtype)) if bias else None

    def features(self, hidden):
        return self.dense(hidden)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    torch.manual_seed(0)
    module = sys.modules["yanmo.objectives.cross_entropy"]
    monkeypatch.setattr(module, "CHUNK", 16)
    monkeypatch.setattr(module, "TILE_BYTES", 50 * 4 * 5)


def gradients(head, hidden, answers, loss):
    inputs = [hidden, *head.parameters()]
    return loss, torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize(("places", "bias"), CASES)
def test_equal_to_torch(places, bias):
    head = Head(bias=bias)
    hidden, answers = torch.randn(places, 8, requires_grad=True), torch.randint(50, (places,))
    total, correct = cross_entropy(head, hidden, answers)
    scores = F.linear(head.features(hidden), head.weight, head.bias)
    wanted = F.cross_entropy(scores, answers, reduction="sum")
    torch.testing.assert_close(total, wanted, rtol=1e-6, atol=1e-6)
    assert correct == (scores.argmax(-1) == answers).sum()
    found = gradients(head, hidden, answers, total * 0.3)[1]
    for one, other in zip(found, gradients(head, hidden, answers, wanted * 0.3)[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-6)


def test_gradcheck():
    head = Head(dtype=torch.float64, vocabulary=7, width=3)
    hidden, answers = torch.randn(18, 3, dtype=torch.float64, requires_grad=True), torch.randint(7, (18,))

    def total(hidden, weight, bias):
        head.weight, head.bias = nn.Parameter(weight), nn.Parameter(bias)
        del head._parameters["weight"], head._parameters["bias"]
        head.weight, head.bias = weight, bias
        return cross_entropy(head, hidden, answers)[0]

    assert torch.autograd.gradcheck(total, (hidden, head.weight, head.bias))


def test_a_graph_that_is_kept_gives_the_same_twice():
    head = Head()
    hidden, answers = torch.randn(37, 8, requires_grad=True), torch.randint(50, (37,))
    total = cross_entropy(head, hidden, answers)[0] * 0.3
    first = torch.autograd.grad(total, [hidden, *head.parameters()], retain_graph=True)
    second = torch.autograd.grad(total, [hidden, *head.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_tied_weights_get_both_gradients():
    head = Head()
    ids, answers = torch.randint(50, (30,)), torch.randint(50, (30,))

    def weight_gradient(loss_of):
        head.zero_grad()
        loss_of(F.embedding(ids, head.weight)).backward()
        return head.weight.grad.clone()

    ours = weight_gradient(lambda hidden: cross_entropy(head, hidden, answers)[0])
    wanted = weight_gradient(
        lambda hidden: F.cross_entropy(F.linear(head.features(hidden), head.weight, head.bias), answers, reduction="sum")
    )
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)


def test_extreme_scores_stay_finite():
    head = Head()
    with torch.no_grad():
        head.weight.mul_(1e3)
    total, _ = cross_entropy(head, torch.randn(10, 8, requires_grad=True), torch.randint(50, (10,)))
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(head.weight.grad).all()


def test_bf16_is_as_near_as_bf16_scores_allow():
    head = Head(dtype=torch.bfloat16)
    hidden, answers = torch.randn(37, 8).bfloat16().requires_grad_(), torch.randint(50, (37,))
    total, _ = cross_entropy(head, hidden, answers)
    wanted = F.cross_entropy(F.linear(head.features(hidden), head.weight, head.bias).float(), answers, reduction="sum")
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, wanted, rtol=1e-5, atol=1e-5)
    found, known = gradients(head, hidden, answers, total)[1], gradients(head, hidden, answers, wanted)[1]
    for one, other in zip(found, known, strict=True):
        assert (one - other).norm() < 0.02 * other.norm()


@pytest.mark.parametrize("share", [0.1, 0.7])
@pytest.mark.parametrize("bias", [True, False])
def test_smoothing_is_torchs(share, bias):
    head = Head(bias=bias)
    hidden, answers = torch.randn(37, 8, requires_grad=True), torch.randint(50, (37,))
    total, correct = cross_entropy(head, hidden, answers, Smoothing(share, 50))
    scores = F.linear(head.features(hidden), head.weight, head.bias)
    wanted = F.cross_entropy(scores, answers, reduction="sum", label_smoothing=share)
    torch.testing.assert_close(total, wanted, rtol=1e-6, atol=1e-6)
    assert correct == (scores.argmax(-1) == answers).sum()
    found = gradients(head, hidden, answers, total * 0.3)[1]
    for one, other in zip(found, gradients(head, hidden, answers, wanted * 0.3)[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-6)


def test_columns_that_only_pad_the_vocabulary_are_given_nothing():
    head = Head()
    with torch.no_grad():
        head.bias[43:] = -1e4
    hidden, answers = torch.randn(37, 8, requires_grad=True), torch.randint(43, (37,))
    total, _ = cross_entropy(head, hidden, answers, Smoothing(0.1, 43))
    scores = F.linear(head.features(hidden), head.weight, head.bias)[:, :43]
    wanted = F.cross_entropy(scores, answers, reduction="sum", label_smoothing=0.1)
    torch.testing.assert_close(total, wanted, rtol=1e-6, atol=1e-6)
    found, known = gradients(head, hidden, answers, total)[1], gradients(head, hidden, answers, wanted)[1]
    for one, other in zip(found, known, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode):
    head = Head()
    hidden, answers = torch.randn(37, 8), torch.randint(50, (37,))
    known = cross_entropy(head, hidden, answers)[0].item()
    with mode():
        total, _ = cross_entropy(head, hidden, answers)
    assert not total.requires_grad
    assert total.item() == pytest.approx(known, rel=1e-6)
