"""The CRF: partition, gradients, best sequences and marginals, against every sequence written out."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from yanmo.labelled.tags import TagSet, faults
from yanmo.tasks.crf import CRF

TAGS = TagSet.named(["O", "B-A", "I-A", "B-B", "I-B"])
LENGTHS = [3, 1, 4, 2, 4, 3]
MANY = len(TAGS.names)


def random_crf(legal: bool, tags: TagSet = TAGS, seed: int = 0) -> CRF:
    torch.manual_seed(seed)
    crf = CRF(tags, legal)
    for parameter in crf.parameters():
        torch.nn.init.normal_(parameter)
    return crf.double()


def drawn(seed: int = 1) -> tuple[Tensor, Tensor]:
    """Scores, and gold tags that are legal: B-A everywhere but in the third sentence."""
    scores_NK = torch.randn(sum(LENGTHS), MANY, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
    gold_N = torch.ones(sum(LENGTHS), dtype=torch.long)
    gold_N[4:8] = torch.tensor([0, 3, 4, 1])
    return scores_NK.requires_grad_(), gold_N


def paths(length: int, begin: bool = True, legal: bool = True) -> Tensor:
    """(P, T) all sequences of tags, or all legal ones, of a sentence or of a part that does not begin one."""
    found = []
    for path in itertools.product(range(MANY), repeat=length):
        wrong = faults([TAGS.names[number] for number in path], TAGS.scheme)
        if not legal or not [fault for fault in wrong if begin or fault.place > 0]:
            found.append(path)
    return torch.tensor(found)


def score(crf: CRF, scores_TK: Tensor, path_PT: Tensor, begin: bool = True, end: bool = True) -> Tensor:
    """(P,)"""
    emitted = scores_TK[torch.arange(path_PT.shape[1]), path_PT].sum(1)
    moved = crf.transitions[path_PT[:, :-1], path_PT[:, 1:]].sum(1)
    return emitted + moved + crf.begins[path_PT[:, 0]] * begin + crf.ends[path_PT[:, -1]] * end


def enumerated(crf: CRF, scores_NK: Tensor, gold_N: Tensor, legal: bool, opens: list[bool], closes: list[bool]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for scores_TK, gold_T, begin, end in zip(scores_NK.split(LENGTHS), gold_N.split(LENGTHS), opens, closes, strict=True):
        every = score(crf, scores_TK, paths(len(gold_T), begin, legal), begin, end)
        total = total + every.logsumexp(0) - score(crf, scores_TK, gold_T[None], begin, end)[0]
    return total


def gradients(loss: Tensor, crf: CRF, scores_NK: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(loss, [scores_NK, *crf.parameters()], allow_unused=True)
    return [each if each is not None else torch.zeros(()) for each in found]


@pytest.mark.parametrize("legal", [False, True])
@pytest.mark.parametrize("whole", [True, False])
def test_likelihood_and_gradient_are_those_of_all_sequences(legal: bool, whole: bool) -> None:
    crf, (scores_NK, gold_N) = random_crf(legal), drawn()
    opens = [True] * 6 if whole else [False, True, False, False, True, False]
    closes = [True] * 6 if whole else [True, True, False, True, False, False]
    if not whole:
        gold_N[4] = 4                                                    # a window may begin within an entity
    expected = enumerated(crf, scores_NK, gold_N, legal, opens, closes)
    borders = () if whole else (torch.tensor(opens), torch.tensor(closes))
    ours = crf(scores_NK, gold_N, LENGTHS, *borders)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-10)
    for mine, theirs in zip(gradients(ours, crf, scores_NK), gradients(expected, crf, scores_NK), strict=True):
        assert mine.isfinite().all()
        torch.testing.assert_close(mine, theirs.expand_as(mine), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("legal", [False, True])
def test_best_sequences_and_marginals_are_those_of_all_sequences(legal: bool) -> None:
    crf, (scores_NK, _) = random_crf(legal), drawn()
    best, shares = crf.decode(scores_NK, LENGTHS), crf.marginals(scores_NK, torch.tensor(LENGTHS))
    with torch.no_grad():
        for scores_TK, best_T, share_TK in zip(
            scores_NK.split(LENGTHS), best.split(LENGTHS), shares.split(LENGTHS), strict=True
        ):
            possible = paths(len(best_T), legal=legal)
            chances = score(crf, scores_TK, possible).softmax(0)
            assert best_T.tolist() == possible[chances.argmax()].tolist()
            of_paths = torch.nn.functional.one_hot(possible, MANY).double()
            torch.testing.assert_close(share_TK, torch.einsum("p,ptk->tk", chances, of_paths), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("opens", "closes", "gold", "possible"),
    [(True, True, "S-A", 2), (True, False, "B-A", 3), (False, True, "E-A", 3), (False, False, "I-A", 5)],
)
def test_windows_may_begin_and_end_within_an_entity(opens: bool, closes: bool, gold: str, possible: int) -> None:
    """One token, all scores 0: as many tags are equally probable as may stand there."""
    tags = TagSet.named(["O", "B-A", "I-A", "E-A", "S-A"])
    crf, borders = CRF(tags), (torch.tensor([opens]), torch.tensor([closes]))
    loss = crf(torch.zeros(1, 5), torch.tensor([tags.numbers[gold]]), [1], *borders)
    assert loss.item() == pytest.approx(np.log(possible))
    shares_K = crf.marginals(torch.zeros(1, 5), [1], *borders)[0]
    assert shares_K[tags.numbers[gold]].item() == pytest.approx(1 / possible)


def test_sentences_do_not_depend_on_each_other() -> None:
    crf, (scores_NK, gold_N) = random_crf(legal=True), drawn()
    alone = [
        crf(scores, gold, [len(gold)]) for scores, gold in zip(scores_NK.split(LENGTHS), gold_N.split(LENGTHS), strict=True)
    ]
    torch.testing.assert_close(crf(scores_NK, gold_N, LENGTHS), torch.stack(alone).sum())
    assert crf(scores_NK[:0], gold_N[:0], []).item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_long_sentences_far_apart_scores_and_low_precision(dtype: torch.dtype) -> None:
    """Illegal tags 200 nats better than legal ones, over 400 tokens: a finite loss that is right, and a gradient without NaN."""
    tags = TagSet.named(["O", "B-A", "I-A", "E-A", "S-A"])
    crf = CRF(tags)
    scores_NK = torch.zeros(400, 5, dtype=dtype)
    scores_NK[:, 2] = 200                                                # I-A throughout: neither begins nor ends
    scores_NK.requires_grad_()
    loss = crf(scores_NK, torch.zeros(400, dtype=torch.long), [400])
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(200 * 398, rel=1e-6)             # B-A, 398 times I-A, E-A against O throughout
    assert scores_NK.grad is not None
    assert scores_NK.grad.dtype == dtype
    for gradient in (scores_NK.grad, crf.transitions.grad, crf.begins.grad, crf.ends.grad):
        assert gradient is not None
        assert gradient.isfinite().all()
    assert [tags.names[number] for number in crf.decode(scores_NK, [400])] == ["B-A", *["I-A"] * 398, "E-A"]


def test_what_is_illegal_is_not_learned_and_gold_has_to_be_legal() -> None:
    crf, (scores_NK, gold_N) = random_crf(legal=True), drawn()
    crf(scores_NK, gold_N, LENGTHS).backward()
    assert crf.transitions.grad is not None
    assert crf.begins.grad is not None
    assert not crf.transitions.grad[~torch.from_numpy(TAGS.follows)].any()
    assert not crf.begins.grad[~torch.from_numpy(TAGS.begins)].any()
    gold_N[0] = TAGS.numbers["I-A"]
    with pytest.raises(AssertionError, match="gold tags must be legal"):
        crf(scores_NK, gold_N, LENGTHS)


def test_learns_what_tokens_do_not_show() -> None:
    """Tokens that say nothing, tags in turn: only transitions can tell; the loss falls to that of one free choice."""
    tags = TagSet.named(["O", "B-A"])
    crf, gold = CRF(tags), np.arange(12) % 2
    gold_N = torch.from_numpy(np.concatenate([gold, 1 - gold]))
    for _ in range(30):
        loss = crf(torch.zeros(24, 2), gold_N, [12, 12])
        for parameter, gradient in zip(crf.parameters(), torch.autograd.grad(loss, [*crf.parameters()]), strict=True):
            parameter.data -= gradient
    assert loss.item() == pytest.approx(2 * np.log(2), abs=0.1)
