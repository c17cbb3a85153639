"""XLNet against transformers' own, in both directions, and against the definition of a factorisation order."""

from __future__ import annotations

import json
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_parity import write
from torch import Tensor

from yanmo import models
from yanmo.batch import Packed
from yanmo.errors import UserError
from yanmo.layers.relative import RelativeView, attend_relative, sinusoids
from yanmo.models.twostream import CONTEXT, NO_PLACE, Factorisation, TwoStream
from yanmo.recipe import Model

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

SIZES: dict[str, Any] = {"vocab_size": 101, "d_model": 48, "n_layer": 3, "n_head": 4, "d_inner": 80}
CLOSE: Any = {"atol": 1e-5, "rtol": 1e-5}
CASES: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "relu": {"ff_activation": "relu", "layer_norm_eps": 1e-3, "mem_len": None},
}


def theirs(**changes: Any) -> Any:
    """Every parameter random, so that no bias and no norm can be forgotten."""
    torch.manual_seed(7)
    model = transformers.XLNetLMHeadModel(transformers.XLNetConfig(**SIZES, **changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0, 0.1)
    return model


def ours(model: Any, folder: Path) -> TwoStream:
    write(model, folder)
    network = models.load(folder).eval()
    assert isinstance(network, TwoStream)
    return network


def ids(rows: int, length: int) -> Tensor:
    return torch.randint(6, 101, (rows, length), generator=torch.Generator().manual_seed(3))


def packed(tokens: Tensor, documents: Tensor | None = None, **more: Any) -> Packed:
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    return Packed(tokens, torch.ones_like(tokens) if documents is None else documents, positions, **more)


def random_order(rows: int, length: int, targets: int, seed: int = 0) -> Factorisation:
    """The first `targets` of a random permutation come last, in that order; the others are context."""
    generator = torch.Generator().manual_seed(seed)
    asked = torch.stack([torch.randperm(length, generator=generator)[:targets] for _ in range(rows)])
    ranks = torch.full((rows, length), CONTEXT)
    ranks.scatter_(1, asked, torch.arange(targets).expand(rows, -1))
    return Factorisation(ranks, asked)


def perm_mask(order: Factorisation) -> Tensor:
    """What transformers calls it: 1 where the place (second) must not see the other (third)."""
    known, asking = order.ranks[:, None, :], order.ranks[:, :, None]
    return 1.0 - ((known < asking) | (known == CONTEXT)).float()


def target_mapping(order: Factorisation) -> Tensor:
    return torch.nn.functional.one_hot(order.asked, order.ranks.shape[1]).float()


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
@torch.no_grad()
def test_logits_are_transformers_logits_both_ways(changes: dict[str, Any], tmp_path: Path) -> None:
    model, tokens = theirs(**changes), ids(3, 17)
    expected = model(input_ids=tokens).logits
    network = ours(model, tmp_path / "theirs")
    for whole in (True, False):
        found = network.logits(network(packed(tokens, whole=whole)))
        torch.testing.assert_close(found, expected, **CLOSE)

    models.save(network, tmp_path / "ours")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert type(again).__name__ == "XLNetLMHeadModel"
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    torch.testing.assert_close(again.eval()(input_ids=tokens).logits, expected, atol=1e-6, rtol=1e-6)
    both = [load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "ours")]
    assert both[0].keys() == both[1].keys()
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["architectures"] == ["XLNetLMHeadModel"]


@torch.no_grad()
def test_query_stream_is_theirs_with_perm_mask_and_target_mapping(tmp_path: Path) -> None:
    model, tokens, order = theirs(), ids(3, 17), random_order(3, 17, targets=5)
    expected = model(input_ids=tokens, perm_mask=perm_mask(order), target_mapping=target_mapping(order)).logits
    network = ours(model, tmp_path)
    torch.testing.assert_close(network.logits(network(packed(tokens), order)), expected, **CLOSE)


@torch.no_grad()
def test_parts_of_a_pair_are_their_token_types(tmp_path: Path) -> None:
    model, tokens, order = theirs(), ids(3, 17), random_order(3, 17, targets=5)
    types = torch.cat([torch.zeros(3, 8), torch.ones(3, 8), torch.full((3, 1), 2)], dim=1).long()
    network = ours(model, tmp_path)
    found = network.logits(network(packed(tokens, types=types)))
    torch.testing.assert_close(found, model(input_ids=tokens, token_type_ids=types).logits, **CLOSE)
    given = {"perm_mask": perm_mask(order), "target_mapping": target_mapping(order), "token_type_ids": types}
    found = network.logits(network(packed(tokens, types=types), order))
    torch.testing.assert_close(found, model(input_ids=tokens, **given).logits, **CLOSE)


