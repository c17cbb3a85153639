"""Routers compared at equal active parameters: top-k with its balance loss against balanced assignment, and one dense network.

    python benchmarks/experts.py [--steps 600] [--seeds 3] [--size mini] [--sides dense balanced ...] [--micro-rows 32]

The same for all: text (People's Daily and reviews), tokenizer, order of the data, optimizer, steps, and the feed-forward
parameters that a token meets. `top-1` is Fedus et al. 2021 (one expert, its probability as the gate), `top-1.25` the same with a
capacity of 1.25 even shares, `top-2` has twice as many experts of half the width and two of them for each token, `balanced` is
Lewis et al. 2021 with the best assignment, `balanced-2` the same with experts like those of `top-2`. All but `dense` have the
same number of parameters.

For every seed the sides take turns, so that a slow minute of a shared machine hits all of them. The training loss is the mean
over the last tenth of the steps; there balanced tokens are assigned, while the held-out loss is greedy for all. Load: of the
busiest expert of any block, in even shares. Seconds: the median of the steps, as a ratio to `dense` with the same seed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

SOURCES = ["sample:peoples-daily", "sample:reviews-zh"]


@dataclass(frozen=True)
class Found:
    """Of one run. training, held_out: nats a token; the rest is measured while training, of the last tenth of the steps."""

    training: float
    held_out: float
    load: float
    greedy_load: float
    dropped: float
    optimum: float | None
    seconds: float
    parameters: int


def sides(experts: int, inner: int) -> dict[str, dict[str, Any]]:
    """The model section of each side, but for the size."""
    of = {"number": experts}
    return {
        "dense": {"feedforward": inner},
        "top-1": {"feedforward": inner, "experts": of | {"top_k": 1}},
        "top-1.25": {"feedforward": inner, "experts": of | {"top_k": 1, "capacity": 1.25}},
        "top-2": {"feedforward": inner // 2, "experts": {"number": 2 * experts, "top_k": 2}},
        "balanced": {"feedforward": inner, "experts": of | {"router": "balanced"}},
        "balanced-2": {"feedforward": inner // 2, "experts": {"number": 2 * experts, "router": "balanced", "top_k": 2}},
    }


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="experts-") as temporary:
        folder = Path(options.work or temporary).resolve()
        prepared = _run(folder, "prepared", "dense", 0, options, until="shards")
        found: dict[str, list[Found]] = {side: [] for side in options.sides}
        for seed in range(options.seeds):
            for side in options.sides:
                name = f"{side}-{seed}"
                if not (folder / name / "pretrain" / "model").exists():
                    shutil.copytree(prepared, folder / name, dirs_exist_ok=True)
                run = _run(folder, name, side, seed, options, until="pretrain")
                found[side].append(_read(run / "pretrain"))
                print(f"{name}: {found[side][-1]}", flush=True)
        _print(found, options)


def _run(folder: Path, name: str, side: str, seed: int, options: argparse.Namespace, until: str) -> Path:
    from yanmo.models import FAMILIES
    from yanmo.recipe import parse_recipe
    from yanmo.run import carry_out

    inner = FAMILIES["llama"].presets[options.size][2]
    model = {"family": "llama", "size": options.size, **sides(options.experts, inner)[side]}
    if options.balance is not None and "experts" in model:
        model["experts"] = model["experts"] | {"balance": options.balance}
    training = {"steps": options.steps, "rows": options.rows, "length": 256, "validate_every": max(1, options.steps // 4)}
    training |= {} if options.micro_rows is None else {"micro_rows": options.micro_rows}
    tree = {"name": name, "runs": str(folder), "seed": seed, "model": model, "training": training}
    tree |= {"corpus": {"sources": SOURCES, "validation": 0.03}, "tokenizer": {"vocabulary": 8000}}
    return carry_out(parse_recipe(tree, "benchmark"), until=until).folder


def _read(folder: Path) -> Found:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "norm" in line]
    held_out = [line["validation"] for line in lines if "validation" in line][-1]
    tokens = [steps[0]["tokens"], *(after["tokens"] - before["tokens"] for before, after in pairwise(steps))]
    last = steps[-max(1, len(steps) // 10) :]

    def late(name: str, otherwise: float) -> float:
        return mean(line.get(name, otherwise) for line in last)

    from yanmo.report.findings import count_parameters

    return Found(
        training=late("causal", 0.0),
        held_out=held_out["causal"],
        load=late("expert_load", 1.0),
        greedy_load=held_out.get("expert_load", 1.0),
        dropped=late("dropped_tokens", 0.0),
        optimum=late("assignment_optimum", 0.0) or None,
        seconds=median(count / line["tokens_per_second"] for count, line in zip(tokens, steps, strict=True)),
        parameters=count_parameters(folder / "model") or 0,
    )


def _print(found: dict[str, list[Found]], options: argparse.Namespace) -> None:
    work = f"{options.steps} steps of {options.rows} x 256"
    print(f"\nllama {options.size}, {options.experts} experts, {work}: mean (range) of the seeds")
    titles = "side", "parameters", "training loss", "held-out loss", "load", "greedy load", "dropped", "of the optimum", "seconds"
    print(f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
    for side, runs in found.items():
        dense = found.get("dense", runs)
        optima = [run.optimum for run in runs if run.optimum is not None]
        cells = [
            side,
            f"{runs[0].parameters / 1e6:.1f}M",
            _spread([run.training for run in runs]),
            _spread([run.held_out for run in runs]),
            _spread([run.load for run in runs], 2),
            _spread([run.greedy_load for run in runs], 2),
            f"{max(run.dropped for run in runs):.2%}",
            f"{min(optima):.5f}" if optima else "",
            _spread([run.seconds / other.seconds for run, other in zip(runs, dense, strict=True)], 2),
        ]
        print(f"| {' | '.join(cells)} |")


def _spread(values: list[float], digits: int = 4) -> str:
    return f"{mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--size", default="mini")
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--micro-rows", type=int, help="rows whose tokens are shared out at once; by default what training takes")
    parser.add_argument("--balance", type=float, help="weight of the balance loss of all sides; by default each router's own")
    parser.add_argument("--sides", nargs="+", default=list(sides(8, 1)), choices=list(sides(8, 1)))
    parser.add_argument("--work", help="a folder for the runs; finished ones are not run again")
    return parser.parse_args()


if __name__ == "__main__":
    main()
