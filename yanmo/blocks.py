"""How the blocks of a network are run while it is trained: compiled, or with their activations computed twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as recompute

from yanmo import recipe
from yanmo.optim import blocks_of


def should_compile(device: torch.device) -> bool:
    """Whether blocks are compiled when the recipe does not say: what measures best on a device."""
    return device.type == "cuda"


@contextmanager
def prepared_blocks(
    module: nn.Module, training: recipe.Training, device: torch.device, say: Callable[[str], None]
) -> Iterator[None]:
    """Blocks that recompute their activations or are compiled, as the recipe says, and as they were afterwards.

    Where the compiler does not work (no C++ compiler, say) the blocks run as they are, and `say` is told.
    """
    blocks = blocks_of(module)
    compiling = should_compile(device) if training.compile is None else training.compile
    if compiling and (reason := _compiler_fails(device)):
        say(f"the blocks are not compiled, training goes on without: {reason}")
        compiling = False
    for block in blocks:
        if training.checkpoint_activations:
            block.forward = partial(recompute, block.forward, use_reentrant=False)
        if compiling:
            block.compile()
    try:
        yield
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)
            block._compiled_call_impl = None


def _compiler_fails(device: torch.device) -> str | None:
    """Why torch.compile does not work here, found by compiling something small; None where it works."""
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.ones(8, device=device))
    except Exception as error:  # whatever a compiler may say
        return f"torch.compile fails here ({str(error).strip().splitlines()[0]})"
    return None
