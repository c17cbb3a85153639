"""Time to the same held-out loss: Yanmo's trainer with its defaults against transformers' Trainer, on the same real text.

    python benchmarks/time_to_loss.py [--family bert gpt2] [--steps 400] [--seeds 3] [--ours-steps 1 0.5] [--work FOLDER]

The same: text, tokenizer, network (transformers builds its own from our config.json), no dropout, rows, length, threads. What
each does in its own way: weights drawn, order and packing of the data, optimizer, precision. transformers gets AdamW, linear
decay, 5% warmup, weight decay 0.01, its rows made as run_mlm and run_clm make them (documents with their special tokens, laid
end to end and cut), and the best of three learning rates. That is found on its fastest setting with seed 0, by the final
held-out loss; where the best is the smallest or the largest, its neighbour is tried too, until it is neither. Those runs
are not in the result. Ours has one setting, and a number of steps that is a factor (--ours-steps) of theirs.

Every run is a process of its own, and for every seed the sides take turns, so that a slow minute of a shared machine hits
all of them. A run saves its weights before the first step and ten times after. Saving is not timed, measuring comes
afterwards: both sides' weights go through our network (equal to transformers' to 1e-5) in fp32, over the same held-out rows,
with the same masks. A row holds several documents: ours reads them apart and transformers' models as one running text, each as
it was trained; the answers asked for are the same. The loss of the other way of reading is shown beside it.

The target is the loss at the end of transformers' run, seed by seed. When a run first reaches it is read off the straight line
between two measured points. A run's first two steps (compiling, first allocations) count as two steps of median length, on
every side; the ratio `with the start` counts them as they were. Steps are timed from one end to the next, with all that is
between: fetching and collating too.

With --work, an interrupted benchmark goes on: results of finished runs lie there. Use another folder for changed code.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

SETTINGS = ("fp32", "bf16", "compile")
"""Of transformers; `compile` is bf16 with torch_compile."""
NAMES = {"ours": "ours"} | {name: f"transformers {name}" for name in SETTINGS}
SOURCES = ["sample:peoples-daily", "sample:reviews-zh"]
POINTS = 10
"""Measured points of a run, besides the one before the first step."""
WARM_UP = 2
PROBE_STEPS = 12
"""Steps by which the fastest setting is found."""
RATES_LIMIT = 6
"""Learning rates tried at most."""


@dataclass(frozen=True)
class Job:
    """One run. side: `ours` or a setting of transformers; rate: 0 where it is the side's default."""

    side: str
    seed: int
    steps: int
    rate: float = 0.0

    @property
    def name(self) -> str:
        return "-".join([self.side, f"{self.steps}steps", *([f"{self.rate:g}"] if self.rate else []), f"seed{self.seed}"])


@dataclass(frozen=True)
class Found:
    """What a run found. step_seconds: of each step. steps, losses, others: of each measured point, the loss being a mean over
    targets in nats, as the side reads rows, and as the other side does."""

    step_seconds: list[float]
    steps: list[int]
    losses: list[float]
    others: list[float]

    @property
    def final(self) -> float:
        return self.losses[-1] if math.isfinite(self.losses[-1]) else math.inf

    def seconds(self, started: bool = False) -> list[float]:
        """At each measured point; started: the first steps as they were."""
        usual = median(self.step_seconds[WARM_UP:])
        steps = self.step_seconds if started else [usual] * WARM_UP + self.step_seconds[WARM_UP:]
        return [sum(steps[:step]) for step in self.steps]

    def reaches(self, target: float, started: bool = False) -> float | None:
        """The seconds after which the loss is at the target for the first time, or None."""
        points = list(zip(self.seconds(started), self.losses, strict=True))
        for (before, high), (after, low) in pairwise(points):
            if low <= target:
                return before if high <= target else before + (after - before) * (high - target) / (high - low)
        return None


