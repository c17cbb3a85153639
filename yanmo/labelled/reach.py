"""What a lint looks for in the texts: what a tokenizer and a network of some length can read of them, and what gives the answer
away."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np

from yanmo.labelled.content import labels_of, texts_of
from yanmo.labelled.examples import Asked, Conversation, Example, Related, Retrieved, Rewritten, Tagged
from yanmo.labelled.findings import Section, share, shortened, shown
from yanmo.labelled.subject import Subject
from yanmo.labelled.tags import entities
from yanmo.tokenizer import Tokens

WINDOWS = "they are read in windows that overlap; nothing is cut off"
LONG = {
    "classification": WINDOWS,
    "regression": WINDOWS,
    "labelling": WINDOWS,
    "answering": WINDOWS,
    "relation": "what stands around head and tail is read",
}
BEGINNING = "only their beginning is read"
SHORTENED = {
    "translation": BEGINNING,
    "summarisation": BEGINNING,
    "rewriting": BEGINNING,
    "dialogue": "their oldest turns are left out",
    "retrieval": "query and texts share a row, and are learned from their beginnings",
}
SHARED = "source and target share a row, and the ends of both have no place in it"
LONGER = "shorten them, leave them out, or take a longer network"
UNKNOWN = (0.001, 0.05)
"""Share of unknown tokens from which it matters, and from which the tokenizer is not for this text."""
LEAKS = (0.05, 0.9)
"""Share of examples that say their own target, from which it matters, and from which there is nothing else to learn."""
MANY = 12
"""Characters that are listed."""
MORE = 3.0
"""How much more often a label's name must stand in its own texts than in others."""


def lengths(data: Subject) -> Section | None:
    """How many examples are longer than the network reads at once, and what is done with them."""
    if data.tokens is None or not data.all:
        return None
    sizes = data.sizes
    low, high, most = (int(value) for value in np.percentile(sizes, (50, 95, 100)))
    found = [f"{low:,} tokens (median), {high:,} (95 of 100 have at most so many), {most:,} (the longest)"]
    figures = {"median": low, "95%": high, "longest": most}
    if data.length is None:
        return Section("lengths", "ok", tuple(found), figures)
    length = data.length
    long = [(example, size) for example, size in zip(data.all, sizes, strict=True) if size > length]
    kept = LONG.get(data.kind)
    shortened = SHARED if data.rule.together is not None else SHORTENED.get(data.kind, "they do not fit")
    found.append(f"{share(len(long), len(sizes))} are longer than {length:,}" + (f": {kept or shortened}" if long else ""))
    found += _unwritten(data)
    lost = 0 if kept else len(long)
    useless = lost > 0.5 * len(sizes) and data.kind not in ("dialogue", "retrieval")
    return Section(
        "lengths",
        "ok" if not lost else "do not train" if useless else "look at",
        tuple(found),
        {**figures, "length": length, "longer": len(long)},
        shown([(example.origin, f"{size:,} tokens: {texts_of(example)[0]}") for example, size in long]),
        _advice(data, most, "reads all of them at once") if long else "",
    )


def _unwritten(data: Subject) -> list[str]:
    """A sentence on targets that are longer than what is written, if any are."""
    most, sizes = data.rule.longest, data.read.sizes
    targets = [text for one in data.all if isinstance(one, Rewritten) for text in one.targets or ()]
    long = sum(1 for text in targets if most is not None and sizes[text] > most)
    said = f"{share(long, len(targets))} of the targets are longer than the {most} tokens that are written at most (longest)"
    return [said] if long else []


def _advice(data: Subject, needed: int, does: str) -> str:
    """What to do for rows that need so many places: longer ones, as far as the network goes. does: what these do."""
    positions = data.rule.positions
    if positions is None:
        return "shorten them, leave them out, or make rows longer (training.length), as far as the network goes"
    if data.length is None or data.length >= positions:
        return LONGER
    if needed <= positions:
        return f"training.length={needed} {does}"
    return f"training.length={positions} is as far as this network goes; what is longer still: {LONGER}"


def room(data: Subject) -> Section | None:
    """Pairs and questions of which what is in every window leaves no room for the rest: training stops at them."""
    if data.tokens is None or data.length is None:
        return None
    least = {place: data.least(example) for place, example in enumerate(data.all)}
    if not any(least.values()):
        return None
    odd = [(data.all[place], size) for place, size in least.items() if size > data.length]
    noun = _FILLS.get(data.kind, "the shorter text of a pair")
    needed = max(size for _, size in odd) if odd else 0
    return Section(
        "room",
        "do not train" if odd else "ok",
        (f"in {share(len(odd), len(data.all))} examples {noun} leaves no room for the rest in rows of {data.length:,}",),
        {"count": len(odd), "needed": needed},
        shown([(one.origin, f"needs rows of {size:,} at least: {texts_of(one)[0]}") for one, size in odd]),
        f"reading stops at them: {_advice(data, needed, 'has room for all')}" if odd else "",
    )


_FILLS = {"answering": "the question", "retrieval": "the number of texts"}


