"""A text variational autoencoder: an encoder says where in a latent space a text lies, a decoder writes it from there.

Bowman et al. 2016, arXiv:1511.06349, section 3, with LSTMs; Li et al. 2020 (Optimus), arXiv:2004.04092, section 3.1, with
transformers. The decoder reads the latent in both ways of Optimus: added to the embedding of every token, and as a memory
that every block attends to. The memory is a place in front of each text, whose input to each block is a projection of the
latent: it goes through that block's norm, keys and values as the places after it do. LSTMs start from it.

A text that the encoder reads at places 0 ... n - 1 is written at the same places: the memory at 0, and at place p what the
encoder read at p - 1, whose answer is what the encoder read at p.
Letters: R rows, T places of a row, N texts, D width, Z numbers of a latent, B layers, V vocabulary, M answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yanmo.batch import Packed
from yanmo.layers import HeadConfig, Memory, StartConfig, View, VocabularyHead, start_weights
from yanmo.layers.lstm import LstmState, Steps
from yanmo.layers.texts import Texts
from yanmo.models.decoder import Decoder, KeyValueCache
from yanmo.models.encoder import Encoder
from yanmo.models.network import Network, NetworkConfig, StackConfig, compute_dtype
from yanmo.models.posterior import Posterior, importance_weighted, prior_log_density
from yanmo.models.recurrent import Recurrent, RecurrentConfig

PartConfig = StackConfig | RecurrentConfig
"""What encoder and decoder are: transformers or LSTMs."""
QUIET = 0.1
"""How loud a latent is at the start: its standard deviation over that of a token's embedding. And how fast it grows louder."""


@dataclass(frozen=True, kw_only=True)
class LatentConfig(NetworkConfig):
    """width is the decoder's."""

    latent: int
    encoder: PartConfig
    decoder: PartConfig


@dataclass
class Writing:
    """Texts that are being written, one to a row, from a latent each. cache: a transformer's; states: an LSTM's, layer by layer,
    none before the first word."""

    latents: Tensor
    cache: KeyValueCache | None = None
    states: list[LstmState] = field(default_factory=list)


class LatentDecoder(Decoder):
    """A decoder that reads a latent."""

    def __init__(self, config: StackConfig, latent: int):
        super().__init__(config)
        self.latent_embedding = nn.Linear(latent, config.width)
        self.latent_memory = nn.Linear(latent, config.layers * config.width)

    def start(self) -> None:
        super().start()
        start_memory(self.latent_memory)

    def write(self, packed: Packed, latents_NZ: Tensor) -> Tensor:  # (R, T, D)
        """Hidden states of the texts of `packed`, the first place of each a memory, whatever token is there."""
        self.check_length(packed)
        texts = Texts.of(packed)
        x_RTD = self.embed(packed)
        views = self.views(partial(View.of, packed, True, compute_dtype(x_RTD)))
        latents = murmur(latents_NZ, self.latent_memory)
        x_RTD = x_RTD + texts.spread(self.latent_embedding(latents)).view_as(x_RTD)
        memory_NBD = self._memory(latents).to(x_RTD.dtype)
        for index, (block, view) in enumerate(zip(self.blocks, views, strict=True)):
            x = x_RTD.flatten(0, 1).index_copy(0, texts.firsts, memory_NBD[:, index])
            x_RTD = block(x.view_as(x_RTD), view)
        return self.norm(x_RTD)

    @torch.no_grad()
    def go_on(self, tokens_NT: Tensor, writing: Writing) -> Tensor:  # (N, T, D)
        """Hidden states of the next tokens of texts that stand in a row each; the first is the memory's."""
        assert writing.cache is not None, "writing was begun by this decoder"
        packed = writing.cache.take(tokens_NT)
        begins = writing.cache.used == 0
        used = writing.cache.with_room_for(packed)
        latents = murmur(writing.latents, self.latent_memory)
        x_NTD = self.embed(packed) + self.latent_embedding(latents)[:, None]
        memory_NBD = self._memory(latents).to(x_NTD.dtype)
        views = self.views(partial(View.of_memory, packed, used, compute_dtype(x_NTD)))
        for index, (block, view) in enumerate(zip(self.blocks, views, strict=True)):
            if begins:
                x_NTD = torch.cat((memory_NBD[:, index : index + 1], x_NTD[:, 1:]), 1)
            memory = Memory(writing.cache.keys[index], writing.cache.values[index], used)
            x_NTD = block(x_NTD, view, memory)
        writing.cache.advance(packed)
        return self.norm(x_NTD)

    def begin(self, latents_NZ: Tensor, places: int) -> Writing:
        return Writing(latents_NZ, cache=self.cache(len(latents_NZ), places))

    def _memory(self, latents_NZ: Tensor) -> Tensor:
        return self.latent_memory(latents_NZ).unflatten(-1, (self.config.layers, -1))  # (N, B, D)

    @torch.no_grad()
    def copy_from(self, decoder: Decoder) -> None:
        """Take over a pretrained decoder. Its learned positions begin after the memory, whose own starts at zero."""
        self.load_state_dict(decoder.state_dict(), strict=False)
        table = self.embed.positions
        if table is not None:
            table.weight.copy_(table.weight.roll(1, 0))
            table.weight[self.embed.config.offset].zero_()


