"""The corpus stage: raw text in, clean documents in two Parquet files out, and a report of what happened between.

Reading, duplicates and writing are in this process, all else in workers; documents keep their reading order, so that the
result is the same for any number of workers. Memory: about 250 MB, and 110 MB for each worker; the duplicate indexes, about
260 bytes a document (deduplicate.py); and for a document of many megabytes about ten times its size where it is held
(benchmarks/corpus_memory.py measures all but the last).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from yanmo.corpus.decontaminate import Forbidden, read_forbidden
from yanmo.corpus.deduplicate import HashIndex, NearIndex
from yanmo.corpus.read import Reader
from yanmo.corpus.refine import Refined, Refinery, refine, start_worker
from yanmo.corpus.report import CorpusReport, Step, Tally, script_shares
from yanmo.corpus.units import CLASSES
from yanmo.corpus.workers import ordered_map, start_pool, workers_for
from yanmo.corpus.write import Writer
from yanmo.errors import UserError
from yanmo.files import new_folder
from yanmo.progress import Progress, silent
from yanmo.recipe import Corpus, Recipe

STEPS = ("read", "clean", "length", "repetition", "symbols", "language", "decontaminate", "exact", "near")


def build_corpus(recipe: Recipe, folder: Path, progress: Progress = silent) -> CorpusReport:
    """Read, clean, filter, deduplicate and split the recipe's sources into `folder`, which appears when all is done.

    Writes train-NNNNN.parquet, validation-NNNNN.parquet (columns text, source, id), dropped.jsonl and report.json. Raises
    UserError for sources that cannot be read, for a corpus that is empty and for a split that would be.
    """
    started = time.perf_counter()
    settings = recipe.corpus
    reader = Reader(settings.sources, settings.on_error == "skip")
    forbidden, notes = read_forbidden(settings.decontaminate)
    Refinery(settings, None)                          # a step that cannot run says so before any work is done
    workers = workers_for(reader.total, settings.workers)
    with new_folder(folder) as temporary:
        gather = Gather(settings, temporary)
        shown = 0.0
        try:
            for refined in _refined(reader, settings, forbidden, workers):
                gather.take(refined)
                if time.perf_counter() - shown > 0.25:
                    shown = time.perf_counter()
                    done, total = reader.position / 1e6, None if reader.total is None else reader.total / 1e6
                    progress(done, total, "MB", documents=gather.read, kept=gather.kept)
        finally:
            gather.writer.close()
        report = gather.report(reader, workers, notes, time.perf_counter() - started)
        report.write(temporary / "report.json")
    size = reader.position / 1e6
    progress(size, size, "MB", documents=gather.read, kept=gather.kept)
    return report


def _refined(reader: Reader, settings: Corpus, forbidden: Forbidden | None, workers: int) -> Iterator[Refined]:
    """Batches through the workers, in reading order, with at most two waiting for each."""
    if workers == 1:
        refinery = Refinery(settings, forbidden)
        yield from map(refinery.refine, reader.batches())
        return
    pool = start_pool(workers, start_worker, settings, forbidden)
    try:
        yield from ordered_map(pool, refine, reader.batches(), 2 * workers)
    finally:
        pool.shutdown(cancel_futures=True)


class Gather:
    """Takes batches in reading order: drops duplicates, splits, writes, counts."""

    def __init__(self, settings: Corpus, folder: Path):
        self.settings = settings
        chosen = settings.deduplicate
        self.exact = HashIndex() if chosen.exact else None
        self.near = NearIndex(chosen.similarity, chosen.permutations) if chosen.near else None
        self.writer = Writer(folder)
        self.tally = Tally()
        self.reasons: Counter[str] = Counter()
        self.scripts = np.zeros(CLASSES, np.int64)
        self.lengths = np.zeros(64, np.int64)
        self.read = self.kept = self.bytes = 0
        self.split = Counter(train=0, validation=0)
        self.least, self.most = 2**64, -1                # ids, to say which share would have split

    def take(self, batch: Refined) -> None:
        """One batch."""
        self.tally.add(batch.tally)
        self.read += batch.tally.step("read").documents_in
        for row in batch.dropped:
            self._drop(*row)
        alive = np.ones(len(batch.ids), bool)
        sizes = np.diff(batch.offsets)
        for name, index in (("exact", self.exact), ("near", self.near)):
            if index is None:
                continue
            started = time.perf_counter()
            places = np.flatnonzero(alive & batch.signed) if name == "near" else np.flatnonzero(alive)
            seen = index.add(batch.signatures[places] if name == "near" else batch.keys[places]) if len(places) else []
            before = alive.copy()
            alive[places[np.asarray(seen, bool)]] = False
            for place in np.flatnonzero(before & ~alive).tolist():
                text = batch.text[batch.offsets[place] : batch.offsets[place] + 800].decode(errors="ignore")[:200]
                self._drop(batch.names[place], int(batch.lines[place]), name, DETAILS[name], text)
            out = (int(alive.sum()), int(sizes[before].sum()), int(sizes[alive].sum()))
            self.tally.step(name).add(Step(name, int(before.sum()), *out, time.perf_counter() - started))
        self._keep(batch, alive, sizes)

    def _keep(self, batch: Refined, alive: np.ndarray, sizes: np.ndarray) -> None:
        if not alive.any():
            return
        ids = batch.ids[alive]
        held_out = (ids >> np.uint64(11)) < np.uint64(round(self.settings.validation * 2**53))
        for name, chosen in (("train", ~held_out), ("validation", held_out)):
            self.writer.write(name, batch, np.flatnonzero(alive)[chosen])
            self.split[name] += int(chosen.sum())
        self.least, self.most = min(self.least, int(ids.min())), max(self.most, int(ids.max()))
        self.kept += int(alive.sum())
        self.bytes += int(sizes[alive].sum())
        self.scripts += batch.counts[alive].sum(0)
        power = np.log2(np.maximum(1, batch.characters[alive])).astype(np.int64)
        self.lengths += np.bincount(power, minlength=64)

    def _drop(self, source: str, line: int, reason: str, detail: str, text: str) -> None:
        self.reasons[reason] += 1
        self.writer.drop({"source": source, "line": line, "reason": reason, "detail": detail, "text": text})

    def report(self, reader: Reader, workers: int, notes: list[str], seconds: float) -> CorpusReport:
        """The whole report. Raises UserError where nothing was kept, or where one side of the split is empty."""
        self._check()
        switches = {name: dict(counter) for name, counter in self.tally.switches.items()}
        foreign = {name: encoding for name, encoding in reader.encodings.items() if encoding != "utf-8"}
        return CorpusReport(
            documents=self.kept,
            bytes=self.bytes,
            characters=int(self.scripts.sum()),
            train=self.split["train"],
            validation=self.split["validation"],
            funnel=[self.tally.funnel[name] for name in STEPS if name in self.tally.funnel],
            switches=switches,
            dropped=dict(self.reasons),
            encodings=dict(Counter(reader.encodings.values())),
            files=dict(list(foreign.items())[:1000]),
            scripts=script_shares(self.scripts),
            lengths=np.trim_zeros(self.lengths, "b").tolist(),
            languages=dict(self.tally.languages.most_common()),
            notes=notes + reader.notes,
            index_bytes=sum(index.bytes for index in (self.exact, self.near) if index is not None),
            workers=workers,
            seconds=seconds,
        )

    def _check(self) -> None:
        if not self.kept:
            if not self.read:
                raise UserError("the corpus is empty: there is no text in its sources")
            reason, count = self.reasons.most_common(1)[0]
            raise UserError(
                f"the corpus is empty: of {self.read} documents none was kept; {count} were dropped by `{reason}`"
                f"{ADVICE.get(reason, '')}"
            )
        share = self.settings.validation
        if self.kept == 1:
            raise UserError(
                "the corpus has one document, and training and validation need one each; in a text file "
                "`document: line` or `document: blank-line` on the source makes several of it"
            )
        if not self.split["validation"]:
            enough = (self.least >> 11) / 2**53
            raise UserError(
                f"the validation split is empty: none of {self.kept} documents falls into corpus.validation {share}; "
                f"set corpus.validation to {_above(enough)} or more"
            )
        if not self.split["train"]:
            raise UserError(
                f"nothing is left to train on: corpus.validation {share} takes all {self.kept} documents; "
                f"set it to {_below((self.most >> 11) / 2**53)} or less"
            )


DETAILS = {"exact": "same text as an earlier document", "near": "near-duplicate of an earlier document"}
ADVICE = {
    "length": "; see corpus.filter.min_characters and max_characters",
    "repetition": "; see corpus.filter.repetition",
    "symbols": "; see corpus.filter.symbols",
    "language": "; see corpus.filter.languages and language_confidence",
    "decontaminate": "; see corpus.decontaminate",
    "unreadable": "; dropped because of `on_error: skip`",
}


def _above(share: float) -> float:
    return float(np.ceil(share * 1000 + 1e-9) / 1000)


def _below(share: float) -> float:
    return float(np.floor(share * 1000) / 1000)
