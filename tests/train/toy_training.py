"""A small network and objective with known gradients, and rows that are functions of their number: for tests of the trainer.

Run as a program, it trains in a folder: python toy_training.py FOLDER key=value ... (a process that tests can kill).
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from yanmo.batch import Packed, Piece, Row
from yanmo.models.network import Network
from yanmo.objectives.objective import Loss, Objective
from yanmo.recipe import Training

VOCABULARY, WIDTH, LENGTH = 23, 16, 8


class ToyBlock(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.rise = nn.Linear(WIDTH, 3 * WIDTH)
        self.rise.weight.parts = (WIDTH, WIDTH, WIDTH)
        self.fall = nn.Linear(3 * WIDTH, WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return x + self.dropout(self.fall(torch.tanh(self.rise(self.norm(x)))))


class ToyNetwork(nn.Module):
    """Has what the trainer asks of a Network: config.width, blocks, and parameters."""

    regularisers: ClassVar[dict[str, float]] = {}

    def __init__(self, dropout=0.1):
        super().__init__()
        self.config = SimpleNamespace(width=WIDTH)
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        nn.init.normal_(self.tokens.weight, std=0.2)
        self.blocks = nn.ModuleList(ToyBlock(dropout) for _ in range(2))
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight
        self.pair = nn.Linear(WIDTH, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, packed):
        if self.training:
            self.calls += 1
        x = self.tokens(packed.tokens)
        for block in self.blocks:
            x = block(x)
        return x


@dataclass(frozen=True)
class ToyBatch:
    packed: Packed
    picked: torch.Tensor
    answers: torch.Tensor
    labels: torch.Tensor
    numbers: tuple[int, ...]

    @property
    def tokens(self):
        return self.packed.real

    @property
    def counts(self):
        return {"token": len(self.answers), "pair": len(self.labels), "right": len(self.answers)}


class ToyObjective(Objective):
    """Each token tells the one after it; rows have uneven numbers of targets, every fifth none at all."""

    def __init__(self, network: Network):
        super().__init__(network)
        self.spoilt: set[int] = set()
        self.loud: set[int] = set()

    def places(self, tokens):
        return tokens

    def collate(self, rows, length):
        tokens = torch.zeros(len(rows), length, dtype=torch.int64)
        picked, answers, labels = [], [], []
        for index, row in enumerate(rows):
            tokens[index] = torch.from_numpy(row.pieces[0].tokens[:length].astype(np.int64))
            number = row.pieces[0].document
            wanted = 0 if number % 5 == 0 else 1 + number % (length - 1)
            for place in range(wanted):
                picked.append(index * length + place)
                answers.append(int(tokens[index, place + 1]))
            if number % 2:
                labels.append((index * length, number % 4 // 2))
        ones = torch.ones_like(tokens)
        packed = Packed(tokens, ones, torch.arange(length).expand_as(tokens).contiguous())
        return ToyBatch(packed, torch.tensor(picked, dtype=torch.int64), torch.tensor(answers, dtype=torch.int64),
                        torch.tensor(labels, dtype=torch.int64).view(-1, 2),
                        tuple(row.pieces[0].document for row in rows))

    def losses(self, batch, turn):
        hidden = self.network(batch.packed).flatten(0, 1)
        numbers = set(batch.numbers) if self.training else set()
        if numbers & self.spoilt:
            hidden = hidden * float("nan")
        if numbers & self.loud:
            hidden = hidden * 1000
        logits = self.network.head(hidden[batch.picked]).float()
        pair = self.network.pair(hidden[batch.labels[:, 0]]).float()
        right = (logits.argmax(-1) == batch.answers).sum()
        return {
            "token": Loss(F.cross_entropy(logits, batch.answers, reduction="sum"), len(batch.answers)),
            "pair": Loss(F.cross_entropy(pair, batch.labels[:, 1], reduction="sum"), len(batch.labels), weight=0.5),
            "right": Loss(right, len(batch.answers), weight=0.0),
        }


class ToyRows:
    """Row n is a function of (seed, n). An epoch has `per_epoch` rows; text is a noisy cycle, so that it can be learned."""

    def __init__(self, seed=0, per_epoch=40):
        self.seed, self.rows_per_epoch, self.places_per_epoch = seed, per_epoch, per_epoch * LENGTH

    def row(self, number):
        rng = np.random.default_rng((self.seed, number % self.rows_per_epoch))
        tokens = ((rng.integers(VOCABULARY) + 3 * np.arange(LENGTH)) % VOCABULARY).astype(np.uint16)
        piece = Piece(number, tokens, np.zeros(1, dtype=np.int64), np.arange(LENGTH))
        return Row((piece,), rng, lambda other: piece)


def training(**changes):
    """Settings for a few small steps."""
    given = {"steps": 6, "rows": 8, "length": LENGTH, "precision": "fp32", "validation_rows": 8, "validate_every": 3}
    budget = {"tokens", "epochs", "minutes"} & changes.keys()
    if budget:
        del given["steps"]
    return Training(**{**given, "learning_rate": 1e-2, **changes})


def objective(dropout=0.1, seed=1):
    torch.manual_seed(seed)
    return ToyObjective(ToyNetwork(dropout))


def trainer(folder, dropout=0.1, toy=None, ranks=None, say=None, **changes):
    from yanmo.train import Trainer

    toy = toy or objective(dropout)
    return Trainer(toy, ToyRows(), ToyRows(seed=9, per_epoch=8), training(**changes), Path(folder), seed=3, ranks=ranks,
                   say=say or (lambda sentence: None))


def main():
    import yaml

    from yanmo.parallel import joined

    torch.set_num_threads(1)
    changes = dict(argument.split("=", 1) for argument in sys.argv[2:])
    changes = {key: yaml.safe_load(value) for key, value in changes.items()}
    with joined(torch.device("cpu")) as ranks:
        outcome = trainer(sys.argv[1], ranks=ranks, say=print, **changes).fit()
    ended = "interrupted" if outcome.interrupted else "finished"
    sys.stdout.write(f"{ended} {outcome.step}\n")       # at once: two processes write here
    sys.stdout.flush()


if __name__ == "__main__":
    main()
