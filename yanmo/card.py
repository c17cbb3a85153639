"""The model card: what a model folder says of itself, in the form that model hubs read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

import yaml

from yanmo import __version__
from yanmo.recipe import KIND_OF, USES, Recipe

LOADING_THEIRS = """from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")"""
LOADING_OURS = """import yanmo

model, tokenizer = yanmo.load(".")"""
LOADING_ADAPTER = """from peft import PeftModel
from transformers import {auto}, AutoTokenizer

base = {auto}.from_pretrained("{base}"{outputs})
model = PeftModel.from_pretrained(base, ".")
tokenizer = AutoTokenizer.from_pretrained(".")"""
PREDICTING = """import yanmo

yanmo.load(".").predict([{example}])"""
EMBEDDING = """import yanmo

network, tokenizer = yanmo.load(".")
vectors = yanmo.embed(network, tokenizer, [{example}])"""
PIPELINES = {
    "classification": "text-classification",
    "regression": "text-classification",
    "labelling": "token-classification",
    "relation": "text-classification",
    "answering": "question-answering",
    "translation": "translation",
    "summarisation": "summarization",
    "dialogue": "text-generation",
    "retrieval": "sentence-similarity",
}
"""What model hubs call our tasks."""
INPUTS = {
    "relation": '{"text": "Ada met Bob.", "head": [0, 3], "tail": [8, 11]}',
    "answering": '{"context": "Ada met Bob.", "question": "Who met Bob?"}',
    "dialogue": '{"messages": [{"role": "user", "content": "..."}]}',
}
"""What a task is given that reads more than a text."""
LABELS_SHOWN = 40


def command_of(kind: str, model: str) -> str:
    """What a person types to use a task's model."""
    if kind == "dialogue":
        return f"yanmo chat {model}"
    if kind == "retrieval":
        return f"yanmo index {model} texts.txt --out texts"
    given = INPUTS.get(kind)
    return f"yanmo predict {model} " + ('"..."' if given is None else f"'{given}'")


def model_card(recipe: Recipe, family: str, parameters: int, figures: Mapping[str, float | str], own: bool = False) -> str:
    """README.md of a model folder: YAML front matter, how to load it, what it was trained on and how it measured.

    own: transformers knows the family, but not this network of it.
    """
    use = USES[KIND_OF[family]]
    auto = None if own else use.auto
    return _card(
        {"library_name": "transformers" if auto else "yanmo", "pipeline_tag": use.pipeline, "tags": ["yanmo", family]},
        recipe.name,
        f"A {family} of {_millions(parameters)}, pretrained with Yanmo {__version__} ({recipe.objective.kind} language model).",
        [LOADING_THEIRS.format(auto=auto) if auto else LOADING_OURS],
        [source.path for source in recipe.corpus.sources],
        {"measured": "", **figures},
        "How it was made, every setting: `recipe.yaml` in the run folder.",
    )


@dataclass(frozen=True)
class TaskFacts:
    """What the card of a task's model says. auto: transformers' class, None where it has none. base: the folder that it began
    with, None for a new network; added: whether only what was added to that lies here. figures: what was measured, by name."""

    kind: str
    family: str
    parameters: int
    auto: str | None = None
    base: str | None = None
    added: bool = False
    labels: Sequence[str] = ()
    outputs: int = 0
    method: str = ""
    seed: int | None = None
    sources: Sequence[str] = ()
    split: str = ""
    figures: Mapping[str, str] = field(default_factory=dict)


def task_card(facts: TaskFacts) -> str:
    """README.md of a task's model folder, in the form of a pretrained one's."""
    library = "yanmo" if facts.auto is None else "peft" if facts.added else "transformers"
    how = ", ".join([f"method {facts.method}"] * bool(facts.method) + ([] if facts.seed is None else [f"seed {facts.seed}"]))
    lead = f"A {facts.family} of {_millions(facts.parameters)} for {facts.kind}, made with Yanmo {__version__}"
    lead += f" ({how})." if how else "."
    if facts.base is not None and facts.added:
        lead += f" Only what was added to `{facts.base}` lies here; it is loaded together with that folder."
    elif facts.base is not None:
        lead += f" It began with `{facts.base}`."
    if facts.labels:
        more = len(facts.labels) - LABELS_SHOWN
        lead += "\n\nLabels: " + ", ".join(f"`{label}`" for label in facts.labels[:LABELS_SHOWN])
        lead += f" and {more} more (task.json)." if more > 0 else "."
    loading = []
    if facts.auto is not None and facts.added:
        outputs = f", num_labels={facts.outputs}" if facts.outputs else ""
        loading.append(LOADING_ADAPTER.format(auto=facts.auto, base=facts.base, outputs=outputs))
    elif facts.auto is not None:
        loading.append(LOADING_THEIRS.format(auto=facts.auto))
    use = EMBEDDING if facts.kind == "retrieval" else PREDICTING
    loading.append(use.format(example=INPUTS.get(facts.kind, '"..."')))
    shown = {name: text.replace("|", " \\| ") for name, text in facts.figures.items()}
    front = {"library_name": library, "pipeline_tag": PIPELINES[facts.kind], "tags": ["yanmo", facts.family, facts.kind]}
    title = f"{facts.kind.capitalize()} with a {facts.family}"
    table = {f"measured on {facts.split} examples": ""} | shown if shown else {}
    return _card(front, title, lead, loading, facts.sources, table, "How it reads and what it says: `task.json`.")


def named(source: str, parts: int = 1) -> str:
    """A path as others may read it: the recipe's own words, of an absolute one only its last parts."""
    path = PurePath(source)
    return str(PurePath(*path.parts[-parts:])) if path.is_absolute() else source


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} million parameters"


def _card(
    front: Mapping[str, object],
    title: str,
    lead: str,
    codes: Sequence[str],
    sources: Sequence[str],
    figures: Mapping[str, float | str],
    closing: str,
) -> str:
    """figures: a table, its first row the heads."""
    shown = [(name, value if isinstance(value, str) else f"{value:.4g}") for name, value in figures.items()]
    rows = [f"| {name} | {value} |" for name, value in shown]
    parts = [
        f"---\n{yaml.safe_dump(dict(front), allow_unicode=True, sort_keys=False).strip()}\n---",
        f"# {title}",
        lead,
        *(f"```python\n{code}\n```" for code in codes),
        "\n".join(["Trained on:", "", *(f"- `{named(source)}`" for source in sources)]) if sources else "",
        "\n".join([*rows[:1], "|---|---|", *rows[1:]]) if rows else "",
        f"It says what its text said, mistakes and slants included. {closing}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
