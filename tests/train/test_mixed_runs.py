"""Rows whose batches differ in shape and in what they hold: the gradient is that of the step, however it is cut."""

import pytest
from tiny_runs import tiny


@pytest.mark.parametrize("case", ["gpt2 mixture", "llama hybrid", "t5 span corruption", "bart denoising"])
def test_a_step_is_the_same_row_by_row(case, tmp_path):
    """Row by row most parts of a mixture are empty, and targets are as long as each row needs."""
    at_once = tiny(case, tmp_path / "once", steps=4).fit()
    row_by_row = tiny(case, tmp_path / "each", steps=4, micro_rows=1).fit()
    assert row_by_row.losses == pytest.approx(at_once.losses, rel=1e-4)
    assert row_by_row.validation == pytest.approx(at_once.validation, rel=1e-4)
    assert row_by_row.tokens == at_once.tokens
