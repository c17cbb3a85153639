"""Texts that become two: how they are laid out, what a place sees, and that packed ones are as those alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from in_memory import PAD, piece_of, random_shards, row_of
from rewritten import GROUPS, SENTINELS, T5, TOKENS, network_of, section_of, text_of

from yanmo.batch import Order, Packed
from yanmo.layers import View
from yanmo.models import Seq2Seq
from yanmo.objectives import Denoisers, Denoising, FillInTheMiddle, Prefix, SpanCorruption
from yanmo.objectives.rewriting import Rewriting, RewrittenBatch

CASES = [
    pytest.param("t5", SpanCorruption, T5, {}, id="t5 span corruption"),
    pytest.param("t5", Denoisers, T5, {"kind": "denoisers"}, id="t5 denoisers"),
    pytest.param("t5", Prefix, T5, {"kind": "prefix"}, id="t5 prefix"),
    pytest.param("bart", Denoising, TOKENS, {"delete": 0.1, "rotate": 0.3}, id="bart denoising"),
    pytest.param("bart", SpanCorruption, TOKENS, {"kind": "span-corruption"}, id="bart span corruption"),
    pytest.param("gpt2", Prefix, TOKENS, {"kind": "prefix"}, id="gpt2 prefix"),
    pytest.param("llama", Denoisers, TOKENS, {"kind": "denoisers"}, id="llama denoisers"),
    pytest.param("qwen3", SpanCorruption, T5, {"kind": "span-corruption"}, id="qwen3 span corruption"),
]


def made(family, make, tokens, settings) -> Rewriting:
    return make(network_of(family), tokens, section_of(family, **settings))


def rows_of(objective: Rewriting, length: int = 64, count: int = 3):
    order = Order(random_shards(60, 25, seed=4), length, objective, seed=0)
    return [order.row(number) for number in range(count)]


def spied(objective: Rewriting, rows):
    """The batch of rows and the examples that it was made from."""
    examples, rewrite = [], objective.rewrite
    objective.rewrite = lambda piece, rng: examples.append(rewrite(piece, rng)) or examples[-1]  # type: ignore[method-assign]
    batch = objective.collate(rows, 64)
    objective.rewrite = rewrite                              # type: ignore[method-assign]
    return batch, examples


def test_sides_of_an_encoder_decoder():
    objective = made("t5", SpanCorruption, T5, {"rate": 0.5, "span": 2})
    rows = [row_of(text_of(6, 1), text_of(4, 2)), row_of(text_of(5, 3))]
    batch, (first, second, third) = spied(objective, rows)
    end = T5.suffix[0]
    assert batch.source is not None
    source, target = batch.source, batch.target
    assert source.tokens.shape == target.tokens.shape == (2, 16)
    assert source.tokens[0].tolist() == pad([*first.given, end, *second.given, end])
    assert target.tokens[0].tolist() == pad([PAD, *first.asked, PAD, *second.asked])
    assert target.tokens[1].tolist() == pad([PAD, *third.asked])
    assert target.documents[0].tolist() == pad([1] * (len(first.asked) + 1) + [2] * (len(second.asked) + 1), 0)
    assert target.positions[1].tolist() == pad(list(range(len(third.asked) + 1)), 0)
    assert batch.answers.tolist() == [*first.asked, end, *second.asked, end, *third.asked, end]
    assert batch.tokens == source.real + target.real
    assert first.asked[0] == SENTINELS[0] == second.asked[0]


def pad(row, filler=PAD):
    return [*map(int, row), *[filler] * (16 - len(row))]


def test_one_text_of_a_decoder():
    objective = made("gpt2", Prefix, TOKENS, {"kind": "prefix"})
    rows = [row_of(piece_of(range(10, 16)), piece_of(range(20, 24), ends=False))]
    batch, (first, second) = spied(objective, rows)
    begin, end = TOKENS.prefix[0], TOKENS.suffix[0]
    assert batch.source is None
    assert batch.target.tokens[0, :13].tolist() == [begin, *range(10, 16), end, begin, *range(20, 24)]
    assert batch.answers.tolist() == [*first.asked, end, *second.asked]
    read = [True] * (1 + len(first.given)) + [False] * (len(first.asked) + 1) + [True] * (1 + len(second.given))
    prefix = batch.target.prefix
    assert prefix is not None
    assert prefix[0, : len(read)].tolist() == read
    assert not prefix[0, len(read) :].any()
    assert batch.target.tokens[0, batch.places + 1].tolist() == batch.answers.tolist()


def test_an_empty_text_keeps_its_number():
    """Sources and targets stay side by side also where nothing is given, and where the family has no end."""
    bare = type(T5)(prefix=(), suffix=(), mask=None, groups=GROUPS)
    objective = made("t5", Prefix, bare, {"kind": "prefix"})
    batch = objective.collate([row_of(piece_of([10]), piece_of([20, 21]))], 8)
    assert batch.source is not None
    assert batch.source.documents[0].tolist()[:2] == [2, 0]
    assert batch.target.documents[0].tolist()[:3] == [1, 2, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_prefix_is_seen_from_everywhere_in_its_document_and_the_rest_is_causal(dtype):
    documents = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 0]])
    prefix = torch.tensor([[True, True, False, False, True, False, False, False]])
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0]])
    packed = Packed(torch.zeros_like(documents), documents, positions, prefix=prefix)
    view = View.of(packed, True, dtype)
    seen = view.mask_for(torch.zeros(1, dtype=dtype), 8, 8)
    assert view.seen is None, "a kernel that reads words would miss the prefix"
    assert seen is not None
    for query in range(8):
        for key in range(8):
            same = documents[0, query] == documents[0, key]
            assert bool(seen[0, 0, query, key] == 0) == bool(same and (key <= query or prefix[0, key]))
    whole = Packed(positions[:, :4], documents[:, :4], positions[:, :4], whole=True, prefix=prefix[:, :4])
    assert torch.equal(View.of(whole, True, dtype).mask_for(torch.zeros(1, dtype=dtype), 4, 4), seen[:, :, :4, :4])
    everything = View.of(Packed(positions, documents, positions, prefix=torch.ones_like(prefix)), True, dtype)
    encoder = View.of(Packed(positions, documents, positions), False, dtype)
    assert everything.seen is not None, "the kernels of encoders take it"
    assert not everything.seen.causal
    made, wanted = (view.mask_for(torch.zeros(1, dtype=dtype), 8, 8) for view in (everything, encoder))
    assert made is not None
    assert wanted is not None
    assert torch.equal(made, wanted)
    assert View.of(Packed(positions, documents, positions, prefix=prefix), False, dtype).seen is not None


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_decoder_with_a_prefix_is_what_the_definition_says(family):
    """Hidden states of the prefix do not depend on the rest; those of the rest do depend on all of the prefix."""
    network = network_of(family)
    tokens = torch.arange(10, 22)[None]
    ones, positions = torch.ones_like(tokens), torch.arange(12)[None]

    def hidden(tokens, read):
        return network(Packed(tokens, ones, positions, whole=True, prefix=torch.arange(12)[None] < read))[0]

    with torch.no_grad():
        before = hidden(tokens, 5)
        changed = tokens.clone()
        changed[0, 8] = 99
        after = hidden(changed, 5)
        assert torch.allclose(before[:8], after[:8], atol=1e-6)
        changed = tokens.clone()
        changed[0, 4] = 99
        assert (hidden(changed, 5) - before).abs().amax(-1).min() > 1e-4
        assert torch.allclose(hidden(tokens, 0), network(Packed(tokens, ones, positions, whole=True))[0], atol=1e-6)
        assert torch.allclose(hidden(tokens, 1), hidden(tokens, 0), atol=1e-6)


@pytest.mark.parametrize(("family", "make", "tokens", "settings"), CASES)
def test_packed_losses_are_those_of_texts_alone(family, make, tokens, settings):
    objective = made(family, make, tokens, settings)
    batch, examples = spied(objective, rows_of(objective))
    assert isinstance(batch, RewrittenBatch)
    losses = objective(batch)
    total, count = torch.zeros(()), 0
    for example in examples:
        logits, answers = alone(objective, example)
        total = total + F.cross_entropy(logits, answers, reduction="sum")
        count += len(answers)
    assert losses[objective.name].total.item() == pytest.approx(total.item(), rel=1e-4)
    assert losses[objective.name].count == batch.counts[objective.name] == count
    losses[objective.name].total.backward()


def alone(objective: Rewriting, example):
    """Scores and answers of one example in a row of its own, written out."""
    sides = objective.sides
    prefix, end = list(sides.prefix), list(sides.suffix if example.ends else ())
    given, asked = example.given.tolist(), example.asked.tolist()
    network = objective.network

    def packed(row, **rest):
        row = torch.tensor([row])
        return Packed(row, torch.ones_like(row), torch.arange(row.shape[1])[None], whole=True, **rest)

    if isinstance(network, Seq2Seq):
        target = [*prefix, *asked, *end]
        hidden = network(packed([*prefix, *given, *sides.suffix]), packed([network.config.decoder_start, *target[:-1]]))
        return network.logits(hidden[0]), torch.tensor(target)
    row, read = [*prefix, *given, *asked, *end], len(prefix) + len(given)
    hidden = network(packed(row, prefix=torch.arange(len(row))[None] < read))
    first = max(read, 1)
    return network.logits(hidden[0, first - 1 : -1]), torch.tensor(row[first:])


@pytest.mark.parametrize(("family", "make", "tokens", "settings"), CASES)
def test_places_bound_both_sides_and_rows_are_filled(family, make, tokens, settings):
    objective = made(family, make, tokens, settings)
    for length in [1, 2, 3, 4, 7, 20, 61, objective.room(64)]:
        for seed in range(8):
            batch = objective.collate([row_of(text_of(length, seed), seed=seed)], 200)
            longest = max(batch.target.real, 0 if batch.source is None else batch.source.real)
            assert longest <= objective.places(length)
    assert [objective.places(n) for n in range(200)] == sorted(objective.places(n) for n in range(200))
    assert objective.places(objective.room(64)) <= 64 < objective.places(objective.room(64) + 1)
    batch = objective.collate(rows_of(objective), 64)
    assert batch.target.tokens.shape[1] <= 64
    if batch.source is not None and make is SpanCorruption:
        assert batch.source.real > 0.9 * 3 * 64
        assert batch.target.tokens.shape[1] <= 32


@pytest.mark.parametrize(("family", "make", "tokens", "settings"), CASES)
def test_a_row_is_a_function_of_its_randomness(family, make, tokens, settings):
    objective = made(family, make, tokens, settings)
    one, other = (objective.collate(rows_of(objective), 64) for _ in range(2))
    assert torch.equal(one.target.tokens, other.target.tokens)
    assert torch.equal(one.answers, other.answers)
    apart = [objective.collate([row], 64) for row in rows_of(objective)]
    assert torch.equal(torch.cat([batch.answers for batch in apart]), one.answers)
    seeds = [objective.rewrite(text_of(50), np.random.default_rng(seed)) for seed in range(8)]
    assert len({(*example.given.tolist(), -1, *example.asked.tolist()) for example in seeds}) > 4


def test_a_source_does_not_reach_another_documents_target():
    objective = made("t5", SpanCorruption, T5, {})
    rows = [row_of(text_of(20, 1), text_of(20, 2))]
    batch = objective.collate(rows, 64)
    assert batch.source is not None
    changed = batch.source.tokens.clone()
    changed[0, int((batch.source.documents[0] == 2).nonzero()[3])] = 77
    with torch.no_grad():
        before = objective.network(batch.source, batch.target)[0]
        other = Packed(changed, batch.source.documents, batch.source.positions)
        after = objective.network(other, batch.target)[0]
    first, second = (batch.target.documents[0] == number for number in (1, 2))
    assert torch.allclose(before[first], after[first], atol=1e-6)
    assert (before[second] - after[second]).abs().max() > 1e-4


def test_texts_with_their_middle_moved_are_packed_like_any_other():
    objective = FillInTheMiddle(network_of("llama"), TOKENS, section_of("llama", kind="fill-in-the-middle", rate=0.8))
    texts, text = [], objective.text
    objective.text = lambda piece, rng: texts.append(text(piece, rng)) or texts[-1]  # type: ignore[method-assign]
    order = Order(random_shards(60, 25, seed=4), 64, objective, seed=0)
    rows = [order.row(number) for number in range(3)]
    batch = objective.collate(rows, 64)
    moved = sum(text.segments[0].tokens[0] == GROUPS["gaps"][0] for text in texts)
    assert 0 < moved < len(texts)
    total, count = torch.zeros(()), 0
    for one in texts:
        tokens = torch.tensor([[*objective.prefix, *one.segments[0].tokens.tolist(), *one.suffix]])
        alone = Packed(tokens, torch.ones_like(tokens), torch.arange(tokens.shape[1])[None], whole=True)
        logits = objective.network.logits(objective.network(alone)[0, :-1])
        total, count = total + F.cross_entropy(logits, tokens[0, 1:], reduction="sum"), count + len(logits)
    loss = objective(batch)["causal"]
    assert loss.total.item() == pytest.approx(total.item(), rel=1e-4)
    assert loss.count == count
