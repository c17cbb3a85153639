"""`yanmo corpus` with tokenizing and whole words, against `datasets.map` that does nothing but tokenize.

Both in one run, alternating, medians, over the same text with the same tokenizer:

    python benchmarks/corpus_speed.py [FILE OR FOLDER] [--tokenizer FOLDER] [--megabytes 20] [--rounds 3]

Without a file it takes the sample texts. `datasets` gets its text as Parquet, with no reading or cleaning to do.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SAMPLES = ("sample:peoples-daily", "sample:reviews-zh")


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("text", nargs="?", help="a file or folder of text; by default the sample texts")
    given.add_argument("--tokenizer", help="a folder with tokenizer.json; by default one is trained on the text")
    given.add_argument("--family", default="bert", help="whose kind of tokenizer is trained")
    given.add_argument("--vocabulary", type=int, default=4000)
    given.add_argument("--megabytes", type=float, default=20, help="how much of the clean text is used")
    given.add_argument("--rounds", type=int, default=3)
    given.add_argument("--workers", type=int, default=2)
    arguments = given.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory(prefix="corpus-speed-") as folder:
        os.environ["HF_HOME"] = folder
        compare(arguments, Path(folder))


def compare(arguments: argparse.Namespace, folder: Path) -> None:
    from yanmo.corpus import build_corpus, iterate_texts
    from yanmo.recipe import parse_recipe
    from yanmo.shards import write_shards
    from yanmo.tokenizer import load_tokenizer, train_tokenizer

    sources = [arguments.text] if arguments.text else list(SAMPLES)
    tree = {
        "corpus": {"sources": sources, "workers": arguments.workers},
        "model": {"family": arguments.family},
        "tokenizer": {"vocabulary": arguments.vocabulary},
    }
    recipe = parse_recipe(tree, "benchmark")
    build_corpus(recipe, folder / "first")
    texts, size = [], 0
    for text in iterate_texts(folder / "first", "train"):
        texts.append(text)
        size += len(text.encode())
        if size >= arguments.megabytes * 1e6:
            break
    if arguments.tokenizer is None:
        train_tokenizer(texts, recipe, folder / "tokenizer")
    tokens = load_tokenizer(arguments.tokenizer or folder / "tokenizer")
    raw = folder / "text.txt"
    raw.write_text("\n\n".join(" \n".join(text.splitlines()) for text in texts), encoding="utf-8")
    # More is held out than the first time: what was held out then is not in this text.
    again = {**tree["corpus"], "sources": [str(raw)], "validation": 0.05}
    recipe = parse_recipe({**tree, "corpus": again}, "benchmark")

    def whole() -> None:
        build_corpus(recipe, folder / "corpus")
        write_shards(folder / "corpus", tokens, folder / "shards", workers=arguments.workers)

    build_corpus(recipe, folder / "kept")
    contestants: dict[str, Callable[[], object]] = {
        "datasets.map, tokenizing only, 1 process": their_map(texts, tokens, folder, 1),
        f"datasets.map, tokenizing only, {arguments.workers} processes": their_map(texts, tokens, folder, arguments.workers),
        "encode_batch_fast alone, 1 process": lambda: tokens.tokenizer.encode_batch_fast(texts, add_special_tokens=False),
        f"yanmo: tokens, words, shards, {arguments.workers} processes": lambda: write_shards(
            folder / "kept", tokens, folder / "shards", workers=arguments.workers
        ),
        f"yanmo: corpus and shards, all steps, {arguments.workers} processes": whole,
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(arguments.rounds):
        for name, run in contestants.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    show(seconds, size, list(contestants)[1])


def their_map(texts: list[str], tokens, folder: Path, processes: int) -> Callable[[], object]:
    """datasets.map as its documentation says: batched, the fast tokenizer of transformers, its default columns."""
    import datasets
    import transformers

    from yanmo.tokenizer import save_tokenizer

    datasets.disable_progress_bars()
    datasets.disable_caching()
    save_tokenizer(tokens, folder / "theirs")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "theirs")
    data = datasets.Dataset.from_dict({"text": texts})
    path = str(folder / f"theirs-{processes}.parquet")
    data.to_parquet(path)
    data = datasets.Dataset.from_parquet(path, cache_dir=str(folder / "cache"))

    def run() -> object:
        return data.map(
            lambda batch: tokenizer(batch["text"]),
            batched=True,
            num_proc=processes if processes > 1 else None,
            remove_columns=["text"],
        )

    return run


def show(seconds: dict[str, list[float]], size: int, reference: str) -> None:
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{size / 1e6:.1f} MB of clean text, {os.cpu_count()} cores, medians of {len(seconds[reference])} rounds\n")
    print(f"{'':58s} {'MB/s':>6s} {'slowest-fastest':>16s} {'ratio':>6s}")
    for name, median in medians.items():
        spread = f"{size / 1e6 / max(seconds[name]):.2f}-{size / 1e6 / min(seconds[name]):.2f}"
        print(f"{name:58s} {size / 1e6 / median:6.2f} {spread:>16s} {medians[reference] / median:6.2f}")


if __name__ == "__main__":
    main()
