"""Raw text in, clean documents out: read, clean, filter, deduplicate, decontaminate, split.

The names below are loaded when they are first used, so that importing this room costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yanmo.corpus.build import build_corpus
    from yanmo.corpus.report import CorpusReport
    from yanmo.corpus.samples import SAMPLES
    from yanmo.corpus.write import iterate_texts

__all__ = ["SAMPLES", "CorpusReport", "build_corpus", "iterate_texts"]
_HOMES = {"build_corpus": "build", "CorpusReport": "report", "SAMPLES": "samples", "iterate_texts": "write"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
