"""Opening a model folder: the network and its tokenizer together."""

from __future__ import annotations

from pathlib import Path

from yanmo import models
from yanmo.errors import UserError
from yanmo.models import Network
from yanmo.tokenizer import Tokens, load_tokenizer

PLACES = ("pretrain/model", "*/pretrain/model", "runs/*/pretrain/model", "*/model", "model")
"""Where models are, below a folder that is none itself."""


def load(folder: str | Path) -> tuple[Network, Tokens]:
    """The network, in eval mode, and the tokenizer of a model folder, ours or transformers'.

    Raises UserError for a folder that is not one, naming the models near it, for weights or settings that do not fit, and
    for a tokenizer with more ids than the network has.
    """
    folder = Path(folder)
    check_folder(folder)
    tokens = load_tokenizer(folder)
    network = models.load(folder)
    if tokens.size > network.config.vocabulary:
        raise UserError(
            f"{folder}: the tokenizer has {tokens.size} ids and the network only {network.config.vocabulary}; "
            "they do not belong together"
        )
    return network.eval(), tokens


def check_folder(folder: Path) -> None:
    """Raises UserError for a folder that holds no whole model, naming the models near it."""
    if not (folder / "config.json").is_file():
        raise UserError(_nothing_here(folder))


def _nothing_here(folder: Path) -> str:
    """What is wrong with a path, and which models are near it."""
    if not folder.exists():
        wrong = f"{folder}: no such folder"
    elif folder.is_file():
        wrong = f"{folder} is a file; a model is a folder with config.json, model.safetensors and tokenizer.json"
    else:
        names = sorted(entry.name for entry in folder.iterdir())
        wrong = f"{folder} is no model folder (it has no config.json; it holds {', '.join(names[:6]) or 'nothing'})"
    near = _models_near(folder)
    return f"{wrong}. {'Models found: ' + ', '.join(map(str, near)) if near else 'Train one with `yanmo run RECIPE`'}."


def _models_near(folder: Path, most: int = 5) -> list[Path]:
    """Model folders below the given one, else below the nearest folder above it that exists, else below this folder."""
    above = next((path for path in folder.parents if path.is_dir()), Path())
    for start in dict.fromkeys((folder, above, Path())):
        found = {path for place in PLACES for path in start.glob(place) if (path / "config.json").is_file()}
        if found:
            return sorted(found)[:most]
    return []
