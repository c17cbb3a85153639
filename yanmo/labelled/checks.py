"""What a lint looks for that no tokenizer is needed for: records, labels, what occurs twice, tags, places of answers, leakage.

Each check gives a section, or None where the kind of task has no such thing.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from itertools import combinations

from yanmo.labelled.content import gold_of, group_of, input_of, labels_of, right_of
from yanmo.labelled.examples import (
    Asked,
    Classified,
    Conversation,
    Example,
    Related,
    Retrieved,
    Rewritten,
    Tagged,
    is_placed,
)  # fmt: skip
from yanmo.labelled.fields import BadExample
from yanmo.labelled.findings import SHOWN, Section, Verdict, Whole, share, shortened, shown
from yanmo.labelled.subject import Subject
from yanmo.labelled.tags import entities, scheme_of
from yanmo.labelled.tags import faults as illegal_tags

RARE = 10
"""Examples below which a label is rare: held-out figures of it are chance."""
ONE_SIDED = 0.9
"""Share of the examples from which one label is nearly all there is."""
REPEATED = 0.1
"""Share of repeated examples from which they weigh."""
CONTRADICTED = 0.05
"""Share of contradicted examples from which labels are not to be trusted."""
OVERLAP = (0.01, 0.5)
"""Share of known test texts from which a figure is flattered, and from which it says nothing."""
ODD = 0.02
"""Share of targets of an odd length from which source and target may not belong together."""
MANY = 12
"""Labels that are listed."""
BRIEF = 40
"""Columns of a label or an answer that stands beside its place."""
HELD_OUT = ("valid", "test")


def records(data: Subject) -> Section:
    """What could not be read, but for empty fields."""
    return _unread(data, "records", [fault for fault in data.faults if fault.problem != "empty"], "every record can be read")


def empty(data: Subject) -> Section:
    return _unread(data, "empty fields", [fault for fault in data.faults if fault.problem == "empty"], "no field is empty")


def _unread(data: Subject, name: str, faults: Sequence[BadExample], well: str) -> Section:
    if not faults:
        return Section(name, "ok", (well,), {"count": 0})
    by_problem = Counter(fault.problem for fault in faults)
    counts = ", ".join(f"{_PROBLEMS[problem]} {count:,}" for problem, count in by_problem.most_common())
    whole = len(data.all) + len(data.faults)
    return Section(
        name,
        "do not train",
        (f"{share(len(faults), whole)} cannot be read: {counts}",),
        {"count": len(faults), "by problem": dict(by_problem)},
        tuple(Whole(fault.origin, fault.sentence) for fault in faults[:SHOWN]),
        "mend or delete these lines: training stops at the first of them; or leave them out with on_error=skip",
    )


_PROBLEMS = {
    "file": "no record", "missing": "a field is missing", "empty": "a field is empty", "type": "of another type",
    "length": "tokens and tags of different length", "tag": "no tag", "role": "unknown role", "offset": "outside of the text",
    "border": "spans that end inside of a word or overlap",
}  # fmt: skip


def labels(data: Subject) -> Section | None:
    """How often each label occurs; which are rare, or all there is."""
    if data.kind not in ("classification", "labelling", "relation", "answering"):
        return None
    counts = {name: Counter(label for example in part for label in labels_of(example)) for name, part in data.parts.items()}
    train = counts["train"]
    total = sum(train.values())
    rare = sorted((label for label in train if train[label] < RARE), key=lambda label: train[label])
    found = [f"{name}: {_distribution(one)}" for name, one in counts.items()]
    without = sum(1 for example in data.train if not labels_of(example))
    if without:
        found.append(f"without any: {share(without, len(data.train))} of the examples in train")
    figures = {"counts": {name: dict(one.most_common()) for name, one in counts.items()}, "rare": rare, "without": without}
    verdict, advice = _weigh(data.kind, train, rare)
    first = {label: example for example in reversed(data.train) for label in labels_of(example) if label in rare[:MANY]}
    examples = shown([(first[label].origin, f"{label}: {group_of(first[label])}") for label in rare[:MANY]])
    if rare:
        named = ", ".join(f"{shortened(label, 40)} {train[label]}" for label in rare[:MANY]) + (" …" if len(rare) > MANY else "")
        found.append(f"rarer than {RARE} in train: {named}")
    return Section("labels", verdict, tuple(found), {**figures, "total": total}, examples, advice)


def _weigh(kind: str, train: Counter[str], rare: list[str]) -> tuple[Verdict, str]:
    top, total = max(train.values(), default=0), sum(train.values())
    if not train or (len(train) < 2 and kind in ("classification", "relation")):
        return "do not train", "there is nothing to tell apart; give examples of two labels at least"
    if kind == "answering":
        return _weigh_answers(train)
    if rare:
        return "look at", "merge rare labels, label more of them, or expect no reliable figure for them"
    if kind == "classification" and top > ONE_SIDED * total:
        return "look at", "saying the most frequent label every time is right as often; judge by macro F1, weigh the classes"
    return "ok", ""


def _weigh_answers(train: Counter[str]) -> tuple[Verdict, str]:
    if not train["answered"]:
        return "do not train", "there is nothing to learn where no question has an answer"
    if train["answered"] < RARE:
        return "look at", "give more questions that have an answer; expect no reliable figure from so few"
    if 0 < train["no answer"] < RARE:
        return "look at", "when there is no answer is learned from these few: give more of them, or leave them out"
    return "ok", ""


def _distribution(counts: Counter[str]) -> str:
    total = sum(counts.values())
    listed = [f"{shortened(label, 40)} {count:,} ({count / total:.1%})" for label, count in counts.most_common(MANY)]
    return (", ".join(listed) or "none") + (f", and {len(counts) - MANY} more" if len(counts) > MANY else "")


def numbers(data: Subject) -> Section | None:
    """What is to be predicted where that is no label: numbers, and how long what is written is."""
    if data.kind == "regression":
        values = [float(one.label) for one in data.train if isinstance(one, Classified) and isinstance(one.label, float)]
        if len(set(values)) < 2:
            return Section("numbers", "do not train", ("train has one number only: nothing can be learned",))
        low, middle, high = min(values), statistics.median(values), max(values)
        return Section(
            "numbers", "ok", (f"{low:g} to {high:g}, half below {middle:g}, deviation {statistics.pstdev(values):.3g}",),
            {"least": low, "median": middle, "most": high},
        )  # fmt: skip
    pairs = [(len(one.source), len(target)) for one in data.train if isinstance(one, Rewritten) for target in one.targets or ()]
    if pairs:
        ratios = sorted(target / source for source, target in pairs)
        middle = statistics.median(ratios)
        odd = [one for one in data.train if isinstance(one, Rewritten) and one.targets and _odd(one, middle)]
        mute = [one for one in data.train if isinstance(one, Rewritten) and not all(map(_says_something, one.targets or ()))]
        odd = list(dict.fromkeys([*mute, *odd]))
        return Section(
            "lengths of targets",
            "look at" if mute or len(odd) > ODD * len(pairs) else "ok",
            (f"a target has {middle:.2f} characters for each of its source (median)",
             f"{share(len(odd), len(pairs))} have five times as many, or a fifth, or no letter ({len(mute):,})"),
            {"median ratio": middle, "odd": len(odd), "without a letter": len(mute)},
            shown([(one.origin, f"{shortened(one.source, 50)} → {shortened((one.targets or ('',))[0], 40)}") for one in odd]),
            "look whether source and target belong together" if odd else "",
        )  # fmt: skip
    return None


def _says_something(text: str) -> bool:
    return any(map(str.isalnum, text))


def _odd(example: Rewritten, middle: float) -> bool:
    ratio = len((example.targets or ("",))[0]) / len(example.source)
    return len(example.source) > 20 and not middle / 5 <= ratio <= middle * 5


def turns(data: Subject) -> Section | None:
    """Who speaks in conversations, and whether the assistant's part of them is whole."""
    talks = [one for one in data.train if isinstance(one, Conversation)]
    if not talks:
        return None
    roles = Counter(message.role for one in talks for message in one.messages)
    unanswered = [one for one in talks if one.messages[-1].role != "assistant"]
    doubled = [one for one in talks if any(a.role == b.role for a, b in zip(one.messages, one.messages[1:], strict=False))]
    late = [one for one in talks if any(message.role == "system" for message in one.messages[1:])]
    odd = list(dict.fromkeys([*doubled, *late, *unanswered]))
    counts = ", ".join(f"{role} {count:,}" for role, count in roles.most_common())
    return Section(
        "turns",
        "look at" if odd else "ok",
        (f"messages: {counts}", f"{len(unanswered):,} conversations do not end with the assistant, in {len(doubled):,} somebody "
         f"speaks twice in a row, in {len(late):,} a system message is not the first"),
        {"roles": dict(roles), "unanswered": len(unanswered), "doubled": len(doubled), "late system": len(late)},
        shown([(one.origin, f"{one.messages[-1].role}: {one.messages[-1].content}") for one in odd]),
        "chat templates may refuse these; what stands after the last answer is not learned" if odd else "",
    )  # fmt: skip


