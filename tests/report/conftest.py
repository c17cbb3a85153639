"""A run folder as the stages leave it, small and made up."""

import json
import math
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_tasks import write

from yanmo.corpus.report import CorpusReport, Step
from yanmo.tokenizer.quality import Tally

FUNNEL = [  # step, documents and bytes that it leaves; 41,236 documents of 24,310,554 bytes came in
    ("read", 41_236, 24_310_554), ("clean", 41_236, 23_904_118), ("length", 38_902, 23_688_240),
    ("exact", 37_120, 22_405_993), ("near", 35_874, 21_700_031), ("decontaminate", 35_874, 21_700_031),
]  # fmt: skip
RECIPE = """\
name: quickstart
language: {language}
seed: 0
corpus:
  sources:
  - path: sample:peoples-daily
  - path: sample:reviews-zh
model:
  family: bert
  size: mini
training:
  minutes: 4
"""


def corpus_report() -> CorpusReport:
    funnel, documents, size = [], 41_236, 24_310_554
    for step, left, left_bytes in FUNNEL:
        funnel.append(Step(step, documents, left, size, left_bytes, 1.5))
        documents, size = left, left_bytes
    return CorpusReport(
        documents=documents, bytes=size, characters=7_492_681, train=35_112, validation=762, funnel=funnel,
        switches={"mojibake": {"documents": 212}, "width": {"documents": 12_011, "runs": 20_933}, "control": {"documents": 0}},
        dropped={"length": 2_334, "exact": 1_782, "near": 1_246},
        encodings={"utf-8": 2, "gb18030": 1}, files={"old.txt": "gb18030"},
        scripts={"Han": 0.8581, "punctuation": 0.1083, "digits": 0.0161, "Latin": 0.0169, "kana": 0.00004, "Hangul": 0.0},
        lengths=[0, 0, 0, 102, 1_930, 4_020, 7_703, 9_120, 6_554, 3_320, 1_811, 902, 310, 88, 14],
        languages={"zh": 35_871, "en": 3}, notes=["decontaminate: one test file is shorter than an n-gram"], seconds=14.2,
    )  # fmt: skip


def tokenizer_report() -> dict[str, Any]:
    """As yanmo.tokenizer.quality measures it."""
    total = Tally(7_492_681, 21_233_870, 7_210_332, 2_235, 4, [{"text": "龘字 <b>", "back": "[UNK]字 <b>"}])
    han, latin = Tally(6_430_211, 19_290_633, 6_429_902, 2_235, 3), Tally(74_020, 74_020, 31_202, 0, 1)
    figures = {"kind": "wordpiece", "asked": 8_000, "bytes_seen": 21_233_870, "bytes_sampled": 21_233_870, "size": 8_000}
    return {**figures, **total.tree(), "scripts": {"Han": han.tree(), "Latin": latin.tree()}, "seconds": 6.1}


def metrics(steps: int = 1_200) -> str:
    rng = random.Random(0)
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        masked = 3.6 + 5.4 * math.exp(-step / 240)
        following = 0.45 + 0.24 * math.exp(-step / 400)
        accuracy = 0.36 * (1 - math.exp(-step / 300))
        line = {"masked": masked + rng.gauss(0, 0.16), "next": following + rng.gauss(0, 0.04)}
        lines.append(
            {
                "step": step,
                "tokens": step * 8_192,
                **line,
                "accuracy": accuracy + rng.gauss(0, 0.01),
                "loss": sum(line.values()),
                "norm": 0.9 + 5 * math.exp(-step / 60) + rng.random() * 0.3,
                "learning_rate": 1e-3 * min(step / 60, (steps - step) / (steps - 60)),
                "tokens_per_second": 41_000 + rng.gauss(0, 900) - (25_000 if step == 1 else 0),
                "seconds": step * 0.2,
            }
        )
        if step % 120 == 0:
            held_out = {"masked": masked + 0.1, "next": following + 0.02, "accuracy": accuracy - 0.01}
            held_out["loss"] = held_out["masked"] + held_out["next"]
            lines.append({"step": step, "tokens": step * 8_192, "validation": held_out})
    lines[300] |= {"masked": math.nan, "loss": math.nan, "skipped": "the loss is not finite"}
    return "\n".join(map(json.dumps, lines)) + '\n{"step": 1201, "tok'  # cut off by a crash


