"""Duplicates: an index of document hashes, and an index of MinHash signatures with locality-sensitive hashing.

Broder 1997, "On the resemblance and containment of documents"; the signatures are rensa's, over the shingles of
units.py; eight bits of each of their values are kept (b-bit minwise hashing: Li & König 2010, arXiv:0910.3349). Both
indexes live in flat numpy arrays. Memory a document: 11 to 23 bytes for exact duplicates; `permutations` bytes and, for
each band of at most eight values, 6 to 11 bytes for near-duplicates: about 270 bytes at the default of 128.
"""

from __future__ import annotations

import numpy as np

FULLEST = 0.7
CANDIDATES = 8
"""Earlier documents looked at for one band: what a thousand documents share is a form and tells nothing."""
SEED = 42
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class HashIndex:
    """A set of 64-bit hashes, open addressing in one array."""

    def __init__(self, capacity: int = 1 << 12):
        self._slots = np.zeros(capacity, np.uint64)
        self._used = 0

    @property
    def bytes(self) -> int:
        return self._slots.nbytes

    def add(self, keys: np.ndarray) -> np.ndarray:
        """(D,) hashes in; (D,) bool out: whether each was there, or stands earlier in `keys`."""
        keys = np.where(keys == 0, np.uint64(1), keys)
        unique, first = np.unique(keys, return_index=True)
        seen = np.ones(len(keys), bool)
        seen[first] = self._insert(unique)
        return seen

    def _insert(self, keys: np.ndarray) -> np.ndarray:
        while self._used + len(keys) > FULLEST * len(self._slots):
            old = self._slots
            self._slots = np.zeros(2 * len(old), np.uint64)
            self._place(old[old != 0])
        seen = self._place(keys)
        self._used += int((~seen).sum())
        return seen

    def _place(self, keys: np.ndarray) -> np.ndarray:
        """Put distinct keys where there is room; whether each was there already."""
        mask = len(self._slots) - 1
        seen = np.zeros(len(keys), bool)
        place = _slot(keys, mask)
        open_ = np.arange(len(keys))
        while len(open_):
            at, key = place[open_], keys[open_]
            free = self._slots[at] == 0
            self._slots[at[free]] = key[free]              # of several that want one slot the last wins; the others go on
            there = self._slots[at] == key
            seen[open_[there & ~free]] = True
            open_ = open_[~there]
            place[open_] = (place[open_] + 1) & mask
        return seen


def _slot(keys: np.ndarray, mask: int) -> np.ndarray:
    return (((keys * _GOLDEN) >> np.uint64(20)) & np.uint64(mask)).astype(np.int64)


def signatures_of(shingles: np.ndarray, offsets: np.ndarray, permutations: int) -> np.ndarray:
    """(D, permutations) uint8: eight bits of each MinHash value of each document's set of shingles."""
    from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]  (it comes without type stubs)

    matrix = RMinHash.digest_matrix_from_flat_token_hashes(shingles, offsets.astype(np.uint64), permutations, SEED)
    full = np.array(matrix.to_rows(), np.uint32).reshape(len(offsets) - 1, permutations)
    return ((full * np.uint32(2654435769)) >> np.uint32(24)).astype(np.uint8)


