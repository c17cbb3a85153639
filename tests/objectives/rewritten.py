"""Tokenizers, texts and networks for objectives that make two texts of one."""

from __future__ import annotations

import numpy as np
import torch
from in_memory import FIRST, SIZE, FakeTokens, piece_of

from yanmo import models
from yanmo import recipe as recipes
from yanmo.batch import Piece
from yanmo.recipe import parse_recipe

torch.set_num_threads(1)
LAST = SIZE - 110
"""Ids of text end here; what objectives write comes after it."""
SENTINELS = tuple(range(SIZE - 1, SIZE - 101, -1))
GROUPS = {"sentinels": SENTINELS, "modes": (LAST, LAST + 1, LAST + 2), "gaps": (LAST + 3, LAST + 4, LAST + 5)}
TOKENS = FakeTokens(special=frozenset([*range(FIRST), *range(LAST, SIZE)]), groups=GROUPS)
T5 = FakeTokens(prefix=(), suffix=TOKENS.suffix, mask=None, special=TOKENS.special, groups=GROUPS)


def text_of(length: int, seed: int = 0, **rest: object) -> Piece:
    """Random text in words of one to three tokens and sentences of about ten."""
    rng = np.random.default_rng(seed)
    words = np.append(0, np.cumsum(rng.integers(1, 4, size=length)))
    words = words[words < length]
    sentences = words[np.append(True, rng.random(len(words) - 1) < 0.2)]
    return piece_of(rng.integers(FIRST, LAST, size=length), words.tolist(), sentences=sentences, **rest)


def network_of(family: str, length: int = 64) -> models.Network:
    torch.manual_seed(0)
    model = recipes.Model(family=family, layers=2, width=32, heads=2, feedforward=64)  # type: ignore[arg-type]
    return models.build(model, vocabulary=SIZE, length=length, special=models.Special(pad=0, bos=2, eos=3)).eval()


def section_of(family: str, **objective: object) -> recipes.Objective:
    return parse_recipe({"model": {"family": family}, "objective": objective}, "test").objective
