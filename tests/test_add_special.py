"""A model that was trained without an objective's special tokens goes on with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from short_runs import ROOT, short_recipe

import yanmo
from yanmo.errors import UserError
from yanmo.run import carry_out

PARTS = ", ".join(f"{{objective: {{kind: {kind}}}}}" for kind in ("causal", "fill-in-the-middle", "hybrid"))


def test_a_decoder_goes_on_with_tokens_for_gaps_and_a_mask(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    import torch

    path = ROOT / "recipes" / "gpt2-en.yaml"
    first = carry_out(short_recipe(path, tmp_path, "name=first"), until="pretrain").folder / "pretrain" / "model"
    more = ["name=second", f"model={{start: {first}}}", "tokenizer={}", f"objective={{kind: mixture, parts: [{PARTS}]}}"]
    more += ["training.learning_rate=1e-9", "training.matrix_learning_rate=1e-9"]
    with pytest.raises(UserError, match=r"no tokens for prefix, suffix and middle .* mask token .*tokenizer.add_special=true"):
        carry_out(short_recipe(path, tmp_path, *more))
    assert not (tmp_path / "second" / "corpus").exists()
    run = carry_out(short_recipe(path, tmp_path, *more, "tokenizer.add_special=true"), until="evaluation")
    (before, known), (after, tokens) = yanmo.load(first), yanmo.load(run.folder / "pretrain" / "model")
    assert after.config.tokens == tokens.size == known.size + 4
    old, new = before.head.weight.detach(), after.head.weight.detach()
    torch.testing.assert_close(new[: known.size], old[: known.size], atol=1e-5, rtol=0)
    mean, spread = old[: known.size].mean(0), old[: known.size].std(0)
    assert ((new[known.size : tokens.size] - mean).abs() < 0.1 * spread).all()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(run.folder / "pretrain" / "model")
    assert theirs.config.vocab_size == after.config.vocabulary
    found = json.loads((run.folder / "evaluation" / "report.json").read_text())
    names = {"causal", "fill-in-the-middle", "hybrid", "hybrid_masked"}
    assert found["losses"].keys() == names
    assert found["bits_per_byte_by"] == "likelihood"
