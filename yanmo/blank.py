"""A model folder that has learned nothing: for a task that begins without pretraining, a new network of the sizes that the task's
section names, and a tokenizer trained on the texts that it will learn from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yanmo import models
from yanmo.errors import UserError
from yanmo.files import new_folder
from yanmo.labelled.content import texts_of
from yanmo.labelled.examples import Example
from yanmo.pretrain import new_network
from yanmo.progress import Progress, silent
from yanmo.recipe import Recipe, parse_recipe
from yanmo.tasks import TASKS
from yanmo.tokenizer import adopt_tokenizer, load_tokenizer, save_tokenizer, train_tokenizer

IDENTITY = "blank.json"
"""In the folder: what it was made for."""


def make_blank(section: Any, examples: Sequence[Example], folder: Path, progress: Progress = silent) -> None:
    """Make the model folder if it is not there, and tokenizer/ beside it. Its weights say nothing: every trial draws its own.

    Raises UserError where sizes and texts do not fit together, and for a folder that was made for others.
    """
    texts = [text for example in examples for text in texts_of(example)]
    recipe = _recipe_of(section)
    known = _identity(recipe, texts)
    if (folder / IDENTITY).exists():
        if json.loads((folder / IDENTITY).read_text(encoding="utf-8")) != known:
            raise UserError(
                f"{folder} was made for another network, tokenizer or other texts; give the run another name, or delete it"
            )
        return
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is there already, and nothing that was made for this; give the run another name, or move it")
    made = folder.parent / "tokenizer"
    if recipe.tokenizer.file is None:
        train_tokenizer(texts, recipe, made, progress)
    else:
        adopt_tokenizer(recipe.tokenizer.file, texts, recipe, made, progress)
    tokens = load_tokenizer(made)
    network = new_network(recipe, tokens)
    with new_folder(folder) as model:
        models.save(network, model)
        save_tokenizer(tokens, model, network.config.length)
        (model / IDENTITY).write_text(json.dumps(known, indent=1), encoding="utf-8")


def _recipe_of(section: Any) -> Recipe:
    """The recipe by which a network of these sizes would be pretrained. Raises UserError where they do not fit together."""
    longest = TASKS[section.kind].longest
    length = section.training.length or min(longest, section.model.positions or longest)
    parts = {name: getattr(section, name).model_dump(exclude_unset=True) for name in ("model", "tokenizer")}
    return parse_recipe({**parts, "training": {"length": length}}, f"a new network for {section.kind}")


def _identity(recipe: Recipe, texts: Sequence[str]) -> dict[str, Any]:
    """All that the folder depends on."""
    parts = {name: getattr(recipe, name).model_dump(mode="json") for name in ("model", "tokenizer")}
    given = None if recipe.tokenizer.file is None else load_tokenizer(recipe.tokenizer.file).hash
    sums = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    return {**parts, "length": recipe.training.length, "given": given, "texts": sums}