def lost_labels(data: Subject) -> Section | None:
    """Labels that a network would not see or give: beyond its length, longer than a window or an answer, without a token."""
    if data.tokens is None or data.kind not in ("labelling", "answering", "relation"):
        return None
    odd: list[tuple[str, str]] = []
    beyond = 0
    empty = _without_tokens(data, data.tokens)
    for example, size in zip(data.all, data.sizes, strict=True):
        long = data.length is not None and size > data.length
        if isinstance(example, Tagged) and example.tags and (long or (empty and not empty.isdisjoint(example.tokens))):
            odd += _lost_entities(example, data.tokens, data.length, empty)
            beyond += long and _beyond(example, data.tokens, data.length or 0)
        elif long:
            room = (data.length or 0) - data.around
            room -= data.read.sizes[example.question] + data.between if isinstance(example, Asked) else 0
            for begin, end in _parts(example):
                if len(data.tokens.encode([_text(example)[begin:end]])[0]) > room:
                    odd.append((example.origin, f"longer than a window: {_text(example)[begin:end]}"))
                beyond += len(data.tokens.encode([_text(example)[:end]])[0]) > room
    noun, why, advice = _LOST[data.kind]
    found = [f"{len(odd):,} {noun} {why}"]
    if data.length is not None:
        found.append(f"{beyond:,} end beyond the first {data.length:,} tokens, where cutting off would lose them")
    figures, advices = {"lost": len(odd), "beyond": beyond}, [advice] if odd else []
    if (most := data.rule.longest) is not None and (unsaid := _unsaid(data, data.tokens, most)):
        found.append(f"{len(unsaid):,} are longer than the {most:,} tokens of an answer at most (longest): they are never given")
        figures["unsaid"] = len(unsaid)
        odd += [(example.origin, f"{size:,} tokens: {text}") for example, text, size in unsaid]
        advices.append(f"longest={max(size for _, _, size in unsaid)} lets all answers be given")
    return Section("lost labels", "look at" if odd else "ok", tuple(found), figures, shown(odd), "; ".join(advices))


def _unsaid(data: Subject, tokens: Tokens, most: int) -> list[tuple[Asked, str, int]]:
    """The answers that have more tokens than an answer may have, and how many."""
    asked = [(one, answer.text) for one in data.all if isinstance(one, Asked) for answer in one.answers or ()]
    texts = list(dict.fromkeys(text.strip() for _, text in asked))
    sizes = dict(zip(texts, map(len, tokens.encode(texts)), strict=True))
    return [(one, text, sizes[text.strip()]) for one, text in asked if sizes[text.strip()] > most]


_LOST = {
    "labelling": ("entities", "have no token, or are longer than a window", "clean these words, or label shorter parts"),
    "answering": ("answers", "are longer than a window", "shorten them, leave them out, or make rows longer"),
    "relation": ("heads and tails", "are longer than a window", "leave them out, or make rows longer"),
}


def _without_tokens(data: Subject, tokens: Tokens) -> set[str]:
    words = list({word for example in data.all if isinstance(example, Tagged) for word in example.tokens})
    return {word for word, ids in zip(words, tokens.encode(words), strict=True) if not ids}


def _lost_entities(example: Tagged, tokens: Tokens, length: int | None, empty: set[str]) -> list[tuple[str, str]]:
    room = None if length is None else length - len(tokens.prefix) - len(tokens.suffix)
    lost = []
    for entity in entities(example.tags or ()):
        words = example.tokens[entity.start : entity.end]
        if empty.issuperset(words):
            lost.append((example.origin, f"{entity.type} {' '.join(words)!r} has no token"))
        elif room is not None and sum(map(len, tokens.encode(words))) > room:
            lost.append((example.origin, f"{entity.type} longer than a window: {' '.join(words)}"))
    return lost


def _beyond(example: Tagged, tokens: Tokens, length: int) -> int:
    ends = np.cumsum([len(ids) for ids in tokens.encode(example.tokens)])
    room = length - len(tokens.prefix) - len(tokens.suffix)
    return sum(1 for entity in entities(example.tags or ()) if ends[entity.end - 1] > room)


def _parts(example: Example) -> list[tuple[int, int]]:
    """The characters that hold what is asked for: each answer; head and tail."""
    if isinstance(example, Asked):
        return [(answer.start, answer.start + len(answer.text)) for answer in example.answers or ()]
    if isinstance(example, Related):
        return [example.head, example.tail]
    return []


def _text(example: Example) -> str:
    return example.context if isinstance(example, Asked) else texts_of(example)[0]


