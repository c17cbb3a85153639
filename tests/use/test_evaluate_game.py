"""What is found of a game's generator: its likelihood as any decoder's, and both generators' curves."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_evaluate import HELD_OUT, recipe_for, run_folder

from yanmo.errors import UserError
from yanmo.evaluation import evaluate
from yanmo.frontier import TEMPERATURES, frontier
from yanmo.models import load, save


def test_both_generators_write_as_many_texts_as_are_held_out(pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = pairs("gpt2")
    folder = run_folder(tmp_path, pair)
    before = load(pair.folder)
    with torch.no_grad():
        for parameter in before.parameters():
            parameter.mul_(0.7)
    save(before, folder / "pretrain/model/likelihood")
    found = evaluate(pair.network, pair.tokens, recipe_for("gpt2", objective={"kind": "adversarial", "longest": 7}), folder)
    plain = evaluate(pair.network, pair.tokens, recipe_for("gpt2"), folder)
    assert replace(found, frontiers=None, counts=plain.counts) == plain
    assert found.counts == {**plain.counts, "references": len(HELD_OUT)}
    references = [pair.tokens.decode(ids[:7]) for ids in pair.tokens.encode(HELD_OUT)]
    assert found.frontiers is not None
    for network, points in ((before, found.frontiers.likelihood), (pair.network, found.frontiers.adversarial)):
        assert points == frontier(network, pair.tokens, references, TEMPERATURES, len(HELD_OUT), max_new_tokens=7)
    assert found.frontiers.likelihood != found.frontiers.adversarial
    assert set(found.to_json()["frontiers"]) == {"likelihood", "adversarial", "verdict"}
    assert "frontiers" not in plain.to_json()
    monkeypatch.setattr("yanmo.evaluation.REFERENCES", 2)
    few = evaluate(pair.network, pair.tokens, recipe_for("gpt2", objective={"kind": "adversarial", "longest": 7}), folder)
    assert few.counts["references"] == 2
    assert few.frontiers is not None
    assert few.frontiers.adversarial[0].texts == 2


def test_without_the_generator_before_the_game_there_is_nothing_to_compare(pairs, tmp_path: Path) -> None:
    pair = pairs("gpt2")
    folder = run_folder(tmp_path, pair)
    with pytest.raises(UserError, match="has no likelihood/, the generator as maximum likelihood left it"):
        evaluate(pair.network, pair.tokens, recipe_for("gpt2", objective={"kind": "adversarial"}), folder)
