"""Pretraining and its evaluation as stages of a run: from shards and a tokenizer to a model folder and its figures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from yanmo import checkpoint, models
from yanmo.batch import Order
from yanmo.card import model_card
from yanmo.errors import UserError
from yanmo.evaluation import evaluate, evaluate_causal
from yanmo.files import MANIFEST, new_folder, sha256_of
from yanmo.filling import fill
from yanmo.generation import generate
from yanmo.latents import sample
from yanmo.memory import keep_freed_memory
from yanmo.metrics import Metrics, check_trackers
from yanmo.models.encoder import Discriminator
from yanmo.models.latent import Latent
from yanmo.models.mixture import EXPERTS_KEY
from yanmo.models.network import Network, Special
from yanmo.models.seq2seq import Seq2Seq
from yanmo.objectives import Counting, Objective, Rewriting, build_objective
from yanmo.optim import choose_precision
from yanmo.parallel import Ranks, choose_device, joined
from yanmo.progress import Progress, silent
from yanmo.recipe import MaskedObjective, PermutedObjective, Recipe, ReplacedObjective
from yanmo.shards import Shards
from yanmo.speed import inner_width, matrix_rate, work_per_token
from yanmo.tokenizer import Tokens, load_tokenizer, pieces_of, save_tokenizer, with_needed
from yanmo.train import Outcome, Trainer, rows_at_once

SPEED = "speed.json"
SAMPLES = 8
"""Texts that a latent network is asked for."""


def pretrain(recipe: Recipe, folder: Path, progress: Progress = silent, say: Callable[[str], None] = print) -> Outcome:
    """Train a network on the shards of a run folder, or go on; at the end pretrain/model holds it as transformers loads it.

    Raises UserError where recipe, data and what lies in the folder do not fit together.
    """
    keep_freed_memory()
    tokens = load_tokenizer(folder / "tokenizer")
    train, validation = (Shards.open(folder / "shards", name, tokens.hash, name == "train") for name in ("train", "validation"))
    network = new_network(recipe, tokens)
    objective = build_objective(recipe, network, tokens, recipe.model.start)
    with joined() as ranks:
        if isinstance(objective, Counting):
            if ranks.size > 1:
                raise UserError(f"a {recipe.model.family} is counted by one process; leave torchrun away: yanmo pretrain RECIPE")
            return _count(recipe, folder / "pretrain", objective, tokens, train, validation, progress)
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


def _count(
    recipe: Recipe, folder: Path, objective: Counting, tokens: Tokens, train: Shards, validation: Shards, progress: Progress
) -> Outcome:
    """Learn without gradients: one pass over all training text, whatever the budget. It takes seconds, so that nothing is kept of
    a pass that was interrupted."""
    start = time.perf_counter()
    objective.count(train, progress)
    seconds = time.perf_counter() - start
    found = evaluate_causal(objective.network, tokens, validation).losses if validation.token_total else {}
    loss, read = found.get("causal"), train.token_total
    held_out = {"validation": {**found, "loss": loss}} if found else {}
    rate = {"tokens_per_second": read / max(seconds, 1e-9), "seconds": seconds}
    folder.mkdir(parents=True, exist_ok=True)
    metrics = Metrics(folder, recipe.training.trackers, {"model": recipe.model.model_dump(mode="json")}, 0)
    metrics.write({"step": 1, "tokens": read, **rate, **held_out})
    metrics.close()
    figures = {"held-out loss (nats a target)": float("nan") if loss is None else loss, "tokens read": f"{read:,}"}
    _write_model(recipe, folder, objective, tokens, figures, {**rate, "steps": 1, "tokens": read})
    model = folder / "model"
    return Outcome(1, 1, read, seconds, {}, held_out.get("validation", {}), loss, 1, model, model, 0, 0, False)


def check_early(recipe: Recipe) -> None:
    """Look at trackers, dimensions and `model.start` before any text is read. Raises UserError as `pretrain` would later."""
    check_trackers(recipe.training.trackers)
    teacher = getattr(recipe.objective, "teacher", None)
    if teacher is not None and not (Path(teacher) / "config.json").is_file():
        raise UserError(f"objective.teacher: {teacher}: no model folder there: it has no config.json")
    if recipe.model.start is None:
        with torch.device("meta"):                        # shapes without memory
            _build(recipe, recipe.tokenizer.vocabulary, Special())
    else:
        if not (Path(recipe.model.start) / "config.json").is_file():
            raise UserError(f"model.start: {recipe.model.start}: no model folder there: it has no config.json")
        given = recipe.tokenizer.file or recipe.model.start
        tokens = with_needed(load_tokenizer(given), recipe, given)
        build_objective(recipe, new_network(recipe, tokens), tokens, recipe.model.start)


def new_network(recipe: Recipe, tokens: Tokens) -> Network:
    """The network of a recipe: new, its weights a function of the seed, or that of `model.start`."""
    torch.manual_seed(recipe.seed)
    if recipe.model.start is not None:
        network = models.load(recipe.model.start)
        if recipe.tokenizer.add_special or recipe.tokenizer.extend:
            old = load_tokenizer(recipe.tokenizer.file or recipe.model.start)
            network = models.grow(network, tokens.size, min(old.size, network.config.tokens), pieces_of(tokens, old))
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
    for name, folder in recipe.model.starts.items():
        if load_tokenizer(folder).hash != tokens.hash:
            raise UserError(
                f"model.{name}: {folder} has another tokenizer than the run; both halves read the same tokens: train them with "
                "one tokenizer (tokenizer.file), and give that one here or none"
            )
    return _build(recipe, tokens.size, special_ids(tokens))


def _build(recipe: Recipe, vocabulary: int, special: Special) -> Network:
    pair = recipe.objective.sentence_pairs != "none"
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
    checkpoint.restore(objective, outcome.best or outcome.last)
    step = outcome.step if outcome.best_step is None else outcome.best_step
    if step == 0:
        say(
            f"the model is that of step 0 of {outcome.steps}, as it was before training: no step had a lower held-out loss; "
            "train longer, or lower training.learning_rate"
        )
    elif step != outcome.step:
        say(f"the model is that of step {step} of {outcome.steps}, where the held-out loss was lowest")
    loss = outcome.best_loss or outcome.validation.get("loss", float("nan"))
    figures: dict[str, float | str] = {"held-out loss (nats a target)": loss}
    figures |= {"weights of step": f"{step} of {outcome.steps}", "tokens read": f"{outcome.tokens:,}"}
    _write_model(recipe, folder, objective, tokens, figures, _speed(recipe, objective, outcome, ranks))


def _write_model(
    recipe: Recipe,
    folder: Path,
    objective: Objective,
    tokens: Tokens,
    figures: Mapping[str, float | str],
    speed: Mapping[str, float],
) -> None:
    """What the objective's network is now as a model folder, what the card says of it, and how fast it was made."""
    network = objective.network.eval()
    with new_folder(folder / "model") as model:
        models.save(network, model)
        for name, companion in objective.companions().items():
            models.save(companion, model / name)
            save_tokenizer(tokens, model / name, companion.config.length)
        save_tokenizer(tokens, model, network.config.length)
        parameters = sum(weight.numel() for weight in network.parameters())
        own = EXPERTS_KEY in network.config.settings
        card = model_card(recipe, network.config.family, parameters, figures, own)
        (model / "README.md").write_text(card, encoding="utf-8")
    (folder / SPEED).write_text(json.dumps(speed, indent=1), encoding="utf-8")