@pytest.mark.parametrize("left", [True, False])
@torch.no_grad()
def test_padding_is_their_attention_mask(left: bool, tmp_path: Path) -> None:
    model, tokens = theirs(), ids(3, 17)
    place, lengths = torch.arange(17)[None], torch.tensor([17, 9, 2])[:, None]
    real = ((place >= 17 - lengths) if left else (place < lengths)).long()
    tokens = torch.where(real > 0, tokens, 5)
    network = ours(model, tmp_path)
    found = network.logits(network(packed(tokens, real)))
    expected = model(input_ids=tokens, attention_mask=real).logits
    torch.testing.assert_close(found[real > 0], expected[real > 0], **CLOSE)
    assert found.isfinite().all()


@pytest.mark.parametrize("places", [None, 4, 10])
@torch.no_grad()
def test_memory_is_theirs_segment_after_segment(places: int | None, tmp_path: Path) -> None:
    model, tokens = theirs(mem_len=places or 0), ids(2, 24)
    network = ours(model, tmp_path)
    assert network.config.memory == places
    memory, mems = network.memory(), None
    for first in range(0, 24, 6):
        segment = tokens[:, first : first + 6]
        types = torch.cat([torch.zeros(2, 3), torch.ones(2, 3)], dim=1).long() if first == 12 else None
        out = model(input_ids=segment, mems=mems, use_mems=True, token_type_ids=types)
        found = network(packed(segment, types=types), memory=memory)
        torch.testing.assert_close(network.logits(found), out.logits, **CLOSE)
        mems = out.mems
        assert len(memory) == mems[0].shape[0] == min(first + 6, places or 24)
        for mine, its in zip(memory.hidden, mems, strict=True):
            torch.testing.assert_close(mine, its.transpose(0, 1), **CLOSE)
    order = random_order(2, 6, targets=3)
    asked = {"perm_mask": perm_mask(order), "target_mapping": target_mapping(order)}
    expected = model(input_ids=tokens[:, :6], mems=mems, use_mems=True, **asked).logits
    torch.testing.assert_close(network.logits(network(packed(tokens[:, :6]), order, memory)), expected, **CLOSE)


@torch.no_grad()
def test_one_pass_is_one_explicit_pass_for_each_step_of_the_order(tmp_path: Path) -> None:
    """Each step sees a text that is cut down to the tokens before it in the order: the others are not there at all, and neither
    is the content of the place that is asked for."""
    model = theirs()
    network, tokens = ours(model, tmp_path), ids(1, 6)
    for seed in range(3):
        order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
        at_once = network.logits(network(packed(tokens), Factorisation(order.argsort()[None], order[None])))[0]
        for step, target in enumerate(order.tolist()):
            before = order[:step]
            # The places of what is not known hold another document of random tokens; so does that of the target.
            documents = torch.full((1, 6), 2)
            documents[0, before] = 1
            replaced = torch.where(documents == 1, tokens, ids(1, 6).flip(1))
            documents[0, target] = 1
            ranks = torch.full((1, 6), CONTEXT)
            ranks[0, before] = torch.arange(step)
            ranks[0, target] = 99
            alone = network.logits(network(packed(replaced, documents), Factorisation(ranks, torch.tensor([[target]]))))
            torch.testing.assert_close(at_once[step].log_softmax(-1), alone[0, 0].log_softmax(-1), **CLOSE)


@torch.no_grad()
def test_a_target_is_seen_by_later_ones_and_never_by_itself(tmp_path: Path) -> None:
    network, tokens, order = ours(theirs(), tmp_path), ids(1, 9), random_order(1, 9, targets=5)
    before = network(packed(tokens), order)[0]
    for step, target in enumerate(order.asked[0].tolist()):
        changed = tokens.clone()
        changed[0, target] += 1 if tokens[0, target] < 100 else -1
        after = network(packed(changed), order)[0]
        assert torch.equal(after[: step + 1], before[: step + 1])
        assert all((after[later] - before[later]).abs().max() > 1e-4 for later in range(step + 1, 5))


