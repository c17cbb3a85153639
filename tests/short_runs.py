"""Shipped recipes on little real text: what tests of whole runs share."""

import json
from pathlib import Path

from yanmo.recipe import Recipe, read_recipe, unread

ROOT = Path(__file__).parent.parent
SHORT = ["training.steps=2", "training.rows=2", "training.length=64"]
SIZES = ["model.layers=2", "model.width=64"]
SHORT += ["tasks={}", "together=null", "evaluation.pseudo_likelihood=2"]
SHORT += ["corpus.workers=1", "corpus.validation=0.1", "training.validation_rows=8"]


def some_text(folder: Path, language: str) -> Path:
    """Real text, little of it, one document a line."""
    from yanmo.corpus.samples import SAMPLES

    sample = SAMPLES["python-docs" if language == "en" else "reviews-zh"]
    texts = [text.replace("\n", " ")[:2000] for (_, text), _ in zip(sample.documents(), range(400), strict=False)]
    path = folder / "text.txt"
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


def short_recipe(path: Path, folder: Path, *more: str) -> Recipe:
    text = some_text(folder, "zh" if "zh" in path.stem or path.stem == "quickstart" else "en")
    source = f"corpus.sources=[{{path: {json.dumps(str(text))}, document: line}}]"
    model = read_recipe(path).model
    short = [one for one in (*SHORT, *SIZES) if one.partition("=")[0] not in unread(model.family, model.version)]
    return read_recipe(path, [*short, f"runs={folder}", "tokenizer.vocabulary=1200", source, *more])