@dataclass(frozen=True)
class Race:
    """Ours against a setting, seed by seed: the target; our seconds to it (None: not reached) and theirs, without and with
    the start."""

    side: str
    steps: int
    targets: list[float]
    times: list[tuple[float | None, float]]
    times_with_start: list[tuple[float | None, float]]

    def ratios(self, started: bool = False) -> list[float]:
        """How many times less ours takes; none where a seed does not reach the target."""
        times = self.times_with_start if started else self.times
        return [theirs / ours for ours, theirs in times if ours] if all(ours for ours, _ in times) else []


def main() -> None:
    options = _options()
    if options.job:
        _run(Job(**json.loads(options.job)), options)
        return
    with tempfile.TemporaryDirectory(prefix="time-to-loss-") as temporary:
        options.work = Path(options.work or temporary).resolve()
        for family in options.family:
            _compare(argparse.Namespace(**{**vars(options), "family": [family]}))


def _compare(options: argparse.Namespace) -> None:
    """One family: the text, the learning rate, then all sides in turn."""
    from yanmo.run import carry_out

    carry_out(_recipe(options, Job("ours", 0, options.steps)), until="shards")
    tried = _rates(options)
    rate = min(tried, key=lambda rate: tried[rate])
    ours = [Job("ours", 0, max(WARM_UP + 1, round(options.steps * factor))) for factor in options.ours_steps]
    theirs = [Job(setting, 0, options.steps, rate) for setting in options.settings]
    found: dict[Job, list[Found]] = {job: [] for job in ours + theirs}
    for seed in range(options.seeds):
        for job, seeds in found.items():
            seeds.append(_in_process(replace(job, seed=seed), options))
    races = _races(found)
    _print(options, tried, found, races)
    tree = {"options": _fixed(options), "rates": tried, "races": [asdict(race) for race in races]}
    tree["runs"] = {job.name.removesuffix("-seed0"): [asdict(one) for one in seeds] for job, seeds in found.items()}
    path = _folder(options) / "results.json"
    path.write_text(json.dumps(tree, indent=1))
    print(f"all figures: {path}")


