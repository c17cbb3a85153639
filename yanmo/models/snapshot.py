"""A network as it was at one moment of its training."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from yanmo.models.network import Network


class Snapshot(nn.Module):
    """The weights of a network, kept as buffers: a checkpoint holds them, and nothing moves them. taken: whether they are those
    of the moment that was meant."""

    def __init__(self, network: Network):
        super().__init__()
        self.taken = nn.Buffer(torch.tensor(False))
        for number, weight in enumerate(network.parameters()):
            self.register_buffer(f"weight_{number}", weight.detach().float().clone())

    @property
    def weights(self) -> list[Tensor]:
        return [buffer for name, buffer in self.named_buffers() if name != "taken"]

    @torch.no_grad()
    def take(self, network: Network) -> None:
        """The weights that a network has now."""
        for kept, weight in zip(self.weights, network.parameters(), strict=True):
            kept.copy_(weight)
        self.taken.fill_(True)

    @torch.no_grad()
    def restored(self, network: Network) -> Network:
        """A network like the one given, with the weights that were kept."""
        other = deepcopy(network)
        for kept, weight in zip(self.weights, other.parameters(), strict=True):
            weight.copy_(kept)
        return other
