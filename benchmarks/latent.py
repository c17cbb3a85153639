"""What a latent tells: the text VAE with its defaults, without what keeps its posterior from collapsing, and the same decoder
without a latent, on the same text for the same number of steps.

    python benchmarks/latent.py --text captions=FILE [--text lines=FILE] [--work FOLDER] [--steps 1500] [--size tiny] [--seeds 2]

A text is a file with a document a line. Held out is one part in ten. Perplexities are per token with the end of text, over all
held-out text: exact for the decoder; for a VAE the bound of ELBO and the tighter one of --samples importance-weighted samples
(Burda et al. 2016). `over` says how much higher that bound is than the decoder's perplexity. Active units, mutual information
and KL are those that training logs, over all held-out texts. The same command goes on where it was interrupted: runs and figures
that are finished lie in --work; use another folder for changed code.
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
from yanmo.objectives import Elbo, build_objective
from yanmo.pretrain import pretrain
from yanmo.recipe import Recipe, parse_recipe
from yanmo.run import carry_out
from yanmo.shards import Shards
from yanmo.tokenizer import load_tokenizer

PLAIN = {"rise": 0.0, "free_bits": 0.0}
"""No annealing and no free bits."""
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "decoder alone": ({"family": "gpt2"}, {"kind": "causal"}),
    "VAE": ({"family": "vae"}, {}),
    "VAE, plain": ({"family": "vae"}, PLAIN),
    "VAE of LSTMs": ({"family": "vae", "version": "lstm"}, {}),
    "VAE of LSTMs, plain": ({"family": "vae", "version": "lstm"}, PLAIN),
}
ROWS_AT_ONCE = 8


def recipe_of(name: str, text: Path, variant: str, asked: argparse.Namespace, seed: int) -> Recipe:
    model, objective = VARIANTS[variant]
    off = {"min_characters": 2, "repetition": None, "symbols": None}
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
            "training": {"steps": asked.steps, "rows": 16, "length": 128},
        },
        "benchmark",
    )


def measure(recipe: Recipe, folder: Path, samples: int) -> dict[str, float]:
    """Figures over all held-out text."""
    tokens, network = load_tokenizer(folder / "tokenizer"), models.load(folder / "pretrain" / "model").eval()
    objective = build_objective(recipe, network, tokens).eval()
    held_out = Shards.open(folder / "shards", "validation", tokens.hash)
    order = Order(held_out, recipe.training.length, objective, recipe.seed, shuffle=False)
    torch.manual_seed(recipe.seed)
    totals, counts, observed, bound = dict[str, float](), dict[str, int](), list[torch.Tensor](), 0.0
    with torch.no_grad():
        for first in range(0, order.rows_per_epoch, ROWS_AT_ONCE):
            rows = range(first, min(first + ROWS_AT_ONCE, order.rows_per_epoch))
            batch = objective.collate([order.row(row) for row in rows], order.length)
            for name, loss in objective(batch).items():
                totals[name] = totals.get(name, 0.0) + float(loss.total)
                counts[name] = counts.get(name, 0) + loss.count
            if isinstance(objective, Elbo):
                observed.append(objective.observe(batch))
                bound -= float(objective.bound(batch, samples).sum())
    means = {name: total / counts[name] for name, total in totals.items()}
    if not isinstance(objective, Elbo):
        return {"perplexity": math.exp(means["causal"])}
    means["bound"] = bound / counts["reconstruction"]
    figures, _ = objective.summarise(torch.cat(observed), means)
    return {
        **figures,
        "elbo_perplexity": math.exp(means["reconstruction"] + means["kl"]),
        "kl_per_text": means["kl_per_text"],
        "reconstruction": means["reconstruction"],
    }


def figures_of(name: str, text: Path, variant: str, asked: argparse.Namespace, seed: int) -> dict[str, float]:
    """Train, unless that is done, and measure, unless that is done."""
    data = carry_out(recipe_of(name, text, "VAE", asked, 0), until="shards").folder
    folder = asked.work / f"{name} {variant} {seed}".replace(", ", " ").replace(" ", "-")
    done = folder / "figures.json"
    if not done.exists():
        for part in ("tokenizer", "shards"):
            if not (folder / part).exists():
                shutil.copytree(data / part, folder / part)
        recipe = recipe_of(name, text, variant, asked, seed)
        if not (folder / "pretrain" / "model" / "config.json").exists() and pretrain(recipe, folder).interrupted:
            raise KeyboardInterrupt
        done.write_text(json.dumps(measure(recipe, folder, asked.samples), indent=1), encoding="utf-8")
    return json.loads(done.read_text(encoding="utf-8"))


def table(name: str, found: dict[str, list[dict[str, float]]]) -> str:
    alone = mean(one["perplexity"] for one in found["decoder alone"])
    lines = [f"| {name} | perplexity | over | ELBO | KL a text | active | mutual information |", "|---|--:|--:|--:|--:|--:|--:|"]
    for variant, runs in found.items():
        def of(key: str, form: str, runs: list[dict[str, float]] = runs) -> str:
            values = [run[key] for run in runs if key in run]
            if not values:
                return "–"
            low, high = f"{min(values):{form}}", f"{max(values):{form}}"
            return f"{mean(values):{form}}" + (f" ({low}–{high})" if low != high else "")

        over = f"{mean(run['perplexity'] for run in runs) / alone - 1:+.1%}"
        figures = (of("perplexity", ".2f"), over, of("elbo_perplexity", ".2f"), of("kl_per_text", ".2f"))
        lines.append(f"| {variant} | {' | '.join(figures)} | {of('active_units', '.0f')} | {of('mutual_information', '.2f')} |")
    return "\n".join(lines)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--text", action="append", required=True, metavar="NAME=FILE")
    asked.add_argument("--work", type=Path, default=Path("runs/latent"))
    asked.add_argument("--steps", type=int, default=1500)
    asked.add_argument("--size", default="tiny")
    asked.add_argument("--dropout", type=float, default=0.2)
    asked.add_argument("--vocabulary", type=int, default=4000)
    asked.add_argument("--samples", type=int, default=32)
    asked.add_argument("--seeds", type=int, default=2)
    asked.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    given = asked.parse_args()
    for name, text in (entry.split("=", 1) for entry in given.text):
        variants = dict.fromkeys(("decoder alone", *given.only))
        found = {
            variant: [figures_of(name, Path(text), variant, given, seed) for seed in range(given.seeds)] for variant in variants
        }
        print(table(name, found), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
