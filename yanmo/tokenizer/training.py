"""A tokenizer from a corpus: an even sample within a memory cap, training, and the files that transformers reads."""

from __future__ import annotations

import hashlib
import heapq
import json
import re
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rjieba
from tokenizers import AddedToken, Tokenizer, processors

from yanmo.errors import UserError
from yanmo.files import new_folder, writing
from yanmo.progress import Progress, silent
from yanmo.recipe import Recipe
from yanmo.tokenizer import kinds
from yanmo.tokenizer.extending import extended
from yanmo.tokenizer.families import FAMILIES, GROUPS, additions, transformers_config
from yanmo.tokenizer.pieces import HAN
from yanmo.tokenizer.quality import measure
from yanmo.tokenizer.tokens import REPORT_FILE, Tokens, load_tokenizer, save_tokenizer

DEFAULT_KINDS = {
    "bert": "wordpiece",
    "electra": "wordpiece",
    "electra-generator": "wordpiece",
    "roberta": "byte-bpe",
    "modernbert": "byte-bpe",
    "t5": "unigram",
    "bart": "byte-bpe",
    "gpt2": "byte-bpe",
    "qwen3": "byte-bpe",
    "llama": "bpe",
    "mixtral": "bpe",
    "xlnet": "unigram",
    "vae": "wordpiece",
    "lstm": "bpe",
    "ngram": "bpe",
}
FOLDS_CASE = ("wordpiece", "unigram", "character")
HAN_RUNS = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]{2,}")
PIECE = 1 << 14
"""Characters of which a long document is sampled at a time."""
COVERAGE = 0.9995
"""Share of the text whose characters have tokens of their own where the rest can be spelled in bytes."""
MEASURED = 2 << 20
"""Bytes of the sample that the report is measured on."""


@dataclass
class Sample:
    """An even sample of a stream, by bytes: what has the smallest hash of its place stays, as much as the cap holds.

    Every piece of text has the same chance, whatever the length of the stream, and the same stream gives the same sample.
    """

    cap: int
    seen: int = 0
    kept: int = 0
    heap: list[tuple[int, int, str]] = field(default_factory=list)

    def add(self, text: str) -> None:
        for start in range(0, len(text), PIECE):
            piece = text[start : start + PIECE]
            size = len(piece.encode())
            place = self.seen
            self.seen += size
            key = int.from_bytes(hashlib.blake2b(place.to_bytes(8, "little"), digest_size=8).digest(), "little")
            if self.heap and self.kept + size > self.cap and -key <= self.heap[0][0]:
                continue
            heapq.heappush(self.heap, (-key, place, piece))
            self.kept += size
            while self.kept > self.cap and len(self.heap) > 1:
                self.kept -= len(heapq.heappop(self.heap)[2].encode())

    def texts(self) -> list[str]:
        """The sample in the order of the stream."""
        return [piece for _, _, piece in sorted(self.heap, key=lambda entry: entry[1])]


def train_tokenizer(texts: Iterable[str], recipe: Recipe, folder: Path | str, progress: Progress = silent) -> Tokenizer:
    """Train the recipe's tokenizer and write tokenizer.json, tokenizer_config.json and report.json into `folder`.

    Memory: the sample (tokenizer.sample_megabytes) and the library's counts of different words. Raises UserError when
    there is no text, and when the text does not support the vocabulary asked for.
    """
    began = time.monotonic()
    asked, family = recipe.tokenizer, recipe.model.family
    kind = asked.kind or DEFAULT_KINDS[family]
    if asked.lowercase and kind not in FOLDS_CASE:
        raise UserError(
            f"tokenizer.lowercase is true, and kind {kind} keeps case; kinds that fold it: {', '.join(FOLDS_CASE)}; "
            "set tokenizer.kind to one of them or tokenizer.lowercase to false"
        )
    sample = _sampled(texts, int(asked.sample_megabytes * 1e6), progress)
    pieces = sample.texts()
    if not pieces:
        raise UserError("there is no text to train a tokenizer on: the corpus is empty")
    special, roles = _special(family, kind, recipe.objective.special)
    room = asked.vocabulary - len(special) - (256 if kind in kinds.LEARNS_WORDS else 0)
    if room < 1:
        raise UserError(
            f"tokenizer.vocabulary is {asked.vocabulary}, but {asked.vocabulary - room} tokens are special tokens and "
            f"bytes; set it to at least {asked.vocabulary - room + 256}"
        )
    progress(0, None, "training", kind=kind)
    kept, rare = _characters(pieces, kind, asked.min_frequency, room, asked.lowercase)
    inside = sorted(f"##{character}" for character in kept if not _stands_alone(ord(character)))
    tokenizer = kinds.train(
        kind,
        lambda: _training_texts(pieces, kind, rare),
        asked.vocabulary,
        asked.min_frequency,
        special,
        inside if kind == "wordpiece" else [],
        roles["unk_token"],
        asked.lowercase,
    )
    _check_size(tokenizer.get_vocab_size(), asked.vocabulary, kind, asked.min_frequency, sample.kept)
    _finish(tokenizer, family, special)
    config = {**transformers_config(family, kind, asked.lowercase), **roles}
    if others := [name for name in special if name not in roles.values()]:
        config["additional_special_tokens"] = others
    tokens = Tokens.from_json(tokenizer.to_str(pretty=True).encode(), config)
    figures = {"kind": kind, "asked": asked.vocabulary, "bytes_seen": sample.seen, "bytes_sampled": sample.kept}
    _write(tokens, pieces, figures, began, Path(folder))
    return tokens.tokenizer


