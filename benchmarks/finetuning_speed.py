"""Fine-tuning speed against transformers' Trainer, on real text of uneven length, both sides in one run.

    python benchmarks/finetuning_speed.py --train FILE [--task classification labelling] [--rounds 3] [--size small]

Every side is a process of its own, and the sides take turns round after round. All have the same network (new, BERT of `--size`,
its tokenizer trained on the texts of FILE), the same examples (those that fit into `--longest` tokens, so that nobody cuts any),
32 of them a step, AdamW, gradients clipped to 1. transformers pads each batch to its longest; at its best it computes in bf16 and
takes texts of similar length together. Examples a second count real examples after the first steps; what is reported is the
median over the rounds and, for ratios, the median and the range of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

BATCH, WARM_UP = 32, 3
SIDES = ("ours", "transformers", "transformers bf16", "transformers bf16, grouped")


def main() -> None:
    options = _options()
    if options.side:
        print(json.dumps(_measure(options)))
        return
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        _prepare(options, Path(folder))
        for _ in range(options.rounds):
            rounds.append({side: _in_process(side, folder) for side in SIDES})
    _print(rounds, options)


def _print(rounds: list[dict[str, float]], options: argparse.Namespace) -> None:
    print(f"\n{options.task}, bert {options.size}, {Path(options.train).parent.name}, {options.steps} steps of {BATCH} examples")
    print(f"{'':30}{'examples/s':>12}{'range':>16}{'ours is faster by':>24}")
    for side in SIDES:
        speeds = [one[side] for one in rounds]
        ratios = [one["ours"] / one[side] for one in rounds]
        ratio = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{side:30}{median(speeds):>12,.1f}{f'{min(speeds):,.1f}-{max(speeds):,.1f}':>16}{ratio:>24}")


def _in_process(side: str, folder: str) -> float:
    command = [sys.executable, __file__, "--side", side, "--folder", folder, *sys.argv[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _prepare(options: argparse.Namespace, folder: Path) -> None:
    """The network, its tokenizer, and the examples that fit, as all sides read them."""
    from yanmo.blank import make_blank
    from yanmo.labelled.content import texts_of
    from yanmo.labelled.reading import read_examples
    from yanmo.tokenizer import load_tokenizer

    examples = read_examples(options.train, options.task)
    make_blank(_section(options), examples, folder / "base")
    tokens = load_tokenizer(folder / "base")
    sizes = [len(ids) for ids in tokens.encode(["".join(texts_of(example)) for example in examples])]
    fitting = [number for number, size in enumerate(sizes) if size <= options.longest - 2]
    wanted = BATCH * (options.steps + WARM_UP)
    if len(fitting) < wanted:
        sys.exit(f"{options.train} has {len(fitting)} examples that fit; --steps {options.steps} needs {wanted}")
    (folder / "chosen.json").write_text(json.dumps(fitting[:wanted]))


def _section(options: argparse.Namespace) -> Any:
    from yanmo.recipe import parse_task

    model = {"family": "bert", "size": options.size, "positions": options.longest}
    tokenizer = {"vocabulary": options.vocabulary}
    return parse_task({"kind": options.task, "train": options.train, "model": model, "tokenizer": tokenizer})


def _examples(options: argparse.Namespace) -> list[Any]:
    from yanmo.labelled.reading import read_examples

    examples = read_examples(options.train, options.task)
    return [examples[number] for number in json.loads((Path(options.folder) / "chosen.json").read_text())]


def _measure(options: argparse.Namespace) -> float:
    return _ours(options) if options.side == "ours" else _transformers(options)


def _ours(options: argparse.Namespace) -> float:
    from yanmo.finetune import RATES, Trial, start
    from yanmo.memory import keep_freed_memory
    from yanmo.recipe import Training
    from yanmo.train import Trainer

    keep_freed_memory()
    examples = _examples(options)
    task = start(Trial(_section(options), Path(options.folder) / "base", "scratch", 0), examples)
    order = task.order(examples, seed=0)
    rows = max(1, round(BATCH * order.rows_per_epoch / order.pieces))
    steps = order.rows_per_epoch // rows
    training = Training(
        steps=steps, rows=rows, length=task.length, optimizer="adamw", learning_rate=RATES["full"], validate_every=10**6
    )
    with tempfile.TemporaryDirectory() as folder:
        Trainer(task, order, None, training, Path(folder), say=lambda sentence: None).fit()
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "seconds" in line]
    counted = sum(len(order.row(number).pieces) for number in range(WARM_UP * rows, steps * rows))
    return counted / (lines[-1]["seconds"] - lines[WARM_UP - 1]["seconds"])


def _transformers(options: argparse.Namespace) -> float:
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
        DataCollatorForTokenClassification,
        DataCollatorWithPadding,
        PreTrainedTokenizerFast,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    os.environ["WANDB_DISABLED"] = "true"
    base = Path(options.folder) / "base"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    examples = _examples(options)
    rows, labels = (_texts if options.task == "classification" else _words)(tokenizer, examples)
    auto = AutoModelForSequenceClassification if options.task == "classification" else AutoModelForTokenClassification
    collator = DataCollatorWithPadding if options.task == "classification" else DataCollatorForTokenClassification
    model = auto.from_pretrained(base, num_labels=labels)
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=BATCH,
            num_train_epochs=1,
            bf16="bf16" in options.side,
            train_sampling_strategy="group_by_length" if "grouped" in options.side else "random",
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        Trainer(model, arguments, train_dataset=rows, data_collator=collator(tokenizer), callbacks=[Clock()]).train()
    return BATCH * (len(ends) - WARM_UP) / (ends[-1] - ends[WARM_UP - 1])


def _texts(tokenizer: Any, examples: list[Any]) -> tuple[list[dict[str, Any]], int]:
    names = sorted({example.label for example in examples})
    rows = [{**tokenizer(example.text), "labels": names.index(example.label)} for example in examples]
    return rows, len(names)


def _words(tokenizer: Any, examples: list[Any]) -> tuple[list[dict[str, Any]], int]:
    """As transformers' own example does it: the tag at a word's first token."""
    names = sorted({tag for example in examples for tag in example.tags})
    rows = []
    for example in examples:
        encoded = tokenizer(list(example.tokens), is_split_into_words=True)
        tags, before = [], None
        for word in encoded.word_ids():
            tags.append(-100 if word is None or word == before else names.index(example.tags[word]))
            before = word
        rows.append({**encoded, "labels": tags})
    return rows, len(names)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="labelled examples")
    parser.add_argument("--task", default="classification", choices=("classification", "labelling"))
    parser.add_argument("--size", default="small")
    parser.add_argument("--vocabulary", type=int, default=1500)
    parser.add_argument("--longest", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
