"""What a text VAE is for, on one that knows eight sentences by heart."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import yanmo
from yanmo.batch import Piece, Row
from yanmo.errors import UserError
from yanmo.latents import encode, spherical, write
from yanmo.models import build, save
from yanmo.objectives import Elbo
from yanmo.pretrain import new_network
from yanmo.recipe import ElboObjective, Model, parse_recipe
from yanmo.scoring import importance_weighted_likelihood
from yanmo.tokenizer import Tokens, save_tokenizer

TEXTS = (
    "a dog sleeps on the bed",
    "a cat sits near the old clock",
    "the man rides a horse",
    "two people walk along the beach at night",
    "a plate with bread and cheese",
    "the clock shows noon",
    "a horse and a dog",
    "people sit on a bed of straw and talk",
)


@pytest.fixture(scope="module")
def tokens():
    words = ["<unk>", "<s>", "</s>", "<pad>", *sorted({word for text in TEXTS for word in text.split()})]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(words[:4])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s>:0 $A:0", special_tokens=[("<s>", 1)])
    return Tokens.from_json(tokenizer.to_str().encode())


@pytest.fixture(scope="module", params=["transformer", "lstm"])
def learned(request, tokens):
    """A network that has seen the eight sentences many times."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Model(family="vae", version=request.param, size="tiny", layers=1, width=64, latent=8)
    network = build(model, vocabulary=tokens.size, length=24)
    objective = Elbo(network, tokens, ElboObjective(free_bits=3.0, cycles=1, rise=1.0)).train()
    rng = np.random.default_rng(0)
    pieces = [Piece(i, np.array(ids), np.array([0]), np.arange(len(ids))) for i, ids in enumerate(tokens.encode(TEXTS))]
    batch = objective.collate([Row(tuple(pieces), rng, lambda rng: pieces[0])], 96)
    optimizer = torch.optim.Adam(objective.parameters(), 3e-3 if request.param == "transformer" else 1e-2)
    for step in range(400):
        objective.begin(step, 400)
        loss = sum(loss.weight * loss.total / loss.count for loss in objective(batch).values() if loss.weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def test_what_was_learned_by_heart_is_written_again(learned, tokens):
    written = yanmo.reconstruct(learned, tokens, TEXTS)
    assert tuple(one.text for one in written) == TEXTS
    assert all(one.ended and one.tokens[-1] == tokens.suffix[-1] for one in written)


def test_between_two_texts_both_ends_are_the_texts(learned, tokens):
    for path in ("spherical", "linear"):
        written = yanmo.interpolate(learned, tokens, TEXTS[0], TEXTS[3], 5, path=path)
        assert len(written) == 5
        assert (written[0].text, written[-1].text) == (TEXTS[0], TEXTS[3])


def test_samples_depend_on_the_seed_and_their_number_only(learned, tokens):
    three = yanmo.sample(learned, tokens, 3, seed=4)
    assert three == yanmo.sample(learned, tokens, 40, seed=4)[:3]
    assert three != yanmo.sample(learned, tokens, 3, seed=5)
    known = {word for text in TEXTS for word in text.split()}
    texts = yanmo.sample(learned, tokens, 20, temperature=0.0)
    assert {word for one in texts for word in one.text.split()} <= known
    assert len({one.text for one in texts}) > 2, "other latents, other texts"


def test_training_mode_is_left_as_it_was(learned, tokens):
    learned.train()
    yanmo.sample(learned, tokens, 1)
    yanmo.reconstruct(learned, tokens, TEXTS[:1])
    yanmo.score(learned, tokens, TEXTS[:1])
    assert learned.training
    learned.eval()


def test_a_latent_that_says_nothing_leaves_the_exact_likelihood(learned, tokens):
    """Posterior and prior equal, and the decoder deaf: every weight is p(x), word by word."""
    kept = {name: parameter.detach().clone() for name, parameter in learned.named_parameters()}
    with torch.no_grad():
        for part in (learned.posterior, learned.decoder.latent_memory, learned.decoder.latent_embedding):
            for parameter in part.parameters():
                parameter.zero_()
    ids = tokens.encode(TEXTS)
    found = importance_weighted_likelihood(learned, tokens, ids, samples=2)
    assert yanmo.score(learned, tokens, TEXTS) == pytest.approx(found.tolist(), abs=1e-4)
    for text, nats in zip(ids, found, strict=True):
        writing = learned.begin(torch.zeros(1, 8), 24)
        given, total = torch.tensor([[0, *tokens.prefix]]), 0.0
        for token in text:
            total += learned.logits(learned.go_on(given, writing)[0, -1]).log_softmax(-1)[token].item()
            given = torch.tensor([[token]])
        assert nats == pytest.approx(total, abs=1e-3)
    with torch.no_grad():
        for name, parameter in learned.named_parameters():
            parameter.copy_(kept[name])


def test_scores_do_not_depend_on_the_company(learned, tokens):
    together = yanmo.score(learned, tokens, [*TEXTS, ""])
    assert together[-1] == 0
    assert yanmo.score(learned, tokens, TEXTS[5:6]) == pytest.approx(together[5:6], abs=1e-3)
    assert min(together[:-1]) > yanmo.score(learned, tokens, ["bed the on walk clock"])[0]


def test_a_text_written_token_by_token_is_the_likeliest_at_each_place(learned, tokens):
    latents = encode(learned, tokens, TEXTS[:1]).mean
    (one,) = write(learned, tokens, latents)
    (short,) = write(learned, tokens, latents, max_tokens=3)
    assert short.tokens == one.tokens[:3]
    assert not short.ended


def test_the_arc_keeps_the_length():
    one, other = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    for place in (0.0, 0.25, 0.5, 1.0):
        found = spherical(one, other, place)
        assert found.norm().item() == pytest.approx(3, abs=1e-5)
        assert torch.atan2(found[1], found[0]).item() == pytest.approx(place * np.pi / 2, abs=1e-5)
    assert torch.equal(spherical(one, one, 0.5), one)
    assert torch.equal(spherical(one, torch.zeros(2), 0.5), one / 2)


def test_halves_with_another_tokenizer_are_refused(learned, tokens, tmp_path):
    save(build(Model(family="gpt2", size="tiny", layers=1, width=16, heads=1), vocabulary=64, length=64), tmp_path)
    other = Tokens.from_json(tokens.json.replace(b"horse", b"camel"))
    save_tokenizer(other, tmp_path)
    recipe = parse_recipe({"model": {"family": "vae", "start_decoder": str(tmp_path)}, "training": {"length": 32}}, "test")
    with pytest.raises(UserError, match=r"model.start_decoder: .* has another tokenizer than the run"):
        new_network(recipe, tokens)
    save_tokenizer(tokens, tmp_path)
    assert new_network(recipe, tokens).config.family == "vae"


def test_mistakes_are_named(learned, tokens):
    with pytest.raises(UserError, match="count 0"):
        yanmo.sample(learned, tokens, 0)
    with pytest.raises(UserError, match="both ends are shown"):
        yanmo.interpolate(learned, tokens, "a", "b", 1)
    with pytest.raises(UserError, match=r"text 1 has \d+ tokens, more than the 512 positions"):
        yanmo.reconstruct(learned, tokens, ["a " * 600])
    with pytest.raises(UserError, match="max_tokens 0"):
        yanmo.sample(learned, tokens, max_tokens=0)
    decoder = build(Model(family="gpt2", size="tiny", layers=1, width=16, heads=1), vocabulary=64, length=8)
    with pytest.raises(UserError, match="a gpt2 has no latent"):
        yanmo.interpolate(decoder, tokens, "a dog", "a cat")