def adopt_tokenizer(
    given: Path | str, texts: Iterable[str], recipe: Recipe, folder: Path | str, progress: Progress = silent
) -> Tokenizer:
    """Copy an existing tokenizer (tokenizer.json or a folder that has one) into `folder`, with tokenizer.extend more tokens, and
    report how it fits the text.

    Raises UserError when it cannot be read or extended, or when it lacks special tokens that the objective needs and none may be
    added.
    """
    began = time.monotonic()
    tokens = with_needed(load_tokenizer(given), recipe, str(given))
    sample = _sampled(texts, int(recipe.tokenizer.sample_megabytes * 1e6), progress)
    kind = json.loads(tokens.json)["model"].get("type", "unknown")
    figures = {"kind": kind, "asked": None, "bytes_seen": sample.seen, "bytes_sampled": sample.kept}
    if more := recipe.tokenizer.extend:
        bordered = _training_texts(sample.texts(), "bpe" if kind == "BPE" else kind, set())
        tokens = extended(tokens, bordered, more, recipe.tokenizer.min_frequency, str(given))
    _write(tokens, sample.texts(), figures, began, Path(folder))
    return tokens.tokenizer


NAMED = {
    "mask": "mask token ([MASK], <mask>)",
    "sentinels": "sentinels (<extra_id_0>, <extra_id_1> ...)",
    "modes": "tokens for the modes of denoisers (<mode_R>, <mode_S>, <mode_X>)",
    "gaps": "tokens for prefix, suffix and middle (<|fim_prefix|> ...)",
    "chat": "tokens for turns of a conversation (<|im_start|>, <|im_sep|>, <|im_end|>)",
}


def with_needed(tokens: Tokens, recipe: Recipe, where: str) -> Tokens:
    """An existing tokenizer with the special tokens that the recipe's objective writes: as it is where it has them, and with
    tokenizer.add_special with those that it lacks. Raises UserError where it lacks some and none may be added."""
    lacking = [group for group in recipe.objective.special if tokens.group(group) is None]
    if lacking and not recipe.tokenizer.add_special:
        named = " and no ".join(NAMED[group] for group in lacking)
        raise UserError(
            f"{where}: this tokenizer has no {named}, which objective {recipe.objective.kind} needs; "
            "tokenizer.add_special=true adds what is lacking, and rows for it to the network of model.start"
        )
    return tokens.with_special(lacking)


def _sampled(texts: Iterable[str], cap: int, progress: Progress) -> Sample:
    sample = Sample(cap)
    shown = 0
    for text in texts:
        sample.add(text)
        if sample.seen - shown > 1 << 22:
            shown = sample.seen
            progress(sample.seen / 1e6, None, "megabytes", sampled=round(sample.kept / 1e6))
    return sample


