"""The kinds of tokenizer, each as a pipeline that a plain tokenizer.json says in full.

BPE: Sennrich et al. 2016, arXiv:1508.07909; over bytes: Radford et al. 2019; WordPiece: Schuster and Nakajima 2012, with
BERT's pre-tokenizer (Devlin et al. 2018); Unigram: Kudo 2018, arXiv:1804.10959.
No character is lost by bpe, byte-bpe and unigram: what has no token of its own is spelled in bytes. WordPiece and
character level have an unknown token, as their families expect.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HAN_RUN = 16
"""Chinese characters that BPE looks at together at most: an unpunctuated text would be one piece otherwise."""

PIECES = (
    r"'(?i:[sdmt]|ll|ve|re)(?!\p{L})"  # English contractions
    r"| ?[\p{L}\p{M}&&[^\p{Han}]]{1,64}"
    rf"|\p{{Han}}{{1,{HAN_RUN}}}"
    r"|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{M}\p{N}]{1,16}"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""What merges never cross: words with the space before them, runs of Chinese, three digits, punctuation, blanks. Every run
is bounded, so that text without spaces does not blow training or encoding up."""

CHARACTERS = r"[\s\S]"

BORDER = "\ue000"
"""Put between Chinese words in the text that BPE and Unigram learn from (a private character; it is not learned)."""

BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]

LEARNS_WORDS = ("bpe", "byte-bpe", "unigram")
KEEPS_RARE_CHARACTERS = ("byte-bpe",)


def pipeline(kind: str, unknown: str, lowercase: bool) -> Tokenizer:
    """An untrained tokenizer of a kind."""
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token=unknown))
        # Stripping accents, BERT's default with lower case, would take the voicing marks off kana.
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=False)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece(prefix="##")
        return tokenizer
    if kind == "character":
        tokenizer = Tokenizer(models.WordLevel(unk_token=unknown))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(CHARACTERS), "isolated")
        tokenizer.decoder = decoders.Fuse()
    elif kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    elif kind == "bpe":
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token=unknown))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    else:
        assert kind == "byte-bpe", f"a kind of tokenizer without a pipeline: {kind}"
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(PIECES), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def train(
    kind: str,
    texts: Callable[[], Iterator[str]],
    vocabulary: int,
    min_frequency: int,
    special: list[str],
    inside: list[str],
    unknown: str,
    lowercase: bool,
) -> Tokenizer:
    """Train a tokenizer; `texts` gives the text anew at every call, with BORDER where merges must stop.

    The special tokens have the first ids; the vocabulary may come out smaller than asked. inside: letters as WordPiece
    has them inside of words; the library would number them as it meets them, each time in another order.
    """
    tokenizer = pipeline(kind, unknown, lowercase)
    runtime = tokenizer.pre_tokenizer
    if kind in LEARNS_WORDS:
        split = pre_tokenizers.Split(BORDER, "removed")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, runtime])
    tokenizer.train_from_iterator(texts(), _trainer(kind, vocabulary, min_frequency, special + inside, unknown))
    tokenizer.pre_tokenizer = runtime
    if kind in ("bpe", "wordpiece"):
        return _with_special(tokenizer, special)
    if kind == "unigram":
        return _unigram_with_bytes(tokenizer, special, unknown)
    return tokenizer


def _trainer(kind: str, vocabulary: int, min_frequency: int, special: list[str], unknown: str) -> Any:
    shared: dict[str, Any] = {"vocab_size": vocabulary, "show_progress": False, "special_tokens": special}
    if kind == "wordpiece":
        return trainers.WordPieceTrainer(min_frequency=min_frequency, **shared)
    if kind == "character":
        return trainers.WordLevelTrainer(min_frequency=min_frequency, **shared)
    if kind == "unigram":
        shared["vocab_size"] -= len(BYTE_TOKENS)
        return trainers.UnigramTrainer(unk_token=unknown, **shared)
    if kind == "bpe":
        shared["special_tokens"] = special + BYTE_TOKENS
        return trainers.BpeTrainer(min_frequency=min_frequency, **shared)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trainers.BpeTrainer(min_frequency=min_frequency, initial_alphabet=alphabet, **shared)


def _with_special(tokenizer: Tokenizer, special: list[str]) -> Tokenizer:
    """Byte tokens and letters as plain entries of the vocabulary: as added tokens they would match the text "<0x41>"."""
    tree = json.loads(tokenizer.to_str())
    tree["added_tokens"] = [token for token in tree["added_tokens"] if token["content"] in special]
    return Tokenizer.from_str(json.dumps(tree, ensure_ascii=False))


def _unigram_with_bytes(tokenizer: Tokenizer, special: list[str], unknown: str) -> Tokenizer:
    """A Unigram that spells unknown characters in bytes, the bytes after the special tokens as in BPE."""
    tree = json.loads(tokenizer.to_str())
    model = tree["model"]
    scores = dict(map(tuple, model["vocab"]))
    least = min(scores.values())
    first = [[token, 0.0] for token in special] + [[token, least] for token in BYTE_TOKENS]
    known = {token for token, _ in first}
    model["vocab"] = first + [[token, score] for token, score in model["vocab"] if token not in known]
    model["unk_id"] = special.index(unknown)
    model["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(tree, ensure_ascii=False))
