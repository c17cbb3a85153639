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
from yanmo.files import MANIFEST, new_folder, sha256_of
from yanmo.filling import fill
from yanmo.generation import generate
from yanmo.memory import keep_freed_memory
from yanmo.metrics import check_trackers
from yanmo.models.network import Network, Special
from yanmo.objectives import Objective, build_objective
from yanmo.optim import choose_precision
from yanmo.parallel import Ranks, choose_device, joined
from yanmo.progress import Progress, silent
from yanmo.recipe import MaskedObjective, Recipe
from yanmo.shards import Shards
from yanmo.speed import inner_width, matrix_rate, work_per_token
from yanmo.tokenizer import Tokens, load_tokenizer, save_tokenizer
from yanmo.train import Outcome, Trainer, rows_at_once

SPEED = "speed.json"


def pretrain(recipe: Recipe, folder: Path, progress: Progress = silent, say: Callable[[str], None] = print) -> Outcome:
    """Train a network on the shards of a run folder, or go on; at the end pretrain/model holds it as transformers loads it.

    Raises UserError where recipe, data and what lies in the folder do not fit together.
    """
    keep_freed_memory()
    tokens = load_tokenizer(folder / "tokenizer")
    train, validation = (Shards.open(folder / "shards", name, tokens.hash, name == "train") for name in ("train", "validation"))
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
            identity=_identity(recipe, tokens, folder / "shards"),
            progress=progress,
            say=say,
        )
        outcome = trainer.fit()
        if ranks.is_first and not outcome.interrupted:
            _save_model(recipe, folder / "pretrain", objective, tokens, outcome, ranks, say)
    return outcome


def check_early(recipe: Recipe) -> None:
    """Look at trackers, dimensions and `model.start` before any text is read. Raises UserError as `pretrain` would later."""
    check_trackers(recipe.training.trackers)
    if recipe.model.start is None:
        with torch.device("meta"):                        # shapes without memory
            _build(recipe, recipe.tokenizer.vocabulary, Special())
    else:
        if not (Path(recipe.model.start) / "config.json").is_file():
            raise UserError(f"model.start: {recipe.model.start}: no model folder there: it has no config.json")
        tokens = load_tokenizer(recipe.tokenizer.file or recipe.model.start)
        build_objective(recipe, new_network(recipe, tokens), tokens)


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
    return _build(recipe, tokens.size, special_ids(tokens))


def _build(recipe: Recipe, vocabulary: int, special: Special) -> Network:
    pair = isinstance(recipe.objective, MaskedObjective) and recipe.objective.sentences != "none"
    return models.build(recipe.model, vocabulary=vocabulary, length=recipe.training.length, pair=pair, special=special)


def special_ids(tokens: Tokens) -> Special:
    """What a network's configuration says of its tokenizer."""
    return Special(
        pad=tokens.pad,
        bos=tokens.prefix[0] if tokens.prefix else None,
        eos=tokens.suffix[-1] if tokens.suffix else None,
        cls=tokens.prefix[0] if tokens.prefix else None,
        sep=tokens.separator,
    )


def _identity(recipe: Recipe, tokens: Tokens, shards: Path) -> dict[str, Any]:
    return {
        "model": recipe.model.model_dump(mode="json"),
        "objective": recipe.objective.model_dump(mode="json"),
        "tokenizer": tokens.hash,
        "shards": sha256_of(shards / MANIFEST),
    }


def _save_model(
    recipe: Recipe,
    folder: Path,
    objective: Objective,
    tokens: Tokens,
    outcome: Outcome,
    ranks: Ranks,
    say: Callable[[str], None],
) -> None:
    """The best weights as a model folder, and how fast they were made."""
    weights = checkpoint.load_weights(outcome.best or outcome.last)
    step = outcome.step if outcome.best_step is None else outcome.best_step
    if step == 0:
        say(
            f"the model is that of step 0 of {outcome.steps}, as it was before training: no step had a lower held-out loss; "
            "train longer, or lower training.learning_rate"
        )
    elif step != outcome.step:
        say(f"the model is that of step {step} of {outcome.steps}, where the held-out loss was lowest")
    with torch.no_grad():
        for name, parameter in objective.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(weights[name])
    network = objective.network.eval()
    speed = _speed(recipe, network, outcome, ranks)
    with new_folder(folder / "model") as model:
        models.save(network, model)
        for name, companion in objective.companions().items():
            models.save(companion, model / name)
        save_tokenizer(tokens, model, network.config.length)
        parameters = sum(weight.numel() for weight in network.parameters())
        loss = outcome.best_loss or outcome.validation.get("loss", float("nan"))
        figures: dict[str, float | str] = {"held-out loss (nats a target)": loss}
        figures |= {"weights of step": f"{step} of {outcome.steps}", "tokens read": f"{outcome.tokens:,}"}
        card = model_card(recipe, network.config.family, parameters, figures)
        (model / "README.md").write_text(card, encoding="utf-8")
    (folder / SPEED).write_text(json.dumps(speed, indent=1), encoding="utf-8")


def _speed(recipe: Recipe, network: Network, outcome: Outcome, ranks: Ranks) -> dict[str, float]:
    """Tokens a second over the whole of training, and the share that is of all ranks' rate of matrix products."""
    device, training = ranks.device, recipe.training
    tokens_per_second = outcome.tokens / max(outcome.seconds, 1e-9)
    objective = recipe.objective
    targets = objective.rate if isinstance(objective, MaskedObjective) else 1.0
    work = tokens_per_second * work_per_token(network, training.length, targets)
    inner = inner_width(network)
    _, rows = ranks.rows(training.rows)
    tokens = min(training.micro_rows or rows_at_once(device, training.length, rows), rows) * training.length
    rate = matrix_rate(device, choose_precision(training.precision, device), tokens, network.config.width, inner)
    return {
        "tokens_per_second": tokens_per_second,
        "work_per_second": work,
        "matrix_rate": rate,
        "share_of_matrix_rate": work / (rate * ranks.size),
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
    if network.continues:
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