def _special(family: str, kind: str, groups: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The family's special tokens and roles, and those that the objective writes; kinds that lose characters get an unknown
    token where it has none."""
    special = FAMILIES[family]
    tokens, roles = list(special.tokens), dict(special.roles)
    added = additions(groups, tokens)
    tokens += added
    if "mask" in groups and special.mask is None:
        roles["mask_token"] = GROUPS["mask"][0][0]
    if kind not in kinds.KEEPS_RARE_CHARACTERS and roles["unk_token"] == roles.get("eos_token"):
        tokens.append("<unk>")
        roles["unk_token"] = "<unk>"
    return tokens, roles


def _characters(pieces: list[str], kind: str, min_frequency: int, room: int, lowercase: bool) -> tuple[set[str], set[str]]:
    """Characters that get tokens, and those that do not.

    Left out are those seen too seldom, and beyond COVERAGE of the text where bytes can stand for them.
    """
    if kind in kinds.KEEPS_RARE_CHARACTERS:
        return set(), set()
    counts = np.zeros(0x110000, np.int64)
    for piece in pieces:
        text = piece.lower() if lowercase else piece
        codes, numbers = np.unique(np.frombuffer(text.encode("utf-32-le"), np.uint32), return_counts=True)
        counts[codes] += numbers
    seen = np.flatnonzero(counts)
    order = seen[np.lexsort((seen, -counts[seen]))]
    # WordPiece has a letter twice, at the beginning and inside of a word; Chinese and punctuation stand alone.
    taken = np.cumsum([1 if kind != "wordpiece" or _stands_alone(code) else 2 for code in order])
    keep = (counts[order] >= min_frequency) & (taken <= room)
    if kind in kinds.LEARNS_WORDS:
        upto = np.cumsum(counts[order])
        keep &= (upto - counts[order] < COVERAGE * upto[-1]) & (np.arange(len(order)) < room // 2)
    return {chr(code) for code in order[keep]}, {chr(code) for code in order[~keep]}


def _stands_alone(code: int) -> bool:
    return any(low <= code <= high for low, high in HAN) or unicodedata.category(chr(code))[0] in "PZC"


def _training_texts(pieces: list[str], kind: str, rare: set[str]) -> Iterator[str]:
    """The sample as the trainer sees it: rare characters gone, and for merging kinds borders between Chinese words.

    Merges learned inside words of rjieba keep to them, take a fifth of the memory and a third of the time of merges
    learned over whole runs, and give 5% more tokens a character (docs/log.md).
    """
    gap = kinds.BORDER if kind in kinds.LEARNS_WORDS else " "
    table = {ord(character): gap for character in rare}
    table[ord(kinds.BORDER)] = gap
    for piece in pieces:
        text = piece.translate(table) if rare or kinds.BORDER in piece else piece
        if kind in kinds.LEARNS_WORDS:
            text = HAN_RUNS.sub(_with_borders, text)
        yield text


def _with_borders(match: re.Match[str]) -> str:
    return kinds.BORDER + kinds.BORDER.join(rjieba.cut(match[0])) + kinds.BORDER


def _check_size(reached: int, asked: int, kind: str, min_frequency: int, sampled: int) -> None:
    """Refuse a vocabulary that the text does not fill; at character level the text alone decides."""
    if kind == "character" or reached >= asked * (0.98 if kind == "unigram" else 1):
        return
    round_down = max(reached // 100 * 100, 16) if reached > 1000 else reached
    raise UserError(
        f"tokenizer.vocabulary is {asked}, but {sampled / 1e6:.2f} MB of text support only {reached} tokens of kind {kind} "
        f"at tokenizer.min_frequency {min_frequency}; set tokenizer.vocabulary to {round_down} or less, or give more text"
    )


def _finish(tokenizer: Tokenizer, family: str, special: list[str]) -> None:
    """The family's special tokens as such, and its post-processor."""
    mask = FAMILIES[family].mask
    # A mask takes the space before it along in byte-level families (RoBERTa), so that it stands for " word".
    lstrip = mask is not None and family in ("roberta", "modernbert", "bart")
    tokenizer.add_special_tokens([AddedToken(name, lstrip=lstrip and name == mask, special=True) for name in special])
    FAMILIES[family].add_processor(tokenizer)
    if tokenizer.post_processor is None and tokenizer.decoder is not None:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)


def _write(tokens: Tokens, pieces: list[str], figures: dict[str, Any], began: float, folder: Path) -> None:
    report = {**figures, "size": tokens.size, **measure(tokens, _measured(pieces))}
    report["seconds"] = round(time.monotonic() - began, 2)
    with new_folder(folder) as temporary, writing(folder):
        save_tokenizer(tokens, temporary)
        (temporary / REPORT_FILE).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _measured(pieces: list[str]) -> list[str]:
    """Every n-th piece, so that about MEASURED bytes of the sample are there."""
    total = sum(map(len, pieces))
    step = max(1, round(3 * total / MEASURED)) if total else 1
    return pieces[::step]