def evaluation_report() -> dict[str, Any]:
    return {
        "losses": {"masked": 3.7541, "next": 0.4632},
        "perplexity": 42.696,
        "bits_per_byte": 1.8123,
        "bits_per_byte_by": "pseudo-likelihood",
        "sentence_accuracy": 0.7712,
        "counts": {"documents": 762, "tokens": 158_220, "bytes": 466_161, "masked_targets": 23_410, "sentences": 50},
        "masked_accuracy": 0.3517,
        "baseline_accuracy": 0.0432,
        "pseudo_perplexity": 61.02,
        "fills": [
            {
                "text": "北京是中国的[MASK]都。",
                "answers": [
                    {"token": "首", "probability": 0.8123},
                    {"token": "古", "probability": 0.041},
                    {"token": "成", "probability": 0.012},
                ],
            },
            {
                "text": "这家酒店的服务很[MASK]，下次[MASK]会来。",
                "answers": [
                    [{"token": "好", "probability": 0.511}, {"token": "差", "probability": 0.113}],
                    [{"token": "还", "probability": 0.644}, {"token": "不", "probability": 0.202}],
                ],
            },
        ],
        "generations": [
            {
                "prompt": "今天下午，",
                "text": "今天下午，国务院召开会议，听取了关于今年农业生产情况的汇报，\n研究部署了下一步工作。",
            }
        ],
    }


def safetensors(path: Path, shapes: dict[str, list[int]]) -> None:
    """A header without its numbers: what counting the parameters reads."""
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            **{name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()},
        }
    ).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[[str], Path]:
    """A run folder whose report is in the language given."""
    return lambda language: fill_run(tmp_path / "quickstart", language)


@pytest.fixture
def run_folder(make_run: Callable[[str], Path]) -> Path:
    return make_run("en")


def fill_run(folder: Path, language: str) -> Path:
    write(folder / "recipe.yaml", RECIPE.format(language=language))
    (folder / "corpus").mkdir(parents=True)
    corpus_report().write(folder / "corpus/report.json")
    write(folder / "corpus/dropped.jsonl", "{}\n")
    write(folder / "tokenizer/report.json", tokenizer_report())
    write(
        folder / "shards/report.json",
        {
            "splits": {
                "train": {
                    "documents": 35_112,
                    "sentences": 160_402,
                    "words": 4_310_772,
                    "tokens": 7_210_332,
                    "bytes": 21_233_870,
                },
                "validation": {
                    "documents": 762,
                    "sentences": 3_512,
                    "words": 94_301,
                    "tokens": 158_220,
                    "bytes": 466_161,
                },
            },
            "seconds": 3.4,
        },
    )
    write(folder / "pretrain/metrics.jsonl", metrics())
    write(
        folder / "pretrain/model/config.json",
        {"model_type": "bert", "num_hidden_layers": 4, "hidden_size": 256, "vocab_size": 8_000},
    )
    safetensors(folder / "pretrain/model/model.safetensors", {"embeddings": [8_000, 256], "rest": [3_209_472]})
    write(folder / "evaluation/report.json", evaluation_report())
    write(
        folder / "environment.json",
        {
            "yanmo": "0.1.0",
            "python": "3.11.7 (CPython)",
            "torch": "2.13.0",
            "processor": "Intel Xeon Processor",
            "instructions": "AVX2, AVX512, AVX512-bf16, AMX-bf16",
            "c++ compiler": "g++ 12.2.0",
        },
    )
    speed = {"tokens_per_second": 40_870.3, "share_of_matrix_rate": 0.371, "seconds": 240.0, "steps": 1_200, "tokens": 9_830_400}
    write(folder / "pretrain/speed.json", speed)
    seconds = {"corpus": 14.2, "tokenizer": 6.1, "shards": 3.4, "pretrain": 240.8, "evaluation": 9.7, "report": 0.1}
    write(folder / "stages.json", {stage: {"inputs": {}, "seconds": spent} for stage, spent in seconds.items()})
    return folder
