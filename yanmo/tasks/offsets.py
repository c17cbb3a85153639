"""Texts as tokens that know which characters they hold: for tasks whose labels stand at characters.

Letters: N tokens of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yanmo.tokenizer import Tokens


@dataclass(frozen=True)
class Placed:
    """tokens: ids without special ones around them. offsets: (N, 2), which characters of the text as it was written each token
    holds, without blanks at its ends: from and to, both the same where it holds only blanks or nothing of the text."""

    tokens: list[int]
    offsets: np.ndarray

    def holding(self, begin: int, end: int) -> tuple[int, int] | None:
        """From and to which token a part of the text goes, from the characters that it has. A token that only begins or ends
        inside of the part belongs to it; None where no token holds anything of it."""
        begins, ends = self.offsets.T
        inside = np.flatnonzero((ends > begin) & (begins < end) & (ends > begins))
        return (int(inside[0]), int(inside[-1]) + 1) if len(inside) else None

    def exact(self, begin: int, end: int) -> bool:
        """Whether tokens begin and end where a part of the text does."""
        held = self.holding(begin, end)
        return held is not None and (self.offsets[held[0], 0], self.offsets[held[1] - 1, 1]) == (begin, end)


def placed(tokens: Tokens, texts: Sequence[str]) -> list[Placed]:
    """The ids are those of tokens.encode. Characters are counted in the texts themselves, whatever a normaliser makes of them."""
    encoded = tokens.tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [
        Placed(encoding.ids, _without_blanks(text, np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)))
        for text, encoding in zip(texts, encoded, strict=True)
    ]


def _without_blanks(text: str, offsets: np.ndarray) -> np.ndarray:
    """Some tokenizers give a word the blank before it."""
    solid = np.flatnonzero([not character.isspace() for character in text])
    begins, ends = offsets.T
    first, last = np.searchsorted(solid, begins), np.searchsorted(solid, ends)
    full = last > first
    kept = np.repeat(begins[:, None], 2, axis=1)
    kept[full] = np.stack([solid[first[full]], solid[last[full] - 1] + 1], axis=1)
    return kept
