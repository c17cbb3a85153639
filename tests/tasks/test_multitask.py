"""Several tasks on one network: whose a row is, what each loss counts, what becomes of gradients that are made apart."""

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from small_tasks import network_of, tokens_of

from yanmo import checkpoint, models, recipe
from yanmo.batch import Order
from yanmo.errors import UserError
from yanmo.files import new_folder
from yanmo.finetune import task_on
from yanmo.gradients import add_up
from yanmo.labelled.data import read_data
from yanmo.labelled.examples import Classified, Tagged
from yanmo.measured import measured
from yanmo.multitask.comparing import Gain, gains_of, table, verdicts
from yanmo.multitask.learning import JointTrial, _named, identity
from yanmo.multitask.objective import MultiTask
from yanmo.multitask.order import MixedOrder, apportioned, shares_of
from yanmo.multitask.weighting import (
    GRADNORM_RATE,
    PERIODS,
    Average,
    GradNorm,
    Uncertainty,
    Weighting,
    build_weighting,
    projected,
)
from yanmo.objectives import objective_on
from yanmo.objectives.objective import Loss
from yanmo.parallel import Ranks
from yanmo.players import Players
from yanmo.recipe import Training, parse_recipe, read_recipe
from yanmo.tasks.folder import save_task
from yanmo.tasks.windows import WindowOrder
from yanmo.tokenizer import save_tokenizer
from yanmo.train import Trainer

LENGTH = 32
WEIGHTINGS = ("fixed", "uncertainty", "average", "gradnorm", "pcgrad")
LABELLED = [
    Classified(origin=f"c:{number}", text=f"{text} {number % 7} 北京", label=label)
    for number, (text, label) in enumerate([("the bread was good", "good"), ("bad port", "bad"), ("好面包", "good")] * 30)
]
SCORED = [Classified(origin=f"r:{number}", text=f"the port of {number % 11}", label=float(number % 11)) for number in range(60)]
NAMED = [
    Tagged(origin=f"t:{number}", tokens=("a", *words), tags=("O", *tags))
    for number, (words, tags) in enumerate([(("in", "Ghent"), ("O", "B-LOC")), (("北", "京"), ("B-LOC", "I-LOC"))] * 25)
]
KINDS: dict[str, tuple[str, list[Any]]] = {
    "reviews": ("classification", LABELLED), "names": ("labelling", NAMED), "numbers": ("regression", SCORED),
}


class Texts:
    """Documents of random tokens."""

    lengths = np.full(40, 12)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, document: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        tokens = np.random.default_rng(document).integers(20, 400, 12)
        return tokens, np.array([0]), np.arange(12)


def made(
    weighting: str = "fixed", names: tuple[str, ...] = ("reviews", "names"), rows: int = 6, **given: Any
) -> tuple[MultiTask, MixedOrder]:
    """Tasks with heads on one tiny network, and the order of all their rows."""
    torch.manual_seed(5)
    tokens = tokens_of("bert")
    network = network_of("bert", tokens, 32)
    tasks, orders = {}, {}
    for name in names:
        kind, examples = KINDS[name]
        section = TypeAdapter(recipe.Task).validate_python({"kind": kind, "training": {"length": LENGTH}})
        tasks[name] = task_on(network, tokens, section, examples)
        orders[name] = tasks[name].order(examples, seed=3)
    network.keep_for(*dict.fromkeys(task.head_of(task.section) for task in tasks.values()))
    order = MixedOrder(list(orders.values()), [1 / len(names)] * len(names), rows * len(names), seed=1)
    some = {name: [one.row(0)] for name, one in orders.items()}
    squares = [task.squares for task in tasks.values()]
    return MultiTask(network, tasks, some, LENGTH, build_weighting(weighting, squares), **given), order


def training(**changes: Any) -> Training:
    given = {"steps": 4, "rows": 8, "length": LENGTH, "precision": "fp32", "optimizer": "adamw", "learning_rate": 3e-3}
    return Training(**{**given, **changes})


def quiet(sentence: str) -> None:
    pass


# Rows


