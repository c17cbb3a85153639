"""Gaussians with a diagonal covariance: what an encoder says of a latent, and what a set of texts says of the encoder.

Kingma and Welling 2014, arXiv:1312.6114 (reparameterisation, section 2.4; KL, appendix B). Burda et al. 2016,
arXiv:1509.00519 (importance-weighted bound, section 3; active units, section 5.3). Mutual information: Hoffman and Johnson
2016 ("ELBO surgery", section 3), estimated as in He et al. 2019, arXiv:1901.05534, section 4.
Letters: N texts, Z numbers of a latent, K samples. Everything is in nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ACTIVE = 0.01
"""A unit is active when its posterior mean varies by more than this from text to text."""
SEED = 0
"""Of the samples that mutual information is estimated with: the same posteriors always give the same figure."""


@dataclass(frozen=True)
class Posterior:
    """One Gaussian for each of N texts. mean, log_variance: (N, Z), float32 or wider."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """(N, Z): mean + standard deviation * noise, so that gradients reach both; noise is drawn where none is given."""
        noise = torch.randn_like(self.mean) if noise is None else noise
        return self.mean + (0.5 * self.log_variance).exp() * noise

    def kl(self) -> Tensor:
        """The divergence of each number's Gaussian from the prior, the standard normal: (N, Z)."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance)

    def log_density(self, latents_NZ: Tensor) -> Tensor:
        """Of each text's latent under its own posterior: (N,)."""
        distance = (latents_NZ - self.mean).square() * (-self.log_variance).exp()
        return -0.5 * (distance + self.log_variance + math.log(2 * math.pi)).sum(-1)

    def active_units(self) -> int:
        """How many of the Z posterior means have a variance over texts above ACTIVE."""
        return int((self.mean.var(0, correction=0) > ACTIVE).sum())

    def mutual_information(self) -> float:
        """Between texts and latents: E log q(z|x) - E log q(z), the mean posterior of the N texts standing for q(z).

        It cannot come out above ln N, however much the latents say.
        """
        mean, log_variance = self.mean.double(), self.log_variance.double()
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64).to(mean.device)
        latents, precision = Posterior(mean, log_variance).sample(noise), (-log_variance).exp()
        constant = (mean.square() * precision + log_variance + math.log(2 * math.pi)).sum(-1)
        mixed = []
        for part in latents.split(1024):                  # each latent under every text's posterior
            squares = part.square() @ precision.T - 2 * part @ (mean * precision).T + constant
            mixed.append((-0.5 * squares).logsumexp(-1) - math.log(len(mean)))
        own = Posterior(mean, log_variance).log_density(latents)  # of the same samples: what they err by cancels out
        return float((own - torch.cat(mixed)).mean())


def prior_log_density(latents: Tensor) -> Tensor:
    """Of latents (..., Z) under the standard normal: (...)."""
    return -0.5 * (latents.square() + math.log(2 * math.pi)).sum(-1)


def importance_weighted(log_weights_KN: Tensor) -> Tensor:
    """The log of the mean weight p(x, z) / q(z|x) over K samples, (N,): at most log p(x) on average, and closer with more."""
    return log_weights_KN.logsumexp(0) - math.log(len(log_weights_KN))
