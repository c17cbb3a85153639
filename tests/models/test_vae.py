"""The text VAE: Gaussians against torch.distributions and closed forms, packed against apart, cached against whole."""

import json
import math

import numpy as np
import pytest
import torch
from torch import distributions

from yanmo import models
from yanmo.batch import Packed
from yanmo.errors import UserError
from yanmo.models import Latent
from yanmo.models.latent import LatentDecoder, after_memory
from yanmo.models.posterior import Posterior, prior_log_density
from yanmo.recipe import Model
from yanmo.scoring import packed_rows

SIZES = (5, 9, 3, 7)


def posterior(texts=6, units=5, seed=0):
    torch.manual_seed(seed)
    return Posterior(torch.randn(texts, units), torch.randn(texts, units))


def normal(found):
    return distributions.Normal(found.mean, (0.5 * found.log_variance).exp())


def test_kl_is_that_of_torch():
    found = posterior()
    wanted = distributions.kl_divergence(normal(found), distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(found.kl(), wanted)


def test_densities_are_those_of_torch():
    found, latents = posterior(), torch.randn(6, 5)
    torch.testing.assert_close(found.log_density(latents), normal(found).log_prob(latents).sum(-1))
    torch.testing.assert_close(prior_log_density(latents), distributions.Normal(0.0, 1.0).log_prob(latents).sum(-1))


def test_gradients_through_a_sample_are_the_analytic_ones():
    """E f(z) for f(z) = a z + b z^2 + c z^3; Gauss-Hermite nodes as noise make the expectation exact."""
    a, b, c = 0.7, -1.3, 0.4
    nodes, weights = (torch.from_numpy(x) for x in np.polynomial.hermite_e.hermegauss(8))
    mean, log_variance = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.6, -0.8))
    z = Posterior(mean.expand(8, 1), log_variance.expand(8, 1)).sample(nodes[:, None])[:, 0]
    ((a * z + b * z**2 + c * z**3) * weights / weights.sum()).sum().backward()
    variance = math.exp(-0.8)
    assert mean.grad.item() == pytest.approx(a + 2 * b * 0.6 + 3 * c * (0.6**2 + variance))
    assert log_variance.grad.item() == pytest.approx(variance * (b + 3 * c * 0.6))


class LinearGaussian:
    """x = W z + noise of variance s2, the columns of W orthogonal: q may be the exact posterior, or wider than it."""

    def __init__(self, wider):
        torch.manual_seed(3)
        self.matrix = torch.linalg.qr(torch.randn(6, 3, dtype=torch.float64))[0] * torch.tensor([0.5, 1.0, 2.0])
        self.s2, self.wider = 0.3, wider
        self.x = torch.randn(4, 6, dtype=torch.float64)

    def encode(self, read):
        precision = 1 + self.matrix.square().sum(0) / self.s2
        mean = self.x @ self.matrix / self.s2 / precision
        return Posterior(mean, (self.wider / precision).log().expand_as(mean))

    def log_likelihood(self, written, places, answers, latents):
        return distributions.Normal(latents @ self.matrix.T, self.s2**0.5).log_prob(self.x).sum(-1)

    def evidence(self):
        covariance = self.matrix @ self.matrix.T + self.s2 * torch.eye(6)
        return distributions.MultivariateNormal(torch.zeros(6, dtype=torch.float64), covariance.double()).log_prob(self.x)

    def bound(self, samples):
        noise = torch.randn(samples, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        read = packed_rows([[1, 2]] * 4, 0, torch.device("cpu"))
        return Latent.importance_bound(self, read, None, None, noise)


def test_with_the_exact_posterior_one_sample_is_the_evidence():
    toy = LinearGaussian(wider=1.0)
    torch.testing.assert_close(toy.bound(1), toy.evidence())


def test_the_bound_is_below_the_evidence_and_comes_to_it():
    toy = LinearGaussian(wider=4.0)
    single = -0.5 * 3 * (4.0 - 1 - math.log(4.0))         # ELBO minus evidence: the KL of q from the exact posterior
    exact, posterior_ = toy.evidence(), toy.encode(None)
    noise = torch.randn(20_000, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    latents = posterior_.sample(noise)
    weights = toy.log_likelihood(None, None, None, latents) + prior_log_density(latents) - posterior_.log_density(latents)
    torch.testing.assert_close(weights.mean(0), exact + single, atol=0.05, rtol=0)
    assert (weights.view(-1, 10, 4).logsumexp(1) - math.log(10)).mean() < exact.mean()
    torch.testing.assert_close(toy.bound(20_000), exact, atol=0.05, rtol=0)


def test_active_units_are_those_whose_mean_varies():
    spread = torch.tensor([0.0, 0.05, 0.2, 3.0])          # standard deviations: variances 0, 0.0025, 0.04, 9
    means = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0)) * spread
    assert Posterior(means, torch.zeros_like(means)).active_units() == 2


