"""Every family with every objective that fits it, tiny, on text made of numbers."""

from dataclasses import dataclass

import numpy as np
import torch

from yanmo import models
from yanmo.batch import Order
from yanmo.objectives import build_objective
from yanmo.recipe import parse_recipe
from yanmo.train import Trainer

CASES = {
    "bert masked": ("bert", {}),
    "bert masked, next sentence": ("bert", {"sentences": "next"}),
    "bert masked, sentence order": ("bert", {"sentences": "order"}),
    "roberta masked tokens": ("roberta", {"unit": "token"}),
    "modernbert masked spans": ("modernbert", {"unit": "span", "replace": "mask", "rate": 0.3}),
    "gpt2 causal": ("gpt2", {}),
    "gpt2 causal, documents together": ("gpt2", {"documents": "joined"}),
    "llama causal": ("llama", {}),
    "qwen3 causal": ("qwen3", {}),
}
VOCABULARY, LENGTH = 64, 32


@dataclass(frozen=True)
class Ids:
    """What objectives ask of a tokenizer."""

    prefix: tuple[int, ...] = (2,)
    suffix: tuple[int, ...] = (3,)
    separator: int | None = 3
    pad: int = 0
    mask: int | None = 4
    unknown: int | None = 1
    special: frozenset[int] = frozenset(range(5))
    size: int = VOCABULARY


class Numbers:
    """Documents that count upwards, each from its own start, with sentences of five tokens and words of one or two."""

    def __init__(self, count):
        rng = np.random.default_rng(0)
        self.lengths = rng.integers(12, 60, size=count)
        self.starts = rng.integers(0, 50, size=count)

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, document, /):
        places = np.arange(self.lengths[document])
        tokens = (5 + (self.starts[document] + places) % (VOCABULARY - 5)).astype(np.uint16)
        return tokens, places[::5], places[places % 3 != 1]


def tiny(case, folder, documents=40, **training):
    """A trainer for a case, always with the same weights and the same text."""
    family, objective = CASES[case]
    recipe = parse_recipe(
        {
            "model": {"family": family, "layers": 2, "width": 32, "heads": 2, "feedforward": 64},
            "objective": objective,
            "training": {"steps": 10, "rows": 4, "length": LENGTH, "precision": "fp32", "learning_rate": 5e-3} | training,
        },
        case,
    )
    torch.manual_seed(0)
    pair = getattr(recipe.objective, "sentences", "none") != "none"
    network = models.build(recipe.model, vocabulary=VOCABULARY, length=LENGTH, pair=pair)
    learned = build_objective(recipe, network, Ids())
    texts = Numbers(documents)
    order = Order(texts, LENGTH, learned, seed=0)
    validation = Order(texts, LENGTH, learned, seed=1, shuffle=False)
    return Trainer(learned, order, validation, recipe.training, folder, say=lambda sentence: None)
