"""Every weighting with every seed, against the models that learned each task by itself.

A task loses by the company of the others where the interval of the difference is below 0: negative transfer (Wang et al. 2019,
arXiv:1811.09751). Every trial is a folder, and is gone on with or left alone where it is finished.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from yanmo import recipe
from yanmo.blank import make_blank
from yanmo.errors import Interrupted
from yanmo.files import copy_folder, sha256_of, write_atomically
from yanmo.finetune import split_of
from yanmo.labelled.data import Data, read_data, sums_of
from yanmo.multitask.learning import MODELS, JointTrial, identity, learn
from yanmo.progress import Progress, silent
from yanmo.tasks import TASKS
from yanmo.tasks.intervals import Interval, interval, rendered, student
from yanmo.trials import RESULTS, TABLE, digits_of, kept, markdown, with_the_rest

TRIALS = "trials"
"""In the stage's folder: a folder for each weighting and seed."""
BY_ITSELF = "each by itself"


@dataclass(frozen=True)
class Joint:
    """section: what is learned together. sections: of its tasks, by name. base: the model folder that it begins with (made where
    the tasks have a new network). folder: where all of it goes. alone: where the trials of each task by itself lie, a folder for
    each. shards: of the text that the section's objective learns from. data: of the tasks, as far as it has been read."""

    section: recipe.Together
    sections: Mapping[str, Any]
    base: Path
    folder: Path
    alone: Path
    shards: Path
    data: Mapping[str, Data] = field(default_factory=dict)


@dataclass(frozen=True)
class Gain:
    """What a task has from the others: its figure after learning together less that after learning alone, times `scale`, higher
    being better. half: how far its 95% interval reaches to both sides, None where a single seed says nothing of that."""

    weighting: str
    task: str
    metric: str
    mean: float
    half: float | None
    digits: int = 1

    @property
    def is_negative(self) -> bool:
        """Whether it is negative transfer, and no chance of seeds."""
        return self.half is not None and self.mean + self.half < 0

    def __str__(self) -> str:
        mean = round(self.mean, self.digits) + 0.0        # no -0.0
        return f"{mean:+.{self.digits}f}" + ("" if self.half is None else f" ± {self.half:.{self.digits}f}")


