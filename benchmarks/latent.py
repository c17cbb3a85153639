"""What a latent tells: the text VAE with its defaults, without what keeps its posterior from collapsing, and the same decoder
without a latent, on the same text for the same number of steps; whether the defaults meet their bars.

    python benchmarks/latent.py --text captions=FILE [--text lines=FILE] [--work FOLDER] [--steps 300] [--size tiny] [--seeds 2]
                                [--parts transformer lstm]

A text is a file with a document a line; a line longer than a row is cut into rows. One line in ten is held out, the first
--held-out rows of that are measured, the same for all. Perplexities are per token with the end of text: exact for the decoder;
for a VAE the bound of ELBO and the tighter one of --samples importance-weighted samples (Burda et al. 2016). `over` says how
much higher that bound is than the decoder's perplexity. Active units, mutual information (which cannot come out above the
logarithm of the number of texts) and KL are those that training logs. The same command goes on where it was interrupted: runs
and figures that are finished lie in --work; use another folder for changed code.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from yanmo import models
from yanmo.batch import Order
from yanmo.latents import reconstruct
from yanmo.models import Latent
from yanmo.objectives import Elbo, build_objective
from yanmo.objectives.latent import COLLAPSED_NATS, COLLAPSED_UNITS
from yanmo.pretrain import pretrain
from yanmo.recipe import Recipe, parse_recipe
from yanmo.run import carry_out
from yanmo.shards import Shards
from yanmo.tokenizer import load_tokenizer

ACTIVE, INFORMATION, OVER = 24, 0.1, 0.15
"""The bars of the defaults: units active (of 32) and nats of mutual information, at least; `over`, at most."""
PLAIN = {"rise": 0.0, "free_bits": 0.0}
"""No annealing and no free bits."""
Variant = tuple[dict[str, Any], dict[str, Any]]
VARIANTS: dict[str, dict[str, Variant]] = {
    "transformer": {
        "decoder alone": ({"family": "gpt2"}, {"kind": "causal"}),
        "VAE": ({"family": "vae"}, {}),
        "VAE, plain": ({"family": "vae"}, PLAIN),
    },
    "lstm": {
        "LSTM alone": ({"family": "lstm", "layers": 1}, {"kind": "causal"}),
        "VAE of LSTMs": ({"family": "vae", "version": "lstm"}, {}),
        "VAE of LSTMs, plain": ({"family": "vae", "version": "lstm"}, PLAIN),
    },
}
"""By the parts they are made of: the decoder without a latent, the defaults, and the plain recipe, in this order."""
ROWS_AT_ONCE = 8
EXAMPLES, EXAMPLE_TOKENS = 3, 40


def recipe_of(name: str, text: Path, variant: Variant, asked: argparse.Namespace, seed: int) -> Recipe:
    model, objective = variant
    off = {"min_characters": 2, "repetition": None, "symbols": None}
    budget = {"steps": asked.steps, "validate_every": asked.steps, "validation_rows": 16}
    return parse_recipe(
        {
            "name": name,
            "runs": str(asked.work),
            "seed": seed,
            "corpus": {
                "sources": [{"path": str(text), "document": "line"}],
                "filter": off,
                "deduplicate": {"near": False},
                "validation": 0.1,
            },
            "tokenizer": {"vocabulary": asked.vocabulary},
            "model": {"size": asked.size, "dropout": asked.dropout, **model},
            "objective": objective,
            "training": {"rows": 16, "length": 128, **budget},
        },
        "benchmark",
    )


def measure(recipe: Recipe, folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Figures over held-out rows, and texts written again."""
    tokens, network = load_tokenizer(folder / "tokenizer"), models.load(folder / "pretrain" / "model").eval()
    objective = build_objective(recipe, network, tokens).eval()
    held_out = Shards.open(folder / "shards", "validation", tokens.hash)
    order = Order(held_out, recipe.training.length, objective, seed=0, shuffle=False)  # the same rows for every seed
    torch.manual_seed(recipe.seed)
    totals, counts, observed, bound = dict[str, float](), dict[str, int](), list[torch.Tensor](), 0.0
    count = min(asked.held_out, order.rows_per_epoch)
    with torch.no_grad():
        for first in range(0, count, ROWS_AT_ONCE):
            rows = range(first, min(first + ROWS_AT_ONCE, count))
            batch = objective.collate([order.row(row) for row in rows], order.length)
            for name, loss in objective(batch).items():
                totals[name] = totals.get(name, 0.0) + float(loss.total)
                counts[name] = counts.get(name, 0) + int(loss.count)
            if isinstance(objective, Elbo):
                posterior = objective.network.encode(batch.read)
                observed.append(torch.cat((posterior.mean, posterior.log_variance), -1))
                bound -= float(objective.bound(batch, asked.samples).sum())
    means = {name: total / counts[name] for name, total in totals.items()}
    if not isinstance(objective, Elbo):
        return {"perplexity": math.exp(means["causal"])}
    means["bound"] = bound / counts["reconstruction"]
    figures, _ = objective.summarise(torch.cat(observed), means)
    assert isinstance(network, Latent), "an ELBO is of a latent network"
    texts = [tokens.decode(order.row(row).pieces[0].tokens[:EXAMPLE_TOKENS].tolist()) for row in range(EXAMPLES)]
    again = [written.text for written in reconstruct(network, tokens, texts, max_tokens=EXAMPLE_TOKENS)]
    return {
        **figures,
        "elbo_perplexity": math.exp(means["reconstruction"] + means["kl"]),
        "kl_per_text": means["kl_per_text"],
        "reconstruction": means["reconstruction"],
        "examples": list(zip(texts, again, strict=True)),
    }


