"""Spans of noise in a text, and sentinels that stand for them.

Raffel et al. 2020, arXiv:1910.10683, section 3.1.4; random_spans_noise_mask and noise_span_to_unique_sentinel of
google-research/text-to-text-transfer-transformer, data/preprocessors.py. Letters: L tokens of a text.
"""

from __future__ import annotations

import numpy as np

from yanmo.errors import UserError
from yanmo.tokenizer import Tokens

TRIES = 30
"""Masks drawn to find one without special tokens."""


def noise_counts(tokens: int, rate: float, span: float) -> tuple[int, int]:
    """How many of so many tokens are noise, and in how many spans: a function of the length, so that it is known beforehand.

    At least one of each, and never the whole text; a text of one token has none.
    """
    noise = min(max(round(tokens * rate), 1), max(tokens - 1, 0))
    spans = min(max(round(noise / span), 1), noise, tokens - noise)
    return noise, spans


def noise_mask(tokens: int, rate: float, span: float, rng: np.random.Generator) -> np.ndarray:
    """Which tokens are noise, (L,) bool: spans of text and of noise take turns, the text first, all divisions as likely."""
    noise, spans = noise_counts(tokens, rate, span)
    if not spans:
        return np.zeros(tokens, dtype=bool)
    lengths = np.stack([_divided(tokens - noise, spans, rng), _divided(noise, spans, rng)], axis=1)
    return np.repeat(np.tile([False, True], spans), lengths.reshape(-1))


def sparing_mask(
    text: np.ndarray, special: np.ndarray, rate: float, span: float, rng: np.random.Generator
) -> np.ndarray:
    """A noise mask of a text, (L,) bool, that leaves special tokens ([UNK]) where they are: of TRIES masks the first that does,
    else the one that takes the fewest, for how many tokens are taken must not change. special: (V,) bool."""
    barred = special[text]
    best = noise_mask(len(text), rate, span, rng)
    for _ in range(TRIES if barred.any() else 0):
        if not (best & barred).any():
            break
        other = noise_mask(len(text), rate, span, rng)
        best = min(best, other, key=lambda mask: int((mask & barred).sum()))
    return best


def with_sentinels(text: np.ndarray, mask: np.ndarray, sentinels: np.ndarray) -> np.ndarray:
    """The text with every run of the mask as one sentinel, the first run as the first sentinel."""
    first = mask & ~np.append(False, mask[:-1])
    made = text.astype(np.int64)
    made[first] = sentinels[: first.sum()]
    return made[~mask | first]


def sentinels_of(tokens: Tokens) -> np.ndarray:
    """The ids of the sentinels, in order. Raises UserError where the tokenizer has none."""
    found = tokens.group("sentinels")
    if found is None:
        raise UserError(
            "the tokenizer has no sentinels (<extra_id_0>, <extra_id_1> ...), which stand for spans that are taken out; "
            "tokenizer.add_special=true adds them"
        )
    return np.array(found)


def check_sentinels(sentinels: np.ndarray, spans: int, tokens: int) -> None:
    """Raises UserError where a text of so many tokens may have more spans than there are sentinels."""
    if spans > len(sentinels):
        raise UserError(
            f"a text of {tokens} tokens has {spans} spans taken out, and the tokenizer has {len(sentinels)} sentinels; make "
            "rows shorter (training.length), spans longer, or the rate lower"
        )


def _divided(items: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """The sizes of `parts` runs, none empty, into which a row of items is divided at random, (parts,)."""
    borders = np.sort(rng.choice(items - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], borders, [items]]))
