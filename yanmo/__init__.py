"""Yanmo (研墨): your own text into your own language model.

    import yanmo
    model, tokenizer = yanmo.load("runs/quickstart/pretrain/model")

Everything heavy is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from yanmo.corpus import build_corpus as build_corpus
    from yanmo.errors import UserError as UserError
    from yanmo.evaluation import evaluate as evaluate
    from yanmo.filling import fill as fill
    from yanmo.generation import generate as generate
    from yanmo.index import build_index as build_index
    from yanmo.index import open_index as open_index
    from yanmo.latents import interpolate as interpolate
    from yanmo.latents import reconstruct as reconstruct
    from yanmo.latents import sample as sample
    from yanmo.predict import load as load
    from yanmo.recipe import Recipe as Recipe
    from yanmo.recipe import read_recipe as read_recipe
    from yanmo.run import carry_out as carry_out
    from yanmo.scoring import score as score
    from yanmo.shards import write_shards as write_shards
    from yanmo.talk import Talk as Talk
    from yanmo.tokenizer import train_tokenizer as train_tokenizer
    from yanmo.train import Trainer as Trainer
    from yanmo.vectors import embed as embed

HOMES = {
    "Recipe": "yanmo.recipe",
    "Talk": "yanmo.talk",
    "Trainer": "yanmo.train",
    "UserError": "yanmo.errors",
    "build_corpus": "yanmo.corpus",
    "build_index": "yanmo.index",
    "carry_out": "yanmo.run",
    "embed": "yanmo.vectors",
    "evaluate": "yanmo.evaluation",
    "fill": "yanmo.filling",
    "generate": "yanmo.generation",
    "interpolate": "yanmo.latents",
    "load": "yanmo.predict",
    "open_index": "yanmo.index",
    "read_recipe": "yanmo.recipe",
    "reconstruct": "yanmo.latents",
    "sample": "yanmo.latents",
    "score": "yanmo.scoring",
    "train_tokenizer": "yanmo.tokenizer",
    "write_shards": "yanmo.shards",
}
__all__ = ["Recipe", "Talk", "Trainer", "UserError", "build_corpus", "build_index", "carry_out", "embed", "evaluate", "fill"]
__all__ += ["generate", "interpolate", "load", "open_index", "read_recipe", "reconstruct", "sample", "score"]
__all__ += ["train_tokenizer", "write_shards"]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'yanmo' has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *HOMES])
