"""Every family with every objective that fits it, tiny, on text made of numbers."""

from dataclasses import dataclass

import numpy as np
import torch
from tiny_teacher import teacher_in

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
    "t5 span corruption": ("t5", {}),
    "t5 denoisers": ("t5", {"kind": "denoisers"}),
    "t5 prefix": ("t5", {"kind": "prefix"}),
    "bart denoising": ("bart", {"delete": 0.1, "rotate": 0.2}),
    "gpt2 prefix": ("gpt2", {"kind": "prefix"}),
    "gpt2 fill in the middle": ("gpt2", {"kind": "fill-in-the-middle"}),
    "llama hybrid": ("llama", {"kind": "hybrid", "causal": 0.5}),
    "llama denoisers": ("llama", {"kind": "denoisers"}),
    "gpt2 mixture": (
        "gpt2",
        {"kind": "mixture", "parts": [{"objective": {"kind": kind}} for kind in ("causal", "span-corruption")]},
    ),
    "vae elbo": ("vae", {"free_bits": 0.0}),
    "electra replaced tokens": ("electra", {"generator": 0.5, "unit": "word", "weight": 10}),
    "electra-generator masked": ("electra-generator", {}),
    "bert contrast": ("bert", {"kind": "contrast", "dropout": 0.1}),
    "bert distillation": (
        "bert",
        {"kind": "distillation", "teacher": "teacher", "temperature": 1.0, "weight": 0.005, "hidden": "cosine"}
        | {"hidden_weight": 0.1},
    ),
    "xlnet permuted": ("xlnet", {"one_in": 3}),
    "xlnet permuted, with memory": ("xlnet", {"one_in": 3, "memory": 8}),
    "electra contrast of means": ("electra", {"kind": "contrast", "vector": "mean", "dropout": 0.1}),
    "lstm causal": ("lstm", {}),
    "gpt2 adversarial, relaxed": ("gpt2", {"kind": "adversarial", "start": 0.4, "longest": 12}),
    "lstm adversarial, policy": (
        "lstm",
        {"kind": "adversarial", "estimator": "policy-gradient", "start": 0.4, "longest": 8, "rollouts": 2},
    ),
    "mixtral causal": ("mixtral", {}),
    "llama causal, balanced experts": ("llama", {}, {"experts": {"number": 4, "router": "balanced"}}),
    "bert masked, experts choose": ("bert", {}, {"experts": {"number": 4, "router": "expert-choice", "every": 2}}),
    "t5 span corruption, experts": ("t5", {}, {"experts": {"number": 4, "top_k": 1, "capacity": 1.5}}),
}
VOCABULARY, LENGTH = 64, 32
WRITTEN = {"sentinels": tuple(range(64, 80)), "modes": (80, 81, 82), "gaps": (83, 84, 85)}
"""Special tokens of objectives that write some; their networks have a larger vocabulary."""
STATEFUL, ATTENTION = ("lstm",), {"heads": 2, "feedforward": 64}


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

    def group(self, name):
        return (self.mask,) if name == "mask" else WRITTEN[name]


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
    family, objective, *more = CASES[case]
    if "teacher" in objective:
        objective = objective | {"teacher": str(folder / "teacher")}
    recipe = parse_recipe(
        {
            "model": {"family": family, "layers": 2, "width": 32, **({} if family in STATEFUL else ATTENTION), **dict(*more)},
            "objective": objective,
            "training": {"steps": 10, "rows": 4, "length": LENGTH, "precision": "fp32", "learning_rate": 5e-3} | training,
        },
        case,
    )
    writes = set(recipe.objective.special) & WRITTEN.keys()
    ids = Ids(special=frozenset([*range(5), *range(64, 86)]), size=86) if writes else Ids()
    ids = teacher_in(folder / "teacher", family, VOCABULARY, LENGTH) if "teacher" in objective else ids
    torch.manual_seed(0)
    pair = getattr(recipe.objective, "sentences", "none") != "none"
    network = models.build(recipe.model, vocabulary=ids.size, length=LENGTH, pair=pair)
    learned = build_objective(recipe, network, ids)
    texts = Numbers(documents)
    order = Order(texts, LENGTH, learned, seed=0)
    validation = Order(texts, LENGTH, learned, seed=1, shuffle=False)
    return Trainer(learned, order, validation, recipe.training, folder, say=lambda sentence: None)
