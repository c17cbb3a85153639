"""Next tokens, apart and joined, against their definition and the losses of documents by themselves."""

import pytest
import torch
import torch.nn.functional as F
from in_memory import PAD, SIZE, FakeTokens, piece_of, random_shards, row_of

from yanmo import recipe as recipes
from yanmo.batch import Order
from yanmo.models import build
from yanmo.objectives import Causal
from yanmo.recipe import CausalObjective

EOS = 2
TOKENS = FakeTokens(prefix=(), suffix=(EOS,), mask=None)


def causal(documents="apart", family="gpt2"):
    torch.manual_seed(0)
    model = recipes.Model(family=family, layers=2, width=32, heads=2, feedforward=64, dropout=0.0)
    network = build(model, vocabulary=SIZE, length=64)
    return Causal(network, TOKENS, CausalObjective(documents=documents)).eval()


def test_targets_apart():
    rows = [row_of(piece_of([10, 11, 12]), piece_of([20, 21], ends=False)), row_of(piece_of([30]))]
    batch = causal().collate(rows, 8)
    assert batch.packed.tokens.tolist() == [[EOS, 10, 11, 12, EOS, EOS, 20, 21], [EOS, 30, EOS] + [PAD] * 5]
    assert batch.packed.documents.tolist() == [[1, 1, 1, 1, 1, 2, 2, 2], [1, 1, 1] + [0] * 5]
    assert batch.packed.positions.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2], [0, 1, 2] + [0] * 5]
    assert batch.places.tolist() == [0, 1, 2, 3, 5, 6, 8, 9]
    assert batch.answers.tolist() == [10, 11, 12, EOS, 20, 21, 30, EOS]
    assert batch.counts == {"causal": 8, "accuracy": 8}


def test_targets_joined():
    batch = causal("joined").collate([row_of(piece_of([10, 11]), piece_of([20, 21]))], 8)
    assert batch.packed.documents.tolist() == [[1] * 6 + [0] * 2]
    assert batch.packed.positions.tolist() == [[0, 1, 2, 3, 4, 5, 0, 0]]
    assert batch.answers.tolist() == [11, EOS, 20, 21, EOS]
    assert batch.places.tolist() == [0, 1, 2, 3, 4]


def test_whole_rows_say_so():
    objective = causal()
    assert objective.collate([row_of(piece_of(range(10, 16)))], 8).packed.whole
    assert not objective.collate([row_of(piece_of(range(10, 15)))], 8).packed.whole


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_packed_losses_are_those_of_documents_alone(family):
    objective = causal(family=family)
    order = Order(random_shards(40, 20), 64, objective, seed=0)
    rows = [order.row(number) for number in range(3)]
    batch = objective.collate(rows, 64)
    losses = objective(batch)
    total = torch.zeros(())
    for piece in (piece for row in rows for piece in row.pieces):
        alone = objective.collate([row_of(piece)], objective.places(len(piece.tokens)))
        tokens = alone.packed.tokens[0][: 1 + len(alone.answers)]
        logits = objective.network.logits(objective.network(alone.packed)[0, : len(tokens) - 1])
        total = total + F.cross_entropy(logits, tokens[1:], reduction="sum")
    assert losses["causal"].total.item() == pytest.approx(total.item(), rel=1e-4)
    assert losses["causal"].count == len(batch.answers)
    losses["causal"].total.backward()
