"""Several objectives on one network: rows are dealt by weight, empty parts harm nothing, and what does not fit is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from in_memory import FakeTokens, random_shards, row_of
from rewritten import T5, TOKENS, network_of, section_of, text_of
from torch import nn

from yanmo.batch import Order, to_device
from yanmo.errors import UserError
from yanmo.models import Network
from yanmo.objectives import Causal, Hybrid, Mixture, Objective, Part, build_objective
from yanmo.objectives.hybrid import MaskedNext
from yanmo.objectives.mixture import named_apart
from yanmo.objectives.objective import Phase
from yanmo.recipe import CausalObjective, MaskedObjective, parse_recipe, read_recipe

PARTS = [{"weight": 1, "objective": {"kind": "causal"}}, {"weight": 3, "objective": {"kind": "prefix"}}]


def mixture_of(family: str, parts: list, tokens: FakeTokens = TOKENS) -> Mixture:
    recipe = parse_recipe({"model": {"family": family}, "objective": {"kind": "mixture", "parts": parts}}, "test")
    made = build_objective(recipe, network_of(family), tokens)  # type: ignore[arg-type]
    assert isinstance(made, Mixture)
    return made


def rows(count: int, objective: Objective, length: int = 64):
    order = Order(random_shards(200, 20), length, objective, seed=0)
    return [order.row(number) for number in range(count)]


def test_rows_are_dealt_by_weight_and_losses_weigh_the_same():
    objective = mixture_of("gpt2", PARTS)
    many = rows(400, objective)
    batch = objective.collate(many, 64)
    sizes = [len(part.packed.tokens if hasattr(part, "packed") else part.target.tokens) for part in batch.batches]
    assert sum(sizes) == 400
    assert sizes[0] / 400 == pytest.approx(0.25, abs=0.05)
    few = objective.collate(rows(8, objective), 64)
    losses = objective(few)
    assert {name: loss.weight for name, loss in losses.items()} == {
        "causal": 0.25, "causal_accuracy": 0, "prefix": 0.75, "prefix_accuracy": 0,
    }
    assert {name: loss.count for name, loss in losses.items()} == few.counts
    assert few.tokens == sum(part.tokens for part in few.batches)


def test_parts_are_as_they_would_be_alone():
    objective = mixture_of("gpt2", PARTS)
    batch = objective.collate(rows(8, objective), 64)
    losses = objective(batch)
    for part, own in zip(objective.parts, batch.batches, strict=True):
        alone = part.objective(own)
        assert losses[part.name].total.item() == pytest.approx(alone[part.name].total.item(), rel=1e-6)


def test_a_row_is_dealt_by_its_own_randomness():
    objective = mixture_of("gpt2", PARTS)
    together = objective.collate(rows(12, objective), 64)
    halves = [objective.collate(some, 64) for some in np.split(np.array(rows(12, objective), dtype=object), 3)]
    assert sum(half.counts["causal"] for half in halves) == together.counts["causal"]
    assert sum(half.counts["prefix"] for half in halves) == together.counts["prefix"]


def test_an_empty_part_is_a_loss_of_nothing():
    objective = mixture_of("gpt2", [{"weight": 1e-9, "objective": {"kind": "causal"}}, PARTS[1]])
    batch = objective.collate(rows(4, objective), 64)
    assert batch.batches[0] is None
    assert batch.counts["causal"] == batch.counts["causal_accuracy"] == 0
    losses = objective(batch)
    assert losses.keys() == batch.counts.keys()
    assert losses["causal"].total.item() == losses["causal"].count == 0
    assert to_device(batch, torch.device("cpu")).counts == batch.counts
    sum(loss.total for loss in losses.values() if loss.total.requires_grad).backward()  # type: ignore[union-attr]


def test_every_part_fits_into_the_row():
    objective = mixture_of("llama", [{"objective": {"kind": "causal"}}, {"objective": {"kind": "denoisers"}}])
    assert objective.room(64) == min(part.objective.room(64) for part in objective.parts)
    for length in range(40):
        assert objective.places(length) == max(part.objective.places(length) for part in objective.parts)


def test_encoder_decoders_mix_too():
    parts = [{"objective": {"kind": kind}} for kind in ("span-corruption", "prefix", "span-corruption")]
    objective = mixture_of("t5", parts, T5)
    assert [part.name for part in objective.parts] == ["span-corruption", "prefix", "span-corruption-2"]
    losses = objective(objective.collate(rows(9, objective), 64))
    assert losses["span-corruption-2"].weight == pytest.approx(1 / 3)
    assert "span-corruption-2_accuracy" in losses
    assert named_apart(["a", "b", "a", "a"]) == ["a", "b", "a-2", "a-3"]


def test_what_the_network_adds_is_counted_once_over_all_parts():
    network = network_of("gpt2")
    network.regularisers = {"balance": 0.01}
    asked: list[int] = []
    network.regularise = lambda: asked.append(1) or {"balance": torch.tensor(float(len(asked)))}  # type: ignore[method-assign]
    parts = [Part(name, 1, Causal(network, TOKENS, CausalObjective())) for name in ("one", "two")]  # type: ignore[arg-type]
    objective = Mixture(network, TOKENS, parts)  # type: ignore[arg-type]
    batch = objective.collate(rows(6, objective), 64)
    first, second = (part.tokens for part in batch.batches)
    loss = objective(batch)["balance"]
    assert (loss.total.item(), loss.count, loss.weight) == (first + 2 * second, first + second, 0.01)
    assert objective.counts(batch)["balance"] == loss.count


class Game(Causal):
    phases = (Phase(turns=("generator", "discriminator")),)


class Owner(Causal):
    def __init__(self, network: Network):
        super().__init__(network, TOKENS, CausalObjective())  # type: ignore[arg-type]
        self.own = nn.Linear(2, 2)


def test_games_and_second_networks_are_refused_by_name():
    network = network_of("gpt2")
    game = Game(network, TOKENS, CausalObjective())  # type: ignore[arg-type]
    for other in (game, Owner(network)):
        with pytest.raises(UserError, match=r"objective\.parts: other trains more than the one network"):
            Mixture(network, TOKENS, [Part("other", 1, other), Part("causal", 1, game)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective={kind: mixture, parts: [{objective: {kind: causal}}, {objective: {kind: masked}}]}"],
         "objective masked does not fit family gpt2, a decoder: it is for bert"),
        (["objective={kind: mixture, parts: [{objective: {kind: causal}}]}"], "a mixture has at least two parts"),
        (["objective={kind: mixture, parts: [{objective: {kind: mixture}}, {objective: {kind: causal}}]}"],
         "objective.parts.0.objective.kind: 'mixture' is not known"),
        (["objective={kind: mixture, parts: [{objective: {kind: causal}, weight: 0}, {objective: {kind: prefix}}]}"],
         "objective.parts.0.weight: "),
        (["objective={kind: denoising}"], "objective denoising does not fit family gpt2"),
        (["model.family=bert", "objective={kind: hybrid}"], "objective hybrid does not fit family bert, an encoder"),
        (["model.family=t5", "objective={kind: fill-in-the-middle}"], "fill-in-the-middle does not fit family t5"),
        (["objective={kind: denoisers, mix: [{mode: S, rate: 0.2, span: 3}]}"], "mode S has no span"),
        (["objective={kind: denoisers, mix: [{mode: X, rate: 0.2}]}"], "mode X needs a span"),
        (["objective={kind: denoisers, mix: []}"], "there are no denoisers"),
        (["model.family=bart", "objective={kind: denoising, infill: 0, permute: 0}"], "nothing is spoiled"),
    ],
)
def test_what_does_not_belong_together_is_refused_by_name(overrides, message):
    with pytest.raises(UserError) as caught:
        read_recipe(None, ["model.family=gpt2", *overrides])
    assert message in str(caught.value)


def test_a_part_that_lacks_its_tokens_is_refused():
    bare = FakeTokens(mask=None)
    with pytest.raises(UserError, match="no sentinels"):
        mixture_of("gpt2", [{"objective": {"kind": "causal"}}, {"objective": {"kind": "span-corruption"}}], bare)


def test_defaults_follow_the_family():
    assert read_recipe(None, ["model.family=t5"]).objective.kind == "span-corruption"
    assert read_recipe(None, ["model.family=bart"]).objective.kind == "denoising"


# Causal and masked rows on one decoder


def test_masked_tokens_are_said_one_place_before_them():
    objective = MaskedNext(network_of("gpt2"), TOKENS, MaskedObjective(unit="token", rate=0.3, replace="mask"))  # type: ignore[arg-type]
    pieces = text_of(20, 1), text_of(12, 2)
    batch = objective.collate([row_of(*pieces)], 64)
    text = torch.zeros(64, dtype=torch.long)
    text[1:21], text[23:35] = (torch.from_numpy(piece.tokens) for piece in pieces)
    assert torch.equal(text[batch.picked + 1], batch.answers)
    assert (batch.packed.tokens[0, batch.picked + 1] == TOKENS.mask).all()
    assert batch.packed.prefix is not None
    assert batch.packed.prefix.all()
    total = torch.zeros(())
    for number, (begin, piece) in enumerate(((0, pieces[0]), (22, pieces[1])), 1):
        own = (batch.packed.documents[0] == number).nonzero()[:, 0]
        assert own.tolist() == list(range(begin, begin + len(piece.tokens) + 2))
        hidden = bidirectional(objective.network, batch.packed.tokens[:, own])
        mine = torch.isin(batch.picked, own)
        places, answers = batch.picked[mine] - begin, batch.answers[mine]
        total = total + F.cross_entropy(objective.network.logits(hidden[0, places]), answers, reduction="sum")
    assert objective(batch)["masked"].total.item() == pytest.approx(total.item(), rel=1e-4)


def bidirectional(network: Network, tokens: torch.Tensor) -> torch.Tensor:
    """The decoder with its causal masks taken out."""
    from yanmo.batch import Packed
    from yanmo.layers import View

    packed = Packed(tokens, torch.ones_like(tokens), torch.arange(tokens.shape[1])[None], whole=True)
    x = network.embed(packed)  # type: ignore[operator]
    for block in network.blocks:  # type: ignore[union-attr]
        x = block(x, View())
    return network.norm(x)  # type: ignore[operator]


def test_a_share_of_rows_is_causal():
    objective = Hybrid(network_of("gpt2"), TOKENS, section_of("gpt2", kind="hybrid", causal=0.25))  # type: ignore[arg-type]
    batch = objective.collate(rows(300, objective), 64)
    causal, masked = batch.batches
    assert len(causal.packed.tokens) / 300 == pytest.approx(0.25, abs=0.06)
    assert causal.packed.prefix is None
    special = torch.isin(masked.packed.tokens, torch.tensor([*TOKENS.special]))
    special.view(-1)[masked.picked + 1] = False
    assert len(masked.answers) / (~special).sum().item() == pytest.approx(0.15, abs=0.01)
    losses = objective(objective.collate(rows(8, objective), 64))
    assert {name: loss.weight for name, loss in losses.items()} == {
        "causal": 0.25, "causal_accuracy": 0, "masked": 0.75, "masked_accuracy": 0,
    }


def test_a_hybrid_needs_a_mask():
    with pytest.raises(UserError, match=r"no mask token; tokenizer.add_special=true adds one"):
        Hybrid(network_of("gpt2"), FakeTokens(mask=None), section_of("gpt2", kind="hybrid"))  # type: ignore[arg-type]
