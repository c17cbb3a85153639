"""Replaced-token detection: what is drawn, what is judged, who learns from what, and what a folder keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from in_memory import CLS, FIRST, PAD, SEP, SIZE, UNKNOWN, FakeTokens, random_shards

from yanmo.batch import Order
from yanmo.errors import UserError
from yanmo.layers import HeadConfig, VocabularyHead
from yanmo.models import build, load, save
from yanmo.objectives import Replaced, ReplacedBatch, build_objective
from yanmo.objectives.cross_entropy import CHUNK, cross_entropy, cross_entropy_and_draws, draw
from yanmo.recipe import Recipe, parse_recipe

torch.set_num_threads(1)
LENGTH = 64


def a_recipe(**objective: Any) -> Recipe:
    model = {"family": "electra", "layers": 1, "width": 32, "heads": 4, "feedforward": 48, "embedding": 16}
    return parse_recipe({"model": model, "objective": objective, "training": {"length": LENGTH}}, "test")


def replaced(seed: int = 0, **objective: Any) -> Replaced:
    torch.manual_seed(seed)
    recipe = a_recipe(**objective)
    made = build_objective(recipe, build(recipe.model, vocabulary=SIZE, length=LENGTH), FakeTokens())  # type: ignore[arg-type]
    assert isinstance(made, Replaced)
    return made.eval()


def batch_of(objective: Replaced, rows: int = 16) -> ReplacedBatch:
    shards = random_shards(300, 30)
    for tokens, _, _ in shards.documents:
        tokens[::11] = UNKNOWN
    order = Order(shards, LENGTH, objective, seed=2)
    return objective.collate([order.row(number) for number in range(rows)], LENGTH)


def original(batch: ReplacedBatch) -> torch.Tensor:
    return batch.masked.tokens.flatten().scatter(0, batch.picked, batch.answers)


def losses_and_input(objective: Replaced, batch: ReplacedBatch, seed: int = 5) -> tuple[dict[str, Any], torch.Tensor]:
    """The losses, and the tokens that the discriminator read, (R*T,)."""
    seen = []
    hook = objective.network.register_forward_pre_hook(lambda module, given: seen.append(given[0].tokens.flatten()))
    torch.manual_seed(seed)
    losses = objective(batch)
    hook.remove()
    return losses, seen[0]


def test_tokens_are_drawn_as_often_as_their_softmax_says() -> None:
    torch.manual_seed(0)
    chances = torch.tensor([0.5, 0.0, 0.2, 0.05, 0.25, 0.0])
    count = 200_000
    drawn = draw(chances.log().expand(count, 6), torch.rand(count))
    found = torch.bincount(drawn, minlength=6)
    error = (count * chances * (1 - chances)).sqrt()
    assert ((found - count * chances).abs() <= 4 * error).all()
    ends = torch.tensor([0.0, 1 - 2**-24, 1.0])
    first = torch.tensor([0.0, 0.3, 0.7, 0.0]).log().expand(3, 4)
    assert draw(first, ends).tolist() == [1, 2, 2], "the ends, too, are never tokens of no chance"


def test_losses_and_gradients_are_those_without_draws() -> None:
    torch.manual_seed(0)
    head = VocabularyHead(HeadConfig(50, 8, transform="gelu", bias=True, tied=False), torch.nn.Embedding(50, 8))
    torch.nn.init.normal_(head.weight)
    hidden, answers = torch.randn(CHUNK + 70, 8), torch.randint(50, (CHUNK + 70,))
    found = []
    for function in (cross_entropy, cross_entropy_and_draws):
        given = hidden.clone().requires_grad_()
        total, correct, *drawn = function(head, given, answers)
        gradients = torch.autograd.grad(total, [given, *head.parameters()])
        found.append([total.detach(), correct, *gradients])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    with torch.no_grad():
        head.weight *= 1e4                                # so sure that each place draws its best token
        _, _, drawn = cross_entropy_and_draws(head, hidden, answers)
        assert torch.equal(drawn, head(hidden).argmax(-1))


def test_only_picked_places_change_and_special_tokens_are_not_judged() -> None:
    objective = replaced()
    batch = batch_of(objective)
    losses, read = losses_and_input(objective, batch)
    before = original(batch)
    changed = (read != before).nonzero()[:, 0]
    assert np.isin(changed, batch.picked).all()
    assert int(losses["replaced_accuracy"].count) == len(changed)
    assert int(losses["original_accuracy"].count) == len(batch.judged) - len(changed)
    text = ~torch.isin(before, torch.tensor([PAD, UNKNOWN, CLS, SEP]))
    assert torch.equal(batch.judged, text.nonzero()[:, 0])
    assert (before == UNKNOWN).any(), "there is something that must not be judged"


def test_shares_of_replaced_tokens() -> None:
    """15% of the text is picked; a generator that knows nothing draws the true token once in V times."""
    objective = replaced()
    generator = objective.generator.network
    with torch.no_grad():
        generator.head.bias[:] = torch.where(torch.arange(len(generator.head.bias)) < FIRST + 4, 0.0, -1e4)
        generator.head.bias[:FIRST] = -1e4                # four tokens are as likely, and nothing else
        generator.embed.tokens.weight.zero_()
    batch = batch_of(objective, rows=100)
    batch.answers.copy_(torch.randint(FIRST, FIRST + 4, batch.answers.shape, generator=torch.Generator().manual_seed(1)))
    losses, read = losses_and_input(objective, batch)
    picked, text = len(batch.picked), len(batch.judged)
    assert picked / text == pytest.approx(0.15, abs=0.005)
    replaced_share = int(losses["replaced_accuracy"].count) / picked
    assert replaced_share == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / picked) ** 0.5)
    drawn = read[batch.picked].bincount(minlength=FIRST + 4)[FIRST:]
    assert drawn.tolist() == pytest.approx([picked / 4] * 4, abs=4 * (picked * 0.25 * 0.75) ** 0.5)


def test_a_drawn_token_that_is_the_true_one_counts_as_original() -> None:
    objective = replaced()
    batch = batch_of(objective)
    with torch.no_grad():
        objective.generator.network.head.bias[int(batch.answers[0])] = 1e4
    losses, _ = losses_and_input(objective, batch)
    others = int((batch.answers != batch.answers[0]).sum())
    assert 0 < others < len(batch.answers)
    assert int(losses["replaced_accuracy"].count) == others


@torch.no_grad()
def test_the_loss_is_the_cross_entropy_of_the_two_answers() -> None:
    objective = replaced(weight=7.0)
    batch = batch_of(objective)
    losses, read = losses_and_input(objective, batch)
    packed = type(batch.masked)(read.view_as(batch.masked.tokens), batch.masked.documents, batch.masked.positions)
    scores = objective.network.logits(objective.network(packed)).flatten()
    chance = torch.sigmoid(scores)                        # of having been replaced
    answer = read != original(batch)
    total = -sum(float(torch.log(chance[place] if answer[place] else 1 - chance[place])) for place in batch.judged)
    assert float(losses["replaced"].total) == pytest.approx(total, rel=1e-4)
    assert (losses["replaced"].weight, losses["masked"].weight) == (7.0, 1.0)
    right = (chance > 0.5) == answer
    judged = torch.zeros_like(answer).index_fill(0, batch.judged, True)
    assert int(losses["replaced_accuracy"].total) == int((right & answer & judged).sum())
    assert int(losses["original_accuracy"].total) == int((right & ~answer & judged).sum())
    hidden = objective.generator.network(batch.masked).flatten(0, 1)[batch.picked]
    expected = F.cross_entropy(objective.generator.network.logits(hidden), batch.answers, reduction="sum")
    assert float(losses["masked"].total) == pytest.approx(float(expected), rel=1e-4)
    assert batch.counts.keys() == losses.keys()


def test_draws_are_a_function_of_the_random_state() -> None:
    objective = replaced()
    batch = batch_of(objective)
    _, first = losses_and_input(objective, batch, seed=5)
    _, again = losses_and_input(objective, batch, seed=5)
    _, other = losses_and_input(objective, batch, seed=6)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_who_learns_from_what() -> None:
    """The discriminator's loss reaches the generator only through the tables they share, whose gradients add up."""
    objective = replaced()
    batch = batch_of(objective)
    gradients: dict[str, dict[str, torch.Tensor | None]] = {}
    for name in ("masked", "replaced", "both"):
        objective.zero_grad()
        losses, _ = losses_and_input(objective, batch)
        (losses["masked"].total + losses["replaced"].total if name == "both" else losses[name].total).backward()
        gradients[name] = {key: one.grad for key, one in objective.named_parameters()}
    shared = {f"network.embed.{table}.weight" for table in ("tokens", "positions", "types")}
    own = {name for name, _ in objective.named_parameters() if name.startswith("generator.")}
    assert own
    assert not any("embed.tokens" in name or "head.weight" in name for name in own), "shared tables are counted once"
    for name, both in gradients["both"].items():
        masked, judged = gradients["masked"][name], gradients["replaced"][name]
        if name in shared:
            assert both is not None
            assert masked is not None
            assert judged is not None
            torch.testing.assert_close(both, masked + judged)
            assert masked.count_nonzero()
            assert judged.count_nonzero()
        else:
            assert (masked is not None, judged is not None) == (name in own, name not in own), name