@pytest.mark.parametrize(("sampling", "expected"), [("size", (0.1, 0.9)), ("even", (0.5, 0.5)), ("temperature", (0.25, 0.75))])
def test_shares_are_by_size_even_or_in_between(sampling: str, expected: tuple[float, float]) -> None:
    assert shares_of([10, 90], sampling, temperature=2.0) == pytest.approx(expected)


def test_seats_are_given_by_the_largest_remainders_and_nobody_has_none() -> None:
    assert apportioned([0.5, 0.3, 0.2], 7).tolist() == [4, 2, 1]      # 3.5, 2.1 and 1.4: the half seat goes to the first
    assert apportioned([0.999, 0.001], 10).tolist() == [9, 1]
    for seats in range(3, 60):
        assert apportioned([0.7, 0.29, 0.01], seats).sum() == seats


class Numbers:
    """Rows that are only numbers."""

    def __init__(self, rows: int):
        self.rows_per_epoch, self.places_per_epoch = rows, 10 * rows

    def row(self, number: int) -> Any:
        return SimpleNamespace(pieces=(), rng=number, other=None)


def test_every_stretch_of_rows_has_its_shares_and_no_row_is_left_out() -> None:
    order = MixedOrder([Numbers(30), Numbers(10), Numbers(60)], [0.3, 0.1, 0.6], 100, seed=4)
    rows = [order.row(number) for number in range(300)]
    assert [sum(row.part == part for row in rows[:100]) for part in range(3)] == [30, 10, 60]
    for part in range(3):                                  # each part's own rows one after the other, in every epoch
        assert [row.rng for row in rows if row.part == part] == list(range(sum(row.part == part for row in rows)))
        own = [number for number, row in enumerate(rows) if row.part == part]
        gaps = np.diff(own)
        assert gaps.max() <= 100 / order.counts[part] + 100 / order.counts[part]
    for begin in range(0, 290, 10):
        assert 2 <= sum(row.part == 0 for row in rows[begin : begin + 10]) <= 4
    again = MixedOrder(order.orders, [0.3, 0.1, 0.6], 100, seed=4)
    assert [again.place(number) for number in (250, 3, 120)] == [order.place(number) for number in (250, 3, 120)]
    assert order.places_per_epoch == 1000


# What losses count