def test_mutual_information_of_gaussians():
    """Means of variance t, posteriors of variance s: q(z) is N(0, t + s), the information 0.5 ln(1 + t / s)."""
    means = 1.5 * torch.randn(3000, 1, generator=torch.Generator().manual_seed(5))
    found = Posterior(means, torch.full_like(means, math.log(0.5)))
    assert found.mutual_information() == pytest.approx(0.5 * math.log(1 + 2.25 / 0.5), abs=0.05)
    same = Posterior(torch.ones(50, 3), torch.zeros(50, 3))
    assert same.mutual_information() == pytest.approx(0, abs=1e-9)
    apart = Posterior(100.0 * torch.arange(20.0)[:, None], torch.zeros(20, 1))
    assert apart.mutual_information() == pytest.approx(math.log(20), abs=0.3)


def tiny(version="transformer", **more):
    sizes = {"layers": 2, "width": 16} | ({"heads": 2, "feedforward": 32} if version == "transformer" else {})
    torch.manual_seed(0)
    network = models.build(Model(family="vae", version=version, latent=4, **sizes, **more), vocabulary=60, length=32)
    with torch.no_grad():                                 # as far from 0 as trained weights
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def packed_and_apart():
    """Four texts in two rows, with padding, and one to a row."""
    texts = [torch.randint(1, 60, (size,), generator=torch.Generator().manual_seed(size)).tolist() for size in SIZES]
    apart = packed_rows(texts, 0, torch.device("cpu"))
    tokens, documents, positions = (torch.zeros(2, 16, dtype=torch.long) for _ in range(3))
    at = [0, 0]
    for index, text in enumerate(texts):
        row, place = index // 2, slice(at[index // 2], at[index // 2] + len(text))
        tokens[row, place], documents[row, place] = torch.tensor(text), index % 2 + 1
        positions[row, place] = torch.arange(len(text))
        at[row] += len(text)
    return Packed(tokens, documents, positions), apart


VERSIONS = pytest.mark.parametrize("version", ["transformer", "lstm"])


@VERSIONS
def test_packed_texts_are_read_and_written_as_if_apart(version):
    network, (packed, apart) = tiny(version), packed_and_apart()
    mine, alone = network.encode(packed), network.encode(apart)
    torch.testing.assert_close(mine.mean, alone.mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mine.log_variance, alone.log_variance, atol=1e-5, rtol=1e-5)
    latents = torch.randn(4, 4)
    hidden = network.decoder.write(after_memory(packed), latents)[packed.documents > 0]
    wanted = network.decoder.write(after_memory(apart), latents)[apart.documents > 0]
    torch.testing.assert_close(hidden, wanted, atol=1e-5, rtol=1e-5)


@VERSIONS
def test_every_word_sees_the_latent_and_no_later_word(version):
    network, (_, apart) = tiny(version), packed_and_apart()
    latents = torch.randn(4, 4)
    written = after_memory(apart)
    hidden = network.decoder.write(written, latents)
    moved = network.decoder.write(written, latents + 0.1)
    real = apart.documents > 0
    real[:, 0] = False                                    # nothing is asked where the memory stands
    assert ((hidden - moved).abs().sum(-1)[real] > 1e-5).all()
    changed = written.tokens.clone()
    changed[1, 5] = 59 - changed[1, 5]
    again = network.decoder.write(Packed(changed, written.documents, written.positions), latents)
    assert torch.allclose(again[1, :5], hidden[1, :5], atol=1e-6)
    assert not torch.allclose(again[1, 5:9], hidden[1, 5:9], atol=1e-4)