class RecurrentDecoder(Recurrent):
    """LSTMs that begin in a state made of the latent, and see the latent at every place."""

    def __init__(self, config: RecurrentConfig, latent: int):
        super().__init__(config)
        self.latent_embedding = nn.Linear(latent, config.width)
        self.latent_memory = nn.Linear(latent, 2 * config.layers * config.width)

    def start(self) -> None:
        super().start()
        start_memory(self.latent_memory)

    def write(self, packed: Packed, latents_NZ: Tensor) -> Tensor:  # (R, T, D)
        """As LatentDecoder's; zeros at the memory's places."""
        self.check_length(packed)
        memory = packed.positions == 0
        words = replace(packed, documents=packed.documents.masked_fill(memory, 0), positions=packed.positions - 1)
        return self._write(packed, Texts.of(words), latents_NZ, self._states(latents_NZ))[0]

    @torch.no_grad()
    def go_on(self, tokens_NT: Tensor, writing: Writing) -> Tensor:  # (N, T, D)
        """As LatentDecoder's; what stands at the memory's place is not read."""
        begins = int(not writing.states)
        tokens = tokens_NT[:, begins:]
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        packed = Packed(tokens, torch.ones_like(tokens), positions, whole=True)
        states = writing.states or self._states(writing.latents)
        hidden_NTD, writing.states = self._write(packed, Texts.of(packed), writing.latents, states)
        return F.pad(hidden_NTD, (0, 0, begins, 0))

    def begin(self, latents_NZ: Tensor, places: int) -> Writing:
        return Writing(latents_NZ)

    def _write(
        self, packed: Packed, texts: Texts, latents_NZ: Tensor, states: list[LstmState]
    ) -> tuple[Tensor, list[LstmState]]:
        steps, lasts = Steps.of(texts), []
        latent = texts.spread(self.latent_embedding(murmur(latents_NZ, self.latent_embedding)))
        x_ND = steps.gather(self.embed(packed) + latent.unflatten(0, packed.tokens.shape))
        for block, state in zip(self.blocks, states, strict=True):
            x_ND, last = block(x_ND, steps, state)
            x_ND = self.dropout(x_ND)
            lasts.append(last)
        return steps.scatter(x_ND, *packed.tokens.shape), lasts

    def _states(self, latents_NZ: Tensor) -> list[LstmState]:
        """Where each layer begins."""
        both = self.latent_memory(murmur(latents_NZ, self.latent_memory)).tanh()
        return [LstmState(*layer.chunk(2, -1)) for layer in both.chunk(self.config.layers, -1)]


