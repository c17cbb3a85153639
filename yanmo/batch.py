"""What goes through a network: rows of tokens, several documents to a row; and which documents share which row, when.

Packing on a histogram of sizes: Krell et al. 2021, arXiv:2107.02027, section 3, but for where a size goes, see `plan`.
Letters: R rows, T tokens of a row, P pieces of the corpus.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from yanmo.errors import UserError


@dataclass(frozen=True)
class Packed:
    """Rows of tokens, several documents to a row, none of which sees another.

    tokens, documents, positions: (R, T) int64. documents is 1, 2, 3... within a row and 0 where there is padding;
    positions restart at 0 with every document. types: (R, T) int64, 0 in the first and 1 in the second part of a pair,
    or None where nothing is paired. whole: every row is one document without padding, so that nothing need be hidden.
    prefix: (R, T) bool, places that every place of their document sees, the earlier ones too; only decoders ask.
    """

    tokens: Tensor
    documents: Tensor
    positions: Tensor
    types: Tensor | None = None
    whole: bool = False
    prefix: Tensor | None = None

    @property
    def real(self) -> int:
        """How many places are no padding."""
        return int((self.documents > 0).sum())


class Batch(Protocol):
    """What a collator makes. Every objective has its own frozen dataclass with at least these fields."""

    @property
    def tokens(self) -> int:
        """How many tokens the network reads, padding not counted: what a budget and a speed are in."""
        ...

    @property
    def counts(self) -> Mapping[str, float]:
        """How many targets each of the objective's losses has here; the trainer divides by their sum over the step."""
        ...


@dataclass(frozen=True)
class Piece:
    """A document, or as much of one as fits into a row; special tokens are not in it yet.

    tokens: (N,) token ids. sentences, words: where each sentence and each word starts, the first at 0.
    document: its number in the shards, so that a pair's second part can be taken from another one. ends: the document
    ends here; a piece that was cut off before its end must not teach that texts end there.
    """

    document: int
    tokens: np.ndarray
    sentences: np.ndarray
    words: np.ndarray
    ends: bool = True


@dataclass(frozen=True)
class Row:
    """The pieces that share a row, and the row's own randomness: a function of (seed, epoch, row), of nothing else."""

    pieces: tuple[Piece, ...]
    rng: np.random.Generator
    other: Callable[[np.random.Generator], Piece]
    """A random piece of the corpus, for negatives; the caller looks that it is of another document."""


