"""The texts of packed rows one by one, for what looks at whole texts and not at places.

Letters: R rows, T places of a row, N texts, L places of the longest text, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from yanmo.batch import Packed


@dataclass(frozen=True)
class Texts:
    """The N documents of packed rows, numbered row by row.

    owner, position: (R*T,) each place's text and where in it the place stands; both 0 at padding. real: (R*T,), where there
    is no padding. firsts, sizes: (N,) each text's first place, as a number in R*T, and how many it has.
    """

    owner: Tensor
    position: Tensor
    real: Tensor
    firsts: Tensor
    sizes: Tensor

    @staticmethod
    def of(packed: Packed) -> Texts:
        """The texts of rows in which positions restart at 0 with every document."""
        real = (packed.documents > 0).flatten()
        begins = real & (packed.positions == 0).flatten()
        owner = (begins.cumsum(0) - 1).masked_fill(~real, 0)
        firsts = begins.nonzero()[:, 0]
        sizes = torch.zeros_like(firsts).index_add(0, owner, real.long())
        return Texts(owner, packed.positions.flatten().masked_fill(~real, 0), real, firsts, sizes)

    def __len__(self) -> int:
        return len(self.firsts)

    def spread(self, x_ND: Tensor) -> Tensor:
        """What belongs to a text at each of its places: (N, D) to (R*T, D)."""
        return x_ND.index_select(0, self.owner)

    def sum(self, x: Tensor) -> Tensor:
        """Each text's sum over its places: (R*T, ...) to (N, ...)."""
        kept = x.masked_fill(~self.real.view(-1, *[1] * (x.dim() - 1)), 0)
        return x.new_zeros(len(self), *x.shape[1:]).index_add(0, self.owner, kept)

    def apart(self, x_RTD: Tensor) -> Tensor:
        """Every text in a row of its own, zeros after its end: (R, T, D) to (N, L, D)."""
        x = x_RTD.flatten(0, 1)
        rows = x.new_zeros(len(self), int(self.sizes.max()), x.shape[-1])
        places = self.real.nonzero()[:, 0]
        return rows.index_put((self.owner[places], self.position[places]), x[places])

    def together(self, x_NLD: Tensor, like: Tensor) -> Tensor:
        """The way back, (N, L, D) to the (R, T) of `like`, zeros at padding: (R, T, D)."""
        places = x_NLD[self.owner, self.position]
        return places.masked_fill(~self.real[:, None], 0).view(*like.shape[:2], -1)
