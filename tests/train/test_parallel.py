"""Two processes compute what one does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_training import trainer

from yanmo import checkpoint
from yanmo.errors import UserError
from yanmo.parallel import Ranks, choose_device, joined


def run(folder, *changes):
    """Train under torchrun with two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command += [str(Path(__file__).parent / "toy_training.py"), str(folder), *changes]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def losses(folder):
    written = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["validation"]["loss"] if "validation" in line else line["loss"] for line in written]


def test_two_processes_are_one(tmp_path):
    """The same losses and weights to 1e-6, uneven targets, a validation set that cannot be halved, and a resume alone."""
    changes = {"dropout": 0.0, "micro_rows": 3, "validation_rows": 5, "save_every": 2, "keep": 9}
    made = run(tmp_path / "two", *(f"{key}={value}" for key, value in changes.items()))
    assert made.returncode == 0, made.stdout + made.stderr
    assert made.stdout.count("finished 6") == 2
    trainer(tmp_path / "one", **changes).fit()
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-6)
    two, one = (checkpoint.load(tmp_path / which / "checkpoints" / "step-00000006") for which in ("two", "one"))
    for name, tensor in one.weights.items():
        if name != "network.calls":
            torch.testing.assert_close(two.weights[name], tensor, atol=2e-6, rtol=0)
    for step in (6, 5):
        checkpoint._remove([tmp_path / "two" / "checkpoints" / f"step-0000000{step}"])
    said = []
    trainer(tmp_path / "two", say=said.append, **changes).fit()
    assert said == ["2 processes before, 1 now: the run goes on, with other dropout", "going on from step 4 of 6"]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-6)


def test_processes_agree_on_the_steps_of_a_budget_in_minutes(tmp_path):
    made = run(tmp_path, "minutes=0.06", "validate_every=null")
    assert made.returncode == 0, made.stdout + made.stderr
    state = checkpoint.load(checkpoint.latest(tmp_path / "checkpoints")).state
    assert made.stdout.count(f"finished {state.steps}\n") == 2
    assert len(state.plan) == 5, "decided at the start and three times on the way"


def test_rows_that_cannot_be_shared_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"training\.rows: 8 rows cannot be shared by 3 processes; take a multiple, as 9"):
        trainer(tmp_path, ranks=Ranks(0, 3))


def test_shares_are_contiguous_and_cover_the_step():
    assert [Ranks(rank, 4).rows(8) for rank in range(4)] == [(0, 2), (2, 2), (4, 2), (6, 2)]


def test_one_process_needs_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined(torch.device("cpu")) as ranks:
        assert (ranks.rank, ranks.size, ranks.is_first) == (0, 1, True)
        assert ranks.sum([1, 2.5]) == [1.0, 2.5]
        assert ranks.share("thing") == "thing"
    assert choose_device().type in ("cpu", "cuda", "mps")
