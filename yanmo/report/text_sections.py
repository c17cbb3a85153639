"""What the report says about the text: the corpus, the tokenizer, the shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from xml.etree.ElementTree import Element

from yanmo.report.charts import Bar, bar_chart, column_chart
from yanmo.report.findings import Findings, Tree, listing, mapping
from yanmo.report.layout import section, table
from yanmo.report.numbers import count, decimal, percent, real, short, size
from yanmo.report.tags import tag
from yanmo.report.words import Words

Column = tuple[str, Callable[[float], str]]  # a key of the file (and of words.py, after "tokenizer."), how it is shown

LOST_SHOWN, LOST_CHARACTERS = 5, 120
FUNNEL = ("documents_in", "documents_out", "bytes_in", "bytes_out")


def corpus_section(findings: Findings, words: Words) -> Element | None:
    corpus = findings.corpus
    if not corpus:
        return None
    read, kept, size_kept = corpus_totals(corpus)
    lead = ""
    if read:
        lead = words("corpus.lead", read=count(read), kept=count(kept), share=percent(kept / read), size=size(size_kept))
    train, validation = real(corpus.get("train")), real(corpus.get("validation"))
    if train and validation:
        lead += words("corpus.split", train=count(train), validation=count(validation))
    return section(
        "corpus",
        words("corpus"),
        lead,
        _funnel(corpus, words),
        tag("div", _lengths(corpus, words), _scripts(corpus, words), class_="pair"),
        tag("div", _switches(corpus, words), _files(corpus, words), class_="pair"),
        [tag("p", note, class_="aside") for note in _notes(findings, words)],
    )


def corpus_totals(corpus: Tree) -> tuple[float, float, float]:
    """Documents read, documents kept, bytes kept."""
    funnel = listing(corpus.get("funnel"))
    read = real(funnel[0].get("documents_in")) if funnel else None
    return read or 0.0, real(corpus.get("documents")) or 0.0, real(corpus.get("bytes")) or 0.0


def _funnel(corpus: Tree, words: Words) -> Element | None:
    """A row for each step: what it left of the documents and bytes that the first step met."""
    steps = [
        (words.name(str(step.get("step", "?"))), *(real(step.get(key)) or 0.0 for key in FUNNEL))
        for step in listing(corpus.get("funnel"))
    ]
    if not steps:
        return None
    most_documents = max(max(before, after) for _, before, after, _, _ in steps) or 1.0
    most_bytes = max(max(before, after) for _, _, _, before, after in steps) or 1.0
    bars = []
    for name, before, after, _, bytes_after in steps:
        lost = max(before - after, 0.0)
        value = words("corpus.value", documents=count(after), size=size(bytes_after))
        note = f"−{count(lost)}" if lost else ""
        bars.append(Bar(name, value, after / most_documents, bytes_after / most_bytes, lost / most_documents, note))
    key = [("bar", words("corpus.documents")), ("second", words("corpus.bytes")), ("lost", words("corpus.lost"))]
    return bar_chart(words("corpus.funnel"), bars, key, "; ".join(f"{bar.name}: {bar.value}" for bar in bars))


def _lengths(corpus: Tree, words: Words) -> Element | None:
    """Column i holds the documents of 2^i characters and more, up to those of column i + 1."""
    raw = corpus.get("lengths")
    counts = [real(value) or 0.0 for value in raw] if isinstance(raw, list) else []
    filled = [index for index, number in enumerate(counts) if number]
    if not filled:
        return None
    first, last = filled[0], filled[-1] + 1  # empty columns on both sides say nothing
    edges = [2.0**index for index in range(first, last + 1)]
    x, y = words("corpus.lengths.x"), words("corpus.documents")
    return column_chart(words("corpus.lengths"), edges, counts[first:last], x, y)


def _scripts(corpus: Tree, words: Words) -> Element | None:
    found = {name: number for name, raw in mapping(corpus.get("scripts")).items() if (number := real(raw))}
    if not found:
        return None
    largest = max(found.values())
    ordered = sorted(found.items(), key=lambda item: -item[1])
    return bar_chart(words("corpus.scripts"), [Bar(words.name(name), percent(share), share / largest) for name, share in ordered])


def _switches(corpus: Tree, words: Words) -> Element | None:
    """What each cleaning switch did: documents that it changed, and what it counted inside them."""
    rows, quiet = [], []
    for name, raw in mapping(corpus.get("switches")).items():
        numbers = {key: number for key, value in mapping(raw).items() if (number := real(value)) is not None}
        documents = numbers.pop("documents", None)
        inside = ", ".join(f"{count(number)} {words.name(key)}" for key, number in numbers.items() if number)
        rows.append((words.name(name), inside, "–" if documents is None else count(documents)))
        quiet.append(not documents and not inside)
    heads = [words("corpus.switch"), "", words("corpus.changed")]
    return table(words("corpus.switches"), heads, rows, quiet)


def _files(corpus: Tree, words: Words) -> Element | None:
    """Files by encoding, documents by language: where there is something to tell."""
    tables = []
    for key, head in (("encodings", "corpus.files"), ("languages", "corpus.documents")):
        rows = [(name, count(number)) for name, raw in mapping(corpus.get(key)).items() if (number := real(raw))]
        tables.append(table(words(f"corpus.{key}"), ["", words(head)], rows))
    return tag("div", tables, class_="body") if any(part is not None for part in tables) else None


def _notes(findings: Findings, words: Words) -> list[str]:
    raw = findings.corpus.get("notes")
    notes = [note for note in raw if isinstance(note, str)] if isinstance(raw, list) else []
    return [*notes, words("corpus.dropped")] if mapping(findings.corpus.get("dropped")) else notes


def tokenizer_section(findings: Findings, words: Words) -> Element | None:
    report = findings.tokenizer
    shards = _shards(findings.shards, words)
    if not report and shards is None:
        return None
    kind, vocabulary, sampled = report.get("kind"), real(report.get("size")), real(report.get("bytes_sampled"))
    lead = words("tokenizer.lead", kind=words.name(str(kind)), size=count(vocabulary)) if kind and vocabulary else ""
    lead += words("tokenizer.sampled", size=size(sampled)) if lead and sampled else ""
    return section("tokenizer", words("tokenizer"), lead, _by_script(report, words), _lost(report, words), shards)


def _lost(report: Tree, words: Words) -> Element | None:
    """Some of the texts that decoding did not give back, folded."""
    examples = listing(report.get("round_trip_examples"))[:LOST_SHOWN]
    pairs = [[_beginning(str(example.get(key, ""))) for key in ("text", "back")] for example in examples]
    if not pairs:
        return None
    content = table("", [words("tokenizer.text"), words("tokenizer.back")], pairs)
    return tag("details", tag("summary", words("tokenizer.lost")), content, class_="lost-texts")


def _beginning(text: str) -> str:
    return text if len(text) <= LOST_CHARACTERS else f"{text[:LOST_CHARACTERS]} …"


SCRIPT_COLUMNS: Sequence[Column] = (
    ("tokens_per_character", decimal),
    ("tokens_per_byte", decimal),
    ("unknown_share", percent),
    ("round_trip_failures", count),
    ("characters", short),
    ("tokens", short),
)
SHARD_COLUMNS: Sequence[Column] = (
    ("documents", count),
    ("tokens", count),
    ("bytes", size),
    ("words", count),
    ("sentences", count),
)


def _by_script(report: Tree, words: Words) -> Element | None:
    rows = [(words("tokenizer.all"), report)] if report else []
    by_script = mapping(report.get("scripts"))
    rows += [(words.name(name), entry) for name, entry in by_script.items() if isinstance(entry, dict)]
    return _figures(rows, SCRIPT_COLUMNS, words("tokenizer.script"), words)


def _shards(shards: Tree, words: Words) -> Element | None:
    splits = mapping(shards.get("splits", shards))
    rows = [
        (words.known(f"split.{name}") or name, entry)
        for name, entry in splits.items()
        if isinstance(entry, dict) and real(entry.get("tokens")) is not None
    ]
    return _figures(rows, SHARD_COLUMNS, words("tokenizer.split"), words)


def _figures(rows: Sequence[tuple[str, Tree]], columns: Sequence[Column], head: str, words: Words) -> Element | None:
    """A table with those of the columns that any row has a number for."""
    shown = [(key, show) for key, show in columns if any(real(entry.get(key)) is not None for _, entry in rows)]
    if not shown:
        return None
    cells = []
    for name, entry in rows:
        numbers = [(real(entry.get(key)), show) for key, show in shown]
        cells.append([name, *("–" if number is None else show(number) for number, show in numbers)])
    return table("", [head, *(words(f"tokenizer.{key}") for key, _ in shown)], cells)