def _rates(options: argparse.Namespace) -> dict[float, float]:
    """The final held-out loss of every learning rate tried, on transformers' fastest setting."""
    middle = sorted(options.rates)[len(options.rates) // 2]
    probes = {setting: _in_process(Job(setting, 0, PROBE_STEPS, middle), options) for setting in options.settings}
    fastest = min(probes, key=lambda setting: median(probes[setting].step_seconds[WARM_UP:]))
    tried: dict[float, float] = {}
    wanted = sorted(options.rates)
    while wanted:
        for rate in wanted:
            tried[rate] = _in_process(Job(fastest, 0, options.steps, rate), options, "choice-").final
        best, rates = min(tried, key=lambda rate: tried[rate]), sorted(tried)
        edges = {rates[0]: rates[0] / 2, rates[-1]: rates[-1] * 2}
        wanted = [edges[best]] if len(options.rates) > 1 and best in edges and len(tried) < RATES_LIMIT else []
    return tried


def _in_process(job: Job, options: argparse.Namespace, kind: str = "") -> Found:
    """A job in a process of its own, unless it was done before."""
    from yanmo.files import write_atomically

    path = _folder(options) / "results" / f"{kind}{job.name}.json"
    if not path.exists():
        print(f"{options.family[0]} {kind}{job.name} ...", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, *sys.argv[1:], "--family", *options.family, "--work", str(options.work)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        command += ["--job", json.dumps(asdict(job))]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            sys.exit(f"{job.name} failed:\n{done.stdout}\n{done.stderr}")
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, done.stdout.strip().splitlines()[-1])
    return Found(**json.loads(path.read_text()))


# One run, in its process


def _run(job: Job, options: argparse.Namespace) -> None:
    """Train, measure what was saved, print a Found."""
    folder = _folder(options) / "models" / job.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    ours = job.side == "ours"
    step_seconds = (_ours if ours else _transformers)(job, options, folder)
    steps = _saved_at(job.steps)
    saved = [folder / (f"checkpoints/step-{step:08d}" if ours else f"{step}") for step in steps]
    apart, joined = map(list, zip(*_measure(job, options, saved), strict=True))
    found = Found(step_seconds, steps, *((apart, joined) if ours else (joined, apart)))
    shutil.rmtree(folder)
    print("\n" + json.dumps(asdict(found)))


def _ours(job: Job, options: argparse.Namespace, folder: Path) -> list[float]:
    """Yanmo's trainer; what is saved are its checkpoints. Seconds of each step."""
    from yanmo.batch import Order
    from yanmo.memory import keep_freed_memory
    from yanmo.objectives import build_objective
    from yanmo.pretrain import new_network
    from yanmo.train import Trainer

    keep_freed_memory()
    recipe = _recipe(options, job)
    tokens, train, _ = _data(options)
    network = new_network(recipe, tokens)
    objective = build_objective(recipe, network, tokens)
    order = Order(train, options.length, objective, job.seed)
    outcome = Trainer(objective, order, None, recipe.training, folder, job.seed, say=lambda sentence: None).fit()
    assert outcome.returns == 0, "the run went back to a checkpoint: its seconds are not in metrics.jsonl"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    saved, seconds = _saved_at(job.steps), []
    for before, line in pairwise([{"step": 0, "tokens": 0}, *lines]):
        if before["step"] in saved:                        # since then a checkpoint was written: only the step's own time
            seconds.append((line["tokens"] - before["tokens"]) / line["tokens_per_second"])
        else:
            seconds.append(line["seconds"] - before["seconds"])
    return seconds


def _transformers(job: Job, options: argparse.Namespace, folder: Path) -> list[float]:
    """transformers' Trainer; what is saved are model folders. Seconds of each step."""
    import transformers

    from yanmo import models
    from yanmo.pretrain import new_network

    models.save(new_network(_recipe(options, job), _data(options)[0]), folder / "start")
    transformers.set_seed(job.seed)
    config = transformers.AutoConfig.from_pretrained(folder / "start")
    config.use_cache = False
    masked = options.family[0] == "bert"
    model = (transformers.AutoModelForMaskedLM if masked else transformers.AutoModelForCausalLM).from_config(config)
    tokenizer = transformers.AutoTokenizer.from_pretrained(_folder(options) / "tokenizer")
    collate = transformers.DataCollatorForLanguageModeling(tokenizer) if masked else transformers.default_data_collator
    saved_at = _saved_at(job.steps)
    seconds: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, **more):
            self.save(more["model"], 0)

        def on_step_end(self, args, state, control, **more):
            seconds.append(time.perf_counter() - self.began)
            self.save(more["model"], state.global_step)

        def save(self, model, step: int) -> None:
            if step in saved_at:
                model.save_pretrained(folder / str(step))
            self.began = time.perf_counter()

    rate: dict[str, Any] = {"learning_rate": job.rate, "warmup_steps": round(0.05 * job.steps), "weight_decay": 0.01}
    silent: dict[str, Any] = {"logging_strategy": "no", "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    arguments = transformers.TrainingArguments(
        str(folder / "trainer"), max_steps=job.steps, per_device_train_batch_size=options.rows, seed=job.seed, use_cpu=True,
        bf16=job.side != "fp32", torch_compile=job.side == "compile", remove_unused_columns=False, dataloader_pin_memory=False,
        dataloader_drop_last=True, **rate, **silent,       # a shorter last batch would be compiled anew
    )
    transformers.Trainer(model, arguments, collate, _running_text(options, masked), callbacks=[Clock()]).train()
    return seconds


