"""Losses that a refactor leaves as they are, and every family with every objective learns one batch by heart."""

import json

import pytest
import torch
from make_golden import GOLDEN, losses
from tiny_runs import CASES, tiny


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", CASES)
def test_losses_are_as_they_were(case, tmp_path):
    """make_golden.py writes golden.json; other processors round otherwise, hence the tolerance."""
    assert losses(case, tmp_path) == pytest.approx(json.loads(GOLDEN.read_text())[case], rel=1e-4, abs=1e-6)


GAMES = [case for case in CASES if "adversarial" in case]
"""No loss of theirs goes to nothing; they begin with the causal one."""


@pytest.mark.parametrize("case", sorted(CASES.keys() - GAMES))
def test_a_batch_is_learned_by_heart(case, tmp_path):
    made = tiny(case, tmp_path, documents=4, steps=220, validate_every=220, schedule="constant-decay", optimizer="adamw",
                weight_decay=0.0)
    batches = made.share[0]
    made.share = type("Same", (), {"__getitem__": lambda self, step: batches, "micro": 4})()
    outcome = made.fit()
    assert outcome.losses["loss"] < 0.1, outcome.losses
