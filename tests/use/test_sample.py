"""Texts from nothing: what follows the end of a text, for every network that continues text; others say what to do instead."""

import sys

import pytest

import yanmo
from yanmo import cli
from yanmo.errors import UserError
from yanmo.generation import generate
from yanmo.models import build
from yanmo.models.network import Network
from yanmo.recipe import FamilyName, Model


def network_of(family: FamilyName, vocabulary: int) -> Network:
    heads = None if family == "lstm" else 2
    return build(Model(family=family, layers=2, width=16, heads=heads), vocabulary=vocabulary, length=32).eval()


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "lstm"])
def test_samples_are_what_follows_the_end_of_a_text(pairs, family: FamilyName) -> None:
    tokens = pairs("gpt2" if family == "lstm" else family).tokens
    network = network_of("lstm", tokens.size) if family == "lstm" else pairs(family).network
    found = yanmo.sample(network, tokens, 30, seed=4, max_tokens=6)
    assert found[:3] == yanmo.sample(network, tokens, 3, seed=4, max_tokens=6), "text i depends on (seed, i)"
    assert found != yanmo.sample(network, tokens, 30, seed=5, max_tokens=6)
    written = generate(network, tokens, [""] * 30, seed=4, max_new_tokens=6)
    assert [(one.text, one.tokens) for one in found] == [(one.text, one.tokens) for one in written]
    assert all(one.ended == (one.tokens[-1] in tokens.suffix) for one in found)
    assert len({one.text for one in yanmo.sample(network, tokens, 5, temperature=0, max_tokens=6)}) == 1


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("bert", "bert fills gaps"),
        ("t5", "t5 writes what a source becomes; give it one"),
        ("bart", "bart writes what a source becomes"),
        ("electra", "electra writes no text by itself"),
        ("xlnet", "xlnet writes no text by itself"),
    ],
)
def test_others_say_what_they_do_instead(pairs, family: FamilyName, said: str) -> None:
    tokens = pairs("gpt2").tokens
    with pytest.raises(UserError, match=said):
        yanmo.sample(network_of(family, tokens.size), tokens)


def test_the_verb_writes_as_many_lines_as_are_asked_for(
    pairs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = pairs("gpt2")
    words = ["sample", str(pair.folder), "--count", "4", "--temperature", "0.7", "--tokens", "5", "--seed", "3"]
    monkeypatch.setattr(sys, "argv", ["yanmo", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    expected = yanmo.sample(pair.network, pair.tokens, 4, temperature=0.7, seed=3, max_tokens=5)
    assert capsys.readouterr().out == "".join(f"{one.text}\n" for one in expected)
