"""Labelled parts of a raw text, and the tokens that stand there."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from yanmo.tokenizer.borders import UNSPACED

Part = tuple[int, int, str]
"""Where it begins, where it has ended, its type: in characters."""


def cut(text: str) -> tuple[tuple[int, int], ...]:
    """Where each token of a text begins and ends: characters of scripts without spaces, words of others, single marks."""
    return tuple(match.span() for match in _tokens().finditer(text))


_RANGES = "".join(f"{chr(first)}-{chr(last)}" for first, last in UNSPACED)


@cache
def _tokens() -> re.Pattern[str]:
    alone = re.compile(f"[{_RANGES}]")
    marks = (chr(code) for code in range(0x300, 0x10000) if unicodedata.category(chr(code))[0] == "M")
    inside = "".join(mark for mark in marks if not alone.match(mark))  # vowel signs and accents are no letters to \\w
    return re.compile(f"[{_RANGES}]|(?:[^\\W_{_RANGES}][{inside}\u200c\u200d]*)+|\\S")
