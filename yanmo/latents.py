"""Texts from nothing, of every network that writes; and what a text VAE is for besides: texts between two, texts again.

Bowman et al. 2016, arXiv:1511.06349, section 5 (samples, homotopies). Spherical interpolation: White 2016, arXiv:1609.04468.
Letters: N texts, Z numbers of a latent, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from yanmo.errors import UserError
from yanmo.generation import Sampling, generate
from yanmo.models import Encoder, Latent, Network, Seq2Seq
from yanmo.models.network import in_mode
from yanmo.models.posterior import Posterior
from yanmo.objectives.latent import beginning
from yanmo.scoring import packed_rows, random_of, surrounded
from yanmo.tokenizer import Tokens

ROWS = 32
"""Texts that are written at once."""


@dataclass(frozen=True)
class Written:
    """A text from nothing or from a latent. tokens: its ids, the end of text included where it came; ended: whether it did."""

    text: str
    tokens: tuple[int, ...]
    ended: bool


def sample(
    network: Network, tokens: Tokens, count: int = 1, *, temperature: float = 1.0, seed: int = 0, max_tokens: int = 64
) -> list[Written]:
    """Texts from nothing: where there is a latent, from one drawn from the prior; else as what follows the end of a text. Text
    number i depends on (seed, i), not on the count; temperature is that of the words, 0 takes the likeliest. Raises UserError
    for a network that does not write by itself and for settings that make no sense."""
    if count < 1:
        raise UserError(f"count {count}: it must be at least 1")
    if not isinstance(network, Latent):
        return _continued(network, tokens, count, temperature, seed, max_tokens)
    randoms = [random_of(f"{seed}/{number}") for number in range(count)]
    latents = torch.stack([torch.randn(network.config.latent, generator=random) for random in randoms])
    return write(network, tokens, latents, temperature=temperature, randoms=randoms, max_tokens=max_tokens)


def _continued(
    network: Network, tokens: Tokens, count: int, temperature: float, seed: int, max_tokens: int
) -> list[Written]:
    """Texts that follow the end of a text, by networks that go on from one."""
    family = network.config.family
    if isinstance(network, Seq2Seq):
        raise UserError(f"sample: {family} writes what a source becomes; give it one (`yanmo generate MODEL --prompt TEXT`)")
    if not network.continues:
        does = "fills gaps (`yanmo fill MODEL TEXT`)" if isinstance(network, Encoder) else "writes no text by itself"
        does += f": it {network.judges}" if network.judges else ""
        raise UserError(f"sample: {family} {does}; train a decoder, a recurrent network or a VAE: gpt2, llama, lstm, vae")
    written = generate(network, tokens, [""] * count, temperature=temperature, seed=seed, max_new_tokens=max_tokens)
    return [Written(one.text, one.tokens, one.stopped == "end") for one in written]


def interpolate(
    network: Network,
    tokens: Tokens,
    first: str,
    second: str,
    steps: int = 5,
    *,
    path: Literal["linear", "spherical"] = "spherical",
    max_tokens: int = 64,
) -> list[Written]:
    """The likeliest words at `steps` places from the first text's posterior mean to the second's, both included. Spherical: on
    the arc between them, where latents are as far from the origin as those of texts. Raises UserError as `sample` does."""
    network = _latent(network, "interpolate")
    if steps < 2:
        raise UserError(f"steps {steps}: both ends are shown, so there are at least 2")
    one, other = encode(network, tokens, [first, second]).mean
    mix = spherical if path == "spherical" else torch.lerp
    places = torch.linspace(0, 1, steps).tolist()
    latents = torch.stack([mix(one, other, place) for place in places])
    return write(network, tokens, latents, temperature=0.0, max_tokens=max_tokens)


def reconstruct(network: Network, tokens: Tokens, texts: Sequence[str], *, max_tokens: int | None = None) -> list[Written]:
    """The likeliest words at each text's posterior mean. Raises UserError as `sample` does, and for a text that is too long."""
    network = _latent(network, "reconstruct")
    return write(network, tokens, encode(network, tokens, texts).mean, temperature=0.0, max_tokens=max_tokens)


