"""Text GANs beside maximum likelihood on one file of texts: Texygen's metrics, over temperatures, and who is better.

    python benchmarks/adversarial.py --train FILE --test FILE [--minutes 10 | --steps 3000] [--seeds 1] [--family lstm]
        [--size mini] [--work FOLDER] [--set objective.longest=40]

A file has a text a line. A generator of recipes/gan-en.yaml first learns by maximum likelihood alone, with held-out text to stop
at the best; from there each estimator plays its game for as long again, with the same tokenizer. Every generator then writes, at
each temperature, as many texts as the test file has.

BLEU is against the whole test file, Self-BLEU among all texts of a generator (Texygen, Zhu et al. 2018). That the published
figures are found so, the row `training file` shows: what the training file has against the test file, in our figures and theirs
(Texygen's code can take the first 500 texts only, which gives others: the second table). Nats are of the test file's tokens and
words, each given those before it, the end of a text not counted. With several seeds: means, and half of the range after ±.

The same command goes on where it was interrupted: what is finished lies in --work; use another folder for changed code.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from yanmo import display, models
from yanmo.bleu import ORDERS, self_bleu, words
from yanmo.frontier import TEMPERATURES, Point, point_of, sampled, verdict
from yanmo.pretrain import pretrain
from yanmo.recipe import Recipe, read_recipe
from yanmo.run import carry_out
from yanmo.scoring import score
from yanmo.tokenizer import load_tokenizer

RECIPE = Path(__file__).parent.parent / "recipes" / "gan-en.yaml"
LIKELIHOOD = "maximum likelihood"
GAMES = {"SeqGAN (policy gradient)": "policy-gradient", "RelGAN (Gumbel-softmax)": "gumbel-softmax"}
FIRST = 500
"""Texts among which Texygen's fast Self-BLEU is taken."""
HELD_OUT = 0.05

TEXYGEN = "Texygen, docs/evaluation.md"
PUBLISHED: tuple[tuple[str, tuple[float, ...], tuple[float, ...], str], ...] = (
    ("training file", (0.740, 0.520, 0.337, 0.218), (0.892, 0.747, 0.573, 0.415), f"{TEXYGEN}, at 26f2448"),
    ("MLE", (0.731, 0.497, 0.305, 0.189), (0.916, 0.769, 0.583, 0.408), TEXYGEN),
    ("SeqGAN", (0.745, 0.498, 0.294, 0.180), (0.950, 0.840, 0.670, 0.489), TEXYGEN),
    ("MaliGAN", (0.673, 0.432, 0.257, 0.159), (0.918, 0.781, 0.606, 0.437), TEXYGEN),
    ("RankGAN", (0.743, 0.467, 0.264, 0.156), (0.959, 0.882, 0.762, 0.618), TEXYGEN),
    ("LeakGAN", (0.746, 0.528, 0.355, 0.230), (0.966, 0.913, 0.848, 0.780), TEXYGEN),
    ("TextGAN", (0.593, 0.463, 0.277, 0.207), (0.942, 0.931, 0.804, 0.746), TEXYGEN),
    ("RelGAN, sharpness 100", (0.849, 0.687, 0.502, 0.331), (), "Nie et al. 2019, UNCHECKED: quoted from memory"),
    ("RelGAN, sharpness 1000", (0.814, 0.634, 0.455, 0.303), (), "Nie et al. 2019, UNCHECKED: quoted from memory"),
)
"""Of image COCO's captions: name, BLEU-2 to 5 on the test file, Self-BLEU-2 to 5, source."""


