"""The short table that closes a run: what was measured, where things lie, what to try next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from yanmo.card import command_of
from yanmo.display import duration, number
from yanmo.recipe import KIND_OF, USES, Recipe

SLOWER = 1.1
"""Times the minutes asked for, from which a run is said to have taken longer."""


def summary(recipe: Recipe, folder: Path, until: str) -> list[tuple[str, str]]:
    """Rows of names and what they are, as far as the run has come."""
    rows = _corpus(folder) if recipe.corpus.sources else []
    if until in ("corpus", "tokenizer", "shards"):
        return [*rows, ("where", str(folder))]
    rows += _training(folder, recipe.training.minutes)
    rows += _evaluation(folder)
    model = folder / "pretrain" / "model"
    rows += [("model", str(model))] if recipe.corpus.sources else []
    if (folder / "report.html").exists():
        rows.append(("report", str(folder / "report.html")))
    tasks = {name: task for name in recipe.tasks if (task := folder / "tasks" / name / "model").exists()}
    rows += [(f"model of {name}", str(task)) for name, task in tasks.items()]
    rows += [("try", command_of(recipe.tasks[name].kind, str(task))) for name, task in [*tasks.items()][:1]]
    return [*rows, *_next(recipe, model)] if recipe.corpus.sources else rows


def summary_of_task(kind: str, folder: Path, best: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of what one task has left in its folder: its model, which of the trials it is, what that gets wrong."""
    trial = folder / f"{best['method']}-seed{best['seed']}"
    return [
        ("model", f"{folder / 'model'}, which is {best['method']} with seed {best['seed']}"),
        ("mistakes", str(trial / "errors.jsonl")),
        ("try", command_of(kind, str(folder / "model"))),
        ("measure", f"yanmo evaluate {folder / 'model'} FILE"),
    ]


def task_tables(recipe: Recipe, folder: Path) -> list[tuple[str, list[dict[str, str]]]]:
    """Each task that is finished, and the lines of its table: what every way of adapting came to. Then that of several tasks at
    once, where they are: what each has from the others."""
    found = {name: _read(folder / "tasks" / name / "results.json") for name in recipe.tasks}
    joint = _read(folder / "together" / "results.json") if recipe.together else {}
    tables = [(f"{name} ({results['task']})", results["table"]) for name, results in found.items() if results]
    return [*tables, *([("together", joint["table"])] if joint else [])]


def _corpus(folder: Path) -> list[tuple[str, str]]:
    shards = _read(folder / "shards" / "report.json").get("splits", {})
    rows = []
    for split, part in shards.items():
        size = f"{part['documents']:,} documents, {part['tokens']:,} tokens, {part['bytes'] / 1e6:.1f} MB"
        rows.append((f"{split} text", size))
    if not rows:
        funnel = _read(folder / "corpus" / "report.json")["funnel"]
        rows = [("corpus", f"{funnel[0]['documents_in']:,} documents read, {funnel[-1]['documents_out']:,} kept")]
    return rows


def _training(folder: Path, minutes: float | None) -> list[tuple[str, str]]:
    speed = _read(folder / "pretrain" / "speed.json")
    if not speed:
        return []
    late = []
    if minutes is not None and speed["seconds"] > SLOWER * 60 * minutes:
        late = [("", f"{minutes:g} minutes were asked for: steps came out slower than measured before training")]
    share = []
    if "share_of_matrix_rate" in speed:                   # counting makes no products
        share = [("", f"{speed['share_of_matrix_rate']:.0%} of this machine's own rate of matrix products")]
    return [
        ("training", f"{speed['steps']:,} steps, {speed['tokens']:,} tokens in {duration(speed['seconds'])}"),
        *late,
        ("speed", f"{speed['tokens_per_second']:,.0f} tokens/s"),
        *share,
    ]


def _evaluation(folder: Path) -> list[tuple[str, str]]:
    found = _read(folder / "evaluation" / "report.json")
    rows = [(f"held-out loss ({name})", f"{number(value)} nats a target") for name, value in found.get("losses", {}).items()]
    if found.get("perplexity") is not None:
        rows.append(("perplexity", number(found["perplexity"])))
    if found.get("bits_per_byte") is not None:
        rows.append(("bits per byte", number(found["bits_per_byte"])))
    if found.get("masked_accuracy") is not None:
        baseline = found["baseline_accuracy"]
        rows.append(("masked accuracy", f"{found['masked_accuracy']:.1%}; always the most frequent token: {baseline:.1%}"))
    rows += [(name.replace("_", " "), f"{share:.1%}") for name, share in (found.get("accuracies") or {}).items()]
    return rows + _frontiers(found.get("frontiers", {}))


def _frontiers(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What both generators of a game write at the temperature of their learning, 1, and which is better; the page has all."""
    rows = []
    for name, generator in (("likelihood", "maximum likelihood"), ("adversarial", "adversarial")):
        for point in [point for point in found.get(name, []) if point["temperature"] == 1]:
            for figure, head in (("bleu", generator), ("self_bleu", "")):
                values = " ".join(f"{value:.3f}" for value in point[figure].values())
                what = f"{'Self-' * (figure == 'self_bleu')}BLEU-{min(point[figure])} to {max(point[figure])}"
                rows.append((head, f"{what}: {values}"))
    return [*rows, ("verdict", found["verdict"]["sentence"])] if found else []


def _next(recipe: Recipe, model: Path) -> list[tuple[str, str]]:
    prompt, gap = (recipe.evaluation.prompts or ("...",))[0], (recipe.evaluation.fill or ("... [MASK] ...",))[0]
    what = {"generate": f' --prompt "{prompt}"', "fill": f' "{gap}"', "score": ' "..."', "sample": ""}
    verb = USES[KIND_OF[recipe.model.family]].verb
    filling = model / "generator"                        # a discriminator's
    use = f"yanmo fill {filling}{what['fill']}" if filling.exists() else f"yanmo {verb} {model}{what[verb]}"
    own = "copy recipes/own-text.yaml to my.yaml, name your files in it, and: yanmo run my.yaml training.minutes=30"
    return [("try", use), ("your text", own)]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