def figures_of(name: str, text: Path, variant: str, asked: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train, unless that is done, and measure, unless that is done."""
    made = {name: one for part in VARIANTS.values() for name, one in part.items()}
    data = carry_out(recipe_of(name, text, made["decoder alone"], asked, 0), until="shards").folder
    folder = asked.work / f"{name} {variant} {seed}".replace(", ", " ").replace(" ", "-")
    done = folder / "figures.json"
    if not done.exists():
        for part in ("tokenizer", "shards"):
            if not (folder / part).exists():
                shutil.copytree(data / part, folder / part)
        recipe = recipe_of(name, text, made[variant], asked, seed)
        if not (folder / "pretrain" / "model" / "config.json").exists() and pretrain(recipe, folder).interrupted:
            raise KeyboardInterrupt
        done.write_text(json.dumps(measure(recipe, folder, asked), indent=1), encoding="utf-8")
    return json.loads(done.read_text(encoding="utf-8"))


Runs = list[dict[str, Any]]
"""A variant's figures, seed by seed."""


def over_of(runs: Runs, alone: Runs) -> list[float]:
    """How much higher than the decoder's, seed by seed."""
    return [one["perplexity"] / other["perplexity"] - 1 for one, other in zip(runs, alone, strict=True)]


def spread(values: list[float], form: str) -> str:
    if not values:
        return "–"
    low, high = f"{min(values):{form}}", f"{max(values):{form}}"
    return f"{mean(values):{form}}" + (f" ({low} to {high})" if low != high else "")


def table(name: str, found: dict[str, Runs]) -> str:
    """Means over seeds, with the lowest and the highest."""
    alone = next(iter(found.values()))
    lines = [f"| {name} | perplexity | over | ELBO | KL a text | active | mutual information |", "|---|--:|--:|--:|--:|--:|--:|"]
    for variant, runs in found.items():
        columns = {"elbo_perplexity": ".2f", "kl_per_text": ".2f", "active_units": ".0f", "mutual_information": ".2f"}
        shown = [spread([run[key] for run in runs if key in run], form) for key, form in columns.items()]
        over = "–" if runs is alone else spread(over_of(runs, alone), "+.1%")
        perplexity = spread([run["perplexity"] for run in runs], ".2f")
        lines.append(f"| {variant} | {' | '.join((perplexity, over, *shown))} |")
    return "\n".join(lines)


def verdicts(name: str, found: dict[str, Runs]) -> list[str]:
    """Whether each bar is met, by the worst seed."""
    alone, default, plain = found.values()
    active, told = (min(run[key] for run in default) for key in ("active_units", "mutual_information"))
    over, units = max(over_of(default, alone)), COLLAPSED_UNITS * 32
    collapsed = all(run["active_units"] < units or run["kl_per_text"] < COLLAPSED_NATS for run in plain)
    variant = list(found)[1]
    said = {
        f"{variant}: {active:.0f} of 32 units active (at least {ACTIVE})": active >= ACTIVE,
        f"{variant}: mutual information {told:.2f} nats (at least {INFORMATION})": told >= INFORMATION,
        f"{variant}: bound {over:+.1%} over {next(iter(found))} (at most {OVER:+.0%})": over <= OVER,
        f"{list(found)[2]}: collapses": collapsed,
    }
    return [f"{'met' if met else 'NOT MET'}: {name}: {bar}" for bar, met in said.items()]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--text", action="append", required=True, metavar="NAME=FILE")
    asked.add_argument("--work", type=Path, default=Path("runs/latent"))
    asked.add_argument("--steps", type=int, default=300)
    asked.add_argument("--size", default="tiny")
    asked.add_argument("--dropout", type=float, default=0.2)
    asked.add_argument("--vocabulary", type=int, default=4000)
    asked.add_argument("--samples", type=int, default=32)
    asked.add_argument("--held-out", type=int, default=128, help="rows")
    asked.add_argument("--seeds", type=int, default=2)
    asked.add_argument("--parts", nargs="+", choices=list(VARIANTS), default=["transformer"])
    given = asked.parse_args()
    said: list[str] = []
    for name, text in (entry.split("=", 1) for entry in given.text):
        for part in given.parts:
            found = {
                variant: [figures_of(name, Path(text), variant, given, seed) for seed in range(given.seeds)]
                for variant in VARIANTS[part]
            }
            print(table(name, found), end="\n\n", flush=True)
            for before, after in found[list(found)[1]][0]["examples"]:
                print(f"{before}\n-> {after}\n", flush=True)
            said += verdicts(name, found)
    print("\n".join(said))


if __name__ == "__main__":
    main()