@torch.no_grad()
def test_packed_is_unpacked(tmp_path: Path) -> None:
    network, lengths = ours(theirs(), tmp_path), (5, 9, 4)
    tokens = ids(1, 20)
    documents = torch.tensor([number for number, length in enumerate(lengths, 1) for _ in range(length)] + [0, 0])[None]
    bounds = [0, 5, 14, 18]
    orders = [random_order(1, length, targets=2, seed=length) for length in lengths]
    ranks = torch.full((1, 20), CONTEXT)
    asked = torch.full((1, 7), NO_PLACE)
    for number, ((begin, end), order) in enumerate(zip(pairwise(bounds), orders, strict=True)):
        ranks[0, begin:end] = order.ranks[0] + torch.where(order.ranks[0] == CONTEXT, 0, 3 * number)
        asked[0, 2 * number : 2 * number + 2] = order.asked[0] + begin
    content, query = network(packed(tokens, documents))[0], network(packed(tokens, documents), Factorisation(ranks, asked))[0]
    assert query.isfinite().all()
    for number, ((begin, end), order) in enumerate(zip(pairwise(bounds), orders, strict=True)):
        alone = packed(tokens[:, begin:end], whole=True)
        torch.testing.assert_close(content[begin:end], network(alone)[0], **CLOSE)
        torch.testing.assert_close(query[2 * number : 2 * number + 2], network(alone, order)[0], **CLOSE)


@torch.no_grad()
def test_memory_stays_within_a_document(tmp_path: Path) -> None:
    """Two documents in one row, cut in the middle of the second: its end remembers its beginning and nothing of the first."""
    network, tokens = ours(theirs(), tmp_path), ids(1, 16)
    documents = torch.tensor([[1] * 6 + [2] * 10])
    memory, alone = network.memory(10), network.memory(4)
    network(packed(tokens[:, :10], documents[:, :10]), memory=memory)
    network(packed(tokens[:, 6:10]), memory=alone)
    found = network(packed(tokens[:, 10:], documents[:, 10:]), memory=memory)
    torch.testing.assert_close(found, network(packed(tokens[:, 10:]), memory=alone), **CLOSE)


def explicit(*given: Any) -> Tensor:
    """The sum of the paper's formula, one distance after the other."""
    query, key_value, far, content, distance, apart, view = given
    key, value = key_value.chunk(2, dim=2)
    rows, queries, _, width = query.shape
    keys, mixed = key.shape[1], []
    assert view.asked is not None
    assert view.mask is not None
    assert view.apart is not None
    for row in range(rows):
        places = [*range(view.in_order), *view.asked[row].tolist()]
        for number in range(queries):
            place = keys - view.places + places[number]
            rest = torch.stack([((query[row, number] + distance) * far[keys - (place - j)]).sum(-1) for j in range(keys)])
            scores = ((query[row, number] + content) * key[row]).sum(-1) + rest
            scores = scores * width**-0.5 + apart[row, number] * view.apart[row, number, :, None]
            weights = (scores + view.mask[row, number, :, None]).softmax(0)
            mixed.append((weights[..., None] * value[row]).sum(0))
    return torch.stack(mixed).view(query.shape)


@pytest.mark.parametrize("streams", ["both", "query"])
def test_attention_and_its_gradients_are_those_of_the_formula(streams: str) -> None:
    torch.manual_seed(0)
    rows, places, remembered, heads, width = 2, 5, 3, 2, 4
    keys, asked = remembered + places, torch.tensor([[3, 0, 4], [1, 4, 2]])
    queries = 3 + (places if streams == "both" else 0)
    mask = torch.where(torch.rand(rows, queries, keys) < 0.3, -1e30, 0.0).double()
    mask[:, :, 0] = 0
    apart = torch.rand(rows, queries, keys) < 0.5
    distances = sinusoids(places, keys, 6, torch.device("cpu")).double()
    view = RelativeView(distances, places, queries - 3, asked, mask, None, apart)
    shapes = ((rows, queries, heads, width), (rows, keys, 2 * heads, width), (keys + places, heads, width))
    shapes += ((heads, width), (heads, width), (rows, queries, heads))
    inputs: Any = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    outs = [attend(*inputs, view) for attend in (attend_relative, explicit)]
    torch.testing.assert_close(*outs)
    wanted = torch.randn_like(outs[0])
    found, expected = (torch.autograd.grad((out * wanted).sum(), inputs) for out in outs)
    for mine, right in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, right)
    with torch.no_grad():
        assert torch.equal(attend_relative(*inputs, view), outs[0])


