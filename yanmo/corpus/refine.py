"""What a worker does with a batch: parse, clean, filter, and sign what is left. The order of documents is kept."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from yanmo.corpus.clean import steps_of
from yanmo.corpus.decontaminate import Forbidden
from yanmo.corpus.deduplicate import signatures_of
from yanmo.corpus.filter import Languages, symbol_share, wrong_length
from yanmo.corpus.read import Piece, Unreadable, parse
from yanmo.corpus.report import Step, Tally
from yanmo.corpus.units import CLASSES, Analysis, analyse
from yanmo.errors import UserError
from yanmo.recipe import Corpus

Dropped = tuple[str, int, str, str, str]
"""source, line, reason, detail, the beginning of the text."""
SHOWN = 200


@dataclass
class Refined:
    """The documents of a batch that the filters kept, as flat arrays that travel between processes at memory speed.

    text: UTF-8 of all; offsets: (D + 1,) where each begins; ids: (D,) hash of the text; keys: (D,) hash of the text, case and
    spaces apart; signatures: (D, permutations) uint8, or no columns; signed: (D,) whether there is something to sign.
    """

    text: bytes
    offsets: np.ndarray
    characters: np.ndarray
    names: list[str]
    lines: np.ndarray
    ids: np.ndarray
    keys: np.ndarray
    signatures: np.ndarray
    signed: np.ndarray
    counts: np.ndarray
    dropped: list[Dropped]
    tally: Tally


@dataclass
class _Held:
    """A document on its way."""

    name: str
    line: int
    text: str
    size: int
    raw: bytes = field(default=b"", repr=False)


class Refinery:
    """The steps a worker runs, set up once. Raises UserError for a step whose extra is not installed."""

    def __init__(self, settings: Corpus, forbidden: Forbidden | None):
        self.settings, self.forbidden = settings, forbidden
        self.steps = steps_of(settings.clean)
        chosen = settings.filter
        self.languages = Languages(chosen.languages, chosen.language_confidence) if chosen.languages else None

    def refine(self, batch: list[Piece]) -> Refined:
        """One batch through all steps. Raises UserError for a record that cannot be read, unless `on_error: skip`."""
        tally, dropped = Tally(), []
        held = self._read(batch, tally, dropped)
        held = self._clean(held, tally, dropped)
        held = self._drop_by_length(held, tally, dropped)
        started = time.perf_counter()
        analysis = analyse([document.text for document in held])
        seconds = time.perf_counter() - started
        keep = self._drop_by_content(held, analysis, seconds, tally, dropped)
        return self._sign(held, keep, analysis, tally, dropped)

    def _read(self, batch: list[Piece], tally: Tally, dropped: list[Dropped]) -> list[_Held]:
        started = time.perf_counter()
        held, step = [], tally.step("read")
        for piece in batch:
            for line, text in parse(piece):
                step.documents_in += 1
                if isinstance(text, Unreadable):
                    if self.settings.on_error == "raise":
                        raise UserError(
                            f"{piece.name}, line {text.line}: {text.detail} (`on_error: skip` lists such records and goes on)"
                        )
                    dropped.append((piece.name, text.line, "unreadable", text.detail, _shown(text.text)))
                    tally.switches.setdefault("on_error", Counter())["unreadable"] += 1
                    continue
                data = text.encode("utf-8", "replace")
                step.bytes_in += len(data)
                step.bytes_out += len(data)
                held.append(_Held(piece.name, line, text, len(data)))
        step.documents_out = len(held)
        step.seconds += time.perf_counter() - started
        return held

    def _clean(self, held: list[_Held], tally: Tally, dropped: list[Dropped]) -> list[_Held]:
        if not held:
            return held
        for name, clean in self.steps:
            started = time.perf_counter()
            counter: Counter[str] = Counter(documents=0)
            for document in held:
                text = clean(document.text, counter)
                if text != document.text:
                    counter["documents"] += 1
                    document.text = text
            tally.switches[name] = counter
            tally.step("clean").seconds += time.perf_counter() - started
        step, kept = tally.step("clean"), []
        for document in held:
            data = document.text.encode("utf-8", "replace")
            step.documents_in += 1
            step.bytes_in += document.size
            if not data.strip():
                dropped.append((document.name, document.line, "empty", "nothing is left after cleaning", ""))
                continue
            document.raw, document.size = data, len(data)
            if b"?" in data and len(data) != len(document.text.encode("utf-8", "surrogatepass")):
                document.text = data.decode()              # lone surrogates, which no file can hold
            step.documents_out += 1
            step.bytes_out += len(data)
            kept.append(document)
        return kept

    def _drop_by_length(self, held: list[_Held], tally: Tally, dropped: list[Dropped]) -> list[_Held]:
        wrong = [wrong_length(document.text, self.settings.filter) for document in held]
        keep = np.array([not detail for detail in wrong], bool)
        _pass(tally.step("length"), held, np.ones(len(held), bool), keep)
        dropped += [
            (document.name, document.line, "length", detail, document.text[:SHOWN])
            for document, detail in zip(held, wrong, strict=True)
            if detail
        ]
        return [document for document, detail in zip(held, wrong, strict=True) if not detail]

    def _drop_by_content(
        self, held: list[_Held], analysis: Analysis, seconds: float, tally: Tally, dropped: list[Dropped]
    ) -> np.ndarray:
        chosen, alive = self.settings.filter, np.ones(len(held), bool)
        shared = "repetition" if chosen.repetition is not None else "length"
        tally.step(shared).seconds += seconds               # the count that filters and signatures share

        def drop(step: str, bad: np.ndarray, detail: Callable[[int], str], started: float) -> None:
            nonlocal alive
            for place in np.flatnonzero(bad & alive).tolist():
                document = held[place]
                dropped.append((document.name, document.line, step, detail(place), document.text[:SHOWN]))
            _pass(tally.step(step), held, alive, alive & ~bad)
            tally.step(step).seconds += time.perf_counter() - started
            alive = alive & ~bad

        if chosen.repetition is not None:
            started = time.perf_counter()
            share = analysis.repetition
            bad = share > chosen.repetition
            drop("repetition", bad, _percent(share, "repeated"), started)
        if chosen.symbols is not None:
            started = time.perf_counter()
            share = symbol_share(analysis)
            bad = share > chosen.symbols
            drop("symbols", bad, _percent(share, "symbols"), started)
        if self.languages is not None:
            started = time.perf_counter()
            bad, said = np.zeros(len(held), bool), [""] * len(held)
            for place in np.flatnonzero(alive).tolist():
                language, probability = self.languages.detect(held[place].text)
                tally.languages[language] += 1
                bad[place] = not self.languages.keeps(probability)
                said[place] = f"{language}; {probability:.0%} for the languages wanted"
            drop("language", bad, said.__getitem__, started)
        if self.forbidden is not None:
            started = time.perf_counter()
            bad = np.zeros(len(held), bool)
            places = np.flatnonzero(alive)
            bad[places] = self.forbidden.shares([held[place].text for place in places.tolist()])
            detail = f"shares {self.forbidden.size} units in a row with a test file"
            drop("decontaminate", bad, lambda place: detail, started)
        return alive

    def _sign(self, held: list[_Held], alive: np.ndarray, analysis: Analysis, tally: Tally, dropped: list[Dropped]) -> Refined:
        kept = [document for document, stays in zip(held, alive.tolist(), strict=True) if stays]
        many = len(kept)
        settings = self.settings.deduplicate
        started = time.perf_counter()
        keys = np.zeros(many, np.uint64)
        if settings.exact:
            keys = _hashes("".join(document.text.lower().split()).encode() for document in kept)
            tally.step("exact").seconds += time.perf_counter() - started
        signatures = np.zeros((many, 0), np.uint8)
        lengths = np.diff(analysis.offsets)[alive]
        if settings.near and many:
            started = time.perf_counter()
            chosen = np.repeat(alive, np.diff(analysis.offsets))
            offsets = np.concatenate(([0], np.cumsum(lengths)))
            signatures = signatures_of(analysis.shingles[chosen], offsets, settings.permutations)
            tally.step("near").seconds += time.perf_counter() - started
        offsets = np.zeros(many + 1, np.int64)
        np.cumsum([document.size for document in kept], out=offsets[1:])
        return Refined(
            text=b"".join(document.raw for document in kept),
            offsets=offsets,
            characters=np.array([len(document.text) for document in kept], np.int64),
            names=[document.name for document in kept],
            lines=np.array([document.line for document in kept], np.int64),
            ids=_hashes(document.raw for document in kept),
            keys=keys,
            signatures=signatures,
            signed=lengths > 0,
            counts=analysis.counts[alive].reshape(many, CLASSES),
            dropped=dropped,
            tally=tally,
        )


def _percent(share: np.ndarray, what: str) -> Callable[[int], str]:
    return lambda place: f"{share[place]:.0%} {what}"


def _pass(step: Step, held: list[_Held], before: np.ndarray, after: np.ndarray) -> None:
    sizes = np.array([document.size for document in held], np.int64)
    step.documents_in += int(before.sum())
    step.documents_out += int(after.sum())
    step.bytes_in += int(sizes[before].sum())
    step.bytes_out += int(sizes[after].sum())


def _hashes(texts: Iterable[bytes]) -> np.ndarray:
    """(D,) uint64: BLAKE2b of each, 8 bytes."""
    return np.frombuffer(b"".join(blake2b(text, digest_size=8).digest() for text in texts), np.uint64).copy()


def _shown(text: str) -> str:
    return text[:SHOWN].encode("utf-8", "replace").decode()


_refinery: list[Refinery] = []


def start_worker(settings: Corpus, forbidden: Forbidden | None) -> None:
    """Set a worker process up for `refine`."""
    _refinery[:] = [Refinery(settings, forbidden)]


def refine(batch: list[Piece]) -> Refined:
    """One batch, in a worker that `start_worker` has set up."""
    return _refinery[0].refine(batch)
