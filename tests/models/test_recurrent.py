"""The LSTM, against its equations, finite differences and torch's own."""

import numpy as np
import pytest
import torch
from torch import nn

from yanmo import models
from yanmo.batch import Packed
from yanmo.layers.lstm import Lstm, LstmState, Steps
from yanmo.layers.texts import Texts
from yanmo.models.recurrent import Recurrent
from yanmo.optim import roles
from yanmo.recipe import Model

INPUTS, WIDTH = 3, 4


def packed(lengths, length, seed=0):
    """Rows of documents with so many tokens each."""
    arrays = torch.zeros(3, len(lengths), length, dtype=torch.int64)
    tokens = torch.randint(5, 60, (len(lengths), length), generator=torch.Generator().manual_seed(seed))
    for row, sizes in enumerate(lengths):
        at = 0
        for number, size in enumerate(sizes, 1):
            arrays[1, row, at : at + size] = number
            arrays[2, row, at : at + size] = torch.arange(size)
            at += size
    arrays[0] = tokens * (arrays[1] > 0)
    return Packed(*arrays)


ROWS = packed([[3, 1, 4], [2], [5, 3]], 8)


def layer(seed=0):
    torch.manual_seed(seed)
    made = Lstm(INPUTS, WIDTH).double()
    with torch.no_grad():
        made.bias.normal_()
    return made


def by_the_equations(made, x_TI, h, c):
    """Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000, a token and a gate at a time."""
    gates = [(made.input[rows], made.state[rows], made.bias[rows]) for rows in torch.arange(4 * WIDTH).split(WIDTH)]
    given = []
    for x in x_TI:
        i, f, g, o = (w @ x + u @ h + b for w, u, b in gates)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        given.append(h)
    return torch.stack(given), c


def test_every_text_goes_by_the_equations_and_so_do_its_gradients():
    made, steps = layer(), Steps.of(Texts.of(ROWS))
    sizes = [3, 1, 4, 2, 5, 3]
    x = torch.randn(3, 8, INPUTS, dtype=torch.float64, requires_grad=True)
    h, c = (torch.randn(len(sizes), WIDTH, dtype=torch.float64, requires_grad=True) for _ in range(2))
    out, last = made(steps.gather(x), steps, LstmState(h, c))
    found = steps.scatter(out, 3, 8)
    places = [(0, 0), (0, 3), (0, 4), (1, 0), (2, 0), (2, 5)]
    wanted = torch.zeros_like(found)
    for text, ((row, begin), size) in enumerate(zip(places, sizes, strict=True)):
        given, held = by_the_equations(made, x[row, begin : begin + size], h[text], c[text])
        wanted[row, begin : begin + size] = given
        torch.testing.assert_close(last.given[text], given[-1])
        torch.testing.assert_close(last.held[text], held)
    torch.testing.assert_close(found, wanted)
    weights = [x, h, c, *made.parameters()]
    direction = torch.randn_like(found)
    for one, other in zip(*(torch.autograd.grad((y * direction).sum(), weights) for y in (found, wanted)), strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_by_finite_differences():
    made, steps = layer(), Steps.of(Texts.of(ROWS))
    x = torch.randn(len(steps.places), INPUTS, dtype=torch.float64, requires_grad=True)
    start = [torch.randn(6, WIDTH, dtype=torch.float64, requires_grad=True) for _ in range(2)]

    def through(x, given, held, *weights):
        named = dict(zip(("input", "state", "bias"), weights, strict=True))
        return torch.func.functional_call(made, named, (x, steps, LstmState(given, held)))[0]

    assert torch.autograd.gradcheck(through, (x, *start, *made.parameters()))


def test_weights_are_torchs():
    made, theirs = layer(), nn.LSTM(INPUTS, WIDTH, batch_first=True).double()
    with torch.no_grad():
        for name, value in {"weight_ih_l0": made.input, "weight_hh_l0": made.state, "bias_ih_l0": made.bias}.items():
            getattr(theirs, name).copy_(value)
        theirs.bias_hh_l0.zero_()
    whole = packed([[6], [6]], 6)
    steps, x = Steps.of(Texts.of(whole)), torch.randn(2, 6, INPUTS, dtype=torch.float64)
    torch.testing.assert_close(steps.scatter(made(steps.gather(x), steps)[0], 2, 6), theirs(x)[0])


def test_bfloat16_is_near():
    made, steps = layer(), Steps.of(Texts.of(ROWS))
    x = torch.randn(len(steps.places), INPUTS, dtype=torch.float64)
    exact = made(x, steps)[0]
    rounded = made.bfloat16()(x.bfloat16(), steps)[0]
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.double(), exact, atol=0.03, rtol=0.03)