class Latent(Network):
    """Texts to latents and back. What goes through it is two Packed: what the encoder reads, and what the decoder does."""

    def __init__(self, config: LatentConfig):
        super().__init__()
        self.config: LatentConfig = config  # pyright: ignore[reportIncompatibleVariableOverride]  # narrower
        reader, writer = config.encoder, config.decoder
        self.encoder = Encoder(headless(reader)) if isinstance(reader, StackConfig) else Recurrent(replace(reader, tied=True))
        self.decoder = (LatentDecoder if isinstance(writer, StackConfig) else RecurrentDecoder)(writer, config.latent)  # type: ignore[arg-type]
        self.posterior = nn.Linear(reader.width, 2 * config.latent)

    @property
    def head(self) -> VocabularyHead:  # pyright: ignore[reportIncompatibleVariableOverride]  # the decoder's
        return self.decoder.head

    def start(self) -> None:
        start_weights(self, 1, StartConfig())
        for part in (self.encoder, self.decoder):
            part.start()

    def forward(self, packed: Packed, written: Packed, noise_NZ: Tensor | None = None) -> tuple[Tensor, Posterior]:
        """Hidden states (R, T, D) of texts that are written from a sample of their own posterior, and the posteriors."""
        posterior = self.encode(packed)
        return self.decoder.write(written, posterior.sample(noise_NZ)), posterior

    def encode(self, packed: Packed) -> Posterior:
        """Where each of the N texts of `packed` lies, from the mean of its hidden states."""
        texts = Texts.of(packed)
        hidden = self.encoder(packed).flatten(0, 1)
        mean_ND = texts.sum(hidden.float()) / texts.sizes[:, None]
        mean, log_variance = F.linear(mean_ND, self.posterior.weight.float(), self.posterior.bias.float()).chunk(2, -1)
        return Posterior(mean, log_variance)

    def log_likelihood(self, written: Packed, places: Tensor, answers: Tensor, latents_NZ: Tensor) -> Tensor:
        """The log-probability of each text given its latent, (N,), in nats: of `answers` (M,) at `places` (M,) in R*T."""
        hidden = self.decoder.write(written, latents_NZ).flatten(0, 1).index_select(0, places)
        found, owner = self.log_probabilities(hidden, answers).float(), Texts.of(written).owner[places]
        return torch.zeros(len(latents_NZ), device=owner.device).index_add(0, owner, found.to(owner.device))

    @torch.no_grad()
    def importance_bound(self, read: Packed, places: Tensor, answers: Tensor, noise_KNZ: Tensor) -> Tensor:
        """log 1/K sum p(x|z) p(z) / q(z|x) over K latents of each text, (N,), in nats: at most log p(x) on average (Burda et al.
        2016, arXiv:1509.00519, section 3)."""
        posterior, written, weights = self.encode(read), after_memory(read), []
        for noise in noise_KNZ:
            latents = posterior.sample(noise)
            likelihood = self.log_likelihood(written, places, answers, latents)
            weights.append(likelihood + prior_log_density(latents) - posterior.log_density(latents))
        return importance_weighted(torch.stack(weights))

    def begin(self, latents_NZ: Tensor, places: int) -> Writing:
        """Texts of at most so many places each, of which nothing is written yet."""
        return self.decoder.begin(latents_NZ, places)

    def go_on(self, tokens_NT: Tensor, writing: Writing) -> Tensor:
        """Hidden states (N, T, D) of the next tokens of every text, without gradient; at the start the first is the memory's,
        whatever id stands there."""
        return self.decoder.go_on(tokens_NT, writing)

    def adopt(self, half: str, network: Network) -> None:
        """Let `encoder` or `decoder` begin with the weights of a pretrained network of the same configuration."""
        own = self.encoder if half == "encoder" else self.decoder
        if isinstance(own, LatentDecoder):
            assert isinstance(network, Decoder), "the configuration is the pretrained network's"
            own.copy_from(network)
        else:
            own.load_state_dict(network.state_dict(), strict=False)  # without the head, and with the latent's own


def murmur(latents_NZ: Tensor, layer: nn.Linear) -> Tensor:
    """Latents as a decoder reads them, in the number type of the layer that does: far below the words, and slow to rise.

    The scale is applied whenever latents are read instead of once to the weights (equalized learning rate, Karras et al. 2018,
    arXiv:1710.10196, section 4.1). Most of a latent is noise, which leaves these weights a gradient of no direction, and an
    optimizer that divides by the gradient's size makes full steps of it: weights that only start small are loud after a few
    steps, and the noise drowns the words (docs/log.md, Latents).
    """
    return (latents_NZ * (QUIET * latents_NZ.shape[-1] ** -0.5)).to(layer.weight.dtype)


@torch.no_grad()
def start_memory(memory: nn.Linear) -> None:
    """The memory begins as a vector that hardly depends on the latent."""
    memory.bias.normal_(0.0, StartConfig().std)


def after_memory(read: Packed) -> Packed:
    """What the decoder reads of texts that the encoder reads as they are; 0 stands where the memory and padding are."""
    return replace(read, tokens=read.tokens.roll(1, 1).masked_fill(read.positions == 0, 0))


def headless(config: StackConfig) -> StackConfig:
    """The same without what only predicts tokens: a head that is its embedding has no parameters of its own."""
    return replace(config, head=HeadConfig(config.vocabulary, config.width), pair=False)