def new_labels(data: Subject) -> Section | None:
    """Labels that a network cannot give: held out and not in train, or not among those that it is to know."""
    if data.kind not in ("classification", "labelling", "relation"):
        return None
    known = {label for example in data.train for label in labels_of(example)}
    odd: list[tuple[str, str]] = []
    count: Counter[str] = Counter()
    for part in HELD_OUT:
        for example in data.parts.get(part, ()):
            for label in set(labels_of(example)) - known:
                count[label] += 1
                odd.append((example.origin, f"{label}: {group_of(example)}"))
    unseen = bool(odd)
    found = [f"held out, and not in train: {', '.join(f'{label} ({many})' for label, many in count.items())}"] if odd else []
    if data.labels is not None:
        types = {label for label in map(_type, data.labels) if label} if data.kind == "labelling" else set(data.labels)
        for example in data.all:
            for label in set(labels_of(example)) - types:
                count[label] += 1
                odd.append((example.origin, f"{label}: {group_of(example)}"))
        strange, idle = sorted({*known, *count} - types), sorted(types - known)
        found += [f"not among the model's labels: {', '.join(strange)}"] if strange else []
        found += [f"labels of the model that train does not have: {', '.join(idle)}"] if idle else []
    advice = "a network can only give labels that it knows: mend them, or put examples of them into train" if odd else ""
    figures = {"labels": sorted(count)}
    if odd and data.rule.measures and not unseen:
        advice = "this model is not measured on them (yanmo evaluate); to learn them, begin with the pretrained folder"
        return Section("new labels", "look at", tuple(found), figures, shown(odd), advice)
    return Section("new labels", "do not train" if odd else "ok", tuple(found or ["none"]), figures, shown(odd), advice)


