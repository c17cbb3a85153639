"""The model card: what a model folder says of itself, in the form that model hubs read."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from yanmo import __version__
from yanmo.recipe import KIND_OF, USES, Recipe

LOADING_THEIRS = """from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")"""
LOADING_OURS = """import yanmo

model, tokenizer = yanmo.load(".")"""


def model_card(recipe: Recipe, family: str, parameters: int, figures: Mapping[str, float | str], own: bool = False) -> str:
    """README.md of a model folder: YAML front matter, how to load it, what it was trained on and how it measured.

    own: transformers knows the family, but not this network of it.
    """
    kind = recipe.objective.kind
    use = USES[KIND_OF[family]]
    auto = None if own else use.auto
    library = "transformers" if auto else "yanmo"
    front = {"library_name": library, "pipeline_tag": use.pipeline, "tags": ["yanmo", family]}
    sources = "\n".join(f"- `{source.path}`" for source in recipe.corpus.sources)
    shown = {name: value if isinstance(value, str) else f"{value:.4g}" for name, value in figures.items()}
    measured = "\n".join(f"| {name} | {value} |" for name, value in shown.items())
    return f"""---
{yaml.safe_dump(front, allow_unicode=True, sort_keys=False).strip()}
---

# {recipe.name}

A {family} of {parameters / 1e6:.1f} million parameters, pretrained with Yanmo {__version__} ({kind} language model).

```python
{LOADING_THEIRS.format(auto=auto) if auto else LOADING_OURS}
```

Trained on:

{sources}

| measured | |
|---|---|
{measured}

It says what its text said, mistakes and slants included. How it was made, every setting: `recipe.yaml` in the run folder.
"""
