"""Changed layers compute what peft's own layers compute, forward and backward."""

import copy

import pytest
import torch
from tiny_networks import packed, run, tiny

from yanmo.adapt import Lora, add_lora
from yanmo.adapt.changed import Changed
from yanmo.adapt.lora import lora_weights

pytest.importorskip("peft")
LORAS = {
    "lora": Lora(4),
    "rslora": Lora(3, 8, rs=True),
    "dora": Lora(2, dora=True),
    "dropout": Lora(4, dropout=0.3),
    "dora with dropout": Lora(2, dora=True, dropout=0.3),
    "query and value": Lora(4, targets="query-value"),
    "query and value, dora": Lora(4, dora=True, targets="query-value"),
    "query and value, dropout": Lora(4, dropout=0.3, targets="query-value"),
}


def pair(family, lora, dtype=torch.float32):
    """A network with changes, and the same with peft's own layers beside one another."""
    network = tiny(family, dropout=0.0, layers=1)
    add_lora(network, lora)
    with torch.no_grad():
        for parameter in lora_weights(network).values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    network = network.to(dtype).train()
    plain = copy.deepcopy(network)
    for part in plain.modules():
        if isinstance(part, Changed):
            part.forward = lambda x, part=part: torch.cat([one(x) for one in part.parts.values()], dim=-1)
    return network, plain


def learned(network, batch):
    torch.manual_seed(3)
    hidden = run(network, batch)
    (hidden.float() * torch.linspace(-1, 1, hidden.numel()).view(hidden.shape)).sum().backward()
    return hidden.detach(), {name: parameter.grad for name, parameter in lora_weights(network).items()}


def assert_near(made, wanted, share):
    """By the greatest number."""
    assert made.shape == wanted.shape
    assert wanted.abs().max() > 0
    assert (made - wanted).abs().max() <= share * wanted.abs().max()


CASES = [(family, kind, torch.float64, 1e-13) for family in ("bert", "llama", "bart") for kind in LORAS]


@pytest.mark.parametrize(("family", "kind", "dtype", "share"), [*CASES, *(("bert", kind, torch.float32, 1e-6) for kind in LORAS)])
def test_as_peft_does(family, kind, dtype, share):
    network, plain = pair(family, LORAS[kind], dtype)
    (made, gradients), (wanted, theirs) = (learned(one, packed()) for one in (network, plain))
    assert_near(made, wanted, share)
    assert gradients.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert_near(gradients[name], gradient, 10 * share)
    with torch.no_grad():
        assert_near(run(network.eval()), run(plain.eval()), share)


@pytest.mark.parametrize("kind", ["lora", "dora", "query and value"])
def test_in_bf16_as_near_to_float32_as_peft(kind):
    exact, _ = pair("bert", LORAS[kind])
    network, plain = pair("bert", LORAS[kind], torch.bfloat16)
    _, wanted = learned(exact, packed())
    (_, ours), (_, theirs) = (learned(one, packed()) for one in (network, plain))

    def error(gradients):
        return sum(float((gradients[name].float() - wanted[name]).norm() / wanted[name].norm()) for name in wanted) / len(wanted)

    assert error(ours) < 1.1 * error(theirs)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_blocks_compute_the_same():
    network, plain = pair("bert", LORAS["lora"])
    compiled = copy.deepcopy(network)
    for block in compiled.blocks:
        block.compile(backend="eager")
    (made, gradients), (wanted, theirs) = (learned(one, packed()) for one in (compiled, plain))
    torch.testing.assert_close(made, wanted, atol=1e-6, rtol=1e-6)
    for name in theirs:
        torch.testing.assert_close(gradients[name], theirs[name], atol=1e-4, rtol=1e-4)