def _type(tag: str) -> str:
    return tag[2:] if tag[1:2] == "-" else "" if tag == "O" else tag


def duplicates(data: Subject) -> Section:
    """Examples of train that occur there before, with the same label."""
    seen: set[Hashable] = set()
    again = []
    for example in data.train:
        whole = (input_of(example), gold_of(example))
        if whole in seen:
            again.append(example)
        seen.add(whole)
    few = len(again) <= REPEATED * len(data.train)
    return Section(
        "duplicates",
        "ok" if few else "look at",
        (f"{share(len(again), len(data.train))} of train occur there before, word for word and with the same label",),
        {"count": len(again)},
        shown([(example.origin, group_of(example)) for example in again]),
        "" if few else "take them out, unless they are as frequent where the model will be used",
    )


def contradictions(data: Subject) -> Section | None:
    """The same input with another label."""
    if data.kind == "regression":
        return _spread(data)
    if data.kind not in ("classification", "labelling", "relation", "answering"):
        return None
    odd = [(group, pair) for group in _groups(data) if (pair := _opposed(group)) is not None]
    count = sum(len(group) for group, _ in odd)
    wrong = sum(len(group) - max(Counter(map(gold_of, group)).values()) for group, _ in odd)
    many = wrong > CONTRADICTED * len(data.train)
    return Section(
        "contradictions",
        "do not train" if many else "look at" if odd else "ok",
        (f"{share(count, len(data.train))} of train say the same as another example with another label; for "
         f"{share(wrong, len(data.train))} most of the others say something else",),
        {"count": count, "texts": len(odd), "outvoted": wrong},
        shown([(_brief(pair), pair[0].question if isinstance(pair[0], Asked) else group_of(pair[0])) for _, pair in odd]),
        "decide on one label for each, or take all of them out" if odd else "",
    )  # fmt: skip


