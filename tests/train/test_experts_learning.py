"""Experts in the trainer: what is logged of them, and what may not count twice."""

import json

import pytest
import torch
from tiny_runs import tiny

from yanmo.errors import UserError

torch.set_num_threads(1)
OF_A_STEP = {
    "llama causal, balanced experts": {"expert_load", "dropped_tokens", "assignment_optimum"},
    "mixtral causal": {"balance", "expert_load", "dropped_tokens"},
    "bert masked, experts choose": {"expert_load", "dropped_tokens"},
    "t5 span corruption, experts": {"balance", "expert_load", "dropped_tokens"},
}


def lines(case, folder, **training):
    tiny(case, folder, steps=3, micro_rows=2, **training).fit()
    return [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", OF_A_STEP)
def test_every_step_says_how_tokens_were_shared_out(case, tmp_path):
    found = lines(case, tmp_path)
    steps = [line for line in found if "norm" in line]
    held_out = [line["validation"] for line in found if "validation" in line]
    learned = {"balance": 0.01, "causal": 1, "masked": 1, "span-corruption": 1}
    for line in (*steps, *held_out):
        assert line["loss"] == pytest.approx(sum(learned.get(name, 0) * value for name, value in line.items()), abs=1e-5)
        assert line["expert_load"] >= 1
        assert 0 <= line["dropped_tokens"] < 1
    assert all(OF_A_STEP[case] <= line.keys() for line in steps)
    for line in held_out:
        assert "balance" not in line, "it is not learned from what is held out"
        assert "assignment_optimum" not in line, "no token is assigned there"


def test_balanced_experts_are_even_at_every_step(tmp_path):
    """64 places of a micro-batch less some padding, 4 experts: at most one token more than the others."""
    for line in lines("llama causal, balanced experts", tmp_path):
        if "norm" in line:
            assert line["dropped_tokens"] == 0
            assert line["assignment_optimum"] >= 0.999
            assert 1 <= line["expert_load"] <= 1 + 4 / 40


@pytest.mark.parametrize("case", ["llama causal, balanced experts", "mixtral causal"])
def test_activations_computed_twice_are_logged_once(case, tmp_path):
    kept, twice = lines(case, tmp_path / "kept"), lines(case, tmp_path / "twice", checkpoint_activations=True)
    for one, other in zip(kept, twice, strict=True):
        one, other = ({name: value for name, value in line.items() if "second" not in name} for line in (one, other))
        assert one == other


MEETING = ["llama causal, balanced experts", "mixtral causal", "t5 span corruption, experts", "bert contrast"]


@pytest.mark.parametrize("case", MEETING)
def test_a_run_whose_rows_meet_goes_on_with_as_many_at_once(case, tmp_path):
    tiny(case, tmp_path, steps=2, micro_rows=2).fit()
    with pytest.raises(UserError, match=r"rows of a micro-batch \(training.micro_rows\) was 2 and is 1\. Set back"):
        tiny(case, tmp_path, steps=2, micro_rows=1).fit()
    assert tiny(case, tmp_path, steps=2, micro_rows=2).fit().step == 2


@pytest.mark.parametrize("case", ["bert masked, experts choose", "llama causal"])
def test_a_run_whose_rows_are_apart_goes_on_with_fewer_at_once(case, tmp_path):
    tiny(case, tmp_path, steps=2, micro_rows=2).fit()
    assert tiny(case, tmp_path, steps=2, micro_rows=1).fit().step == 2
