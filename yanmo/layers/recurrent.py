"""Long short-term memory (Hochreiter and Schmidhuber 1997; with a forget gate, Gers et al. 2000) over packed rows.

Letters: R rows, T places of a row, N texts, D width, B layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yanmo.layers.texts import Texts

State = tuple[Tensor, Tensor]
"""What the cells give out and what they hold, (B, N, D) each."""


class Recurrent(nn.Module):
    """torch's LSTM, each text of a row from a state of its own. Texts of a batch are laid side by side, padded at the end,
    where nothing that is read comes from."""

    def __init__(self, width: int, layers: int, dropout: float = 0.0):
        """dropout: between the layers."""
        super().__init__()
        self.lstm = nn.LSTM(width, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)

    @torch.no_grad()
    def start(self) -> None:
        """torch's own start, and forget gates that begin open (Jozefowicz et al. 2015, section 2.2)."""
        self.lstm.reset_parameters()
        width = self.lstm.hidden_size
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("bias"):
                parameter.zero_()
            if name.startswith("bias_ih"):
                parameter[width : 2 * width] = 1.0

    def forward(self, x_RTD: Tensor, texts: Texts, state: State | None = None) -> Tensor:  # (R, T, D)
        mixed, _ = self.lstm(texts.apart(x_RTD), state)
        return texts.together(mixed, x_RTD)

    def go_on(self, x_NTD: Tensor, state: State) -> tuple[Tensor, State]:
        """More places of texts that stand in a row each, from a state to the next one."""
        return self.lstm(x_NTD, state)
