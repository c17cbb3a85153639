"""A tokenizer as the house uses it: the ids of any tokenizer.json, and which of them are special."""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers

from yanmo.errors import UserError
from yanmo.files import write_atomically
from yanmo.tokenizer.families import GENERIC_CLASS, GROUPS, additions

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
REPORT_FILE = "report.json"

OPEN, CLOSE = "\ufdd0", "\ufdd1"
"""Around the number of a special token in a text that is encoded: noncharacters, which no text may interchange (Unicode 23.7)."""

# What a special token is called where no tokenizer_config.json says it, the likeliest first.
KNOWN_NAMES = {
    "cls_token": ("[CLS]", "<cls>"),
    "sep_token": ("[SEP]", "<sep>"),
    "pad_token": ("[PAD]", "<pad>", "<|padding|>", "<|pad|>"),
    "mask_token": ("[MASK]", "<mask>", "<|mask|>"),
    "unk_token": ("[UNK]", "<unk>", "<|unk|>"),
    "bos_token": ("<s>", "<bos>", "<|begin_of_text|>", "[BOS]"),
    "eos_token": ("</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>", "[EOS]"),
}


@dataclass(frozen=True)
class Tokens:
    """A tokenizer, and the ids of its special tokens. Two of them are the same when their hash is.

    prefix and suffix go around a piece of text; separator stands between the parts of a pair and after the second one.
    For a decoder the prefix is what the family begins with, perhaps nothing, and the suffix is the end of the text.
    """

    json: bytes
    config: dict[str, Any]
    prefix: tuple[int, ...]
    separator: int | None
    suffix: tuple[int, ...]
    pad: int
    mask: int | None
    unknown: int | None
    special: frozenset[int]

    @classmethod
    def from_json(cls, source: bytes, config: dict[str, Any] | None = None) -> Tokens:
        """Tokens from the bytes of a tokenizer.json; its special tokens by tokenizer_config.json, else by their names."""
        tokenizer = _plain(source)
        config = dict(config or {})
        roles = _roles(tokenizer, json.loads(source), config)
        prefix, suffix = _surroundings(tokenizer)
        if "eos_token" in roles and not suffix:
            suffix = (roles["eos_token"],)
        separator = roles.get("sep_token", roles.get("eos_token"))
        added = {index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        pad = next((roles[role] for role in ("pad_token", "eos_token", "unk_token") if role in roles), 0)
        names = {role: tokenizer.id_to_token(index) for role, index in roles.items()}
        return cls(
            json=source,
            config={"tokenizer_class": GENERIC_CLASS, **names, **config},
            prefix=prefix,
            separator=separator,
            suffix=suffix,
            pad=pad,
            mask=roles.get("mask_token"),
            unknown=roles.get("unk_token"),
            special=frozenset(added | set(roles.values())),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokens.from_json, (self.json, self.config)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """What encodes text: it makes no special token of what a text says."""
        tokenizer = _plain(self.json)
        tokenizer.encode_special_tokens = True
        if pieces := [name for index in sorted(self.special) if (name := _as_a_piece(tokenizer, index))]:
            cuts = "|".join(f"{re.escape(name[0])}(?={re.escape(name[1:])})" for name in pieces)
            own = [] if tokenizer.pre_tokenizer is None else [tokenizer.pre_tokenizer]
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(cuts), "isolated"), *own])
        return tokenizer

    @cached_property
    def _naming(self) -> Tokenizer:
        return _plain(self.json)

    @cached_property
    def _mixing(self) -> tuple[Tokenizer, dict[int, int]]:
        """A tokenizer that knows each special token under a name that no text has, and what those names' ids stand for."""
        tokenizer = Tokenizer.from_str(self.tokenizer.to_str())
        tokenizer.encode_special_tokens = True
        known = tokenizer.get_added_tokens_decoder()
        stand_for = {}
        for index in sorted(self.special):
            own, name = known.get(index, AddedToken("")), f"{OPEN}{index}{CLOSE}"
            like = {flag: getattr(own, flag) for flag in ("lstrip", "rstrip", "single_word")}
            tokenizer.add_tokens([AddedToken(name, **like, normalized=False)])
            stand_for[tokenizer.token_to_id(name)] = index
        return tokenizer, stand_for

    @cached_property
    def size(self) -> int:
        """How many rows an embedding needs: the largest id and one."""
        return 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values())

    @cached_property
    def hash(self) -> str:
        return hashlib.sha256(self.json).hexdigest()

    def group(self, name: str) -> tuple[int, ...] | None:
        """The ids of a group of special tokens (see yanmo.tokenizer.families), or None where the tokenizer has not all of them;
        of sentinels as many as there are."""
        if name == "mask":
            return None if self.mask is None else (self.mask,)
        for names in GROUPS[name]:
            ids = [index for each in names if (index := self.tokenizer.token_to_id(each)) is not None]
            if len(ids) == len(names) or (name == "sentinels" and ids):
                return tuple(ids)
        return None

    def with_special(self, groups: Iterable[str]) -> Tokens:
        """The same tokenizer with special tokens added, after all others, so that it has every group."""
        lacking = [group for group in groups if self.group(group) is None]
        names = additions(lacking, ())
        if not names:
            return self
        tokenizer = Tokenizer.from_str(self.json.decode())
        tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
        more: dict[str, Any] = {"mask_token": GROUPS["mask"][0][0]} if "mask" in lacking else {}
        others = [name for name in names if name not in more.values()]
        if others:
            more["additional_special_tokens"] = [*self.config.get("additional_special_tokens", []), *others]
        return Tokens.from_json(tokenizer.to_str(pretty=True).encode(), {**self.config, **more})

    def encode(self, texts: Iterable[str], named: bool = False) -> list[list[int]]:
        """The ids of each text, without the special tokens around it. Text is text: a special token's name in it is spelled out.

        named: such a name stands for the token, as in transformers; for what a person asks a network, never for a corpus.
        """
        tokenizer = self._naming if named else self.tokenizer
        texts = list(texts)
        try:
            encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except TypeError:
            _refuse_halves(texts)
            raise
        return [encoding.ids for encoding in encoded]

    def encode_mixed(self, parts: Sequence[str | int]) -> tuple[list[int], list[int]]:
        """The ids of one text that is made of texts and special tokens (ids), and the part that the last character of each is in.

        The special tokens do to what is around them what their names would do, and text is text as in `encode`.
        """
        assert not any(OPEN in part for part in parts if isinstance(part, str)), "whoever takes texts in refuses noncharacters"
        names = [part if isinstance(part, str) else f"{OPEN}{part}{CLOSE}" for part in parts]
        tokenizer, stand_for = self._mixing
        found = tokenizer.encode("".join(names), add_special_tokens=False)
        ends = list(accumulate(map(len, names)))
        return (
            [stand_for.get(index, index) for index in found.ids],
            [bisect_right(ends, max(begin, end - 1)) for begin, end in found.offsets],
        )

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """The text of the ids."""
        return self.tokenizer.decode([int(index) for index in ids], skip_special_tokens=skip_special)