def test_a_variance_comes_to_rest_where_its_derivative_says() -> None:
    """min over s of exp(-s) L + s/2 is at exp(s) = 2 L; of a square, of exp(-s) L/2 + s/2, at exp(s) = L: the variance itself."""
    losses = (0.3, 4.0)
    weighting = Uncertainty(2, (False, True))
    optimizer = torch.optim.Adam([weighting.log_variances], lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        total = torch.zeros(())
        for part, value in enumerate(losses):
            loss = weighting.weigh(part, Loss(torch.tensor(value * 5, requires_grad=True), 5))
            assert loss.total.item() == pytest.approx(value * 5), "what is shown is the loss itself"
            penalty = weighting.penalty(part)
            assert penalty is not None
            total = total + loss.total * loss.weight / 5 + penalty
        total.backward()
        optimizer.step()
    assert weighting.log_variances.detach().exp().tolist() == pytest.approx([2 * 0.3, 4.0], rel=1e-3)
    assert weighting.now() == pytest.approx([1 / 0.6, 0.5 / 4.0], rel=1e-3)
    assert total.item() == pytest.approx(0.5 + math.log(0.6) / 2 + 0.5 + math.log(4.0) / 2, rel=1e-3)


def test_a_network_gets_the_gradient_of_the_weighed_loss() -> None:
    weighting, x = Uncertainty(2), torch.tensor(3.0, requires_grad=True)
    with torch.no_grad():
        weighting.log_variances[1] = 0.7
    loss = weighting.weigh(1, Loss(x**2, 1))
    (loss.total * loss.weight).backward()
    assert x.grad is not None
    assert x.grad.item() == pytest.approx(6 * math.exp(-0.7), rel=1e-6)
    assert weighting.log_variances.grad is not None
    assert weighting.log_variances.grad.tolist() == pytest.approx([0, -9 * math.exp(-0.7)], rel=1e-6)


def test_dynamic_weight_average_is_as_by_hand() -> None:
    weighting, steps = Average(2), 2 * PERIODS             # two steps a period
    told = [(4.0, 2.0), (2.0, 2.0), (1.5, 1.8), (None, 2.0), (1.0, 1.0), (1.0, 2.0)]
    seen = []
    for step, losses in enumerate(told):
        weighting.begin(step, steps)
        seen.append(weighting.now())
        weighting.took(losses)
    weighting.begin(len(told), steps)
    assert seen[:4] == [[1, 1]] * 4, "two periods are needed for a ratio"
    first = np.exp(np.array([1.5 / 3.0, 1.9 / 2.0]) / 2)   # means of the periods: 3 and 2, then 1.5 and 1.9
    assert seen[4] == seen[5] == pytest.approx((2 * first / first.sum()).tolist(), rel=1e-6)
    second = np.exp(np.array([1.0 / 1.5, 1.5 / 1.9]) / 2)
    assert weighting.now() == pytest.approx((2 * second / second.sum()).tolist(), rel=1e-6)


class Vectors:
    """Gradients as they are, for weightings that ask for their products."""

    def __init__(self, *gradients: Any):
        self.gradients = torch.stack([torch.as_tensor(one, dtype=torch.float64) for one in gradients])

    def products(self, names: Any) -> torch.Tensor:
        return self.gradients @ self.gradients.T


@pytest.mark.parametrize("own", [(1.0, 1.0, 1.0), (2.0, 0.5, 1.0)])
def test_gradnorm_moves_as_autograd_says_whatever_parts_count_besides(own: tuple[float, ...]) -> None:
    torch.manual_seed(0)
    weighting, shared = GradNorm(3, alpha=1.5), torch.randn(6, requires_grad=True)
    maps = [torch.randn(4, 6) * scale for scale in (1.0, 3.0, 0.2)]
    firsts: list[float] = []
    for step in range(3):
        weights = weighting.weights.double().clone().requires_grad_()
        losses = [((part @ shared).tanh() ** 2).sum() for part in maps]
        gradients = [torch.autograd.grad(loss, shared, retain_graph=True)[0].double() for loss in losses]
        firsts = firsts or [loss.item() for loss in losses]
        norms = torch.stack([(weight * gradient).norm() for weight, gradient in zip(weights, gradients, strict=True)])
        ratios = torch.tensor([loss.item() / first for loss, first in zip(losses, firsts, strict=True)], dtype=torch.float64)
        target = (norms.mean() * (ratios / ratios.mean()) ** 1.5).detach()
        (norms - target).abs().sum().backward()
        assert weights.grad is not None
        wanted = weights.detach() - GRADNORM_RATE * weights.grad / norms.mean().detach()
        wanted = wanted * 3 / wanted.sum()
        counted = zip(own, weights.detach(), gradients, strict=True)
        weighed = Vectors(*(besides * weight * one for besides, weight, one in counted))
        means = [loss.item() for loss in losses]
        assert weighting.factors(weighed, means, [frozenset()], own) == [1, 1, 1]  # type: ignore[arg-type]
        assert weighting.now() == pytest.approx(weights.tolist()), "nothing moves before the step is taken"
        weighting.took(means)
        assert weighting.now() == pytest.approx(wanted.tolist(), rel=1e-5)
        with torch.no_grad():
            shared -= 0.05 * sum(gradients).float()
        assert step < 3


def test_parts_share_what_two_of_them_learn_and_nothing_else() -> None:
    torch.manual_seed(5)
    tokens = tokens_of("bert")
    network = network_of("bert", tokens, 32)
    section = TypeAdapter(recipe.Task).validate_python({"kind": "labelling", "training": {"length": LENGTH}})
    task = task_on(network, tokens, section, NAMED)
    masked = objective_on(network, tokens, recipe.MaskedObjective(), Path())
    rows = {"names": [task.order(NAMED, seed=3).row(0)]}
    rows["masked"] = [Order(Texts(), LENGTH, masked, 0).row(0)]
    joint = MultiTask(network, {"names": task, "masked": masked}, rows, LENGTH, build_weighting("pcgrad", [False, False]))
    named = {f"network.{name}" for name, _ in network.named_parameters()}
    private = {name for name in named if ".head." in name or ".pooler." in name}
    assert private, "what only words are guessed with"
    assert joint.shared[0] == named - private


def test_a_part_that_counts_more_has_the_same_variance() -> None:
    def slopes(weights: dict[str, float]) -> tuple[torch.Tensor, list[float]]:
        objective, order = made("uncertainty", weights=weights)
        losses = objective(objective.collate([order.row(number) for number in range(6)], LENGTH))
        found = sum(loss.total * loss.weight / loss.count for loss in losses.values() if loss.weight and loss.count)
        found.backward()  # type: ignore[union-attr]
        gradients = [one.grad.norm().item() for one in objective.objectives[0].head.parameters()]  # type: ignore[union-attr]
        return objective.weighting.log_variances.grad, gradients  # type: ignore[return-value]

    (plain, before), (twice, after) = slopes({}), slopes({"reviews": 2.0})
    assert twice.tolist() == pytest.approx([2 * plain[0].item(), plain[1].item()], rel=1e-5), "it rests where it did"
    assert after == pytest.approx([2 * one for one in before], rel=1e-5)


def by_the_paper(gradients: np.ndarray, orders: Any) -> np.ndarray:
    """Algorithm 1 of Yu et al. 2020, vector by vector."""
    found = []
    for number, order in enumerate(orders):
        own = gradients[number].copy()
        for other in order:
            if other != number and own @ gradients[other] < 0:
                own -= own @ gradients[other] / (gradients[other] @ gradients[other]) * gradients[other]
        found.append(own)
    return np.sum(found, axis=0)


def test_conflicting_gradients_are_projected_as_in_the_paper() -> None:
    small = np.array([[1.0, 0.0], [-1.0, 1.0]])
    factors = projected(torch.from_numpy(small @ small.T), [[0, 1], [0, 1]]).sum(0).numpy()
    assert (factors @ small).tolist() == pytest.approx([0.5, 1.5])         # (0.5, 0.5) and (0, 1), by hand
    rng = np.random.default_rng(0)
    for _ in range(50):
        gradients = rng.normal(size=(4, 6))
        gradients[rng.integers(4)] *= rng.integers(2)                        # sometimes a part without rows
        orders = [rng.permutation(4).tolist() for _ in range(4)]
        factors = projected(torch.from_numpy(gradients @ gradients.T), orders).sum(0).numpy()
        np.testing.assert_allclose(factors @ gradients, by_the_paper(gradients, orders), atol=1e-10)


def test_gradients_that_agree_are_added_up() -> None:
    agreeing = torch.tensor([[1.0, 0.2], [0.2, 2.0]], dtype=torch.float64)
    assert torch.equal(projected(agreeing, [[0, 1], [1, 0]]), torch.eye(2, dtype=torch.float64))


# On a network


def flat_of(named: dict[str, torch.Tensor], names: Any) -> np.ndarray:
    """The tensors of these names, one after the other."""
    return np.concatenate([named[name].flatten().double().numpy() for name in sorted(names)])


@pytest.mark.parametrize("weighting", ["pcgrad", "gradnorm"])
def test_gradients_apart_become_one_by_the_parameters_that_are_shared(weighting: str) -> None:
    objective, order = made(weighting)
    objective.eval()                                       # no dropout
    objective.training = True
    objective.own = (1.0, 3.0)
    batches = [objective.collate([order.row(number) for number in numbers], LENGTH) for numbers in ((0, 1, 2), (3, 4, 5))]
    names = sorted(batches[0].counts)
    counts = {name: sum(batch.counts[name] for batch in batches) for name in names}
    each = []
    for part in objective.parts:
        objective.zero_grad()
        for batch in batches:
            found = objective(batch)
            own = [found[name].total * found[name].weight / counts[name] for name in found if name.startswith(f"{part}/")]
            sum(one for one in own if one.requires_grad).backward()  # type: ignore[union-attr]
        named = dict(objective.named_parameters())
        each.append({name: torch.zeros_like(one) if one.grad is None else one.grad.clone() for name, one in named.items()})
    objective.zero_grad(set_to_none=True)
    weights = Players(objective, training(), torch.float32)["model"].weights
    totals, weighed, apart = add_up(objective, "model", batches, counts, weights, Ranks())
    assert apart is not None
    objective.join(apart, measured(names, totals.flatten().tolist(), weighed, 1).means)
    found = weights.named(weights.finish())
    shared = np.stack([flat_of(one, objective.shared[0]) for one in each])
    wanted = shared.sum(0)
    assert shared[0] @ shared[1] < 0, "there is a conflict"
    if weighting == "pcgrad":
        generator = torch.Generator().manual_seed(0)
        wanted = by_the_paper(shared, [torch.randperm(2, generator=generator).tolist() for _ in range(2)])
    joined = flat_of(found, objective.shared[0])
    np.testing.assert_allclose(joined, wanted, atol=2e-6 * np.abs(wanted).max() + 1e-7)
    for name in found.keys() - objective.shared[0]:
        torch.testing.assert_close(found[name], each[0][name] + each[1][name])


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_one_task_is_learned_as_without_others(weighting: str, tmp_path: Path) -> None:
    objective, order = made(weighting, ("names",))
    alone, _ = made("fixed", ("names",))
    (task,) = alone.tasks.values()
    (own,) = order.orders
    assert isinstance(own, WindowOrder)
    Trainer(objective, order, None, training(steps=2), tmp_path / "all", say=quiet).fit()
    Trainer(task, own, None, training(steps=2), tmp_path / "one", say=quiet).fit()
    for (name, one), other in zip(objective.network.named_parameters(), task.network.parameters(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("weighting", ["uncertainty", "pcgrad"])
def test_how_a_step_is_cut_up_changes_nothing(weighting: str, tmp_path: Path) -> None:
    outcomes = []
    for micro in (8, 2):
        objective, order = made(weighting, tuple(KINDS))
        for part in objective.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        valid = {name: examples[:9] for name, (_, examples) in KINDS.items()}
        given = {"appraise": lambda valid=valid, one=objective: one.check(valid), "say": quiet}
        outcome = Trainer(objective, order, order, training(steps=3, micro_rows=micro), tmp_path / str(micro), **given).fit()
        outcomes.append((outcome, objective))
    (whole, first), (cut, second) = outcomes
    assert cut.losses == pytest.approx(whole.losses, rel=1e-4)
    assert cut.validation == pytest.approx(whole.validation, rel=1e-4)
    assert {"reviews/weight", "names/labelling", "numbers/regression"} <= whole.losses.keys()
    assert {"reviews/accuracy", "names/f1", "numbers/spearman"} <= whole.validation.keys()
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=3e-4, rtol=1e-3)


@pytest.mark.parametrize("weighting", ["uncertainty", "average", "gradnorm", "pcgrad"])
def test_it_goes_on_bitwise(weighting: str, tmp_path: Path) -> None:
    settings = training(steps=6, save_every=1, keep=9)
    whole, order = made(weighting)
    Trainer(whole, order, None, settings, tmp_path, say=quiet).fit()
    for step in (4, 5, 6):
        checkpoint._remove([checkpoint.folder_of(tmp_path / "checkpoints", step)])
    again, order = made(weighting)
    Trainer(again, order, None, settings, tmp_path, say=quiet).fit()
    for (name, one), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one.nan_to_num(), other.nan_to_num()), name
    if weighting == "pcgrad":
        assert int(again.weighting.steps) == 6             # type: ignore[arg-type]
    else:
        assert whole.weighting.now() != [1.0, 1.0], "weights have moved"


def test_a_part_without_rows_has_its_names_all_the_same() -> None:
    objective, order = made("uncertainty")
    row = next(row for row in map(order.row, itertools.count()) if row.part == 0)
    batch = objective.collate([row], LENGTH)
    found = objective(batch)
    assert found.keys() == objective.counts(batch).keys()
    assert found["names/labelling"].count == 0
    assert found["names/labelling"].weight == 1.0
    assert batch.counts["names/uncertainty"] == 0
    names, weights = sorted(found), {name: loss.weight for name, loss in found.items()}
    seen = measured(names, [1.0] * len(names) + [float(found[name].count) for name in names], weights, 1)
    assert seen.without == ("names/labelling", "names/uncertainty"), "the guard does not compare it with steps that have them"


def test_the_merit_is_the_mean_over_tasks_or_that_of_the_main_one() -> None:
    found = {"reviews/accuracy": 0.8, "names/f1": 0.5}
    assert made()[0].merit(found) == pytest.approx(-0.65)
    assert made(main="names")[0].merit(found) == -0.5


def test_what_pretrains_learns_beside_tasks_and_leaves_no_head_in_their_folders(tmp_path: Path) -> None:
    torch.manual_seed(5)
    tokens = tokens_of("bert")
    network = network_of("bert", tokens, 32)
    section = TypeAdapter(recipe.Task).validate_python({"kind": "labelling", "training": {"length": LENGTH}})
    names, masked = task_on(network, tokens, section, NAMED), objective_on(network, tokens, recipe.MaskedObjective(unit="token"))
    orders = [names.order(NAMED, seed=0), Order(Texts(), LENGTH, masked, seed=0)]
    order = MixedOrder(orders, [0.5, 0.5], 20, seed=0)
    some = {name: [one.row(0)] for name, one in zip(("names", "masked"), orders, strict=True)}
    objective = MultiTask(network, {"names": names, "masked": masked}, some, LENGTH, build_weighting("pcgrad", [False, False]))
    assert set(objective.tasks) == {"names"}
    before = network.head.dense.weight.clone()  # type: ignore[union-attr]
    outcome = Trainer(objective, order, None, training(steps=2), tmp_path / "run", say=quiet).fit()
    assert outcome.losses.keys() == {"loss", *(f"{part}/{name}" for part, name in (
        ("names", "labelling"), ("names", "accuracy"), ("names", "weight"),
        ("masked", "masked"), ("masked", "accuracy"), ("masked", "weight"),
    ))}
    assert not torch.equal(network.head.dense.weight, before)  # type: ignore[union-attr]
    with new_folder(tmp_path / "model") as folder:
        save_task(names, folder, tmp_path)
    weights = checkpoint._read(tmp_path / "model" / "model.safetensors")
    assert not [name for name in weights if name.startswith("cls.")]
    assert "classifier.weight" in weights


# The recipe


TASKS = {"one": {"kind": "classification", "train": "a.jsonl"}, "two": {"kind": "labelling", "train": "b.jsonl"}}


@pytest.mark.parametrize(
    ("together", "message"),
    [
        ({"tasks": ["one", "tree"]}, "together.tasks: tree is no task of the recipe; its tasks: one, two"),
        ({"tasks": ["one", "one"]}, "task one is named twice"),
        ({"tasks": []}, "together.tasks"),
        ({"tasks": ["one"], "weighting": "gradnrom"}, "did you mean gradnorm?"),
        ({"tasks": ["one"], "weights": {"two": 2}}, "weights: two is no part of it; parts: one"),
        ({"tasks": ["one"], "main": "two"}, "main: two is none of its tasks: one"),
        ({"tasks": ["one"], "objective": True}, "together.objective: masked needs text; name some in corpus.sources"),
        ({"tasks": ["one"], "share": 0.5}, "share is only read with an objective; leave it out"),
        ({"tasks": ["one"], "alpha": 0.5}, "alpha is only read with weighting gradnorm"),
        ({"tasks": ["one"], "objective": {"rat": 0.3}}, "rat: no such key; did you mean rate?"),
    ],
)
def test_what_does_not_belong_together_is_named(together: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_recipe({"tasks": TASKS, "together": together}, "test")
    assert message in str(caught.value)


def test_tasks_with_different_models_have_no_network_in_common() -> None:
    tasks = {**TASKS, "two": {**TASKS["two"], "model": "folder"}}
    with pytest.raises(UserError, match="one and two begin with different models"):
        parse_recipe({"tasks": tasks, "together": {"tasks": ["one", "two"]}}, "test")


def test_two_tasks_of_one_name_are_refused_with_both_lines(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("tasks:\n  ner: {kind: labelling, train: a}\n  # another\n  ner: {kind: relation, train: b}\n")
    with pytest.raises(UserError, match=r"r\.yaml:4: ner is there already, in line 2; keep one of both"):
        read_recipe(file)
    with pytest.raises(UserError, match="rows is there already"):
        read_recipe(None, ["training={rows: 2, rows: 3}"])


def test_the_objective_may_be_the_recipes_own() -> None:
    tree = {"tasks": TASKS, "corpus": {"sources": ["x"]}, "objective": {"kind": "masked", "rate": 0.3}}
    found = parse_recipe({**tree, "together": {"tasks": ["one"], "objective": True, "weighting": "pcgrad"}}, "test").together
    assert found is not None
    assert (found.objective.kind, found.objective.rate, found.weighting) == ("masked", 0.3, ("pcgrad",))  # type: ignore[union-attr]
    assert found.parts == ("one", "masked")


def test_a_task_without_examples_and_a_family_without_its_head_are_named() -> None:
    with pytest.raises(UserError, match=r"tasks\.one: task classification: no examples to learn from; name a file in `train`"):
        read_data(recipe.ClassificationTask(), "one")
    network = SimpleNamespace(config=SimpleNamespace(family="vae", length=64, width=8))
    message = "together: one: a vae has no head that classifies whole texts; families that have one: "
    with pytest.raises(UserError, match=message), _named("one"):
        task_on(network, tokens_of("bert"), recipe.ClassificationTask(), LABELLED)  # type: ignore[arg-type]


# The table


def trial(weighting: str, seed: int, f1: float) -> dict[str, Any]:
    task = {"valid": {"f1": 0.0}, "test": {"f1": f1}, "metric": "f1", "scale": 100, "lower": False}
    return {"weighting": weighting, "seed": seed, "tasks": {"ner": task}, "merit": -f1, "minutes": 2.0}


def test_negative_transfer_is_named() -> None:
    alone = {"ner": [{"test": {"f1": one}, "valid": {}, "minutes": 1.0} for one in (0.80, 0.81, 0.82)]}
    found = [trial("fixed", seed, one) for seed, one in enumerate((0.70, 0.71, 0.72))]
    found += [trial("pcgrad", seed, one) for seed, one in enumerate((0.79, 0.82, 0.83))]
    gains = gains_of(found, alone)
    # Both variances are 0.0001, of three seeds: the standard error is 0.01 (2/3)^(1/2); Student's t of 2 is 4.3027.
    assert gains[0].mean == pytest.approx(-10)
    assert gains[0].half == pytest.approx(100 * 4.3027 * 0.01 * (2 / 3) ** 0.5, rel=1e-3)
    assert [gain.is_negative for gain in gains] == [True, False]
    assert verdicts(gains) == [
        "fixed: negative transfer: ner loses 10.0 ± 3.5",
        "pcgrad: not decided: ner +0.3 ± 5.7 (within the interval)",
    ]
    lines = table(found, alone, gains)
    assert [line["weighting"] for line in lines] == ["each by itself", "fixed", "pcgrad"]
    assert lines[1]["ner: f1 (test)"] == "71.0 ± 2.5 (3 seeds)"
    assert lines[1]["ner: gain"] == "-10.0 ± 3.5"
    assert verdicts([Gain("fixed", "ner", "f1", 1.0, None)]) == ["fixed: not decided: ner +1.0 (one seed says nothing of chance)"]


# All of it


def written(folder: Path) -> dict[str, Any]:
    """Labelled files of two tasks."""
    lines = {
        "reviews": [{"text": one.text, "label": one.label} for one in LABELLED[:40]],
        "names": [{"tokens": list(one.tokens), "tags": list(one.tags or ())} for one in NAMED[:40]],
    }
    for name, rows in lines.items():
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    short = {"steps": 2, "rows": 4, "length": LENGTH}
    return {
        name: {"kind": KINDS[name][0], "train": str(folder / f"{name}.jsonl"), "model": str(folder / "base"), "training": short}
        for name in lines
    }


def test_a_recipe_of_two_tasks_ends_with_a_model_for_each_and_a_table(tmp_path: Path) -> None:
    import yanmo
    from yanmo.run import carry_out

    transformers = pytest.importorskip("transformers")
    tokens = tokens_of("bert")
    models.save(network_of("bert", tokens, 32), tmp_path / "base")
    save_tokenizer(tokens, tmp_path / "base", 192)
    tree = {"name": "both", "runs": str(tmp_path), "tasks": written(tmp_path)}
    together = {"tasks": ["reviews", "names"], "weighting": "pcgrad", "training": {"steps": 2, "rows": 4}}
    made = parse_recipe({**tree, "together": together}, "test")
    folder = carry_out(made).folder / "together"
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert [one["weighting"] for one in results["trials"]] == ["pcgrad"]
    assert {gain["task"] for gain in results["gains"]} == {"reviews", "names"}
    lines = (folder / "results.md").read_text(encoding="utf-8")
    assert lines.startswith("| weighting | reviews: accuracy (valid) | reviews: gain |")
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(folder / "names" / "model").eval()
    ours = yanmo.load(folder / "names" / "model")
    ids = torch.tensor([[*tokens.prefix, *tokens.encode(["北京 bread"])[0], *tokens.suffix]])
    packed = models_packed(ids)
    with torch.no_grad():
        mine = ours.task.eval().scores(packed)
        torch.testing.assert_close(mine, theirs(input_ids=ids).logits, atol=1e-5, rtol=1e-5)
    reviews = yanmo.load(folder / "reviews" / "model")
    assert reviews.predict(["the bread was good"])[0].label in ("good", "bad")
    first, second = (dict(one.network.named_parameters()) for one in (ours, reviews))
    assert all(torch.equal(first[name], second[name]) for name in first), "both have the same network"
    for name in ("reviews", "names"):
        one, judged = results["trials"][0]["tasks"][name], folder / "trials" / "pcgrad-seed0" / "judged" / name
        errors = (judged / "errors.jsonl").read_text(encoding="utf-8").splitlines()
        assert len(errors) == one["wrong"]
        assert 0 < one["judged"] == one["examples"]["valid"]
        assert (judged / "confusion.json").exists() == (name == "reviews")
    page = (folder.parent / "report.html").read_text(encoding="utf-8")
    assert 'id="together"' in page


def test_what_was_learned_together_is_not_learned_again_unless_something_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yanmo.multitask import comparing
    from yanmo.run import carry_out

    tokens = tokens_of("bert")
    models.save(network_of("bert", tokens, 32), tmp_path / "base")
    save_tokenizer(tokens, tmp_path / "base", 192)
    tree = {"name": "both", "runs": str(tmp_path), "tasks": written(tmp_path)}
    together = {"tasks": ["reviews", "names"], "training": {"steps": 2, "rows": 4}}
    folder = carry_out(parse_recipe({**tree, "together": together}, "test")).folder / "together"
    before = (folder / "trials" / "fixed-seed0" / "metrics.jsonl").stat().st_mtime_ns
    read: list[str] = []
    monkeypatch.setattr(comparing, "read_data", lambda section, name, say: read.append(name))
    carry_out(parse_recipe({**tree, "together": together}, "test"))
    assert not read, "not even the examples"
    monkeypatch.undo()
    more = carry_out(parse_recipe({**tree, "together": {**together, "seeds": [0, 1]}}, "test")).folder / "together"
    assert len(json.loads((more / "results.json").read_text(encoding="utf-8"))["trials"]) == 2
    assert (folder / "trials" / "fixed-seed0" / "metrics.jsonl").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_joint_trial_is_of_all_of_its_base(tmp_path: Path, name: str) -> None:
    tokens = tokens_of("bert")
    models.save(network_of("bert", tokens, 32), tmp_path / "base")
    save_tokenizer(tokens, tmp_path / "base", 192)
    made = parse_recipe({"name": "both", "tasks": written(tmp_path), "together": {"tasks": ["reviews", "names"]}}, "test")
    trial = JointTrial(made.together, made.tasks, tmp_path / "base", tmp_path, "fixed", 0)
    sums = {"reviews": {"reviews.jsonl": "1"}, "names": {"names.jsonl": "2"}}
    before = identity(trial, sums)
    assert identity(trial, {**sums, "names": {"names.jsonl": "3"}}) != before
    with open(tmp_path / "base" / name, "ab") as file:
        file.write(b" ")
    assert identity(trial, sums) != before


def models_packed(ids: torch.Tensor) -> Any:
    from yanmo.batch import Packed

    return Packed(ids, torch.ones_like(ids), torch.arange(ids.shape[1])[None], whole=True)


def test_a_fixed_weighting_remembers_nothing() -> None:
    assert Weighting(2).now() == [1.0, 1.0]