def test_dropout_keeps_the_mean_and_its_gradient_is_that_of_what_it_drew() -> None:
    torch.manual_seed(0)
    view = RelativeView(sinusoids(6, 6, 4, torch.device("cpu")).double(), 6, 6)
    shapes = ((1, 6, 1, 4), (1, 6, 2, 4), (12, 1, 4), (1, 4), (1, 4))
    inputs: Any = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def drawn(*given: Any) -> Tensor:
        torch.manual_seed(5)
        return attend_relative(*given, None, view, 0.4)

    assert torch.autograd.gradcheck(drawn, inputs)
    with torch.no_grad():
        many = torch.stack([attend_relative(*inputs, None, view, 0.4) for _ in range(3000)]).mean(0)
        torch.testing.assert_close(many, attend_relative(*inputs, None, view), atol=0.08, rtol=0)


def test_what_sees_nothing_gets_nothing_and_gives_no_gradient_trouble() -> None:
    network = models.build(Model(family="xlnet", layers=2, width=32, heads=2), vocabulary=64, length=8)
    order = Factorisation(torch.arange(6)[None], torch.arange(6)[None])
    hidden = network(packed(ids(1, 6) % 60), order)
    hidden.sum().backward()
    assert hidden.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    changed = network(packed((ids(1, 6) + 1) % 60), order)
    assert torch.equal(changed[0, 0], hidden[0, 0])


def test_bf16_is_near_fp32(tmp_path: Path) -> None:
    network, tokens, order = ours(theirs(), tmp_path), ids(2, 32), random_order(2, 32, targets=6)
    table = network.embed.tokens.weight

    def gradient() -> Tensor:
        return torch.autograd.grad(network.logits(network(packed(tokens), order)).logsumexp(-1).sum(), table)[0]

    exact = gradient().clone()
    network.bfloat16()
    assert (gradient() - exact).norm() < 0.05 * exact.norm()


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    write(theirs(clamp_len=4), tmp_path)
    with pytest.raises(UserError, match="clamp_len: 4 is not implemented for xlnet"):
        models.load(tmp_path)
    with pytest.raises(ValueError, match=r"positions 64: xlnet .*leave it out"):
        Model(family="xlnet", positions=64)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler looks at it
def test_compiled_blocks_compute_the_same(tmp_path: Path) -> None:
    network, tokens, order = ours(theirs(), tmp_path), ids(2, 12), random_order(2, 12, targets=3)
    expected = network(packed(tokens), order)
    for block in network.blocks:
        block.compile(backend="eager")
    torch.testing.assert_close(network(packed(tokens), order), expected, **CLOSE)


class Ids:
    """What scoring asks of a tokenizer."""

    prefix, suffix, pad = (), (4, 3), 5


def test_scores_are_means_over_orders(tmp_path: Path) -> None:
    """With one order of three tokens: one of the six chains of conditional probabilities, each from a pass of its own; with many,
    their mean."""
    from types import SimpleNamespace

    from yanmo.scoring import permutation_log_likelihood

    network, texts = ours(theirs(), tmp_path), [[10, 20, 30], [], [40, 50]]
    encoded: Any = [SimpleNamespace(tokens=text) for text in texts]
    tokens: Any = Ids()
    chains = []
    with torch.no_grad():
        for order in torch.tensor([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]):
            row = torch.tensor([[*texts[0], *Ids.suffix]])
            found = 0.0
            for step, target in enumerate(order.tolist()):
                ranks = torch.full((1, 5), CONTEXT)
                ranks[0, order[: step + 1]] = torch.arange(step + 1)
                documents = torch.ones_like(row)
                documents[0, order[step + 1 :]] = 2       # what is not known yet is not there
                logits = network.logits(network(packed(row, documents), Factorisation(ranks, torch.tensor([[target]]))))
                found += logits.log_softmax(-1)[0, 0, row[0, target]].item()
            chains.append(found)
    once = permutation_log_likelihood(network, tokens, encoded, permutations=1, seed=3)
    assert min(abs(once[0] - chain) for chain in chains) < 1e-4
    assert once[1] == 0
    many = permutation_log_likelihood(network, tokens, encoded, permutations=600, seed=3)
    assert many[0] == pytest.approx(sum(chains) / 6, abs=4 * torch.tensor(chains).std().item() / 600**0.5)
    alone = permutation_log_likelihood(network, tokens, encoded[2:], permutations=1, seed=3)
    assert alone[0] == pytest.approx(once[2], abs=1e-5)
    with pytest.raises(UserError, match="0 permutations"):
        permutation_log_likelihood(network, tokens, encoded, permutations=0)
