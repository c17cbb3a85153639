"""Where a run's figures go: metrics.jsonl and TensorBoard always; wandb, mlflow and trackio when a recipe names them."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from yanmo.errors import UserError
from yanmo.files import write_atomically, writing

FILE = "metrics.jsonl"


class Sink(Protocol):
    """One place that figures go to."""

    def write(self, figures: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class Metrics:
    """Writes the lines of metrics.jsonl (one JSON object each, with at least `step`) and passes their figures on.

    Lines after `step`, left by a run that was killed or went back, are removed, so that no step appears twice.
    """

    def __init__(self, folder: Path, trackers: Sequence[str], settings: Mapping[str, Any], step: int):
        self.path = folder / FILE
        self.folder, self.trackers, self.settings = folder, trackers, settings
        self.sinks: list[Sink] = []
        self.rewind(step)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line; nested figures are known elsewhere as `outer/inner`."""
        with writing(self.path):
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._file.flush()
        figures = {}
        for name, value in line.items():
            nested = isinstance(value, Mapping)
            inner = {f"{name}/{key}": one for key, one in value.items()} if nested else {name: value}
            figures |= {key: float(one) for key, one in inner.items() if isinstance(one, int | float) and key != "step"}
        with writing(self.folder):
            for sink in self.sinks:
                sink.write(figures, line["step"])

    def rewind(self, step: int) -> None:
        """Forget every line after `step` and any line that was cut off."""
        self.close()
        kept = []
        if self.path.exists():
            for text in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    if json.loads(text)["step"] <= step:
                        kept.append(text + "\n")
                except (ValueError, KeyError, TypeError):
                    continue
        write_atomically(self.path, "".join(kept))
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115, closed by close()
        with writing(self.folder):
            self.sinks = [TensorBoard(self.folder / "tensorboard", step)]
            self.sinks += [TRACKERS[name](self.folder, self.settings) for name in self.trackers]

    def close(self) -> None:
        """Close every place that figures go to."""
        sinks, self.sinks = self.sinks, []
        with writing(self.folder):
            for sink in sinks:
                sink.close()
        if hasattr(self, "_file"):
            self._file.close()


class TensorBoard:
    """Event files for `tensorboard --logdir`."""

    def __init__(self, folder: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


def run_id(folder: Path) -> str:
    """The same for the same folder, so that a run that goes on is one run in a tracker."""
    return hashlib.blake2b(str(folder.resolve()).encode(), digest_size=6).hexdigest()


class Wandb:
    """Weights & Biases; WANDB_MODE=offline keeps it on this machine."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        wandb = importlib.import_module("wandb")
        same = {"id": run_id(folder), "resume": "allow"}
        self.run = wandb.init(project="yanmo", name=folder.parent.name, dir=str(folder), config=dict(settings), **same)

    def write(self, figures: Mapping[str, float], step: int) -> None:
        self.run.log(dict(figures), step=step)

    def close(self) -> None:
        self.run.finish()


class Mlflow:
    """MLflow; MLFLOW_TRACKING_URI says where."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self.mlflow = importlib.import_module("mlflow")
        self.mlflow.set_experiment("yanmo")
        tags = {"yanmo_run": run_id(folder)}              # its own ids are the server's
        query = f"tags.yanmo_run = '{tags['yanmo_run']}'"
        before = self.mlflow.search_runs(filter_string=query, output_format="list")
        if before:
            self.mlflow.start_run(run_id=before[0].info.run_id)
        else:
            self.mlflow.start_run(run_name=folder.parent.name, tags=tags)
            self.mlflow.log_params({name: str(value)[:500] for name, value in settings.items()})

    def write(self, figures: Mapping[str, float], step: int) -> None:
        self.mlflow.log_metrics(dict(figures), step=step)

    def close(self) -> None:
        self.mlflow.end_run()


class Trackio:
    """Trackio, which keeps its figures on this machine."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self.trackio = importlib.import_module("trackio")
        name = f"{folder.parent.name}-{run_id(folder)}"   # a run is known by its name
        self.trackio.init(project="yanmo", name=name, config=dict(settings), resume="allow")

    def write(self, figures: Mapping[str, float], step: int) -> None:
        self.trackio.log(dict(figures), step=step)

    def close(self) -> None:
        self.trackio.finish()


TRACKERS: Mapping[str, Any] = {"wandb": Wandb, "mlflow": Mlflow, "trackio": Trackio}


def check_trackers(names: Sequence[str]) -> None:
    """Raises UserError for a tracker whose package is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"training.trackers: {name} is not installed; run `pip install {name}`, or leave it out: "
                "metrics.jsonl and TensorBoard are always written"
            )
