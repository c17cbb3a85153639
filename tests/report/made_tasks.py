"""Folders of tasks as trials leave them, for tests of the page."""

import json
from pathlib import Path
from typing import Any


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), encoding="utf-8")


def trial(method: str, seed: int, figures: dict[str, float], **more: Any) -> dict[str, Any]:
    """As yanmo.finetune writes it."""
    sizes = {"learned": 4_000 if method == "frozen" else 5_261_313, "parameters": 5_265_313}
    examples = {"train": 4_000, "valid": 500, "test": 1_200}
    told = {"metric": next(iter(figures)), "scale": 100, "lower": False, "minutes": 0.5, "examples": examples}
    return {"method": method, "seed": seed, "valid": figures, "test": figures, **sizes, **told, "judged": 1_200, **more}


def fill_tasks(folder: Path) -> None:
    """Two tasks that are finished: one with three seeds of three methods, one with a single seed."""
    from yanmo.trials import by_method

    scores = {"scratch": (0.71, 0.73, 0.72), "lora": (0.70, 0.76, 0.72), "full": (0.83, 0.845, 0.836)}
    sentiment = [
        trial(method, seed, {"accuracy": score, "macro_f1": score - 0.01, "f1/good": score}, wrong=187)
        for method, each in scores.items()
        for seed, score in enumerate(each)
    ]
    names = [
        trial(method, 0, {"f1": score, "f1/PER": 0.9, "f1/LOC": score}, wrong=40)
        for method, score in (("scratch", 0.5), ("full", 0.6))
    ]
    for name, kind, trials, method, seed in (
        ("sentiment", "classification", sentiment, "full", 1),
        ("names", "labelling", names, "full", 0),
    ):
        place = folder / "tasks" / name
        results = {"task": kind, "trials": trials, "methods": by_method(trials), "best": {"method": method, "seed": seed}}
        write(place / "results.json", results)
        for one in trials:
            lines = [
                {"step": step, "validation": {one["metric"]: one["test"][one["metric"]] * step / 50, "loss": 1.0}}
                for step in (10, 30, 50)
            ]
            write(place / f"{one['method']}-seed{one['seed']}" / "metrics.jsonl", "\n".join(map(json.dumps, lines)))
        error = {"given": "房间很小，设施也旧，可是服务员很好", "gold": "good", "predicted": "bad"}
        errors = [{"origin": f"/data/test.jsonl:{number}", **error} for number in range(1, 21)]
        best = place / f"{method}-seed{seed}"
        write(best / "errors.jsonl", "\n".join(json.dumps(error, ensure_ascii=False) for error in errors))
    write(folder / "tasks/sentiment/full-seed1/confusion.json", {"labels": ["bad", "good"], "counts": [[560, 40], [147, 453]]})