def _groups(data: Subject) -> list[list[Example]]:
    """The examples of train that have a label and the same input, where they are several."""
    groups: dict[Hashable, list[Example]] = defaultdict(list)
    for example in data.train:
        if gold_of(example) is not None:
            groups[input_of(example)].append(example)
    return [group for group in groups.values() if len(group) > 1]


def _opposed(group: list[Example]) -> tuple[Example, Example] | None:
    """The first two that contradict each other; answers do where not one of them is the same."""
    for one, other in combinations(group, 2):
        if isinstance(one, Asked) and isinstance(other, Asked):
            here, there = frozenset(one.answers or ()), frozenset(other.answers or ())
            if not here & there and here != there:
                return one, other
        elif gold_of(one) != gold_of(other):
            return one, other
    return None


def _brief(pair: tuple[Example, Example]) -> str:
    """Where both are, and what they say; the tags of a text are too many for that."""
    said = ["" if isinstance(one, Tagged) else shortened(right_of(one), BRIEF) for one in pair]
    return " and ".join(f"{one.origin} {text}".strip() for one, text in zip(pair, said, strict=True))


def _spread(data: Subject) -> Section:
    """The same input with numbers that are further apart than all numbers deviate: nobody agrees on each to the last digit."""
    numbers = [_number(example) for example in data.train if gold_of(example) is not None]
    deviation = statistics.pstdev(numbers) if numbers else 0.0
    lines = [sorted(group, key=_number) for group in _groups(data)]
    odd = [line for line in lines if _number(line[-1]) - _number(line[0]) > deviation]
    count = sum(map(len, odd))
    return Section(
        "contradictions",
        "look at" if odd else "ok",
        (f"{share(sum(map(len, lines)), len(data.train))} of train say the same as another example; the numbers of "
         f"{share(count, len(data.train))} are further apart than all numbers deviate ({deviation:.3g})",),
        {"count": count, "texts": len(odd), "repeated": len(lines), "deviation": deviation},
        shown([(_brief((line[0], line[-1])), group_of(line[0])) for line in odd]),
        "look which of them is right; the mean of several people's numbers is learned better" if odd else "",
    )  # fmt: skip


def _number(example: Example) -> float:
    return float(example.label) if isinstance(example, Classified) and isinstance(example.label, int | float) else 0.0


def overlap(data: Subject) -> Section | None:
    """Inputs of one part that another part has as well, and texts that their inputs share."""
    if len(data.parts) < 2:
        return None
    inputs = {name: {input_of(example) for example in part} for name, part in data.parts.items()}
    groups = {name: {group_of(example) for example in part} for name, part in data.parts.items()}
    found, figures, worst = [], {}, 0.0
    for first, second in combinations(data.parts, 2):
        both = len(inputs[first] & inputs[second])
        texts = len(groups[first] & groups[second])
        part = both / max(1, len(inputs[second]))
        worst = max(worst, part if second == "test" else part / 2)
        shared = f", and {share(texts, len(groups[second]))} of its texts" if texts > both and data.kind != "retrieval" else ""
        found.append(f"{share(both, len(inputs[second]))} of the different inputs of {second} are in {first} too{shared}")
        figures[f"{second} in {first}"] = {"inputs": both, "of": len(inputs[second]), "texts": texts}
    known = {input_of(example): example for example in data.train}
    held_out = [example for part in reversed(HELD_OUT) for example in data.parts.get(part, ())]
    again = [(one, known[own]) for one in held_out if (own := input_of(one)) in known]
    verdict: Verdict = "do not train" if worst >= OVERLAP[1] else "look at" if worst >= OVERLAP[0] else "ok"
    return Section(
        "overlap",
        verdict,
        tuple(found),
        figures,
        shown([(f"{one.origin} is {other.origin}", group_of(one)) for one, other in again]),
        "" if verdict == "ok" else "report figures on what train does not have; take the rest out of train or out of the test",
    )