def _refuse_halves(texts: Sequence[str]) -> None:
    """Raises UserError for the first text with half of a surrogate pair, which is what bytes become that are no text."""
    for number, text in enumerate(texts, 1):
        if (half := re.search("[\ud800-\udfff]", text)) is not None:
            raise UserError(
                f"text {number}: character {half.start() + 1} is none (U+{ord(half[0]):04X}), as bytes become that are no UTF-8; "
                "convert the text, or leave the character out"
            )


def load_tokenizer(path: str | Path) -> Tokens:
    """Tokens of a tokenizer.json, or of a folder that has one (a model folder, ours or another's).

    Raises UserError when it is missing or is not a tokenizer.
    """
    path = Path(path)
    file = path / TOKENIZER_FILE if path.is_dir() else path
    try:
        source = file.read_bytes()
    except OSError as error:
        hint = "" if file.exists() else "; a tokenizer is a tokenizer.json or a folder that has one"
        raise UserError(f"{file}: no tokenizer can be read here ({error.strerror}){hint}") from None
    config_file = file.with_name(CONFIG_FILE)
    try:
        config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.exists() else {}
    except ValueError as error:
        raise UserError(f"{config_file}: not JSON: {error}") from None
    if (template := file.with_name(TEMPLATE_FILE)).exists():
        config["chat_template"] = template.read_text(encoding="utf-8")
    try:
        return Tokens.from_json(source, config)
    except Exception as error:
        raise UserError(f"{file}: not a tokenizer.json that the tokenizers library can read: {error}") from None


def save_tokenizer(tokens: Tokens, folder: str | Path, length: int | None = None) -> None:
    """Write tokenizer.json, byte for byte, and tokenizer_config.json into a model folder.

    length: the longest input of the network, kept as transformers' model_max_length.
    """
    config = tokens.config if length is None else {**tokens.config, "model_max_length": length}
    write_atomically(Path(folder) / TOKENIZER_FILE, tokens.json)
    write_atomically(Path(folder) / CONFIG_FILE, json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def _plain(source: bytes) -> Tokenizer:
    """The tokenizer without truncation and padding: what a model folder carries of them is for its own inputs."""
    tokenizer = Tokenizer.from_str(source.decode())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _as_a_piece(tokenizer: Tokenizer, index: int) -> str | None:
    """The name of a special token that text can spell as one piece, as in SentencePiece's Unigrams; None where none can."""
    name = tokenizer.id_to_token(index)
    if name is None or len(name) < 2:
        return None
    found = tokenizer.encode(name, add_special_tokens=False)
    whole = any(own == index and end - start == len(name) for own, (start, end) in zip(found.ids, found.offsets, strict=True))
    return name if whole else None


def _roles(tokenizer: Tokenizer, tree: dict[str, Any], config: dict[str, Any]) -> dict[str, int]:
    """Ids by role (cls_token, pad_token ...): from the config, then from the model, then by the names people use."""
    roles: dict[str, int] = {}
    for role, names in KNOWN_NAMES.items():
        given = config.get(role)
        if isinstance(given, dict):
            given = given.get("content")
        if role == "unk_token":
            given = given or tree["model"].get("unk_token")
        candidates = (given, *names) if given else (() if role in config else names)
        found = next((index for name in candidates if (index := tokenizer.token_to_id(name)) is not None), None)
        if found is not None:
            roles[role] = found
    return roles


def _surroundings(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the post-processor puts before and after a text."""
    inside = tokenizer.encode("a", add_special_tokens=False).ids
    around = tokenizer.encode("a", add_special_tokens=True)
    first = next((place for place, special in enumerate(around.special_tokens_mask) if not special), 0)
    return tuple(around.ids[:first]), tuple(around.ids[first + len(inside) :])
