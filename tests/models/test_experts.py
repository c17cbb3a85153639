"""Networks with experts: against transformers' Mixtral, packed and alone, saved and loaded, trained."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from test_networks import alone, packed, tiny
from test_seq2seq import pairs
from torch.utils.checkpoint import checkpoint

from yanmo import recipe
from yanmo.batch import Packed
from yanmo.errors import UserError
from yanmo.layers import Experts, experts_of
from yanmo.models import Decoder, Network, Seq2Seq, build, load, save
from yanmo.optim import Optimizer, roles
from yanmo.recipe import parse_recipe
from yanmo.speed import work_per_token

torch.set_num_threads(1)
TOP_2 = {"number": 4}
SWITCH = {"number": 4, "top_k": 1, "capacity": 1.25, "every": 2}
CHOICE = {"number": 4, "router": "expert-choice", "capacity": 1.5}
BALANCED = {"number": 4, "router": "balanced"}
BALANCED_2 = BALANCED | {"top_k": 2}
CASES = [
    ("bert", CHOICE), ("roberta", BALANCED_2), ("modernbert", SWITCH | {"every": 3}), ("gpt2", SWITCH), ("llama", BALANCED),
    ("qwen3", TOP_2), ("mixtral", TOP_2), ("t5", BALANCED), ("bart", SWITCH),
]  # fmt: skip
BOTH = pytest.mark.parametrize(("family", "experts"), CASES, ids=[family for family, _ in CASES])
LENGTHS = [[20, 7, 13], [1, 30, 9], [40]]


def mixture(family: str, experts: dict[str, Any], **model: Any) -> Network:
    return tiny(family, experts=recipe.Experts(**experts), **model)


def inputs(network: Network) -> tuple[Packed, ...]:
    return pairs() if isinstance(network, Seq2Seq) else (packed(LENGTHS, 44),)


def logits(network: Network, texts: tuple[Packed, ...]) -> torch.Tensor:
    return network.logits(network(*texts))[texts[-1].documents > 0]


@BOTH
@torch.no_grad()
def test_a_packed_document_is_the_document_alone(family: str, experts: dict[str, Any]) -> None:
    network = mixture(family, experts)
    if isinstance(network, Seq2Seq):
        source, target = pairs()
        found = network(source, target)
        for row, document in [(0, 1), (0, 3), (1, 2), (2, 1)]:
            (places, written), (_, read) = alone(target, row, document), alone(source, row, document)
            torch.testing.assert_close(found[row, places], network(read, written)[0], atol=1e-5, rtol=1e-5)
        return
    batch = packed(LENGTHS, 44)
    found = network(batch)
    for row, sizes in enumerate(LENGTHS):
        for document in range(1, len(sizes) + 1):
            places, single = alone(batch, row, document)
            torch.testing.assert_close(found[row, places], network(single)[0], atol=1e-5, rtol=1e-5)


@BOTH
@torch.no_grad()
def test_what_is_saved_is_what_is_loaded(family: str, experts: dict[str, Any], tmp_path: Path) -> None:
    network = mixture(family, experts)
    save(network, tmp_path / "one")
    again = load(tmp_path / "one").eval()
    assert torch.equal(logits(again, inputs(again)), logits(network, inputs(network)))
    assert {part.config for part in experts_of(again)} == {part.config for part in experts_of(network)}
    save(again, tmp_path / "two")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    said = json.loads((tmp_path / "one" / "config.json").read_text())
    assert said["model_type"] == ("mixtral" if family == "mixtral" else f"yanmo-{family}")


@torch.no_grad()
def test_a_balanced_folder_that_does_not_say_has_one_expert_of_a_token_and_no_balance_loss(tmp_path: Path) -> None:
    network = mixture("llama", BALANCED)
    save(network, tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    assert said["yanmo_experts"] == BALANCED | {"every": 1, "top_k": 1, "balance": 0.0}
    del said["yanmo_experts"]["top_k"], said["yanmo_experts"]["balance"]
    (tmp_path / "config.json").write_text(json.dumps(said))
    again = load(tmp_path).eval()
    assert torch.equal(logits(again, inputs(again)), logits(network, inputs(network)))
    assert "balance" not in again.regularisers


@pytest.mark.parametrize(("family", "every", "expected"), [("llama", 1, [0, 1, 2, 3]), ("llama", 2, [1, 3]), ("t5", 3, [2, 2])])
def test_every_so_many_th_block_has_experts(family: str, every: int, expected: list[int]) -> None:
    network = mixture(family, BALANCED | {"every": every}, layers=4)
    stacks = [network.encoder.blocks, network.decoder.blocks] if isinstance(network, Seq2Seq) else [network.blocks]
    found = [n for blocks in stacks for n, block in enumerate(blocks) if isinstance(block.feedforward, Experts)]  # type: ignore[arg-type]
    assert found == expected


@pytest.mark.parametrize("padded", [False, True])
def test_the_balance_loss_is_mixtrals(padded: bool, tmp_path: Path) -> None:
    """Of three blocks together and without padding, as transformers has it; with its gradient for every router."""
    transformers = pytest.importorskip("transformers")
    sizes = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, intermediate_size=40)
    config = transformers.MixtralConfig(vocab_size=80, num_local_experts=5, router_aux_loss_coef=0.03, **sizes)
    torch.manual_seed(0)
    theirs = transformers.MixtralForCausalLM(config)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    assert ours.regularisers == {"balance": 0.03, "expert_load": 0, "dropped_tokens": 0}
    batch = packed([[20], [16], [9]] if padded else [[20], [20], [20]], 20)
    tokens = batch.tokens % 80
    real = (batch.documents > 0).long()
    expected = theirs(input_ids=tokens, attention_mask=real, output_router_logits=True).aux_loss
    expected.backward()
    ours(Packed(tokens, batch.documents, batch.positions))
    balance = ours.regularise()["balance"]
    balance.backward()
    torch.testing.assert_close(balance, expected, atol=1e-5, rtol=1e-5)
    for part, block in zip(experts_of(ours), theirs.model.layers, strict=True):
        torch.testing.assert_close(part.router.weight.grad, block.mlp.gate.weight.grad, atol=1e-5, rtol=1e-4)


def test_what_is_measured_is_of_the_last_forward_pass_and_balance_is_learned_in_training_only() -> None:
    network = mixture("llama", {"number": 4, "top_k": 1, "capacity": 1.0}).train()
    batch = packed(LENGTHS, 44)
    assert network.regularise() == {}
    network(packed([[3]], 44))
    network(batch)
    found = network.regularise()
    assert found.keys() == network.regularisers.keys() == {"balance", "expert_load", "dropped_tokens"}
    network(batch)
    assert all(torch.equal(value, found[name]) for name, value in network.regularise().items())
    assert found["expert_load"] > 1
    assert found["dropped_tokens"] > 0
    network.eval()(batch)
    assert network.regularise().keys() == {"expert_load", "dropped_tokens"}


@pytest.mark.parametrize("experts", [TOP_2, BALANCED, BALANCED_2], ids=["top-k", "balanced", "balanced-2"])
def test_activations_computed_twice_change_and_count_nothing(experts: dict[str, Any]) -> None:
    network = mixture("llama", experts).train()
    assert isinstance(network, Decoder)
    batch = packed(LENGTHS, 44)

    def step() -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
        network.zero_grad()
        hidden = network(batch)
        own = network.regularise()
        (hidden.square().sum() + 7 * own.get("balance", torch.zeros(()))).backward()
        return own, [torch.zeros(()) if weight.grad is None else weight.grad.clone() for weight in network.parameters()]

    plain, gradients = step()
    forwards = [block.forward for block in network.blocks]
    for block, forward in zip(network.blocks, forwards, strict=True):
        block.forward = lambda *inputs, forward=forward: checkpoint(forward, *inputs, use_reentrant=False)
    again, recomputed = step()
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    for one, other in zip(gradients, recomputed, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("top_k", [1, 2])
def test_balanced_experts_have_even_loads_of_real_tokens_only(top_k: int) -> None:
    network = mixture("llama", BALANCED | {"top_k": top_k}).train()
    network(packed([[20, 12], [4]], 44))
    for part in experts_of(network):
        assert part.routes is not None
        assert part.routes.counts == [9 * top_k] * 4
    assert network.regularisers.get("balance", 0) == (0.05 if top_k > 1 else 0)
    found = network.regularise()
    assert ("balance" in found) == (top_k > 1)
    assert found["expert_load"] == 1
    assert found["dropped_tokens"] == 0
    assert found["assignment_optimum"] >= 0.999


@pytest.mark.parametrize(("family", "experts"), [("mixtral", TOP_2), ("llama", BALANCED_2), ("gpt2", SWITCH)])
@torch.no_grad()
def test_what_is_written_token_by_token_is_what_is_read_at_once(family: str, experts: dict[str, Any]) -> None:
    network = mixture(family, experts)
    assert isinstance(network, Decoder)
    text = packed([[12], [12]], 12)
    expected = network(Packed(text.tokens, text.documents, text.positions, whole=True))
    cache = network.cache(2, 12)
    parts = [network(cache.take(text.tokens[:, at : at + step]), cache) for at, step in ((0, 5), (5, 1), (6, 6))]
    torch.testing.assert_close(torch.cat(parts, 1), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_weights_start_as_the_familys_others_do() -> None:
    for family, inner, out in (("gpt2", 0.02, 0.02 / math.sqrt(4)), ("llama", 0.02, 0.02), ("t5", 128**-0.5, 320**-0.5)):
        experts = recipe.Experts(number=4, router="balanced")
        network = build(recipe.Model(family=family, size="tiny", experts=experts), vocabulary=100, length=16)  # type: ignore[arg-type]
        for part in experts_of(network):
            assert float(part.router.weight.std()) == pytest.approx(inner, rel=0.2)
            for expert in part.experts:
                assert float(expert.inner.weight.std()) == pytest.approx(inner, rel=0.05)
                assert float(expert.out.weight.std()) == pytest.approx(out, rel=0.05)


def test_muon_moves_every_matrix_of_every_expert_by_itself() -> None:
    network = mixture("llama", BALANCED)
    mine = {name for name, _ in network.named_parameters() if "feedforward." in name}
    assert mine <= roles(network).matrices.keys()
    training = parse_recipe({"training": {"optimizer": "muon", "steps": 1}}, "test").training
    muon = Optimizer(network, training, 48, torch.float32).muon
    assert muon is not None
    assert len(muon.shapes[80, 48]) == 2 * 4 * 2, "gate and other half of 4 experts in 2 blocks"
    assert len(muon.shapes[48, 80]) == 4 * 2
    assert len(muon.shapes[4, 48]) == 2


def test_work_is_counted_of_the_experts_that_a_token_meets() -> None:
    dense, brick, router = tiny("llama"), 3 * 48 * 80, 8 * 48
    for kind in ("top-k", "balanced"):
        two = mixture("llama", {"number": 8, "router": kind, "top_k": 2})
        assert work_per_token(two, 16, 1.0) - work_per_token(dense, 16, 1.0) == pytest.approx(6 * 2 * (brick + router))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"experts": {"number": 4, "top_k": 5}}, "top_k 5 is more than the 4 experts"),
        ({"experts": {"number": 1}}, "greater than or equal to 2"),
        ({"experts": {"router": "balanced", "top_k": 9}}, "top_k 9 is more than the 8 experts"),
        ({"experts": {"router": "balanced", "capacity": 2}}, "capacity: router balanced does not read this"),
        ({"family": "bert", "experts": {"router": "expert-choice", "top_k": 2}}, "top_k: router expert-choice does not"),
        ({"experts": {"router": "top"}}, "did you mean top-k"),
        ({"experts": {"router": "expert-choice"}}, "gpt2 would know later tokens; use top-k or balanced"),
        ({"family": "bert", "experts": {"router": "expert-choice", "capacity": 9}}, "cannot meet more than the 8 experts"),
        ({"experts": {"every": 5}, "layers": 4}, "experts.every 5 is more than the 4 layers"),
        ({"experts": {"number": 65}}, "65 is more than the 64 tokens of a micro-batch"),
        ({"family": "mixtral", "experts": {"router": "balanced"}}, "for others use llama"),
        ({"family": "electra", "experts": {}}, "electra has no blocks for them; these have: bert"),
        ({"family": "lstm", "experts": {}}, "lstm has no blocks for them"),
        ({"family": None, "start": "folder", "experts": {}}, "these are the folder's when start is given"),
    ],
)
def test_what_cannot_be_is_refused_when_the_recipe_is_read(model: dict[str, Any], message: str) -> None:
    model = {"family": "gpt2", **model}
    tree = {"model": {key: value for key, value in model.items() if value is not None}}
    with pytest.raises(UserError, match=message):
        parse_recipe({**tree, "training": {"length": 64, "rows": 4, "micro_rows": 1}}, "test")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"number": 2, "top_k": 3}, "a token cannot have 3 of 2 experts"),
        ({"number": 2, "top_k": 3, "router": "balanced"}, "a token cannot have 3 of 2 experts"),
        ({"number": 2, "every": 3}, "no block of llama gets experts: it has fewer than 3"),
        ({"number": 2, "size": 3}, "yanmo_experts: size is not known"),
        ({"router": "balanced"}, "missing 1 required positional argument: 'number'"),
    ],
)
def test_a_folder_that_contradicts_itself_is_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    save(mixture("llama", BALANCED), tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(said | {"yanmo_experts": settings}))
    with pytest.raises(UserError, match=message):
        load(tmp_path)
