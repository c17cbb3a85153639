"""The trials of a task: every method with every seed, settings chosen by successive halving, and the table that compares them.

Successive halving: Jamieson & Talwalkar 2016, arXiv:1502.07943; here every round trains anew, because a schedule of the learning
rate depends on how long it is. Every trial is a folder, and is gone on with or left alone where it is finished.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from yanmo import recipe
from yanmo.blank import make_blank
from yanmo.display import duration, short
from yanmo.errors import Interrupted, UserError
from yanmo.files import copy_folder, write_atomically
from yanmo.finetune import RESULT, Trial, check_method, finetune, identity, split_of
from yanmo.labelled.data import Data, read_data, sums_of
from yanmo.lanes import through_lanes
from yanmo.loading import check_folder
from yanmo.progress import Progress, silent
from yanmo.tasks.intervals import interval, rendered

RESULTS, TABLE = "results.json", "results.md"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Trials:
    """What is tried for one task: section of the recipe, the model folder that it begins with (made where the section has a new
    network), and where all of it lies. data: its examples, where they have been read already."""

    section: Any
    base: Path
    folder: Path
    data: Data | None = None


def carry_out(trials: Trials, progress: Progress = silent, say: Say = print) -> dict[str, Any]:
    """Every trial that is not finished; then results.json, results.md and model/: the best seed, by the validation examples, of
    the method that the section names. Returns what results.json holds.

    Raises UserError for whatever a person can mend, before anything is trained where that can be seen, and Interrupted when
    it was asked to stop: all is saved.
    """
    if (before := _before(trials)) is not None:
        return before
    if not trials.section.is_new:
        check_folder(trials.base)
    _spare_models(trials.folder)
    data = trials.data or read_data(trials.section, say=say)
    if trials.section.is_new:
        make_blank(trials.section, data.train, trials.base, progress)
    sections = {method: _adapted_by(trials.section, method) for method in trials.section.tried}
    for method, section in sections.items():
        check_method(section, trials.base, method)
    wanted = []
    for method in sections:
        section = _tuned(trials, sections[method], method, data, progress, say)
        for seed in trials.section.seeds:
            wanted.append((Trial(section, trials.base, method, seed), trials.folder / f"{method}-seed{seed}"))
    found = _finished(wanted, data, trials.section.parallel, progress, say)
    results = {"task": trials.section.kind, "trials": found, "methods": by_method(found), "table": table(found)}
    best = _best(found, trials.section.adaptation.method)
    results["best"] = {name: best[name] for name in ("method", "seed")}
    results["identity"] = _identity(trials, data.sums)
    copy_folder(trials.folder / f"{best['method']}-seed{best['seed']}" / "model", trials.folder / "model")
    write_atomically(trials.folder / RESULTS, json.dumps(results, indent=1, ensure_ascii=False))
    write_atomically(trials.folder / TABLE, "\n".join(markdown(results["table"])) + "\n")
    return results


def _spare_models(folder: Path) -> None:
    """Raises UserError where a model stands in the place of the one to come that no trial here has made."""
    if (folder / "model").exists() and not (folder / RESULTS).exists() and not any(folder.glob("*-seed*")):
        raise UserError(f"{folder / 'model'} is there already, and no task has made it; let the results go elsewhere (--out)")


def _before(trials: Trials) -> dict[str, Any] | None:
    """What results.json holds where all of this was done before."""
    file = trials.folder / RESULTS
    if not file.exists() or not (trials.folder / "model").exists():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    return found if found.get("identity") == _identity(trials, sums_of(trials.section)) else None


def _identity(trials: Trials, sums: Mapping[str, str]) -> list[Any]:
    """What the results depend on: what one of the trials does with files of these sums, and which trials there are."""
    section, seed = trials.section, trials.section.seeds[0]
    each = [identity(Trial(_adapted_by(section, method), trials.base, method, seed), sums) for method in section.tried]
    return [each, section.model_dump(mode="json", include={"seeds", "methods", "tune"})]


def _finished(
    wanted: Sequence[tuple[Trial, Path]], data: Data, lanes: int, progress: Progress, say: Say
) -> list[dict[str, Any]]:
    """What trials found, each in its folder; those that are finished are not done again, of the others so many are at a time."""
    before = [kept(folder, identity(trial, data.sums), "model") for trial, folder in wanted]
    return with_the_rest(before, partial(_done, data), wanted, lanes, progress, say)


def with_the_rest(
    before: Sequence[dict[str, Any] | None], work: Any, wanted: Sequence[Any], lanes: int, progress: Progress, say: Say
) -> list[dict[str, Any]]:
    """What was found before, and where that is None what `work` finds now, see yanmo.lanes."""
    todo = [one for one, found in zip(wanted, before, strict=True) if found is None]
    done = iter(through_lanes(work, todo, lanes, progress, say))
    return [next(done) if found is None else found for found in before]


def _done(data: Data, trial: Trial, folder: Path, progress: Progress, say: Say) -> dict[str, Any]:
    """What a trial found. Its checkpoints are dropped when its model is there."""
    name = f"{folder.parent.name}/{folder.name}"

    def shown(done: float, total: float | None, unit: str, **figures: float | str) -> None:
        progress(done, total, f"{unit} of {name}", **figures)

    done = finetune(trial, data, folder, shown, say)
    if done is None:
        raise Interrupted
    shutil.rmtree(folder / "checkpoints")
    (line,) = by_method([done[1]])
    figure = f"{line['metric'].replace('_', ' ')} {line['mean']:.{digits_of(line)}f}"
    say(f"{name}: {figure} ({line['split']}), {duration(line['seconds'])}")
    return done[1]


def kept(folder: Path, identity: str, model: str) -> dict[str, Any] | None:
    """What a trial found that is finished, with `model` in its folder; None for one that is not. Raises UserError where another
    trial lies there."""
    file = folder / RESULT
    if not file.exists():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    if found.get("identity") != identity or not (folder / model).exists():
        raise UserError(
            f"{folder} holds a trial of another task, other examples or other settings (or another version's defaults); give the "
            "run another name, or delete the folder"
        )
    return found


def _adapted_by(section: Any, method: recipe.Method) -> Any:
    """The section with a method's own adaptation; what the section says of another method is not its."""
    if section.adaptation.method == method:
        return section
    return section.model_copy(update={"adaptation": recipe.Adaptation(method="full" if method == "scratch" else method)})