def characters(data: Subject) -> Section | None:
    """What a tokenizer does not know."""
    if data.tokens is None or not data.all:
        return None
    if data.tokens.unknown is None:
        return Section("unknown characters", "ok", ("the tokenizer spells out every text and knows all",), {"unknown": 0})
    read = data.read
    bad, whole = sum(read.unknown.values()), max(1, sum(read.sizes.values()))
    odd = [text for text, count in read.unknown.items() if count]
    signs = Counter("".join(odd))
    distinct = [sign for sign in signs if not sign.isspace()]
    unknown = {sign for sign, ids in zip(distinct, data.tokens.encode(distinct), strict=True) if data.tokens.unknown in ids}
    named = sorted(unknown, key=lambda sign: (-signs[sign], sign))
    listed = " ".join(f"{sign} {signs[sign]:,}" for sign in named[:MANY])
    listed += f" and {len(named) - MANY:,} more" if len(named) > MANY else ""
    hit = [example for example in data.all if any(read.unknown[text] for text in texts_of(example))]
    part = bad / whole
    return Section(
        "unknown characters",
        "do not train" if part > UNKNOWN[1] else "look at" if part > UNKNOWN[0] else "ok",
        (f"{share(bad, whole)} of the tokens are unknown, in {share(len(hit), len(data.all))} examples", *filter(None, [listed])),
        {"tokens": bad, "share": part, "examples": len(hit), "characters": {sign: signs[sign] for sign in named[:100]}},
        shown([(one.origin, _strange(next(text for text in texts_of(one) if read.unknown[text]), unknown)) for one in hit]),
        "the network cannot tell these apart: clean the text as the corpus was, or take a tokenizer that knows them"
        if part > UNKNOWN[0]
        else "",
    )  # fmt: skip


def _strange(text: str, unknown: set[str]) -> str:
    return f"{' '.join(sorted(unknown.intersection(text))[:3]) or 'a word'} in: {text}"


def leakage(data: Subject) -> Section | None:
    """Texts that say their own target: the label by its name, the summary or the answer word for word."""
    if not data.train or data.kind in ("labelling", "regression"):
        return None
    if data.kind in ("classification", "relation"):
        leaks, noun = _named_labels(data), "say the name of their label, which other texts do not"
    else:
        leaks, noun = [(one, said) for one in data.train if (said := _says(one))], _SAYS[data.kind]
    part = len(leaks) / len(data.train)
    normal = data.kind == "summarisation" and part <= LEAKS[0] * 4
    bad = part > LEAKS[1] and data.kind != "retrieval"
    return Section(
        "leakage",
        "do not train" if bad else "look at" if part > LEAKS[0] and not normal else "ok",
        (f"{share(len(leaks), len(data.train))} of train {noun}",),
        {"count": len(leaks)},
        shown([(one.origin, f"{shortened(said, 30)!r} in: {texts_of(one)[0]}") for one, said in leaks]),
        "is that so where the model will be used? If not, take it out of the texts" if part > LEAKS[0] and not normal else "",
    )


_SAYS = {
    "answering": "have the answer in the question",
    "translation": "have the target in the source, word for word",
    "summarisation": "have the target in the source, word for word",
    "rewriting": "have the target in the source, word for word",
    "dialogue": "answer with what was said before, word for word",
    "retrieval": "have the query in the text that is to be found, or the other way round",
}
LEAST = 4
"""Characters below which a text that stands in another says nothing."""


def _says(example: Example) -> str:
    """What of an example's target stands in what is read, or nothing."""
    match example:
        case Asked():
            answers = example.answers or ()
            return next((one.text for one in answers if len(one.text) >= LEAST and one.text in example.question), "")
        case Rewritten():
            return next((one for one in example.targets or () if len(one) >= LEAST and one in example.source), "")
        case Conversation():
            pairs = zip(example.messages, example.messages[1:], strict=False)
            answered = ((asked, one) for asked, one in pairs if one.role == "assistant" and len(one.content) >= 2 * LEAST)
            return next((one.content for asked, one in answered if one.content in asked.content), "")
        case Retrieved(query=query, positive=text) if len(query) >= LEAST and (query in text or text in query):
            return query
    return ""


def _named_labels(data: Subject) -> list[tuple[Example, str]]:
    """The examples that say their own label's name, of labels whose name stands more often in their own texts than in others."""
    names = sorted({label for example in data.train for label in labels_of(example)})
    patterns = {name: _name_pattern(name) for name in names if len(name) > 1 and not name.isdigit()}
    own: dict[str, list[Example]] = defaultdict(list)
    others: Counter[str] = Counter()
    having: Counter[str] = Counter()
    for example in data.train:
        text, labels = "\n".join(texts_of(example)).casefold(), labels_of(example)
        having.update(labels)
        for name, (word, pattern) in patterns.items():
            if word in text and pattern.search(text):
                if name in labels:
                    own[name].append(example)
                else:
                    others[name] += 1
    leaks = []
    for name, examples in own.items():
        elsewhere = others[name] / max(1, len(data.train) - having[name])
        if len(examples) > 1 and len(examples) / having[name] > MORE * elsewhere:
            leaks += [(example, name) for example in examples]
    return leaks


def _name_pattern(name: str) -> tuple[str, re.Pattern[str]]:
    word = name.casefold()
    border = r"(?<![^\W_]){}(?![^\W_])" if word.isascii() else "{}"
    return word, re.compile(border.format(re.escape(word)))


REACH: tuple[Callable[[Subject], Section | None], ...] = (lengths, room, lost_labels, characters, leakage)
