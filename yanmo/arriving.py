"""Things taken together in blocks: of what comes in slowly, as a line that a person types, only what is there already."""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

PATIENCE = 0.1
"""Seconds that what came in is held back for what may follow it at once."""
READ = 1 << 16
"""Bytes at a time."""

T = TypeVar("T")


def in_blocks(items: Iterable[T], most: int) -> Iterator[list[T]]:
    """Lists of at most so many items, in their order. Of standard input the items are its lines, and those that have come are
    given out while it waits for others; bytes that are no text there become halves of surrogate pairs."""
    if items is sys.stdin and isinstance(items, io.TextIOWrapper):
        found: Any = _arriving(items, most)
        yield from found
        return
    left = iter(items)
    while block := list(islice(left, most)):
        yield block


def _arriving(file: io.TextIOWrapper, most: int) -> Iterator[list[str]]:
    decoder = codecs.getincrementaldecoder(file.encoding)("surrogateescape")
    number, lines, rest = file.fileno(), list[str](), ""
    while True:
        data = os.read(number, READ)
        *fresh, rest = (rest + decoder.decode(data, final=not data)).split("\n")
        lines += fresh if data else [*fresh, *([rest] if rest else [])]
        while len(lines) >= most or (lines and not (data and _more(number))):
            yield lines[:most]
            lines = lines[most:]
        if not data:
            return


def _more(number: int) -> bool:
    """Whether something follows at once. Windows cannot say: there what has come is given out."""
    return sys.platform != "win32" and bool(select.select([number], [], [], PATIENCE)[0])
