"""Distillation against closed forms: a teacher that is the student, a formula written out, and what is not learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models
from torch import nn

from yanmo.batch import Order
from yanmo.errors import UserError
from yanmo.layers import HeadConfig, VocabularyHead
from yanmo.models import Network, build, save
from yanmo.objectives import Distillation, build_objective
from yanmo.objectives import distillation as module
from yanmo.objectives.distillation import soft_cross_entropy
from yanmo.players import Players
from yanmo.recipe import Training, parse_recipe
from yanmo.tokenizer import Tokens, load_tokenizer

torch.set_num_threads(1)
SIZE, LENGTH = 70, 32
SPECIAL = {"bert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), "gpt2": ("<|endoftext|>",)}


def tokenizer_in(folder: Path, family: str, size: int = SIZE) -> Tokens:
    """A tokenizer of whole words, written as a folder has it."""
    names = [*SPECIAL[family], *(f"w{number}" for number in range(size - len(SPECIAL[family])))]
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token=names[0]))
    tokenizer.add_special_tokens(list(SPECIAL[family]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    roles = ("pad", "unk", "cls", "sep", "mask") if family == "bert" else ("eos",)
    config = {f"{role}_token": name for role, name in zip(roles, SPECIAL[family], strict=True)}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return load_tokenizer(folder)


def network_of(family: str, seed: int, layers: int = 2, width: int = 32, **model: Any) -> Network:
    recipe = parse_recipe({"model": {"family": family, "layers": layers, "width": width, "heads": 2, **model}}, "test")
    torch.manual_seed(seed)
    network = build(recipe.model, vocabulary=SIZE, length=LENGTH)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return network


def distilling(folder: Path, student: Network, teacher: Network, **objective: Any) -> Distillation:
    tokens = tokenizer_in(folder, teacher.config.family)
    save(teacher, folder)
    given = {"kind": "distillation", "teacher": str(folder), **objective}
    recipe = parse_recipe({"model": {"family": student.config.family}, "objective": given}, "test")
    made = build_objective(recipe, student, tokens)
    assert isinstance(made, Distillation)
    return made


class Documents:
    lengths = np.full(20, 25)

    def __len__(self) -> int:
        return 20

    def __getitem__(self, document: int, /) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        tokens = np.random.default_rng(document).integers(5, SIZE, 25)
        return tokens, np.zeros(1, np.int64), np.arange(25)


def batch_of(objective: Distillation) -> Any:
    order = Order(Documents(), LENGTH, objective, seed=3)
    return objective.collate([order.row(number) for number in range(4)], LENGTH)


def places_of(batch: Any) -> torch.Tensor:
    return batch.picked if hasattr(batch, "picked") else batch.places


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_student_that_is_its_teacher_has_the_teachers_entropy_and_nothing_to_learn(
    tmp_path: Path, family: str, temperature: float
) -> None:
    objective = distilling(tmp_path, network_of(family, 1), network_of(family, 1), temperature=temperature, weight=1.0)
    batch = batch_of(objective)
    losses = objective.eval()(batch)
    with torch.no_grad():
        hidden = objective.teacher(batch.packed).flatten(0, 1)[places_of(batch)]
        chances = (objective.teacher.logits(hidden)[:, :SIZE] / temperature).softmax(-1)
        entropy = -(chances * chances.log()).sum()
    assert float(losses["teacher"].total.detach()) == pytest.approx(float(entropy) * temperature**2, rel=1e-4)
    losses["teacher"].total.backward()
    gradients = [parameter.grad for parameter in objective.network.parameters() if parameter.grad is not None]
    assert gradients
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-4
    assert [loss.weight for name, loss in losses.items() if name != "teacher"] == [0, 0], "nothing is left for the tokens"


def test_soft_cross_entropy_and_its_gradient_are_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 7)
    torch.manual_seed(0)
    head = VocabularyHead(HeadConfig(30, 8, transform="gelu", bias=True, tied=False), nn.Embedding(30, 8)).double()
    teacher = VocabularyHead(HeadConfig(26, 12, tied=False), nn.Embedding(26, 12)).double()  # padded otherwise
    for one in (head, teacher):
        nn.init.normal_(one.weight)
    hidden, taught = torch.randn(20, 8).double(), torch.randn(20, 12).double()
    found = []
    for chunked in (True, False):
        given = hidden.clone().requires_grad_()
        if chunked:
            total = soft_cross_entropy(head, given, teacher, taught, 2.5, 25)
        else:
            target = (teacher(taught)[:, :25] / 2.5).softmax(-1).detach()
            total = 2.5**2 * F.cross_entropy(head(given)[:, :25] / 2.5, target, reduction="sum")
        gradients = torch.autograd.grad(3 * total, [given, *head.parameters()])
        found.append([total.detach(), *gradients])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(soft_cross_entropy(head, hidden, teacher, taught, 2.5, 25), found[0][0])


@pytest.mark.parametrize("hidden", ["square", "cosine"])
def test_hidden_states_are_compared_through_the_projection(tmp_path: Path, hidden: str) -> None:
    student, teacher = network_of("bert", 1, layers=1, width=24), network_of("bert", 2)
    objective = distilling(tmp_path, student, teacher, hidden=hidden, hidden_weight=2.0, weight=0.25).eval()
    batch = batch_of(objective)
    with torch.no_grad():
        losses = objective(batch)
        real = batch.packed.documents.flatten() > 0
        own = objective.projection(student(batch.packed)).flatten(0, 1)[real]  # type: ignore[misc]
        taught = objective.teacher(batch.packed).flatten(0, 1)[real]
        if hidden == "square":
            expected = sum(float(F.mse_loss(one, other)) for one, other in zip(own, taught, strict=True))
        else:
            expected = float(F.cosine_embedding_loss(own, taught, torch.ones(len(own)), reduction="sum"))
    assert float(losses["hidden"].total) == pytest.approx(expected, rel=1e-4)
    assert losses["hidden"].count == int(real.sum())
    assert {name: loss.weight for name, loss in losses.items()} == {"masked": 0.75, "accuracy": 0, "teacher": 0.25, "hidden": 2.0}
    assert objective.counts(batch).keys() == losses.keys()


def test_the_teacher_is_neither_trained_nor_kept_and_drops_nothing(tmp_path: Path) -> None:
    objective = distilling(tmp_path, network_of("bert", 1, layers=1), network_of("bert", 2, dropout=0.5), hidden="square")
    objective.train()
    assert objective.network.training
    assert not any(part.training for part in objective.teacher.modules())
    batch = batch_of(objective)
    totals = [float(objective(batch)["teacher"].total.detach()) for _ in range(2)]
    assert totals[0] == totals[1]
    players = Players(objective, Training(), torch.bfloat16)
    kept = players.weights().keys()
    assert kept == {name for name, _ in objective.named_parameters() if not name.startswith("teacher.")}
    assert "projection.weight" in kept
    losses = objective(batch)
    sum(loss.total for loss in losses.values() if loss.weight).backward()  # type: ignore[union-attr]
    assert {parameter.dtype for parameter in objective.teacher.parameters()} == {torch.bfloat16}, "as the student computes"
    assert all(parameter.grad is None for parameter in objective.teacher.parameters())


def test_other_tokenizers_and_kinds_are_refused(tmp_path: Path) -> None:
    student = network_of("bert", 1)
    save(network_of("bert", 2), tmp_path / "teacher")
    theirs = tokenizer_in(tmp_path / "teacher", "bert")
    ours = tokenizer_in(tmp_path / "ours", "bert", SIZE - 1)
    objective = {"kind": "distillation", "teacher": str(tmp_path / "teacher")}
    recipe = parse_recipe({"objective": objective}, "test")
    with pytest.raises(UserError) as raised:
        build_objective(recipe, student, ours)
    for said in (f"{SIZE} tokens, sha256 {theirs.hash[:12]}", f"{SIZE - 1} tokens, sha256 {ours.hash[:12]}"):
        assert said in str(raised.value)
    assert str(tmp_path / "teacher") in str(raised.value)
    decoder = parse_recipe({"model": {"family": "gpt2"}, "objective": objective}, "test")
    with pytest.raises(UserError, match="is a bert, an encoder, and the student a gpt2, a decoder"):
        build_objective(decoder, network_of("gpt2", 1), theirs)
    with pytest.raises(UserError, match="objective causal does not fit family bert"):
        parse_recipe({"objective": {**objective, "objective": {"kind": "causal"}}}, "test")
    missing = parse_recipe({"objective": {**objective, "teacher": str(tmp_path / "nowhere")}}, "test")
    with pytest.raises(UserError, match="nowhere"):
        build_objective(missing, student, ours)