def recipe_of(asked: argparse.Namespace, seed: int, *more: str) -> Recipe:
    source = json.dumps({"path": str(asked.train.resolve()), "document": "line"})
    budget = f"training.steps={asked.steps}" if asked.steps else f"training.minutes={asked.minutes}"
    off = ("corpus.filter={min_characters: 2, repetition: null, symbols: null}", "corpus.deduplicate={near: false, exact: false}")
    fixed = (f"seed={seed}", f"corpus.sources=[{source}]", *off, f"corpus.validation={HELD_OUT}", f"runs={asked.work}")
    network = (f"model.family={asked.family}", f"model.size={asked.size}", f"tokenizer.vocabulary={asked.vocabulary}")
    none = ("training.minutes=null", "training.steps=null")
    return read_recipe(RECIPE, [*fixed, *network, *none, budget, "evaluation.prompts=[]", *more, *asked.set])


def trained(name: str, asked: argparse.Namespace, seed: int) -> Path:
    """The model folder of a generator, trained unless that is done."""
    before = recipe_of(asked, seed, f"name=likelihood-{seed}")
    alone = before.model_copy(update={"objective": read_recipe(RECIPE.parent / "lstm-en.yaml").objective})
    data = carry_out(alone, until="shards").folder
    folder, recipe = data, alone
    if name in GAMES:
        start = trained(LIKELIHOOD, asked, seed)
        game = (f"objective.estimator={GAMES[name]}", "objective.start=0", f"model.start={start}")
        recipe = recipe_of(asked, seed, f"name={GAMES[name]}-{seed}", *game)
        folder = Path(recipe.runs) / recipe.name
        for part in ("tokenizer", "shards"):
            if not (folder / part).exists():
                shutil.copytree(data / part, folder / part)
    model = folder / "pretrain" / "model"
    if not (model / "config.json").exists():
        with display.stage(f"{name}, seed {seed}") as progress:
            if pretrain(recipe, folder, progress, display.note).interrupted:
                raise KeyboardInterrupt
    return model


def figures_of(name: str, asked: argparse.Namespace, seed: int, lines: Sequence[str]) -> dict[str, Any]:
    """nats: of the test file, by unit. points: by temperature. first: Self-BLEU of the first texts, by temperature and order."""
    model = trained(name, asked, seed)
    done = model.parent.parent / "figures.json"
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    longest = recipe_of(asked, seed, "name=any").objective.longest  # pyright: ignore[reportAttributeAccessIssue]
    network, tokens = models.load(model).eval(), load_tokenizer(model)
    known = [words(line) for line in lines]
    nats = -sum(score(network, tokens, lines))
    found: dict[str, Any] = {
        "nats": {"token": nats / sum(map(len, tokens.encode(list(lines)))), "word": nats / sum(map(len, known))},
        "points": [],
        "first": [],
    }
    for temperature in asked.temperatures:
        texts = sampled(network, tokens, len(lines), temperature, seed, longest)
        found["points"].append(point_of(texts, known, temperature).to_json())
        found["first"].append({str(order): value for order, value in self_bleu(texts[:FIRST]).items()})
        found.setdefault("texts", []).append([" ".join(text) for text in texts[:3]])
        print(f"{name}, seed {seed}, temperature {temperature:g}: measured", flush=True)
    done.write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
    return found


def over_seeds(values: Sequence[float]) -> str:
    spread = (max(values) - min(values)) / 2
    return f"{mean(values):.3f}" + (f" ±{spread:.3f}" if len(values) > 1 else "")


def lines_of(runs: dict[str, list[dict[str, Any]]], real: Point, real_first: dict[int, float]) -> tuple[list[str], list[str]]:
    """The rows of both tables: all texts, and the first ones."""
    every, first = [], []
    figures = [f"{of[order]:.3f}" for of in (real.bleu, real.self_bleu) for order in ORDERS]
    every.append(f"| training file | – | – | – | {real.words:.1f} | {' | '.join(figures)} |")
    first.append(f"| training file | – | {' | '.join(f'{real_first[order]:.3f}' for order in ORDERS)} |")
    for name, seeds in runs.items():
        nats = [over_seeds([run["nats"][unit] for run in seeds]) for unit in ("token", "word")]
        for place, point in enumerate(seeds[0]["points"]):
            points = [run["points"][place] for run in seeds]
            figures = [over_seeds([one[of][str(order)] for one in points]) for of in ("bleu", "self_bleu") for order in ORDERS]
            length = f"{mean(one['words'] for one in points):.1f}"
            few = [over_seeds([run["first"][place][str(order)] for run in seeds]) for order in ORDERS]
            every.append(f"| {name} | {point['temperature']:g} | {' | '.join([*nats, length, *figures])} |")
            first.append(f"| {name} | {point['temperature']:g} | {' | '.join(few)} |")
    return every, first