def _tuned(trials: Trials, section: Any, method: recipe.Method, data: Data, progress: Progress, say: Say) -> Any:
    """The section with the settings of training that came out best for a method: of all combinations half are left after each
    round, and every round trains twice as long, the last one in full."""
    grid = section.tune
    candidates = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())] if grid else []
    rounds = math.ceil(math.log2(len(candidates))) if len(candidates) > 1 else 0
    for round_ in range(rounds):
        share = 0.5 ** (rounds - 1 - round_)
        named = {",".join(f"{name}={value:.15g}" for name, value in one.items()): one for one in candidates}
        wanted = [
            (
                Trial(_with(section, settings), trials.base, method, section.seeds[0], share),
                trials.folder / "tune" / f"{method}-round{round_}-{name}",
            )
            for name, settings in named.items()
        ]
        scored = []
        for name, found in zip(named, _finished(wanted, data, section.parallel, progress, say), strict=True):
            scored.append((found["merit"], name, named[name]))
            say(f"{method}, {share:g} of the time, {name}: {found['metric']} {found['valid'][found['metric']]:.4g}")
        scored.sort(key=lambda one: one[:2])
        candidates = [settings for _, _, settings in scored[: math.ceil(len(scored) / 2)]]
    return _with(section, candidates[0]) if candidates else section


def _with(section: Any, settings: Mapping[str, float]) -> Any:
    """The section with other settings of training."""
    values = {name: int(value) if name == "batch" else value for name, value in settings.items()}
    return section.model_copy(update={"training": section.training.model_copy(update=values)})


def _best(found: Sequence[Mapping[str, Any]], method: str) -> Mapping[str, Any]:
    own = [one for one in found if one["method"] == method] or found
    return min(own, key=lambda one: one["merit"])


def by_method(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each method came to: its metric on the test examples, where there are any, one value for each seed, times `scale` as
    people read it; their mean and how far its 95% interval reaches to both sides, None for one seed; sizes and seconds."""
    methods = []
    for method in dict.fromkeys(one["method"] for one in found):
        own = [one for one in found if one["method"] == method]
        first, split = own[0], split_of(own[0])
        values = [one["scale"] * one[split][one["metric"]] for one in own]
        over_seeds = interval(values)
        line = {name: first[name] for name in ("method", "metric", "learned", "parameters")}
        line |= {"split": split, "lower": first.get("lower", False), "values": values}
        line |= {"mean": over_seeds.mean, "half": over_seeds.half}
        methods.append(line | {"seconds": 60 * sum(one["minutes"] for one in own) / len(own)})
    return methods


def table(found: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """A line for each method, as people read it."""
    return [
        {
            "method": one["method"],
            f"{one['metric'].replace('_', ' ')} ({one['split']})": rendered(one["values"], digits_of(one)),
            "learned": _share(one["learned"], one["parameters"]),
            "time": duration(one["seconds"]),
        }
        for one in by_method(found)
    ]


def digits_of(found: Mapping[str, Any]) -> int:
    """After the point of a figure as people read it: losses and errors have more than figures that go up to 100."""
    return 3 if found.get("lower") else 1


def _share(learned: int, parameters: int) -> str:
    """5.3 M of 5.3 M"""
    return f"{short(learned)} of {short(parameters)}"


def markdown(lines: Sequence[Mapping[str, str]]) -> list[str]:
    heads = list(lines[0])
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(line.values())} |" for line in lines)]
