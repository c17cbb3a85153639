"""Games: players that move in turn, each with its own losses, optimizer and memory of what is usual."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from toy_training import ToyNetwork, ToyRows, training

from yanmo import checkpoint
from yanmo.objectives import Loss, Objective
from yanmo.objectives.objective import Phase
from yanmo.players import Players
from yanmo.train import Trainer


@dataclass(frozen=True)
class Point:
    tokens: int
    counts: dict[str, int]


class Duel(Objective):
    """min over x, max over y of (x - 1)^2 - (y - 2 x)^2, whose only resting point is x = 1, y = 2. y moves twice a step.

    The networks are only there because an objective has one: x and y are numbers.
    """

    def __init__(self):
        super().__init__(ToyNetwork(dropout=0.0))
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        self.low, self.high = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        for part in (self.low, self.high):
            nn.init.zeros_(part.weight)
        self.asked: list[tuple[int, int]] = []

    phases = (Phase(turns=("low", "high", "high")),)

    def players(self):
        return {"low": self.low, "high": self.high}

    def begin(self, step, steps):
        self.asked.append((step, steps))

    def places(self, tokens):
        return tokens

    def collate(self, rows, length):
        return Point(len(rows), {"low": len(rows), "high": len(rows)})

    def losses(self, batch, turn):
        x, y = self.low.weight.sum(), self.high.weight.sum()
        total = (x - 1) ** 2 if turn == "low" else (y - 2 * x) ** 2
        return {turn: Loss(total * batch.tokens, batch.tokens)}

    def measure(self, batch):
        return self(batch, "low") | self(batch, "high")


def duel(folder, steps=300, **changes):
    game = Duel()
    settings = training(steps=steps, optimizer="adamw", schedule="linear", warmup=0.0, weight_decay=0.0, micro_rows=2,
                        validate_every=100, **changes)
    return game, Trainer(game, ToyRows(), ToyRows(seed=9, per_epoch=8), settings, folder, say=lambda sentence: None)


def test_a_game_comes_to_rest(tmp_path):
    game, trainer = duel(tmp_path)
    outcome = trainer.fit()
    assert game.low.weight.item() == pytest.approx(1, abs=0.02)
    assert game.high.weight.item() == pytest.approx(2, abs=0.05)
    assert outcome.validation.keys() == {"low", "high", "loss"}
    assert game.asked == [(step, 300) for step in range(300)]


def test_a_player_moves_only_in_its_own_turn(tmp_path):
    game, trainer = duel(tmp_path, steps=1)
    before = {name: parameter.clone() for name, parameter in game.named_parameters()}
    game.__class__ = type("OneSided", (Duel,), {"phases": (Phase(turns=("high",)),)})
    with torch.no_grad():
        game.low.weight.fill_(1.0)
    trainer.fit()
    assert game.low.weight.item() == 1.0
    assert game.high.weight.item() != 0.0
    for name, parameter in game.network.named_parameters():
        assert torch.equal(parameter, before[f"network.{name}"])


def test_a_game_goes_on_bitwise(tmp_path):
    whole, trainer = duel(tmp_path / "whole", steps=6, save_every=1, keep=9)
    trainer.fit()
    _, again = duel(tmp_path / "whole", steps=6, save_every=1, keep=9)
    for folder in (tmp_path / "whole" / "checkpoints").glob("step-*"):
        if int(folder.name[-8:]) > 3:
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
    assert checkpoint.load(checkpoint.latest(tmp_path / "whole" / "checkpoints")).state.recent_losses.keys() == {"low", "high"}
    again.fit()
    assert torch.equal(again.objective.high.weight, whole.high.weight)
    assert torch.equal(again.objective.low.weight, whole.low.weight)


def test_a_parameter_belongs_to_one_player():
    game = Duel()
    game.players = lambda: {"low": game.low}  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="belongs to one player"):
        Players(game, training(), torch.float32)