def test_going_on_from_a_folder_finds_the_generator(tmp_path: Path) -> None:
    objective = replaced(generator=0.5)
    save(objective.network, tmp_path)
    for name, companion in objective.companions().items():
        save(companion, tmp_path / name)
    torch.manual_seed(9)
    again = build_objective(a_recipe(), load(tmp_path), FakeTokens(), tmp_path)  # type: ignore[arg-type]
    assert isinstance(again, Replaced)
    before, after = dict(objective.named_parameters()), dict(again.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert again.generator.network.config.width == 16, "the folder's, not the recipe's"
    assert again.generator.network.head.weight is again.network.embed.tokens.weight


def test_a_generator_of_another_size_is_refused(tmp_path: Path) -> None:
    objective = replaced()
    save(objective.companions()["generator"], tmp_path / "generator")
    recipe = parse_recipe({"model": {"family": "electra", "layers": 1, "width": 32, "heads": 4}}, "test")
    network = build(recipe.model, vocabulary=SIZE, length=LENGTH)
    with pytest.raises(UserError, match="the generator's table of tokens is"):
        build_objective(recipe, network, FakeTokens(), tmp_path)  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused_when_the_recipe_is_read() -> None:
    with pytest.raises(UserError, match="objective replaced does not fit family bert, an encoder: it is for electra"):
        parse_recipe({"objective": {"kind": "replaced"}}, "test")
    with pytest.raises(UserError, match="objective masked does not fit family electra, a discriminator"):
        parse_recipe({"model": {"family": "electra"}, "objective": {"kind": "masked"}}, "test")
    with pytest.raises(UserError, match=r"evaluation.fill does not fit family electra: it neither fills nor continues"):
        parse_recipe({"model": {"family": "electra"}, "evaluation": {"fill": ["a [MASK]"]}}, "test")
