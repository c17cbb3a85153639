"""How well a tokenizer fits a text: tokens a character and a byte, unknown, and what does not come back, by script."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from yanmo.tokenizer.tokens import Tokens

EXAMPLES = 10

SCRIPTS = {
    "Han": "\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
    "Kana": "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f",
    "Hangul": "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af",
    "Latin": "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff\uff21-\uff3a\uff41-\uff5a",
    "Cyrillic": "\u0400-\u052f",
    "Greek": "\u0370-\u03ff\u1f00-\u1fff",
    "Arabic": "\u0600-\u06ff\u0750-\u077f",
    "Devanagari": "\u0900-\u097f",
    "Thai": "\u0e00-\u0e7f",
    "digits": "0-9\uff10-\uff19",
}
RUNS = re.compile("|".join(f"([{span}]+)" for span in SCRIPTS.values()) + r"|(\s+)|([\s\S])")
NAMES = (*SCRIPTS, "space", "other")


@dataclass
class Tally:
    """Counts over the pieces of one script."""

    characters: int = 0
    bytes: int = 0
    tokens: int = 0
    unknown: int = 0
    failures: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)

    def tree(self) -> dict[str, Any]:
        """Figures for report.json."""
        return {
            "characters": self.characters,
            "tokens": self.tokens,
            "tokens_per_character": round(self.tokens / max(self.characters, 1), 4),
            "tokens_per_byte": round(self.tokens / max(self.bytes, 1), 4),
            "unknown_share": round(self.unknown / max(self.tokens, 1), 6),
            "round_trip_failures": self.failures,
            "round_trip_examples": self.examples,
        }


def measure(tokens: Tokens, texts: Sequence[str]) -> dict[str, Any]:
    """Figures over all text and by script.

    A token counts for the script of its first character. A text comes back when decoding its ids gives it again; for
    WordPiece, which knows no spaces, and lower-casing tokenizers, spaces and case are left out of the comparison.
    """
    total, scripts = Tally(), defaultdict(Tally)
    exact = _keeps_spaces(tokens)
    tokenizer = tokens.tokenizer
    folds = tokenizer.normalizer is not None and tokenizer.normalizer.normalize_str("A") == "a"
    for text in texts:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        names = _scripts(text)
        total.characters += len(text)
        total.bytes += len(text.encode())
        for character, name in zip(text, names, strict=True):
            scripts[name].characters += 1
            scripts[name].bytes += len(character.encode())
        for index, (start, _) in zip(encoding.ids, encoding.offsets, strict=True):
            tally = scripts[names[min(start, len(names) - 1)]] if names else total
            tally.tokens += 1
            tally.unknown += index == tokens.unknown
        total.tokens += len(encoding.ids)
        total.unknown += sum(index == tokens.unknown for index in encoding.ids)
    for line in (line for text in texts for line in text.splitlines() if line):
        back = tokens.decode(tokens.encode([line])[0])
        if _same(line, back, exact, folds):
            continue
        for tally in (total, *(scripts[name] for name in sorted(set(_lost(line, back))))):
            tally.failures += 1
            if len(tally.examples) < EXAMPLES:
                tally.examples.append({"text": line[:200], "back": back[:200]})
    ordered = sorted(scripts.items(), key=lambda entry: -entry[1].characters)
    return {**total.tree(), "scripts": {name: tally.tree() for name, tally in ordered}}


def _scripts(text: str) -> list[str]:
    """The script of every character."""
    names: list[str] = []
    for match in RUNS.finditer(text):
        names += [NAMES[(match.lastindex or 1) - 1]] * len(match[0])
    return names


def _lost(line: str, back: str) -> list[str]:
    """The scripts of the characters that did not come back."""
    present = set(back)
    return _scripts("".join(character for character in line if character not in present and not character.isspace()))


def _keeps_spaces(tokens: Tokens) -> bool:
    return tokens.decode(tokens.encode(["a b"])[0]) == "a b" and tokens.decode(tokens.encode(["a , b"])[0]) == "a , b"


def _same(line: str, back: str, exact: bool, folds: bool) -> bool:
    if line == back:
        return True
    if folds:
        line, back = line.lower(), back.lower()
    if not exact:
        line, back = _dense(line), _dense(back)
    return line == back


def _dense(text: str) -> str:
    """Without spaces and what WordPiece's normalizer calls control characters."""
    return "".join(c for c in text if not c.isspace() and unicodedata.category(c) not in ("Cc", "Cf"))
