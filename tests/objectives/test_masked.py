"""What masking and sentence pairs do, measured over many rows; and one objective over a real tiny encoder."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from in_memory import CLS, FIRST, MASK, PAD, SEP, SIZE, FakeTokens, piece_of, random_shards, row_of
from torch import nn

from yanmo import recipe as recipes
from yanmo.batch import Order
from yanmo.errors import UserError
from yanmo.models import build
from yanmo.objectives import Masked, build_objective
from yanmo.recipe import MaskedObjective


class NoNetwork(nn.Module):
    config = SimpleNamespace(pair=True, causal=False, family="bert", vocabulary=SIZE)


def masked(**settings):
    return Masked(NoNetwork(), FakeTokens(), MaskedObjective(**settings))


def batches(objective, shards, rows=400, length=128, seed=0):
    order = Order(shards, length, objective, seed)
    for begin in range(0, rows, 40):
        got = [order.row(number) for number in range(begin, begin + 40)]
        yield [row.pieces for row in got], objective.collate(got, length)


@pytest.mark.parametrize("unit", ["token", "word", "span"])
@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_rate_is_exact_overall_and_for_short_and_long_documents(unit, rate):
    picked, text = np.zeros(2), np.zeros(2)
    for pieces, batch in batches(masked(unit=unit, rate=rate), random_shards(1000, 40), rows=1200):
        sizes = batch.packed.documents.numpy()
        hits = np.zeros(sizes.size, dtype=bool)
        hits[batch.picked] = True
        hits = hits.reshape(sizes.shape)
        for row, members in enumerate(pieces):
            for number, piece in enumerate(members, 1):
                kind = int(len(piece.tokens) > 30)
                picked[kind] += hits[row][sizes[row] == number].sum()
                text[kind] += len(piece.tokens)
    assert picked.sum() / text.sum() == pytest.approx(rate, rel=0.02)
    np.testing.assert_allclose(picked / text, rate, rtol=0.08)


def test_eighty_ten_ten():
    shown, answers = [], []
    for _, batch in batches(masked(unit="token"), random_shards(1000, 60)):
        shown.append(batch.packed.tokens.flatten()[batch.picked])
        answers.append(batch.answers)
    shown, answers = torch.cat(shown).numpy(), torch.cat(answers).numpy()
    assert (shown == MASK).mean() == pytest.approx(0.8, abs=0.02)
    assert (shown == answers).mean() == pytest.approx(0.1, abs=0.015)
    drawn = shown[(shown != MASK) & (shown != answers)]
    assert drawn.min() >= FIRST
    assert len(np.unique(drawn)) > 0.3 * SIZE


def test_all_mask():
    for _, batch in batches(masked(replace="mask"), random_shards(200, 60), rows=40):
        assert (batch.packed.tokens.flatten()[batch.picked] == MASK).all()


@pytest.mark.parametrize("unit", ["word", "span"])
def test_words_are_picked_whole_and_specials_never(unit):
    for pieces, batch in batches(masked(unit=unit, replace="mask"), random_shards(300, 60), rows=80):
        rows, places = np.divmod(batch.picked.numpy(), 128)
        documents = batch.packed.documents.numpy()
        for row, members in enumerate(pieces):
            for number, piece in enumerate(members, 1):
                begin = np.flatnonzero(documents[row] == number)[0] + 1
                own = places[(rows == row) & (documents[row][places] == number)] - begin
                assert ((own >= 0) & (own < len(piece.tokens))).all()
                word = np.searchsorted(piece.words, np.arange(len(piece.tokens)), side="right")
                assert set(np.flatnonzero(np.isin(word, word[own]))) == set(own.tolist())


def test_unknown_tokens_inside_a_text_are_not_picked():
    piece = piece_of([10, 1, 11, 12] * 20, words=list(range(0, 80, 2)))
    for unit in ("token", "word", "span"):
        for seed in range(20):
            batch = masked(unit=unit, rate=0.5).collate([row_of(piece, seed=seed)], 90)
            assert 1 not in batch.answers.tolist()
            if unit != "token":
                assert 10 not in batch.answers.tolist()   # of the same word


def test_span_lengths():
    """A geometric of 0.2 cut at 10 has mean 3.80; spans that touch are told apart by picking few."""
    lengths = []
    for seed in range(300):
        piece = piece_of(np.arange(FIRST, FIRST + 900))
        picked = masked(unit="span", rate=0.02).collate([row_of(piece, seed=seed)], 910).picked.numpy()
        lengths += [len(run) for run in np.split(picked, np.flatnonzero(np.diff(picked) > 1) + 1) if len(run)]
    assert max(lengths) <= 20
    assert np.mean(lengths) == pytest.approx(3.80 * 1.02, rel=0.05)
    assert np.mean(np.array(lengths) == 1) == pytest.approx(0.2 / (1 - 0.8**10), abs=0.04)


def test_masks_are_the_rows_own_and_new_every_epoch():
    objective, shards = masked(), random_shards(100, 60)
    order = Order(shards, 128, objective, seed=0)
    alone = objective.collate([order.row(3)], 128)
    together = objective.collate([order.row(number) for number in range(5)], 128)
    torch.testing.assert_close(together.packed.tokens[3], alone.packed.tokens[0])
    piece = piece_of(np.arange(FIRST, 200))
    one, other = (objective.collate([row_of(piece, seed=seed)], 256).picked.tolist() for seed in (0, 1))
    assert one != other


def test_layout_of_a_pair():
    piece = piece_of([10, 11, 12, 13, 14], sentences=[0, 2])
    batch = masked(sentences="order", rate=0.01).collate([row_of(piece, piece_of([20]), seed=1)], 12)
    swapped = bool(batch.pair_labels[0])
    parts = ([12, 13, 14], [10, 11]) if swapped else ([10, 11], [12, 13, 14])
    tokens = batch.packed.tokens.flatten()
    tokens[batch.picked] = batch.answers
    assert tokens.tolist() == [CLS, *parts[0], SEP, *parts[1], SEP, CLS, 20, SEP, PAD]
    assert batch.packed.types is not None
    assert batch.packed.types[0].tolist() == [0] * (2 + len(parts[0])) + [1] * (1 + len(parts[1])) + [0] * 4
    assert batch.packed.documents[0].tolist() == [1] * 8 + [2] * 3 + [0]
    assert batch.packed.positions[0].tolist() == [*range(8), *range(3), 0]
    assert batch.pairs.tolist() == [0]                    # one sentence makes no pair
    assert batch.counts["order"] == batch.counts["order_accuracy"] == 1


@pytest.mark.parametrize("kind", ["next", "order"])
def test_pairs(kind):
    """Tokens that tell their document show where the second part comes from."""
    rng = np.random.default_rng(0)
    shards = random_shards(150, 40)
    for number, (tokens, _, _) in enumerate(shards.documents):
        tokens[:] = FIRST + 5 * number + rng.integers(5, size=len(tokens))
    labels = []
    for _, batch in batches(masked(sentences=kind), shards, rows=200):
        tokens = batch.packed.tokens.clone().flatten()
        tokens[batch.picked] = batch.answers
        documents, types = batch.packed.documents.flatten(), batch.packed.types.flatten()
        for first, label in zip(batch.pairs.tolist(), batch.pair_labels.tolist(), strict=True):
            row = first // 128
            own = (documents == documents[first]) & (torch.arange(len(documents)) // 128 == row) & (tokens >= FIRST)
            parts = [set(((tokens[own & (types == part)] - FIRST) // 5).tolist()) for part in (0, 1)]
            assert len(parts[0]) == len(parts[1]) == 1
            assert (parts[0] != parts[1]) == (kind == "next" and label == 1)
        labels += batch.pair_labels.tolist()
    assert np.mean(labels) == pytest.approx(0.5, abs=4 * 0.5 / len(labels) ** 0.5)


def test_next_sentence_needs_another_document():
    piece = piece_of(np.arange(10, 50), sentences=[0, 20])
    with pytest.raises(UserError, match="one document"):
        masked(sentences="next").collate([row_of(piece, seed=seed) for seed in range(10)], 64)


def tiny(family="bert", pair=False):
    torch.manual_seed(0)
    model = recipes.Model(family=family, layers=2, width=32, heads=2, feedforward=64, dropout=0.0)
    return build(model, vocabulary=SIZE, length=128, pair=pair)


def test_losses_of_a_real_encoder_packed_and_alone_are_equal():
    objective = Masked(tiny(pair=True), FakeTokens(), MaskedObjective(sentences="order")).eval()
    order = Order(random_shards(60, 30), 128, objective, seed=0)
    batch = objective.collate([order.row(number) for number in range(3)], 128)
    losses = objective(batch)
    assert {name: loss.count for name, loss in losses.items()} == batch.counts
    sum(loss.total * loss.weight for loss in losses.values()).backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())

    total, picks = 0.0, torch.zeros(batch.packed.tokens.numel(), dtype=torch.long)
    picks[batch.picked] = batch.answers
    picks = picks.view(3, 128)
    for row in range(3):
        for number in range(1, int(batch.packed.documents[row].max()) + 1):
            own = batch.packed.documents[row] == number
            packed = type(batch.packed)(
                batch.packed.tokens[row][own][None],
                torch.ones(1, int(own.sum()), dtype=torch.long),
                batch.packed.positions[row][own][None],
                batch.packed.types[row][own][None],
                whole=True,
            )
            answers = picks[row][own]
            logits = objective.network.logits(objective.network(packed)[0][answers > 0])
            total += nn.functional.cross_entropy(logits, answers[answers > 0], reduction="sum").item()
    assert losses["masked"].total.item() == pytest.approx(total, rel=1e-4)


def test_what_does_not_fit_together_is_refused():
    recipe = recipes.parse_recipe({"model": {"family": "bert"}}, "test")
    assert isinstance(build_objective(recipe, tiny(), FakeTokens()), Masked)
    with pytest.raises(UserError, match="gpt2, a decoder: it is for bert, roberta, modernbert"):
        build_objective(recipe, tiny("gpt2"), FakeTokens())
    with pytest.raises(UserError, match="no mask token"):
        build_objective(recipe, tiny(), FakeTokens(mask=None))
    with pytest.raises(UserError, match="vocabulary"):
        build_objective(recipe, tiny(), FakeTokens(size=5000))
    paired = recipes.parse_recipe({"objective": {"sentences": "next"}}, "test")
    with pytest.raises(UserError, match="no pair head"):
        build_objective(paired, tiny(), FakeTokens())