class Documents(Protocol):
    """Documents as token ids, such as yanmo.shards.Shards. shard[i] is (tokens, sentences, words), see Piece."""

    @property
    def lengths(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def __getitem__(self, document: int, /) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...


class Fit(Protocol):
    """What the order asks of an objective: the places a piece takes in a row, and the most tokens a piece may have."""

    def places(self, tokens: int) -> int: ...

    def room(self, length: int) -> int: ...


class Order:
    """The order of the data: row number n is a function of (seed, n) and of nothing else, whoever asks and when.

    Documents longer than the room are cut once into pieces. Every epoch deals all pieces out anew, each exactly once,
    over the slots of one packing plan, and shuffles the rows. Without `shuffle` every epoch is the first one again, masks
    included: what validation needs. `documents` are shards, `fit` is the objective.
    Raises UserError for a row with no room for text, for no text, and when shuffling for less text than one row.
    """

    def __init__(self, documents: Documents, length: int, fit: Fit, seed: int, shuffle: bool = True):
        self.documents, self.length, self.seed, self.shuffle = documents, length, seed, shuffle
        room = fit.room(length)
        if room < 1:
            raise UserError(f"training.length {length} leaves no room beside the special tokens; make rows longer")
        self._document, self._begin, self._tokens = _pieces(documents, room)
        places = np.array([fit.places(tokens) for tokens in range(room + 1)])[self._tokens]
        self.pieces = len(places)
        self.tokens_per_epoch = int(self._tokens.sum(dtype=np.int64))
        self.places_per_epoch = int(places.sum())        # special tokens included, padding not
        self._check_enough(self.places_per_epoch)
        self._by_places = np.argsort(places.astype(np.uint16 if length < 2**16 else np.int32), kind="stable")[::-1]
        self._by_places = self._by_places.astype(np.int32 if self.pieces < 2**31 else np.int64)
        histogram = np.bincount(places, minlength=length + 1)
        self._slots, self._row_starts = _slots(plan(histogram), histogram)
        self._classes = np.cumsum(histogram[::-1])       # where each number of places ends in _by_places
        self.rows_per_epoch = len(self._row_starts) - 1
        self.padding = 1 - self.places_per_epoch / (self.rows_per_epoch * length)
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def row(self, number: int) -> Row:
        """Row `number` of the endless sequence of epochs."""
        epoch, index = divmod(number, self.rows_per_epoch)
        epoch = epoch if self.shuffle else 0
        dealt, rows = self._deal(epoch)
        rng = self._rng(epoch, index)
        slots = slice(self._row_starts[rows[index]], self._row_starts[rows[index] + 1])
        pieces = tuple(self.piece(int(piece)) for piece in rng.permutation(dealt[self._slots[slots]]))
        return Row(pieces, rng, self._any_piece)

    def _deal(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's pieces in slot order, shuffled among those of the same size, and the epoch's order of rows."""
        if epoch not in self._epochs:
            rng = self._rng(epoch, ROWS_LIMIT - 1)
            dealt = self._by_places.copy()
            for begin, end in zip(self._classes[:-1], self._classes[1:], strict=True):
                if end - begin > 1:
                    rng.shuffle(dealt[begin:end])
            rows = rng.permutation(self.rows_per_epoch)
            while len(self._epochs) > 1:
                del self._epochs[next(iter(self._epochs))]
            self._epochs[epoch] = dealt, rows
        return self._epochs[epoch]

    def _rng(self, epoch: int, index: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[self.seed % 2**64, (epoch * ROWS_LIMIT + index) % 2**64]))

    def piece(self, piece: int) -> Piece:
        """Piece number `piece`, in the order of the documents."""
        document, begin, size = int(self._document[piece]), int(self._begin[piece]), int(self._tokens[piece])
        tokens, sentences, words = self.documents[document]
        if size == len(tokens):
            return Piece(document, tokens, sentences, words)
        end = begin + size
        part = tokens[begin:end]
        return Piece(document, part, _within(sentences, begin, end), _within(words, begin, end), end == len(tokens))

    def _any_piece(self, rng: np.random.Generator) -> Piece:
        return self.piece(int(rng.integers(self.pieces)))

    def _check_enough(self, places: int) -> None:
        if places == 0:
            raise UserError("no document has any tokens; look at corpus/report.json for what was dropped and why")
        if self.shuffle and places < self.length:
            raise UserError(
                f"the training text has {self.tokens_per_epoch} tokens in {len(self.documents)} documents, less than "
                f"one row of {self.length}; give more text (corpus.sources) or shorter rows (training.length)"
            )


ROWS_LIMIT = 2**40
"""More rows than an epoch can have; the last index is the key of the epoch's own shuffle."""
SENTENCE_WASTE = 32
"""A document that is too long is cut at a sentence start when that wastes at most one part in so many of the room. Sentence
starts at any price leave 6% of Chinese rows of 256 empty and 14% of rows of 128; this leaves 1%."""


Plan = list[tuple[int, tuple[int, ...]]]
"""How many rows hold which sizes."""


def plan(histogram: np.ndarray) -> Plan:
    """How often each combination of sizes makes a row: best fit on a histogram, the largest sizes first.

    histogram[s]: pieces of size s, the last s being a row's length. The cost depends on the sizes, not on their number. A size
    goes to the fullest row that it fits into, as often as it fits. Krell et al. put it once into each, which needs as many rows
    as there are pieces of the most frequent size: two thirds of the places were empty where captions shared rows of 512.
    """
    sizes = np.flatnonzero(histogram)[::-1].tolist()
    done: Plan = []
    unfinished: dict[int, Plan] = {}                      # by free places
    free = []                                             # the keys of `unfinished`, sorted

    def put(places: int, count: int, row: tuple[int, ...]) -> None:
        if places < sizes[-1]:
            done.append((count, row))
            return
        if places not in unfinished:
            unfinished[places] = []
            bisect.insort(free, places)
        unfinished[places].append((count, row))

    for size in sizes:
        left = int(histogram[size])
        while left:
            places, count, row = len(histogram) - 1, left, ()
            if free and free[-1] >= size:
                places = free[bisect.bisect_left(free, size)]
                count, row = unfinished[places].pop()
                if not unfinished[places]:
                    del unfinished[places]
                    free.remove(places)
            each = min(places // size, left)
            taken = min(count, left // each)
            left -= taken * each
            if taken < count and row:
                put(places, count - taken, row)
            put(places - size * each, taken, (*row, *(size,) * each))
    return done + [entry for rows in unfinished.values() for entry in rows]


def _slots(combinations: Plan, histogram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rank among all pieces, the largest first, of the piece in every slot, (P,); where each row's slots start."""
    counts = np.array([count for count, _ in combinations])
    widths = np.array([len(row) for _, row in combinations])
    row_starts = np.concatenate([[0], np.cumsum(np.repeat(widths, counts))])
    slots = np.empty(row_starts[-1], dtype=np.int32 if row_starts[-1] < 2**31 else np.int64)
    following = (histogram[::-1].cumsum()[::-1] - histogram).tolist()  # the rank of the next piece of each size
    at = 0
    for count, row in combinations:
        block = slots[at : at + count * len(row)].reshape(count, len(row))
        for column, size in enumerate(row):
            block[:, column] = np.arange(following[size], following[size] + count)
            following[size] += count
        at += block.size
    return slots, row_starts


def _pieces(documents: Documents, room: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The document, first token and number of tokens of every piece, (P,) each, in the order of the documents."""
    lengths = np.asarray(documents.lengths).astype(np.int64)
    counts = (lengths > 0).astype(np.int64)
    owners, cuts = _cuts(documents, lengths, room)
    np.add.at(counts, owners, 1)
    document = np.repeat(np.arange(len(lengths), dtype=np.int32 if len(lengths) < 2**31 else np.int64), counts)
    begin = np.zeros(len(document), dtype=np.int32 if lengths.max(initial=0) < 2**31 else np.int64)
    if len(cuts):
        after_cut = np.ones(len(document), dtype=bool)     # every piece but a document's first begins at a cut
        first = np.cumsum(counts) - counts
        after_cut[first[counts > 0]] = False
        begin[after_cut] = cuts
    ends = np.append(begin[1:], 0)
    last = np.append(document[1:] != document[:-1], True) if len(document) else np.zeros(0, dtype=bool)
    tokens = np.where(last, lengths[document], ends) - begin
    return document, begin, tokens.astype(np.uint16 if room < 2**16 else np.int32)


def _cuts(documents: Documents, lengths: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Where documents longer than the room are cut: the document and the token of every cut, sorted."""
    owners, cuts = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for group in _groups(np.flatnonzero(lengths > room), lengths):
        read = [documents[int(document)] for document in group]
        stops = np.cumsum(lengths[group])
        starts = stops - lengths[group]                   # the group's documents, laid end to end
        sentences = np.concatenate([np.asarray(found[1]) + start for found, start in zip(read, starts, strict=True)])
        words = np.concatenate([np.asarray(found[2]) + start for found, start in zip(read, starts, strict=True)])
        active, at, found_owners, found_cuts = np.arange(len(group)), starts, [], []
        while len(active):
            at = cut(at, room, sentences, words, room // SENTENCE_WASTE)
            found_owners.append(group[active])
            found_cuts.append(at - starts[active])
            more = stops[active] - at > room
            active, at = active[more], at[more]
        owner, place = np.concatenate(found_owners), np.concatenate(found_cuts)
        sort = np.lexsort((place, owner))
        owners.append(owner[sort])
        cuts.append(place[sort])
    return np.concatenate(owners), np.concatenate(cuts)


def _groups(long: np.ndarray, lengths: np.ndarray, tokens: int = 2**22) -> Iterator[np.ndarray]:
    """Runs of long documents with about so many tokens together: what is held in memory at once."""
    bounds = np.flatnonzero(np.diff(np.cumsum(lengths[long]) // tokens)) + 1
    return (group for group in np.split(long, bounds) if len(group))


def cut(at: np.ndarray, room: int, sentences: np.ndarray, words: np.ndarray, waste: int) -> np.ndarray:
    """Where text from `at` that is longer than `room` is cut: (N,) places after `at`.

    At the last sentence start that leaves at most `waste` of the room empty, else at the last word start in the second
    half of the room, else when the room is full.
    """
    chosen = at + room
    for starts, wasted in ((words, room // 2), (sentences, waste)):
        if len(starts):
            last = starts[np.searchsorted(starts, at + room, side="right") - 1]
            chosen = np.where((last > at) & (last >= at + room - wasted) & (last <= at + room), last, chosen)
    return chosen


def parts_of(size: int, room: int, stride: float) -> list[tuple[int, int]]:
    """From where to where each window of a text of `size` tokens goes, of at most `room`: the next begins `stride` of the room
    later, and the last one ends where the text does."""
    if size <= room:
        return [(0, size)]
    step = max(1, int(room * stride))
    begins = [*range(0, size - room, step), size - room]
    return [(begin, begin + room) for begin in begins]


def _within(starts: np.ndarray, begin: int, end: int) -> np.ndarray:
    """The starts inside [begin, end), counted from begin, the first at 0."""
    low, high = np.searchsorted(starts, (begin, end))
    inside = np.asarray(starts[low:high]).astype(np.int64) - begin
    return inside if len(inside) and inside[0] == 0 else np.concatenate([[0], inside])


def to_device(batch: Any, device: torch.device) -> Any:
    """The same batch with every tensor on `device`."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple):
        return tuple(to_device(part, device) for part in batch)
    if is_dataclass(batch) and not isinstance(batch, type):
        return replace(batch, **{field.name: to_device(getattr(batch, field.name), device) for field in fields(batch)})
    return batch
