"""Rows for new tokens: what was learned stays, and no new token is likelier than the average one."""

from __future__ import annotations

import pytest
import torch

from yanmo import models
from yanmo import recipe as recipes
from yanmo.batch import Packed
from yanmo.models.network import UNUSED_BIAS
from yanmo.models.vocabulary import SPREAD, _drawn

torch.set_num_threads(1)
KNOWN, MORE = 100, 230
FAMILIES = ["bert", "modernbert", "gpt2", "llama", "t5", "bart"]


def network_of(family: str) -> models.Network:
    torch.manual_seed(0)
    model = recipes.Model(family=family, layers=2, width=32, heads=2, feedforward=64)  # type: ignore[arg-type]
    network = models.build(model, vocabulary=KNOWN, length=40, special=models.Special(pad=0, bos=1, eos=2)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network


def logits_of(network: models.Network) -> torch.Tensor:
    tokens = torch.randint(3, KNOWN, (2, 12), generator=torch.Generator().manual_seed(1))
    packed = Packed(tokens, torch.ones_like(tokens), torch.arange(12).expand(2, 12), whole=True)
    inputs = (packed, packed) if isinstance(network, models.Seq2Seq) else (packed,)
    with torch.no_grad():
        return network.logits(network(*inputs))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_learned_stays_and_new_tokens_are_as_likely_as_the_average(family, tmp_path):
    network = network_of(family)
    grown = models.grow(network, MORE, KNOWN)
    assert (grown.config.vocabulary, grown.config.tokens, grown.training) == (256, MORE, False)
    before, after = logits_of(network), logits_of(grown)
    assert torch.equal(after[..., :KNOWN], before[..., :KNOWN])
    mean = before[..., :KNOWN].mean(-1, keepdim=True)
    spread = before[..., :KNOWN].std(-1, keepdim=True)
    assert ((after[..., KNOWN:MORE] - mean).abs() < 0.02 * spread).all()
    if grown.head.bias is not None:
        assert (grown.head.bias[MORE:] == UNUSED_BIAS).all()
    assert (grown.head.weight[MORE:] == 0).all()
    models.save(grown, tmp_path)
    assert torch.equal(logits_of(models.load(tmp_path).eval()), after)


def test_rows_that_were_there_and_not_used_are_taken():
    """Tokens that still fit into the padded vocabulary: nothing becomes larger, and rows that were zero are drawn."""
    network = network_of("gpt2")
    grown = models.grow(network, 120, KNOWN)
    assert grown.config.vocabulary == network.config.vocabulary == 128
    assert torch.equal(grown.head.weight[:KNOWN], network.head.weight[:KNOWN])
    assert (grown.head.weight[KNOWN:120].abs().amax(-1) > 0).all()
    assert len(torch.unique(grown.head.weight[KNOWN:120], dim=0)) == 20
    assert models.grow(network, KNOWN, KNOWN) is network


def test_rows_are_drawn_with_the_mean_and_a_share_of_the_covariance():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(4, 4, generator=generator)
    rows = torch.randn(500, 4, generator=generator) @ mixing + 3
    torch.manual_seed(1)
    drawn = _drawn(rows, 20_000)
    wanted = torch.cov(rows.T, correction=0) * SPREAD
    assert torch.allclose(drawn.mean(0), rows.mean(0), atol=3e-4)
    assert torch.allclose(torch.cov(drawn.T), wanted, rtol=0.1, atol=float(0.05 * wanted.abs().max()))