@torch.no_grad()
def encode(network: Latent, tokens: Tokens, texts: Sequence[str]) -> Posterior:
    """The posteriors of some texts. Raises UserError for a text longer than the positions."""
    rows, found = surrounded(network, tokens, tokens.encode(texts)), list[Posterior]()
    with in_mode(network):
        for first in range(0, len(rows), ROWS):
            found.append(network.encode(packed_rows(rows[first : first + ROWS], tokens.pad, network.device)))
    return Posterior(torch.cat([one.mean for one in found]), torch.cat([one.log_variance for one in found]))


@torch.no_grad()
def write(
    network: Latent,
    tokens: Tokens,
    latents_NZ: Tensor,
    *,
    temperature: float = 0.0,
    randoms: Sequence[torch.Generator] = (),
    max_tokens: int | None = None,
) -> list[Written]:
    """A text from each latent, at most so many tokens, by default as many as there are positions for. randoms: where words are
    drawn (temperature above 0) one generator for each text."""
    sampling = Sampling(temperature)
    prefix = beginning(tokens)
    room = network.config.length - 1 - len(prefix)
    limit = room if max_tokens is None else min(max_tokens, room)
    if limit < 1:
        raise UserError(f"max_tokens {max_tokens}: it must be at least 1")
    written: list[Written] = []
    with in_mode(network):
        for first in range(0, len(latents_NZ), ROWS):
            part = latents_NZ[first : first + ROWS].to(network.device)
            written += _write(network, tokens, part, sampling, randoms[first : first + ROWS], limit)
    return written


def _write(
    network: Latent, tokens: Tokens, latents_NZ: Tensor, sampling: Sampling, randoms: Sequence[torch.Generator], limit: int
) -> list[Written]:
    """Write every text of a batch until all have ended; what comes after an end is not looked at."""
    device, prefix, ends = network.device, beginning(tokens), frozenset(tokens.suffix[-1:])
    state = network.begin(latents_NZ, limit + 1 + len(prefix))
    given = torch.tensor([[tokens.pad, *prefix]] * len(latents_NZ), device=device)
    ids: list[list[int]] = [[] for _ in latents_NZ]
    unseen = torch.zeros(len(latents_NZ), network.config.vocabulary, dtype=torch.bool, device=device)
    for _ in range(limit):
        logits_NV = network.logits(network.go_on(given, state)[:, -1])
        logits_NV[:, tokens.size :] = float("-inf")       # ids that only pad the vocabulary are no tokens
        chosen = sampling.choose(logits_NV, unseen, randoms)
        for own, token in zip(ids, chosen, strict=True):
            if not own or own[-1] not in ends:
                own.append(token)
        if all(own[-1] in ends for own in ids):
            break
        given = torch.tensor(chosen, device=device)[:, None]
    return [Written(tokens.decode(own, skip_special=True), tuple(own), own[-1] in ends) for own in ids]


def spherical(one: Tensor, other: Tensor, place: float) -> Tensor:
    """The point at `place` (0 to 1) of the arc from one vector to another; the length goes from one's to the other's."""
    lengths = one.norm(), other.norm()
    if not all(lengths):
        return torch.lerp(one, other, place)
    ends = one / lengths[0], other / lengths[1]
    angle = torch.acos((ends[0] @ ends[1]).clamp(-1, 1))
    if angle.sin() < 1e-4:                                # on one line there is no arc, or there are many
        return torch.lerp(one, other, place)
    direction = (((1 - place) * angle).sin() * ends[0] + (place * angle).sin() * ends[1]) / angle.sin()
    return direction * torch.lerp(lengths[0], lengths[1], place)


def _latent(network: Network, verb: str) -> Latent:
    if not isinstance(network, Latent):
        raise UserError(f"{verb}: a {network.config.family} has no latent; train a vae (recipes/vae-en.yaml)")
    return network