def carry_out(joint: Joint, progress: Progress = silent, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Every trial that is not finished; then results.json, results.md and TASK/model: of the best weighting, by the validation
    examples, its best seed. Returns what results.json holds.

    Raises UserError for whatever a person can mend, and Interrupted when it was asked to stop: all is saved.
    """
    if (before := _before(joint)) is not None:
        return before
    data = {name: joint.data.get(name) or read_data(section, name, say) for name, section in joint.sections.items()}
    longest = max(joint.sections.values(), key=lambda section: TASKS[section.kind].longest)
    if longest.is_new:
        given = longest.model_copy(update={"training": joint.section.training})
        make_blank(given, [one for own in data.values() for one in own.train], joint.base, progress)
    found = _finished(joint, data, progress, say)
    alone = {name: _alone(joint.alone / name, section) for name, section in joint.sections.items()}
    for name in (name for name, trials in alone.items() if not trials and (joint.alone / name / RESULTS).exists()):
        say(f"{name}: no trial by itself has learned all of the network (methods: full), so no gain or loss is shown")
    gains = gains_of(found, alone)
    results = {"trials": found, "table": table(found, alone, gains), "gains": [asdict(gain) for gain in gains]}
    results["verdicts"] = verdicts(gains)
    best = best_of(found)
    results["best"] = {name: best[name] for name in ("weighting", "seed")}
    results["identity"] = _identity(joint, {name: one.sums for name, one in data.items()})
    models = joint.folder / TRIALS / f"{best['weighting']}-seed{best['seed']}" / MODELS
    for name in joint.sections:
        copy_folder(models / name, joint.folder / name / "model")
    write_atomically(joint.folder / RESULTS, json.dumps(results, indent=1, ensure_ascii=False))
    lines = [*markdown(results["table"]), "", *(f"- {sentence}" for sentence in results["verdicts"])]
    write_atomically(joint.folder / TABLE, "\n".join(lines) + "\n")
    for sentence in results["verdicts"]:
        say(sentence)
    return results


def _before(joint: Joint) -> dict[str, Any] | None:
    """What results.json holds where all of this was done before."""
    file = joint.folder / RESULTS
    if not file.exists() or not all((joint.folder / name / "model").exists() for name in joint.sections):
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    sums = {name: sums_of(section) for name, section in joint.sections.items()}
    return found if found.get("identity") == _identity(joint, sums) else None


def _identity(joint: Joint, sums: Mapping[str, Mapping[str, str]]) -> list[Any]:
    """What the results depend on: what one of the trials does with files of these sums, which trials there are, and what each
    task came to by itself."""
    section = joint.section
    trial = JointTrial(section, joint.sections, joint.base, joint.shards, section.weighting[0], section.seeds[0])
    alone = {name: sha256_of(file) for name in joint.sections if (file := joint.alone / name / RESULTS).exists()}
    return [identity(trial, sums), section.model_dump(mode="json", include={"seeds", "weighting"}), alone]


def _finished(joint: Joint, data: Mapping[str, Data], progress: Progress, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """What all trials found; those that are finished are not done again."""
    section, sums = joint.section, {name: one.sums for name, one in data.items()}
    wanted = [
        (
            JointTrial(section, joint.sections, joint.base, joint.shards, weighting, seed),
            joint.folder / TRIALS / f"{weighting}-seed{seed}",
        )
        for weighting in section.weighting
        for seed in section.seeds
    ]
    before = [kept(folder, identity(trial, sums), MODELS) for trial, folder in wanted]
    return with_the_rest(before, partial(_done, data), wanted, section.parallel, progress, say)


def _done(
    data: Mapping[str, Data], trial: JointTrial, folder: Path, progress: Progress, say: Callable[[str], None]
) -> dict[str, Any]:
    done = learn(trial, data, folder, progress, say)
    if done is None:
        raise Interrupted
    shutil.rmtree(folder / "checkpoints")
    return done


def _alone(folder: Path, section: Any) -> list[dict[str, Any]]:
    """The trials of a task by itself that are to be compared with: those that learned all of the network, where there are any."""
    if not (folder / RESULTS).exists():
        return []
    trials = json.loads((folder / RESULTS).read_text(encoding="utf-8"))["trials"]
    for method in ("scratch" if section.is_new else "full", section.adaptation.method):
        if own := [trial for trial in trials if trial["method"] == method]:
            return own
    return []


def best_of(found: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Of the weighting whose mean over the seeds is best, by the validation examples, the best seed."""
    means: dict[str, float] = {}
    for weighting in dict.fromkeys(one["weighting"] for one in found):
        merits = [one["merit"] for one in found if one["weighting"] == weighting]
        means[weighting] = sum(merits) / len(merits)
    chosen = min(means, key=means.__getitem__)
    return min((one for one in found if one["weighting"] == chosen), key=lambda one: one["merit"])


def gains_of(found: Sequence[Mapping[str, Any]], alone: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Gain]:
    """Of each weighting and task that was also learned by itself: the difference of the means over seeds, with Welch's interval;
    its degrees of freedom are the fewest that they can be, those of the fewer seeds."""
    gains = []
    for weighting in dict.fromkeys(one["weighting"] for one in found):
        own = [one for one in found if one["weighting"] == weighting]
        for name, single in alone.items():
            if not single:
                continue
            task = own[0]["tasks"][name]
            split, scale = split_of(task), -task["scale"] if task["lower"] else task["scale"]
            before = interval([one[split][task["metric"]] for one in single])
            after = interval([one["tasks"][name][split][task["metric"]] for one in own])
            half = None
            if before.half is not None and after.half is not None:
                errors = [_standard_error(one) for one in (before, after)]
                half = abs(scale) * student(min(before.seeds, after.seeds) - 1) * math.hypot(*errors)
            gains.append(Gain(weighting, name, task["metric"], scale * (after.mean - before.mean), half, digits_of(task)))
    return gains


def _standard_error(found: Interval) -> float:
    assert found.half is not None, "there are several seeds"
    return found.half / student(found.seeds - 1)


def table(
    found: Sequence[Mapping[str, Any]], alone: Mapping[str, Sequence[Mapping[str, Any]]], gains: Sequence[Gain]
) -> list[dict[str, str]]:
    """A line for the tasks by themselves and one for each weighting: each task's metric with a 95% interval over seeds, and what
    it has gained."""
    by = {(gain.weighting, gain.task): gain for gain in gains}
    lines = []
    tasks = found[0]["tasks"]
    heads = {name: f"{name}: {task['metric'].replace('_', ' ')} ({split_of(task)})" for name, task in tasks.items()}

    def cell(name: str, values: Sequence[float]) -> str:
        return rendered(values, digits_of(tasks[name]), scale=tasks[name]["scale"])

    if any(alone.values()):
        line = {"weighting": BY_ITSELF}
        for name, trials in alone.items():
            values = [one[split_of(tasks[name])][tasks[name]["metric"]] for one in trials]
            line |= {heads[name]: cell(name, values) if values else "–", f"{name}: gain": ""}
        every = [[one["minutes"] for one in trials] for trials in alone.values() if trials]
        lines.append({**line, "minutes": f"{sum(sum(own) / len(own) for own in every):.1f}"})
    for weighting in dict.fromkeys(one["weighting"] for one in found):
        own, line = [one for one in found if one["weighting"] == weighting], {"weighting": weighting}
        for name, task in tasks.items():
            line[heads[name]] = cell(name, [one["tasks"][name][split_of(task)][task["metric"]] for one in own])
            if any(alone.values()):
                gain = by.get((weighting, name))
                line[f"{name}: gain"] = "–" if gain is None else str(gain)
        lines.append({**line, "minutes": f"{sum(one['minutes'] for one in own) / len(own):.1f}"})
    return lines


def verdicts(gains: Sequence[Gain]) -> list[str]:
    """What can be said of every gain, one sentence for each weighting."""
    said = []
    for weighting in dict.fromkeys(gain.weighting for gain in gains):
        own = [gain for gain in gains if gain.weighting == weighting]
        lost = [gain for gain in own if gain.is_negative]
        won = [gain for gain in own if gain.half is not None and gain.mean - gain.half > 0]
        open_ = [gain for gain in own if gain not in (*lost, *won)]
        parts = []
        if lost:
            each = ", ".join(f"{gain.task} loses {str(gain).removeprefix('-')}" for gain in lost)
            parts.append(f"negative transfer: {each}")
        if won:
            parts.append("gains: " + ", ".join(f"{gain.task} {gain}" for gain in won))
        if open_:
            why = "one seed says nothing of chance" if any(gain.half is None for gain in open_) else "within the interval"
            parts.append("not decided: " + ", ".join(f"{gain.task} {gain}" for gain in open_) + f" ({why})")
        said.append(f"{weighting}: {'; '.join(parts)}")
    return said
