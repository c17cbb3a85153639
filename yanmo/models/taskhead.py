"""Heads of tasks: from a network's hidden states to scores of texts, of tokens, or of where an answer begins and ends.

Devlin et al. 2018, arXiv:1810.04805, section 4: one state stands for a text, every token's own for labels and for spans. What
comes between the state and the last layer differs from family to family, as data (`HeadSteps`), and so do its names in
transformers (`TaskForm`).
Letters: R rows, T tokens of a row, N texts, D width, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from yanmo.batch import Packed
from yanmo.errors import UserError
from yanmo.layers import ACTIVATIONS, Linear, NormConfig, StartConfig, build_norm, draw, start_weights
from yanmo.layers.texts import Texts

TaskKind = Literal["sequence", "token", "span"]
"""What is scored: whole texts, tokens one by one, or tokens as the begin and the end of an answer."""
Place = Literal["first", "last", "mean", "end"]
"""Which of a text's states stands for it: its first, its last, their mean, or that of its last end-of-text token."""
OWN_ARCHITECTURE = "Yanmo"
"""Begins the names of classes that transformers does not have."""


@dataclass(frozen=True)
class HeadSteps:
    """What happens to hidden states before the last layer, in this order."""

    place: Place | None = None
    """None where every token is scored."""
    end: int | None = None
    """The end-of-text token, where a text's state is the one at its end."""
    before: float = 0.0
    """Dropout before the inner layer."""
    inner: bool = True
    """Whether there is the inner layer that the form has a name for."""
    inner_bias: bool = True
    activation: str | None = None
    norm: NormConfig | None = None
    dropout: float = 0.0
    """Before the last layer."""


@dataclass(frozen=True)
class TaskForm:
    """One task model of a family: the name of its class in transformers, what its layers are called there, and what it does.

    A name that begins with `Yanmo` is of a class that only we have.
    """

    architecture: str
    out: str
    """The last layer."""
    steps: Callable[[Mapping[str, Any]], HeadSteps] = lambda _: HeadSteps()
    """From the settings of config.json, defaults filled in. Raises UserError for what is not implemented."""
    inner: str | None = None
    norm: str | None = None
    bias: bool = True
    """Of the last layer."""
    prefix: str | None = None
    """Before the names of the network's own weights, where it is not what the pretrained folder has."""
    by_inputs: bool = False
    """The last layer starts with one over the root of the width (ModernBERT)."""

    @property
    def own(self) -> bool:
        return self.architecture.startswith(OWN_ARCHITECTURE)


class TaskHead(nn.Module):
    """(R, T, D) hidden states to scores: (N, O) for each text of the rows in their order where the kind is sequence, (R, T, O)
    where it is token, (R, T, 2) where it is span: how well an answer begins, and ends, there."""

    def __init__(self, kind: TaskKind, width: int, outputs: int, form: TaskForm, steps: HeadSteps):
        super().__init__()
        assert (kind == "sequence") == (steps.place is not None), "a text has one state that stands for it, tokens have their own"
        assert outputs == 2 or kind != "span", f"a span has a begin and an end, not {outputs} outputs"
        self.kind: TaskKind = kind
        self.outputs, self.steps = outputs, steps
        self.by_inputs = form.by_inputs
        self.before = nn.Dropout(steps.before)
        self.inner = Linear(width, width, bias=steps.inner_bias) if form.inner and steps.inner else None
        self.activation = {**ACTIVATIONS, "tanh": torch.tanh}[steps.activation] if steps.activation else None
        self.norm = build_norm(width, steps.norm)
        self.dropout = nn.Dropout(steps.dropout)
        self.out = Linear(width, outputs, bias=form.bias)

    def start(self, layers: int, config: StartConfig) -> None:
        """Draw all weights anew, as the family starts those of a network of so many layers."""
        start_weights(self, layers, config)
        if self.inner is not None and config.scaled_head:
            draw(self.inner.weight, config.std * (2 * layers) ** -0.5, config.cutoff)
        if self.by_inputs:
            draw(self.out.weight, self.out.in_features**-0.5, config.cutoff)

    def forward(self, hidden_RTD: Tensor, packed: Packed) -> Tensor:
        x = self._of_texts(hidden_RTD, packed) if self.kind == "sequence" else hidden_RTD
        x = self.before(x)
        x = x if self.inner is None else self.inner(x)
        x = x if self.activation is None else self.activation(x)
        return self.out(self.dropout(self.norm(x)))

    def _of_texts(self, hidden_RTD: Tensor, packed: Packed) -> Tensor:  # (N, D)
        texts, hidden = Texts.of(packed), hidden_RTD.flatten(0, 1)
        if self.steps.place == "mean":
            return (texts.sum(hidden.float()) / texts.sizes[:, None]).to(hidden.dtype)
        if self.steps.place == "end":
            return hidden.index_select(0, self._ends(packed, texts))
        return hidden.index_select(0, texts.firsts if self.steps.place == "first" else texts.firsts + texts.sizes - 1)

    def _ends(self, packed: Packed, texts: Texts) -> Tensor:
        """Where each text's last end-of-text token stands, (N,), as a number in R*T. Raises UserError where one has none."""
        here = (texts.real & (packed.tokens == self.steps.end).flatten()).nonzero()[:, 0]
        ends = torch.full_like(texts.firsts, -1).scatter_reduce(0, texts.owner[here], here, "amax")
        if bool((ends < 0).any()):
            raise UserError(
                f"a text has no token {self.steps.end}: this family reads a whole text at its end-of-text token (eos_token_id); "
                "encode texts with what the tokenizer puts around them"
            )
        return ends


def place_by(settings: Mapping[str, Any], key: str, places: Mapping[str, Place]) -> Place:
    """The state of a text that a setting chooses. Raises UserError for a choice that is not implemented."""
    if settings[key] not in places:
        raise UserError(f"config.json: {key}: {settings[key]!r} is not implemented; known: {', '.join(places)}")
    return places[settings[key]]


def dropout_by(settings: Mapping[str, Any], *keys: str, otherwise: float) -> float:
    """The first of these settings that says anything."""
    return next((settings[key] for key in keys if settings.get(key) is not None), otherwise)