def similarity_of(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(..., permutations) x 2 -> (...) estimated Jaccard similarity, unbiased for eight-bit values (Li & König 2010)."""
    return ((first == second).mean(-1) - 1 / 256) * (256 / 255)


def band_of(similarity: float, permutations: int) -> int:
    """Values to a band: the most of 8, 4, 2, 1 with which 90% of the pairs that are just similar enough meet in a band."""
    for rows in (8, 4, 2):
        if 1 - (1 - similarity**rows) ** (permutations // rows) >= 0.9:
            return rows
    return 1


class NearIndex:
    """Signatures of the documents kept so far, and for each band of each where to find it."""

    def __init__(self, similarity: float, permutations: int):
        self.similarity = similarity
        self.rows = band_of(similarity, permutations)
        self.bands = permutations // self.rows
        self._type = np.dtype(f"u{self.rows}")
        self._signatures = np.zeros((1024, self.bands * self.rows), np.uint8)
        self._used = 0
        self._slots = np.zeros(1 << 15, np.uint32)         # number of a document, plus one
        self._filled = 0

    @property
    def bytes(self) -> int:
        return self._signatures.nbytes + self._slots.nbytes

    def add(self, signatures: np.ndarray) -> np.ndarray:
        """(D, permutations) in; (D,) bool out: whether each is similar to an earlier document that was kept.

        Documents that are not are added.
        """
        signatures = np.ascontiguousarray(signatures[:, : self.bands * self.rows])
        keys = signatures.view(self._type)                                              # (D, bands)
        near = self._near_index(signatures, keys)
        self._near_batch(signatures, keys, near)
        self._append(signatures[~near])
        return near

    def _near_index(self, signatures: np.ndarray, keys: np.ndarray) -> np.ndarray:
        near = np.zeros(len(keys), bool)
        stored = self._signatures.view(self._type)
        document = np.repeat(np.arange(len(keys)), self.bands)
        band = np.tile(np.arange(self.bands), len(keys))
        key = keys.reshape(-1)
        place = self._start(key, band)
        met = np.zeros(len(key), np.int8)
        while len(place):
            found = self._slots[place].astype(np.int64) - 1
            hit = (found >= 0) & (stored[found, band] == key)
            if hit.any():
                similar = similarity_of(signatures[document[hit]], self._signatures[found[hit]]) >= self.similarity
                near[document[hit][similar]] = True
                met[hit] += 1
            on = (found >= 0) & (met < CANDIDATES) & ~near[document]
            document, band, key, met = document[on], band[on], key[on], met[on]
            place = (place[on] + 1) & (len(self._slots) - 1)
        return near

    def _near_batch(self, signatures: np.ndarray, keys: np.ndarray, near: np.ndarray) -> None:
        """Mark those similar to an earlier one of the same batch. Reading order: who is dropped cannot drop another."""
        rest = np.flatnonzero(~near)
        met = np.zeros(len(rest), bool)
        for band in range(self.bands):
            _, group, times = np.unique(keys[rest, band], return_inverse=True, return_counts=True)
            met |= times[group] > 1
        buckets: dict[tuple[int, int], list[int]] = {}
        for document in rest[met].tolist():
            places = list(enumerate(keys[document].tolist()))
            others = sorted({other for place in places for other in buckets.get(place, ())})
            if others and (similarity_of(signatures[document], signatures[others]) >= self.similarity).any():
                near[document] = True
                continue
            for place in places:
                bucket = buckets.setdefault(place, [])
                if len(bucket) < CANDIDATES:
                    bucket.append(document)

    def _append(self, signatures: np.ndarray) -> None:
        end = self._used + len(signatures)
        if end > len(self._signatures):
            self._signatures.resize((max(end, len(self._signatures) * 5 // 4), self._signatures.shape[1]), refcheck=False)
        self._signatures[self._used : end] = signatures
        if (end * self.bands) > FULLEST * len(self._slots):
            size = len(self._slots)
            while (end * self.bands) > FULLEST * size:
                size *= 2
            self._slots = np.zeros(size, np.uint32)
            for first in range(0, end, 4096):
                self._place(first, min(first + 4096, end))
        else:
            self._place(self._used, end)
        self._used = end

    def _place(self, first: int, end: int) -> None:
        """Enter the bands of documents first..end into the slots; a band that CANDIDATES documents share stays out."""
        stored = self._signatures.view(self._type)
        key = stored[first:end].reshape(-1)
        document = np.repeat(np.arange(first, end), self.bands)
        band = np.tile(np.arange(self.bands), end - first)
        place = self._start(key, band)
        met = np.zeros(len(key), np.int8)
        while len(place):
            free = self._slots[place] == 0
            self._slots[place[free]] = document[free] + 1
            found = self._slots[place].astype(np.int64) - 1
            mine = found == document
            met += (stored[found, band] == key) & ~mine
            on = ~mine & (met < CANDIDATES)
            document, band, key, met = document[on], band[on], key[on], met[on]
            place = (place[on] + 1) & (len(self._slots) - 1)

    def _start(self, key: np.ndarray, band: np.ndarray) -> np.ndarray:
        spread = (key.astype(np.uint64) + band.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)) * _GOLDEN
        return ((spread ^ (spread >> np.uint64(32))) & np.uint64(len(self._slots) - 1)).astype(np.int64)
