"""Sentence vectors by contrast: against the formula, and against the definitions of alignment and uniformity."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from in_memory import FakeTokens, piece_of, row_of
from torch import nn

from yanmo.batch import Packed
from yanmo.errors import UserError
from yanmo.models import Network, build, load, save
from yanmo.objectives import Contrast, build_objective
from yanmo.objectives.contrast import alignment, has_dropout, set_dropout, uniformity, vectors_of
from yanmo.recipe import Recipe, parse_recipe
from yanmo.vectors import embed

torch.set_num_threads(1)


def a_recipe(family: str = "bert", dropout: float | None = None, **objective: Any) -> Recipe:
    model = {"family": family, "layers": 1, "width": 32, "heads": 2, "feedforward": 48, "dropout": dropout}
    return parse_recipe({"model": model, "objective": {"kind": "contrast", **objective}}, "test")


def contrast(tokens: Any = None, **given: Any) -> Contrast:
    torch.manual_seed(0)
    recipe = a_recipe(**given)
    network = build(recipe.model, vocabulary=1000, length=32)
    made = build_objective(recipe, network, tokens or FakeTokens())
    assert isinstance(made, Contrast)
    return made


def rows() -> list[Any]:
    """Two rows of several texts."""
    pieces = [piece_of(torch.randint(5, 1000, (size,)).tolist(), document=size) for size in (7, 4, 9, 12, 3)]
    return [row_of(*pieces[:3]), row_of(*pieces[3:])]


@pytest.mark.parametrize("vector", ["first", "mean"])
@pytest.mark.parametrize("family", ["bert", "electra"])
def test_the_loss_is_the_papers(vector: str, family: str) -> None:
    """Equation 1: minus the logarithm of e^(sim(h_i, h'_i) / t) over the sum of e^(sim(h_i, h'_j) / t) over all j."""
    objective = contrast(family=family, vector=vector, dropout=0.2, temperature=0.1)
    batch = objective.collate(rows(), 32)
    assert batch.counts == {"contrast": 5, "accuracy": 5}
    torch.manual_seed(3)
    losses = objective(batch)
    torch.manual_seed(3)
    readings = []
    for _ in range(2):
        hidden = objective.network(batch.packed)
        vectors = []
        for row, number in ((0, 1), (0, 2), (0, 3), (1, 1), (1, 2)):
            own = hidden[row][batch.packed.documents[row] == number]
            one = own[0] if vector == "first" else own.mean(0)
            vectors.append((torch.tanh(objective.dense(one)) if objective.dense is not None else one).detach())
        readings.append(vectors)
    total = 0.0
    for i in range(5):
        similar = [float(torch.cosine_similarity(readings[0][i], readings[1][j], dim=0)) / 0.1 for j in range(5)]
        total -= math.log(math.exp(similar[i]) / sum(map(math.exp, similar)))
    assert float(losses["contrast"].total.detach()) == pytest.approx(total, rel=1e-4)
    assert not torch.equal(readings[0][0], readings[1][0]), "dropout makes the two differ"


@torch.no_grad()
def test_negatives_are_those_of_the_micro_batch() -> None:
    objective = contrast(dropout=0.1).eval()
    whole = objective(objective.collate(rows(), 32))["contrast"]
    parts = [objective(objective.collate([row], 32))["contrast"] for row in rows()]
    assert whole.count == sum(part.count for part in parts)
    assert sum(float(part.total) for part in parts) < float(whole.total), "fewer to tell apart"
    alone = objective(objective.collate([row_of(piece_of([7, 8, 9]))], 32))["contrast"]
    assert (alone.count, float(alone.total)) == (0, 0.0)


@torch.no_grad()
def test_held_out_texts_are_read_with_dropout_and_without_the_layer_of_training() -> None:
    objective = contrast(dropout=0.3).eval()
    batch = objective.collate(rows(), 32)
    torch.manual_seed(1)
    found = objective.measure(batch)["contrast"]
    assert objective.dense is not None
    nn.init.zeros_(objective.dense.weight)                # would make all texts one
    torch.manual_seed(1)
    assert torch.equal(objective.measure(batch)["contrast"].total, found.total)
    reads = []
    objective.network.register_forward_hook(lambda *_: reads.append(1))
    losses, vectors = objective.observe(batch)
    assert len(reads) == 2, "each text is read twice, and not once more for the figures"
    assert losses.keys() == objective.measure(batch).keys()
    figures, _ = objective.summarise(vectors, {})
    assert figures["alignment"] > 0.01
    assert figures["uniformity"] < 0
    assert not objective.network.training


def test_alignment_and_uniformity_are_the_papers() -> None:
    torch.manual_seed(0)
    first, second = (torch.nn.functional.normalize(torch.randn(1500, 6), dim=-1) for _ in range(2))
    assert alignment(first, second) == pytest.approx(float((first - second).norm(dim=1).pow(2).mean()), rel=1e-5)
    expected = torch.pdist(first).pow(2).mul(-2).exp().mean().log()
    assert uniformity(first) == pytest.approx(float(expected), rel=1e-4)
    assert alignment(first, first) == 0
    assert uniformity(first[:1].expand(5, 6)) == pytest.approx(0, abs=1e-5)


def test_what_would_not_differ_is_refused() -> None:
    with pytest.raises(UserError, match=r"has dropout 0, so a text read twice would not differ; set objective.dropout"):
        contrast()
    assert has_dropout(contrast(dropout=0.1).network)
    with pytest.raises(UserError, match="greater than 0"):
        parse_recipe({"objective": {"kind": "contrast", "dropout": 0}}, "test")
    with pytest.raises(UserError, match="puts nothing before a text; use mean"):
        contrast(tokens=FakeTokens(prefix=()), dropout=0.1)
    with pytest.raises(UserError, match="objective contrast does not fit family gpt2, a decoder"):
        a_recipe("gpt2")


def test_the_objectives_dropout_is_everywhere() -> None:
    network = contrast(dropout=0.1).network
    set_dropout(network, 0.25)
    assert {part.p for part in network.modules() if isinstance(part, nn.Dropout)} == {0.25}
    assert {block.attention.config.dropout for block in network.blocks} == {0.25}  # type: ignore[union-attr]


class Letters(FakeTokens):
    """A token a letter."""

    def encode(self, texts: Any) -> list[list[int]]:
        return [[5 + ord(letter) for letter in text] for text in texts]


@torch.no_grad()
def test_embedding_many_is_embedding_each(tmp_path: Path) -> None:
    objective = contrast(dropout=0.1)
    save(objective.network, tmp_path)
    network: Network = load(tmp_path)
    texts = ["hello there", "a", "", "a longer text than that", "hello there"]
    found = embed(network, Letters(), texts)  # type: ignore[arg-type]
    assert network.training
    network.eval()
    for text, one in zip(texts, found, strict=True):
        ids = torch.tensor([[2, *Letters().encode([text])[0], 3]])
        hidden = network(Packed(ids, torch.ones_like(ids), torch.arange(ids.shape[1])[None], whole=True))[0]
        torch.testing.assert_close(one, hidden[0] / hidden[0].norm(), atol=1e-5, rtol=1e-5)  # what it was trained for
        mean = embed(network, Letters(), [text], "mean")[0]  # type: ignore[arg-type]
        torch.testing.assert_close(mean, hidden.mean(0) / hidden.mean(0).norm(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[0], found[4])


def test_texts_that_have_no_vector_are_refused() -> None:
    with pytest.raises(UserError, match=r"text 2 has 602 tokens, more than the 512 positions"):
        embed(contrast(dropout=0.1).network, Letters(), ["a", "b" * 600])  # type: ignore[arg-type]
    decoder = build(parse_recipe({"model": {"family": "gpt2", "layers": 1, "width": 32}}, "test").model, vocabulary=99, length=32)
    with pytest.raises(UserError, match="a gpt2 does not read both ways"):
        embed(decoder, Letters(), ["a"])  # type: ignore[arg-type]


def test_vectors_of_packed_rows_leave_padding_out() -> None:
    hidden = torch.arange(12.0).view(1, 6, 2)
    packed = Packed(torch.zeros(1, 6), torch.tensor([[1, 1, 2, 2, 2, 0]]), torch.tensor([[0, 1, 0, 1, 2, 0]]))
    assert vectors_of(hidden, packed, "mean").tolist() == [[1, 2], [6, 7]]
    assert vectors_of(hidden, packed, "first").tolist() == [[0, 1], [4, 5]]
