"""Memory and speed of the corpus stage on a corpus made by repetition with variation.

    python benchmarks/corpus_memory.py --megabytes 2000 --workers 2 [--source FILE_OR_SAMPLE]

Each copy of the source has its Chinese characters and letters exchanged for one another in a new way, so that texts keep their
lengths and frequencies and no copy is a near-duplicate of another; one document in ten is left as it was, and is one.
Prints the peak of resident memory of the parent and of the largest worker at a quarter of the corpus and at all of it: where
memory is bounded the two differ by the duplicate indexes only.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PER_FILE = 64_000_000


def make_corpus(texts: list[str], folder: Path, size: int) -> None:
    """Files of JSON lines of `size` bytes of text in all."""
    random = np.random.default_rng(0)
    written, number, file = 0, 0, None
    while written < size:
        table = np.arange(0x110000, dtype=np.uint32)
        for first, last in ((0x4E00, 0x9FA5), (0x61, 0x7B)):
            table[first:last] = random.permutation(table[first:last])
        for text in texts:
            if random.random() > 0.1:
                text = table[np.frombuffer(text.encode("utf-32-le"), np.uint32)].tobytes().decode("utf-32-le")
            if file is None or file.tell() > PER_FILE:
                file = (folder / f"part-{number:04}.jsonl").open("wb")
                number += 1
            file.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")
            written += len(text.encode())
            if written >= size:
                return


def build(source: str, folder: Path, workers: int) -> None:
    """Run the stage on a glob and print one line of JSON."""
    from yanmo.corpus import build_corpus
    from yanmo.recipe import parse_recipe

    recipe = parse_recipe({"corpus": {"sources": [source], "workers": workers}}, "benchmark")
    started, cpu = time.perf_counter(), time.process_time()
    report = build_corpus(recipe, folder)
    seconds = time.perf_counter() - started
    unit = 1024 if sys.platform != "darwin" else 1024**2
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {
        "megabytes": report.funnel[0].bytes_in / 1e6,
        "documents": report.funnel[0].documents_in,
        "kept": report.documents,
        "seconds": seconds,
        "cpu_seconds": time.process_time() - cpu + children.ru_utime + children.ru_stime,
        "parent_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit,
        "worker_mb": children.ru_maxrss / unit,
        "index_mb": report.index_bytes / 1e6,
    }
    print(json.dumps(figures))


def main() -> None:
    """Make the corpus, build it in a fresh process for each size, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--source", default="sample:peoples-daily", help="a file, folder or sample to repeat")
    parser.add_argument("--build", nargs=2, metavar=("SOURCE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        build(options.build[0], Path(options.build[1]), options.workers)
        return
    from yanmo.corpus.read import Reader, parse
    from yanmo.recipe import Source

    reader = Reader((Source(path=options.source),))
    texts = [text for batch in reader.batches() for piece in batch for _, text in parse(piece) if isinstance(text, str)]
    print(
        f"{'MB':>8} {'documents':>10} {'kept':>9} {'seconds':>8} {'MB/s':>6} {'MB/s/core':>10}"
        f" {'parent MB':>10} {'worker MB':>10} {'index MB':>9}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        for share in (0.25, 1.0):
            folder = Path(temporary) / f"text-{share}"
            folder.mkdir()
            make_corpus(texts, folder, int(options.megabytes * share * 1e6))
            command = [
                sys.executable,
                __file__,
                "--workers",
                str(options.workers),
                "--build",
                f"{folder}/*.jsonl",
                f"{temporary}/corpus",
            ]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(
                f"{row['megabytes']:8.0f} {row['documents']:10} {row['kept']:9} {row['seconds']:8.1f}"
                f" {row['megabytes'] / row['seconds']:6.2f} {row['megabytes'] / row['cpu_seconds']:10.2f}"
                f" {row['parent_mb']:10.0f} {row['worker_mb']:10.0f} {row['index_mb']:9.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
