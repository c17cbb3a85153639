"""More tokens for an existing tokenizer: whole ones for what a new text says often and the tokenizer spells in pieces.

BPE goes on merging where its training stopped (Sennrich et al. 2016, arXiv:1508.07909), after all its own merges; WordPiece takes
whole words. Either way a text in which no new token stands is read as before.
"""

from __future__ import annotations

import bisect
import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise, takewhile
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers

from yanmo.errors import UserError
from yanmo.tokenizer import kinds
from yanmo.tokenizer.tokens import Tokens

KINDS = ("BPE", "WordPiece")


def extended(tokens: Tokens, texts: Iterable[str], count: int, min_frequency: int, where: str) -> Tokens:
    """The tokenizer with up to `count` more tokens, those that save most in the texts; old ids stay what they are. The texts may
    have kinds.BORDER where merges must stop.

    Raises UserError for a kind that has no such tokens, and where the texts support none.
    """
    source = json.loads(tokens.json)
    model = source["model"]
    kind = model.get("type")
    if kind not in KINDS or model.get("end_of_word_suffix") or (kind == "BPE" and model.get("continuing_subword_prefix")):
        raise UserError(f"{where}: tokenizer.extend: a tokenizer of kind {kind} cannot be extended; {' and '.join(KINDS)} can")
    plain = Tokenizer.from_str(tokens.json.decode())
    words = _words(plain, texts)
    if kind == "BPE":
        merges = _merges(plain, words, count, min_frequency)
        made = [first + second for first, second in merges]
        paired = not model["merges"] or not isinstance(model["merges"][0], str)
        model["merges"] += [list(pair) if paired else " ".join(pair) for pair in merges]
    else:
        made = _whole_words(plain, words, count, min_frequency)
    for added in source["added_tokens"]:                  # else they would get other ids behind a longer vocabulary
        model["vocab"].setdefault(added["content"], added["id"])
    model["vocab"] |= {name: number for number, name in enumerate(made, tokens.size)}
    if not made:
        raise UserError(
            f"{where}: tokenizer.extend {count}: the text says nothing {min_frequency} times that takes several tokens; leave it "
            "out, or give more text"
        )
    found = Tokens.from_json(json.dumps(source, ensure_ascii=False, indent=2).encode(), tokens.config)
    old, new = plain.get_vocab(with_added_tokens=True), found.tokenizer.get_vocab(with_added_tokens=True)
    assert all(new[name] == number for name, number in old.items()), "old tokens keep their ids"
    return found


def pieces_of(tokens: Tokens, old: Tokens) -> dict[int, list[int]]:
    """What the old tokenizer takes for each token that only the new one has, but for special ones."""
    model, known = old.tokenizer.model, old.tokenizer.get_vocab(with_added_tokens=True)
    new = {name: number for name, number in tokens.tokenizer.get_vocab(with_added_tokens=True).items() if name not in known}
    return {number: [piece.id for piece in model.tokenize(name)] for name, number in new.items() if number not in tokens.special}


def _words(plain: Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """What merges never cross, as the model sees it, and how often it stands in the texts."""
    own = [] if plain.pre_tokenizer is None else [plain.pre_tokenizer]
    cut = pre_tokenizers.Sequence([pre_tokenizers.Split(kinds.BORDER, "removed"), *own])
    found: Counter[str] = Counter()
    for text in texts:
        normal = text if plain.normalizer is None else plain.normalizer.normalize_str(text)
        found.update(word for word, _ in cut.pre_tokenize_str(normal))
    return found


def _merges(plain: Tokenizer, words: Counter[str], count: int, min_frequency: int) -> list[tuple[str, str]]:
    """The most frequent pairs of neighbours, one after the other, each merged before the next is looked for."""
    spelled = [([piece.value for piece in plain.model.tokenize(word)], number) for word, number in words.items()]
    spelled = [(pieces, number) for pieces, number in spelled if len(pieces) > 1]
    pairs: Counter[tuple[str, str]] = Counter()
    places: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for index, (pieces, number) in enumerate(spelled):
        for pair in pairwise(pieces):
            pairs[pair] += number
            places[pair].add(index)
    known = set(plain.get_vocab(with_added_tokens=True))
    apart = {*kinds.BYTE_TOKENS, getattr(plain.model, "unk_token", None)}  # of characters without a token
    queue = [(-number, pair) for pair, number in pairs.items()]
    heapq.heapify(queue)
    merges: list[tuple[str, str]] = []
    while len(merges) < count and queue:
        often, best = heapq.heappop(queue)
        if -often != pairs[best]:                         # fewer by now
            heapq.heappush(queue, (-pairs[best], best))
            continue
        if pairs[best] < max(1, min_frequency):
            break
        if best[0] + best[1] in known or apart & set(best):
            continue
        merges.append(best)
        known.add(best[0] + best[1])
        touched: set[tuple[str, str]] = set()
        for index in places.pop(best):
            pieces, number = spelled[index]
            pairs.subtract({pair: number * times for pair, times in Counter(pairwise(pieces)).items()})
            pieces[:] = _merged(pieces, best)
            for pair in pairwise(pieces):
                pairs[pair] += number
                places[pair].add(index)
                if best[0] + best[1] in pair:
                    touched.add(pair)
        for pair in touched:
            heapq.heappush(queue, (-pairs[pair], pair))
    return merges


def _merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    found: list[str] = []
    for piece in pieces:
        if found and (found[-1], piece) == pair:
            found[-1] += piece
        else:
            found.append(piece)
    return found


def _whole_words(plain: Tokenizer, words: Counter[str], count: int, min_frequency: int) -> list[str]:
    """Words by the tokens that they save, without those that would make another word unknown: WordPiece takes the longest
    beginning that it knows, and the rest may be nothing that it knows."""
    model: Any = plain.model
    known = plain.get_vocab(with_added_tokens=True)
    sizes = {word: len(pieces) for word in words if (pieces := model.tokenize(word)) and pieces[0].value != model.unk_token}
    saved = {word: (size - 1) * words[word] for word, size in sizes.items() if size > 1 and words[word] >= min_frequency}
    spelled, taken = sorted(sizes), list[str]()
    for word in sorted(saved, key=lambda word: (-saved[word], word)):
        if len(taken) == count:
            break
        begin = bisect.bisect_right(spelled, word)
        longer = takewhile(lambda other, word=word: other.startswith(word), (spelled[at] for at in range(begin, len(spelled))))
        if word not in known and all(_can_go_on(known, other[len(word) :], model.continuing_subword_prefix) for other in longer):
            taken.append(word)
    return taken


def _can_go_on(known: Iterable[str], part: str, prefix: str) -> bool:
    """Whether WordPiece can spell the rest of a word, the longest token first."""
    while part:
        size = next((size for size in range(len(part), 0, -1) if prefix + part[:size] in known), 0)
        if not size:
            return False
        part = part[size:]
    return True