def tags(data: Subject) -> Section | None:
    """Tags where none may stand: they say that something happened to the file."""
    if data.kind != "labelling":
        return None
    tagged = [example for example in data.all if isinstance(example, Tagged) and example.tags is not None]
    scheme = scheme_of(example.tags or () for example in tagged)
    odd = [(example, bad[0]) for example in tagged if (bad := illegal_tags(example.tags or (), scheme))]
    count = sum(len(illegal_tags(example.tags or (), scheme)) for example, _ in odd)
    whole = sum(len(entities(example.tags or ())) for example in tagged)
    return Section(
        "tags",
        "look at" if odd or scheme == "IOB1" else "ok",
        (f"written in {scheme}: {whole:,} entities; {count:,} tags in {len(odd):,} examples stand where they may not",),
        {"scheme": scheme, "entities": whole, "illegal": count, "examples": len(odd)},
        shown([(one.origin, f"token {bad.place + 1}, {one.tokens[bad.place]!r}: {bad.reason}") for one, bad in odd]),
        "they are read as seqeval does: what continues nothing begins an entity" if odd else "",
    )


def offsets(data: Subject) -> Section | None:
    """Answers that do not stand where they are said to."""
    asked = [example for example in data.all if isinstance(example, Asked)]
    if not asked:
        return None
    answers = [(example, answer) for example in asked for answer in example.answers or ()]
    odd = [(one, answer) for one, answer in answers if not is_placed(one, answer)]
    elsewhere = sum(1 for one, answer in odd if answer.text in one.context)
    return Section(
        "places of answers",
        "do not train" if odd else "ok",
        (f"{share(len(odd), len(answers))} of {len(answers):,} answers are not at their offset; {elsewhere:,} of these stand "
         "elsewhere in the context",),
        {"count": len(odd), "elsewhere": elsewhere, "answers": len(answers)},
        shown([
            (one.origin, f"{answer.text!r} at {answer.start}, where the text goes "
             f"{one.context[answer.start : answer.start + len(answer.text)]!r}")
            for one, answer in odd
        ]),
        "offsets count characters of the context as it is in the file; were blanks or marks changed afterwards? Mend them, or "
        "leave these questions out with on_error=skip" if odd else "",
    )  # fmt: skip


def relation_spans(data: Subject) -> Section | None:
    """Relations between two places that are one."""
    related = [example for example in data.all if isinstance(example, Related)]
    if not related:
        return None
    odd = [one for one in related if one.head[0] < one.tail[1] and one.tail[0] < one.head[1]]
    return Section(
        "heads and tails",
        "look at" if odd else "ok",
        (f"in {share(len(odd), len(related))} examples head and tail overlap",),
        {"count": len(odd)},
        shown([(one.origin, f"{one.text[slice(*one.head)]!r} and {one.text[slice(*one.tail)]!r}") for one in odd]),
        "markers around the one cut the other; move the spans apart" if odd else "",
    )


def negatives(data: Subject) -> Section | None:
    """Texts that are to be found and not to be found for one query."""
    found = [example for example in data.all if isinstance(example, Retrieved)]
    if not found:
        return None
    positives: dict[str, set[str]] = defaultdict(set)
    for one in found:
        positives[one.query].add(one.positive)
    odd = [one for one in found if positives[one.query] & set(one.negatives)]
    given = sum(1 for one in found if one.negatives)
    return Section(
        "negatives",
        "look at" if odd else "ok",
        (f"{share(given, len(found))} examples have texts not to be found; in {len(odd):,} one of them is also to be found",),
        {"with negatives": given, "count": len(odd)},
        shown([(one.origin, one.query) for one in odd]),
        "a text cannot be both; take it out of one of the two" if odd else "",
    )


CHECKS: tuple[Callable[[Subject], Section | None], ...] = (
    records, empty, labels, numbers, turns, new_labels, duplicates, contradictions, overlap, tags, offsets, relation_spans,
    negatives,
)  # fmt: skip