def _running_text(options: argparse.Namespace, masked: bool) -> list[dict[str, Any]]:
    """The training text as run_mlm and run_clm group it: documents end to end, cut into full rows."""
    import numpy as np
    import torch

    tokens, train, _ = _data(options)
    text = np.concatenate([part for document in train for part in (tokens.prefix, document[0], tokens.suffix)]).astype(np.int64)
    rows = torch.from_numpy(text[: len(text) // options.length * options.length].reshape(-1, options.length))
    if not masked:
        return [{"input_ids": row, "labels": row} for row in rows]
    special = torch.isin(rows, torch.tensor(sorted(tokens.special))).long()
    return [{"input_ids": row, "special_tokens_mask": mask} for row, mask in zip(rows, special, strict=True)]


def _measure(job: Job, options: argparse.Namespace, folders: list[Path]) -> list[tuple[float, float]]:
    """The loss of each saved model over the held-out rows: documents of a row apart, and as one running text."""
    import torch

    from yanmo import checkpoint, models
    from yanmo.batch import Order
    from yanmo.objectives import build_objective
    from yanmo.pretrain import new_network

    recipe = _recipe(options, job)
    tokens, _, validation = _data(options)
    objective = build_objective(recipe, new_network(recipe, tokens), tokens)
    order = Order(validation, options.length, objective, 0, shuffle=False)
    rows = [order.row(number) for number in range(min(options.validation_rows, order.rows_per_epoch))]
    batches = [objective.collate(rows[at : at + options.rows], options.length) for at in range(0, len(rows), options.rows)]
    joined = [replace(batch, packed=_joined(batch.packed)) for batch in batches]
    measured = []
    for folder in folders:
        if job.side == "ours":
            objective.load_state_dict({**objective.state_dict(), **checkpoint.load_weights(folder)})
        else:
            objective.network = models.load(folder)
        objective.eval()
        with torch.no_grad():
            measured.append((_mean_loss(objective, batches), _mean_loss(objective, joined)))
    return measured


def _mean_loss(objective: Any, batches: list[Any]) -> float:
    losses = [objective(batch)[objective.recipe.kind] for batch in batches]
    return sum(float(loss.total) for loss in losses) / sum(loss.count for loss in losses)


def _joined(packed: Any) -> Any:
    """Rows whose documents see one another, at positions that run through."""
    import torch

    documents = (packed.documents > 0).long()
    positions = torch.arange(documents.shape[1]) * documents
    return replace(packed, documents=documents, positions=positions, whole=bool(documents.all()))


def _saved_at(steps: int) -> list[int]:
    every = math.ceil(steps / POINTS)
    return [*range(0, steps, every), steps]


# What all runs share


def _recipe(options: argparse.Namespace, job: Job) -> Any:
    from yanmo.recipe import parse_recipe

    tree: dict[str, Any] = {
        "name": _folder(options).name,
        "runs": str(options.work),
        "seed": job.seed,
        "corpus": {"sources": options.source, "validation": 0.03},
        "tokenizer": {"vocabulary": options.vocabulary},
        "model": {"family": options.family[0], "layers": options.layers, "width": options.width},
        "objective": {"unit": "token"} if options.family[0] == "bert" else {},
        "training": {"steps": job.steps, "rows": options.rows, "length": options.length},
    }
    tree["training"] |= {"save_every": math.ceil(job.steps / POINTS), "keep": 2 * POINTS}
    return parse_recipe(tree, "benchmark")


def _fixed(options: argparse.Namespace) -> dict[str, Any]:
    """What must be the same for results to be compared."""
    names = ("family", "source", "vocabulary", "layers", "width", "rows", "length", "validation_rows")
    return {name: getattr(options, name) for name in names}


def _folder(options: argparse.Namespace) -> Path:
    """The run folder of a family: text, tokenizer, shards, results."""
    settings = hashlib.sha256(json.dumps(_fixed(options)).encode()).hexdigest()[:8]
    return Path(options.work) / f"{options.family[0]}-{settings}"


def _data(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """The tokenizer, the training and the held-out shards."""
    from yanmo.shards import Shards
    from yanmo.tokenizer import load_tokenizer

    folder = _folder(options)
    train, validation = (Shards.open(folder / "shards", split) for split in ("train", "validation"))
    return load_tokenizer(folder / "tokenizer"), train, validation


# The report


def _races(found: dict[Job, list[Found]]) -> list[Race]:
    """Every number of our steps against every setting."""
    races = []
    for theirs in (job for job in found if job.side != "ours"):
        for ours in (job for job in found if job.side == "ours"):
            pairs = list(zip(found[ours], found[theirs], strict=True))
            times = [[(a.reaches(b.final, how), b.reaches(b.final, how)) for a, b in pairs] for how in (False, True)]
            races.append(Race(theirs.side, ours.steps, [b.final for _, b in pairs], *times))
    return races


def _print(options: argparse.Namespace, tried: dict[float, float], found: dict[Job, list[Found]], races: list[Race]) -> None:
    print(f"\n{options.family[0]}: {options.layers} x {options.width}, vocabulary {options.vocabulary}, {options.rows} rows of "
          f"{options.length}, {options.seeds} seeds, {', '.join(options.source)}")
    rates = ", ".join(f"{rate:g}: {loss:.3f}" for rate, loss in sorted(tried.items()))
    print(f"transformers' learning rates and the held-out losses they end with: {rates}")
    print(f"\n{'':24}{'steps':>7}{'held-out loss':>18}{'read otherwise':>16}{'seconds':>10}{'range':>14}{'first steps':>13}")
    for job, seeds in found.items():
        losses, seconds = [one.final for one in seeds], [one.seconds()[-1] for one in seeds]
        loss = f"{mean(losses):.3f}" + (f" ± {stdev(losses):.3f}" if len(losses) > 1 else "")
        otherwise, start = mean(one.others[-1] for one in seeds), median(sum(one.step_seconds[:WARM_UP]) for one in seeds)
        print(f"{NAMES[job.side]:24}{job.steps:>7}{loss:>18}{otherwise:>16.3f}{mean(seconds):>10.1f}{_span(seconds, 0):>14}"
              f"{start:>13.1f}")
    for side in options.settings:
        _print_races(side, [race for race in races if race.side == side])


def _print_races(side: str, races: list[Race]) -> None:
    title = f"seconds to the loss of {NAMES[side]}"
    print(f"\n{title:48}{'ours':>9}{'range':>14}{'theirs':>9}{'less by':>9}{'range':>14}{'with the start':>16}")
    for race in races:
        label, ratios = f"  ours in {race.steps} steps", race.ratios()
        if not ratios:
            print(f"{label:48}does NOT reach it in {sum(ours is None for ours, _ in race.times)} of {len(race.times)} seeds")
            continue
        ours, theirs = zip(*race.times, strict=True)
        print(f"{label:48}{mean(ours):>9.1f}{_span(ours, 1):>14}{mean(theirs):>9.1f}{median(ratios):>9.2f}{_span(ratios, 2):>14}"
              f"{median(race.ratios(started=True)):>16.2f}")
    if best := max((race for race in races if race.ratios()), key=lambda race: median(race.ratios()), default=None):
        print(f"  best: in {best.steps} steps ours takes {median(best.ratios()):.2f} times less")


def _span(values: Sequence[float], digits: int) -> str:
    return f"{min(values):.{digits}f}-{max(values):.{digits}f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", default=["bert", "gpt2"], choices=["bert", "gpt2"])
    parser.add_argument("--source", nargs="+", default=SOURCES, help="text, as in corpus.sources")
    parser.add_argument("--steps", type=int, default=400, help="of transformers")
    parser.add_argument("--ours-steps", type=float, nargs="+", default=[1.0], help="factors of --steps")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS, help="of transformers")
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3], help="learning rates of transformers")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=7168)
    parser.add_argument("--validation-rows", type=int, default=256, help="held-out rows that both sides are measured on")
    parser.add_argument("--work", help="a folder that keeps the text and the results; by default a temporary one")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