def published() -> list[str]:
    rows = []
    for name, bleu, alike, source in PUBLISHED:
        figures = [f"{value:.3f}" for value in bleu] + ([f"{value:.3f}" for value in alike] or ["–"] * len(ORDERS))
        rows.append(f"| {name} | {' | '.join(figures)} | {source} |")
    return rows


def verdicts(runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """By game and seed: a sentence, and at every order the difference with the temperatures that could be compared."""
    rows, said = ["| game | seed | verdict | order | BLEU less the curve's | temperatures |", "|---|--:|---|--:|--:|---|"], []
    for name in [name for name in runs if name in GAMES]:
        for seed, (run, before) in enumerate(zip(runs[name], runs[LIKELIHOOD], strict=True)):
            own, other = ([Point.from_json(point) for point in one["points"]] for one in (run, before))
            found = verdict(own, other)
            for one in found.differences:
                compared = " ".join(f"{temperature:g}" for temperature in one.compared) or "none"
                rows.append(f"| {name} | {seed} | {found.outcome} | {one.order} | {one} | {compared} |")
            said.append(f"- {name}, seed {seed}: {found.sentence}")
    return [*rows, "", *said] if said else []


def texts_of(file: Path) -> list[str]:
    return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--train", type=Path, required=True)
    asked.add_argument("--test", type=Path, required=True)
    asked.add_argument("--work", type=Path, default=Path("runs/adversarial"))
    budget = asked.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, default=10, help="of maximum likelihood, and of each game")
    budget.add_argument("--steps", type=int, help="the same in steps")
    asked.add_argument("--seeds", type=int, default=1)
    asked.add_argument("--family", default="lstm")
    asked.add_argument("--size", default="mini")
    asked.add_argument("--vocabulary", type=int, default=5000)
    asked.add_argument("--temperatures", type=float, nargs="+", default=list(TEMPERATURES))
    asked.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the recipe, for all generators")
    asked.add_argument("--only", nargs="*", choices=list(GAMES), default=list(GAMES), help="games; none of them: the first alone")
    given = asked.parse_args()
    lines = texts_of(given.test)
    training = [words(line) for line in texts_of(given.train)[: len(lines)]]
    real = point_of(training, [words(line) for line in lines], 1.0)
    runs = {name: [figures_of(name, given, seed, lines) for seed in range(given.seeds)] for name in (LIKELIHOOD, *given.only)}
    heads, alike = [f"BLEU-{order}" for order in ORDERS], [f"Self-BLEU-{order}" for order in ORDERS]
    every, first = lines_of(runs, real, self_bleu(training[:FIRST]))
    many = f"{len(lines):,} texts a generator and temperature, {given.seeds} seed(s), {given.family} {given.size}"
    print(f"\n{many}\n\n| generator | temperature | nats a token | a word | words | {' | '.join(heads + alike)} |")
    print("|---|--:|" + "--:|" * (3 + len(heads + alike)), *every, sep="\n")
    print(f"\nPublished\n\n| generator | {' | '.join(heads + alike)} | source |\n|---|{'--:|' * len(heads + alike)}---|")
    print(*published(), sep="\n")
    print(f"\nSelf-BLEU among the first {FIRST} texts\n\n| generator | temperature | {' | '.join(alike)} |")
    print("|---|--:|" + "--:|" * len(alike), *first, sep="\n")
    print("", *verdicts(runs), sep="\n")


if __name__ == "__main__":
    main()