def _speed(recipe: Recipe, objective: Objective, outcome: Outcome, ranks: Ranks) -> dict[str, float]:
    """Tokens a second over the whole of training, and the share that is of all ranks' rate of matrix products."""
    device, training = ranks.device, recipe.training
    tokens_per_second = outcome.tokens / max(outcome.seconds, 1e-9)
    section, network = recipe.objective, objective.network
    targets = section.rate if isinstance(section, MaskedObjective | ReplacedObjective | PermutedObjective) else 1.0
    if isinstance(network, Seq2Seq) and isinstance(objective, Rewriting):
        sizes = objective.sizes(training.length)
        targets = sizes.asked / (sizes.given + sizes.asked)
    found = {"tokens_per_second": tokens_per_second, "seconds": outcome.seconds, "steps": outcome.step, "tokens": outcome.tokens}
    if len(objective.players()) > 1:                      # most of a game's work is on texts that it writes
        return found
    networks = (network, *objective.companions().values())
    shares = [1.0 if isinstance(one, Discriminator) else targets for one in networks]
    work = sum(work_per_token(one, training.length, share) for one, share in zip(networks, shares, strict=True))
    work *= tokens_per_second
    inner = inner_width(network)
    _, rows = ranks.rows(training.rows)
    tokens = min(training.micro_rows or rows_at_once(device, objective.narrowest(training.length), rows), rows) * training.length
    rate = matrix_rate(device, choose_precision(training.precision, device), tokens, network.config.width, inner)
    return found | {"work_per_second": work, "matrix_rate": rate, "share_of_matrix_rate": work / (rate * ranks.size)}


def evaluate_run(recipe: Recipe, folder: Path, progress: Progress = silent) -> dict[str, Any]:
    """Measure the model of a run on its held-out documents and let it fill in or go on; what the report shows."""
    network = models.load(folder / "pretrain" / "model").to(choose_device()).eval()
    tokens = load_tokenizer(folder / "pretrain" / "model")
    found = evaluate(network, tokens, recipe, folder, progress)
    findings = found.to_json()
    findings["parameters"] = sum(weight.numel() for weight in network.parameters())
    findings["speed"] = json.loads((folder / "pretrain" / SPEED).read_text(encoding="utf-8"))
    if network.continues:
        prompts = list(recipe.evaluation.prompts)
        written = generate(network, tokens, prompts, max_new_tokens=60, temperature=0.8, top_p=0.95, seed=recipe.seed)
        becomes = " → " if isinstance(network, Seq2Seq) else ""
        findings["generations"] = [{"prompt": one.prompt + becomes, "text": one.text} for one in written]
    elif isinstance(network, Latent):
        findings["samples"] = [one.text for one in sample(network, tokens, SAMPLES, temperature=0.8, seed=recipe.seed)]
    else:
        findings["fills"] = [
            {"text": text, "answers": [[_answer(one) for one in blank] for blank in fill(network, tokens, text)]}
            for text in recipe.evaluation.fill
        ]
    return findings


def _answer(candidate: Any) -> dict[str, Any]:
    return {"token": candidate.token, "probability": candidate.probability, "text": candidate.text}


