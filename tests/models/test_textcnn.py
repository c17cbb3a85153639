"""The discriminator's features, place by place from their definition (Kim 2014, equations 2 to 4), and its folder."""

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

import yanmo
from yanmo import models
from yanmo.errors import UserError
from yanmo.models.textcnn import judge_for
from yanmo.recipe import parse_recipe
from yanmo.tokenizer import Tokens


def judge(length=7):
    torch.manual_seed(0)
    recipe = parse_recipe({"model": {"family": "lstm", "layers": 1, "width": 8}}, "tiny")
    return judge_for(models.build(recipe.model, vocabulary=20, length=16), length).eval()


def by_definition(made, vectors_LD):
    found = []
    for own in vectors_LD.chunk(made.config.representations, -1):
        pooled = []
        for filters, size in zip(made.filters, made.config.sizes, strict=True):
            runs = [own[place : place + size].reshape(-1) for place in range(len(own) - size + 1)]
            pooled.append(torch.stack([F.relu(filters.weight @ run + filters.bias) for run in runs]).amax(0))
        pooled = torch.cat(pooled)
        share = torch.sigmoid(made.gate(pooled))
        found.append(share * F.relu(made.change(pooled)) + (1 - share) * pooled)
    return torch.stack(found)


def test_features_are_the_largest_answers_of_filters_to_runs_of_tokens():
    made = judge()
    texts = torch.randint(20, (3, 7))
    found = made(texts)
    for text, features in zip(texts, found, strict=True):
        assert torch.allclose(features, by_definition(made, made.embed(text)), atol=1e-5)
    assert torch.allclose(made.logits(found), found @ made.head.weight[0] + made.head.bias, atol=1e-6)


def test_shares_of_all_tokens_are_read_as_their_mean():
    made = judge()
    texts = torch.randint(20, (2, 7))
    shares = torch.rand(3, 20).softmax(-1)
    places = torch.tensor([0, 5, 9])
    vectors = made.embed(texts).detach().flatten(0, 1)
    vectors[places] = shares @ made.embed.weight[:20].detach()
    for own, features in zip(vectors.view(2, 7, -1), made(texts, shares, places), strict=True):
        assert torch.allclose(features, by_definition(made, own), atol=1e-5)
    one = F.one_hot(texts.flatten(), 20).float()
    assert torch.allclose(made(texts, one, torch.arange(14)), made(texts), atol=1e-6)


def test_texts_shorter_than_the_longest_filter_have_features_too():
    made = judge(length=3)
    assert made(torch.randint(20, (2, 3))).isfinite().all()


def test_its_folder_gives_the_same_scores(tmp_path):
    made, texts = judge(), torch.randint(20, (3, 7))
    models.save(made, tmp_path)
    again = models.load(tmp_path).eval()
    assert torch.equal(again.logits(again(texts)), made.logits(made(texts)))


@pytest.mark.parametrize("ask", [yanmo.fill, yanmo.generate, yanmo.score, yanmo.sample])
def test_whoever_asks_it_for_words_is_told_whom_to_ask(ask):
    text = {yanmo.score: [["a"]], yanmo.sample: []}.get(ask, ["a"])
    tokens = Tokens.from_json(Tokenizer(WordLevel({"a": 0}, "a")).to_str().encode(), {"pad_token": "a", "unk_token": "a"})
    with pytest.raises(UserError, match=r"text-cnn .*it tells written texts from real ones; the generator .* in the folder"):
        ask(judge(), tokens, *text)