def test_the_latent_comes_in_by_memory_and_by_embedding():
    network, (_, apart) = tiny(), packed_and_apart()
    assert isinstance(network.decoder, LatentDecoder)
    latents, written = torch.randn(4, 4), after_memory(apart)
    hidden = network.decoder.write(written, latents)
    for way in (network.decoder.latent_memory, network.decoder.latent_embedding):
        kept = way.weight.detach().clone()
        way.weight.data.zero_()
        assert not torch.allclose(network.decoder.write(written, latents)[:, 1], hidden[:, 1], atol=1e-4)
        way.weight.data.copy_(kept)


@VERSIONS
def test_with_a_cache_is_as_without(version):
    network = tiny(version)
    text = torch.randint(1, 60, (3, 8))
    read = packed_rows(text.tolist(), 0, torch.device("cpu"))
    latents = torch.randn(3, 4)
    whole = network.decoder.write(after_memory(read), latents)
    writing = network.begin(latents, 8)
    given = after_memory(read).tokens
    parts = [network.go_on(part, writing) for part in (given[:, :3], *given[:, 3:].split(1, 1))]
    torch.testing.assert_close(torch.cat(parts, 1)[:, 1:], whole[:, 1:], atol=1e-5, rtol=1e-5)


@VERSIONS
def test_a_folder_gives_back_the_network(version, tmp_path):
    network, (packed, _) = tiny(version), packed_and_apart()
    models.save(network, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "yanmo-vae"
    again = models.load(tmp_path).eval()
    assert again.config == network.config
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name
    noise = torch.randn(4, 4)
    hidden, _ = network(packed, after_memory(packed), noise)
    torch.testing.assert_close(again(packed, after_memory(packed), noise)[0], hidden, atol=0, rtol=0)


def test_a_latent_without_numbers_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a latent without numbers says nothing"):
        Model(family="vae", latent=0)
    models.save(tiny(), tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"latent_size": 0}))
    with pytest.raises(UserError, match="latent_size: 0"):
        models.load(tmp_path)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"family": "gpt2", "latent": 8}, "gpt2 has no latent"),
        ({"family": "bert", "start_decoder": "x"}, "start_decoder: bert has no latent"),
        ({"family": "vae", "version": "1.0"}, "version 1.0 is none of vae"),
        ({"family": "vae", "start": "x", "latent": 4}, "these are the folder's"),
    ],
)
def test_what_a_recipe_must_not_say(section, message):
    with pytest.raises(ValueError, match=message):
        Model(**section)


def test_both_halves_start_from_pretrained_networks(tmp_path):
    sizes = {"layers": 2, "width": 16, "heads": 2, "feedforward": 32, "positions": 40}
    reader = models.build(Model(family="modernbert", **sizes), vocabulary=60, length=32).eval()
    writer = models.build(Model(family="gpt2", **sizes), vocabulary=60, length=32).eval()
    models.save(reader, tmp_path / "reader")
    models.save(writer, tmp_path / "writer")
    network = models.build(
        Model(family="vae", latent=4, start_encoder=str(tmp_path / "reader"), start_decoder=str(tmp_path / "writer")),
        vocabulary=60,
        length=32,
    ).eval()
    assert isinstance(network, Latent)
    packed, _ = packed_and_apart()
    torch.testing.assert_close(network.encoder(packed), reader(packed), atol=0, rtol=0)
    assert network.config.length == 40
    for name, parameter in writer.named_parameters():
        own = network.decoder.get_parameter(name)
        assert torch.equal(own[1:] if "positions" in name else own, parameter[:-1] if "positions" in name else parameter), name
    models.save(network, tmp_path / "both")
    assert models.load(tmp_path / "both").config == network.config


def test_a_half_of_the_wrong_kind_is_refused(tmp_path):
    sizes = {"layers": 1, "width": 16, "heads": 2, "feedforward": 32}
    models.save(models.build(Model(family="gpt2", **sizes), vocabulary=60, length=32), tmp_path)
    with pytest.raises(UserError, match=r"encoder: 'gpt2' cannot be the encoder of a vae; known: bert, .*yanmo-lstm"):
        models.build(Model(family="vae", start_encoder=str(tmp_path)), vocabulary=60, length=32)
