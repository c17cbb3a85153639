"""Pretraining and its evaluation as stages of a run: from shards and a tokenizer to a model folder and its figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from yanmo import checkpoint, models
from yanmo.batch import Order
from yanmo.card import model_card
from yanmo.errors import UserError
from yanmo.evaluation import evaluate
from yanmo.files import new_folder
from yanmo.filling import fill
from yanmo.generation import generate
from yanmo.memory import keep_freed_memory
from yanmo.models.network import Network, Special
from yanmo.objectives import build_objective
from yanmo.optim import choose_precision
from yanmo.parallel import choose_device, joined
from yanmo.progress import Progress, silent
from yanmo.recipe import MaskedObjective, Recipe
from yanmo.shards import Shards
from yanmo.speed import matrix_rate, work_per_token
from yanmo.tokenizer import Tokens, load_tokenizer, save_tokenizer
from yanmo.train import Outcome, Trainer, rows_at_once

SPEED = "speed.json"


def pretrain(recipe: Recipe, folder: Path, progress: Progress = silent, say: Callable[[str], None] = print) -> Outcome:
    """Train a network on the shards of a run folder, or go on; at the end pretrain/model holds it as transformers loads it.

    Raises UserError where recipe, data and what lies in the folder do not fit together.
    """
    keep_freed_memory()
    tokens = load_tokenizer(folder / "tokenizer")
    train, validation = (Shards.open(folder / "shards", split, tokens.hash) for split in ("train", "validation"))
    network = new_network(recipe, tokens)
    objective = build_objective(recipe, network, tokens)
    with joined() as ranks:
        trainer = Trainer(
            objective,
            Order(train, recipe.training.length, objective, recipe.seed),
            Order(validation, recipe.training.length, objective, recipe.seed, shuffle=False),
            recipe.training,
            folder / "pretrain",
            recipe.seed,
            ranks=ranks,
            identity=_identity(recipe, tokens, train),
            progress=progress,
            say=say,
        )
        outcome = trainer.fit()
        if ranks.is_first and not outcome.interrupted:
            _save_model(recipe, folder / "pretrain", network, tokens, outcome)
    return outcome


def new_network(recipe: Recipe, tokens: Tokens) -> Network:
    """The network of a recipe: new, its weights a function of the seed, or that of `model.start`."""
    torch.manual_seed(recipe.seed)
    if recipe.model.start is not None:
        network = models.load(recipe.model.start)
        if network.config.vocabulary < tokens.size:
            raise UserError(
                f"model.start: {recipe.model.start} has {network.config.vocabulary} tokens and the tokenizer {tokens.size}; "
                "leave tokenizer.file out, to use the model's own"
            )
        if network.config.length < recipe.training.length:
            raise UserError(
                f"training.length {recipe.training.length} is longer than the {network.config.length} positions of "
                f"{recipe.model.start}; shorten the rows"
            )
        return network
    pair = isinstance(recipe.objective, MaskedObjective) and recipe.objective.sentences != "none"
    return models.build(
        recipe.model, vocabulary=tokens.size, length=recipe.training.length, pair=pair, special=special_ids(tokens)
    )


def special_ids(tokens: Tokens) -> Special:
    """What a network's configuration says of its tokenizer."""
    return Special(
        pad=tokens.pad,
        bos=tokens.prefix[0] if tokens.prefix else None,
        eos=tokens.suffix[-1] if tokens.suffix else None,
        cls=tokens.prefix[0] if tokens.prefix else None,
        sep=tokens.separator,
        mask=tokens.mask,
    )


def _identity(recipe: Recipe, tokens: Tokens, train: Shards) -> dict[str, Any]:
    return {
        "model": recipe.model.model_dump(mode="json"),
        "objective": recipe.objective.model_dump(mode="json"),
        "tokenizer": tokens.hash,
        "documents": len(train),
        "tokens": train.token_total,
    }


def _save_model(recipe: Recipe, folder: Path, network: Network, tokens: Tokens, outcome: Outcome) -> None:
    """The best weights as a model folder, and how fast they were made."""
    weights = checkpoint.load_weights(outcome.best or outcome.last)
    with torch.no_grad():
        for name, parameter in network.named_parameters(prefix="network"):
            parameter.copy_(weights[name])
    network.eval()
    speed = _speed(recipe, network, outcome)
    with new_folder(folder / "model") as model:
        models.save(network, model)
        save_tokenizer(tokens, model, network.config.length)
        parameters = sum(weight.numel() for weight in network.parameters())
        figures = {"held-out loss (nats a target)": outcome.best_loss or outcome.validation.get("loss", float("nan"))}
        card = model_card(recipe, parameters, {**figures, "tokens read": f"{outcome.tokens:,}"})
        (model / "README.md").write_text(card, encoding="utf-8")
    (folder / SPEED).write_text(json.dumps(speed, indent=1), encoding="utf-8")


def _speed(recipe: Recipe, network: Network, outcome: Outcome) -> dict[str, float]:
    """Tokens a second over the whole of training, and the share that is of the machine's rate of matrix products."""
    device, training = choose_device(), recipe.training
    tokens_per_second = outcome.tokens / max(outcome.seconds, 1e-9)
    objective = recipe.objective
    targets = objective.rate if isinstance(objective, MaskedObjective) else 1.0
    work = tokens_per_second * work_per_token(network, training.length, targets)
    inner = network.config.blocks[0].feedforward.width
    tokens = (training.micro_rows or rows_at_once(device, training.length, training.rows)) * training.length
    rate = matrix_rate(device, choose_precision(training.precision, device), tokens, network.config.width, inner)
    return {
        "tokens_per_second": tokens_per_second,
        "work_per_second": work,
        "matrix_rate": rate,
        "share_of_matrix_rate": work / rate,
        "seconds": outcome.seconds,
        "steps": outcome.step,
        "tokens": outcome.tokens,
    }


def evaluate_run(recipe: Recipe, folder: Path, progress: Progress = silent) -> dict[str, Any]:
    """Measure the model of a run on its held-out documents and let it fill in or go on; what the report shows."""
    network = models.load(folder / "pretrain" / "model").to(choose_device()).eval()
    tokens = load_tokenizer(folder / "pretrain" / "model")
    found = evaluate(network, tokens, recipe, folder, progress)
    findings = found.to_json()
    findings["speed"] = json.loads((folder / "pretrain" / SPEED).read_text(encoding="utf-8"))
    if network.config.causal:
        prompts = list(recipe.evaluation.prompts)
        written = generate(network, tokens, prompts, max_new_tokens=60, temperature=0.8, top_p=0.95, seed=recipe.seed)
        findings["generations"] = [{"prompt": one.prompt, "text": one.text} for one in written]
    else:
        findings["fills"] = [
            {"text": text, "answers": [[_answer(one) for one in blank] for blank in fill(network, tokens, text)]}
            for text in recipe.evaluation.fill
        ]
    return findings


def _answer(candidate: Any) -> dict[str, Any]:
    return {"token": candidate.token, "probability": candidate.probability, "text": candidate.text}