def network(seed=0, **settings):
    torch.manual_seed(seed)
    return models.build(Model(family="lstm", layers=2, width=16, **settings), vocabulary=64, length=32)


def test_packed_is_unpacked():
    made = network().eval()
    together = made(ROWS)
    for row in range(3):
        for number in range(1, int(ROWS.documents[row].max()) + 1):
            here = ROWS.documents[row] == number
            tokens = ROWS.tokens[row, here][None]
            alone = made(Packed(tokens, torch.ones_like(tokens), torch.arange(tokens.shape[1])[None], whole=True))
            torch.testing.assert_close(together[row, here], alone[0], atol=1e-6, rtol=1e-5)


def test_cached_is_uncached():
    made = network().eval()
    tokens, counts = torch.randint(5, 60, (3, 5)), torch.tensor([5, 1, 3])
    cache = made.cache(3, 9)
    hidden = made(cache.take(tokens, counts), cache)
    texts = [row[:count].tolist() for row, count in zip(tokens, counts.tolist(), strict=True)]
    last = hidden[torch.arange(3), counts - 1]
    for new in (7, 8):
        for row, text in enumerate(texts):
            ids = torch.tensor([text])
            alone = made(Packed(ids, torch.ones_like(ids), torch.arange(len(text))[None], whole=True))
            torch.testing.assert_close(last[row], alone[0, -1], atol=1e-6, rtol=1e-5)
        cache.keep(torch.arange(1, len(texts)))
        texts = [[*text, new] for text in texts[1:]]
        last = made(cache.take(torch.full((len(texts), 1), new)), cache)[:, 0]
    assert cache.lengths.tolist() == [len(text) for text in texts]


def test_dropout_is_between_layers_and_not_between_tokens():
    """Zaremba et al. 2014, section 3.1: into the first layer, between two, out of the last; never from token to token."""
    made = network(dropout=0.5)
    seen = []
    for module in made.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda module, given, out: seen.append((out == 0).double().mean().item()))
    made(packed([[32]] * 20, 32))
    assert len(seen) == made.config.layers + 1
    assert all(abs(share - 0.5) < 0.05 for share in seen), seen


@pytest.mark.parametrize("tied", [True, False])
def test_folder_gives_back_what_was_saved(tmp_path, tied):
    made = network()
    config = models.FAMILIES["lstm"].understand(
        {**made.config.settings, "tie_word_embeddings": tied}, pair=False, where="a test"
    )
    made = Recurrent(config).eval()
    made.start()
    models.save(made, tmp_path)
    again = models.load(tmp_path).eval()
    assert again.config == made.config
    assert (again.head.weight is again.embed.tokens.weight) is tied
    assert torch.equal(again.logits(again(ROWS)), made.logits(made(ROWS)))


def test_adamw_has_all_of_it():
    found = roles(network())
    assert not found.matrices
    assert sorted(found.others) == [f"blocks.{number}.{name}" for number in range(2) for name in ("input", "state")]
    assert sorted(found.plain) == ["blocks.0.bias", "blocks.1.bias", "embed.tokens.weight"]


def test_weights_start_as_they_should():
    made = network(seed=1)
    for block in made.blocks:
        assert block.bias.view(4, 16)[1].eq(1).all()
        assert block.bias.view(4, 16)[[0, 2, 3]].eq(0).all()
        assert 0.2 < float(block.state.detach().abs().max()) <= 0.25
        assert np.isclose(float(block.input.detach().std()), 0.25 / 3**0.5, rtol=0.1)
