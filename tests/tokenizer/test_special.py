"""Special tokens that objectives write: there when a tokenizer is trained for them, and added to one that is loaded."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tokenizer.conftest import NASTY, chinese, english
from yanmo.errors import UserError
from yanmo.recipe import Recipe, parse_recipe
from yanmo.tokenizer import Tokens, adopt_tokenizer, load_tokenizer, train_tokenizer
from yanmo.tokenizer.families import FAMILIES, GROUPS, SENTINELS

TEXTS = [*chinese()[:200], *english()[:200]]
MIXED = {
    "kind": "mixture",
    "parts": [{"objective": {"kind": kind}} for kind in ("denoisers", "fill-in-the-middle", "hybrid")],
}


def recipe_of(family: str, objective: dict, **tokenizer: object) -> Recipe:
    tokenizer = {"vocabulary": 600, **tokenizer}
    return parse_recipe({"model": {"family": family}, "objective": objective, "tokenizer": tokenizer}, "test")


@pytest.mark.parametrize(("family", "kind"), [("t5", "T5Tokenizer"), ("bart", "BartTokenizer"), ("xlnet", "XLNetTokenizer")])
def test_families_have_the_tokens_that_transformers_gives_them(family: str, kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(getattr(transformers, kind).__init__).parameters.items()
        if isinstance(parameter.default, str | int)
    }
    for role, name in FAMILIES[family].roles.items():
        assert str(defaults[role]) == name, role
    if family == "t5":
        assert len(SENTINELS) == 100
        assert FAMILIES["t5"].tokens[:3] == ("<pad>", "</s>", "<unk>")
        assert set(SENTINELS) < set(FAMILIES["t5"].tokens)


def test_a_trained_t5_has_a_hundred_sentinels(load: Callable[..., Tokens]) -> None:
    tokens = load("t5")
    found = tokens.group("sentinels")
    assert found is not None
    assert [tokens.tokenizer.id_to_token(index) for index in found] == [f"<extra_id_{number}>" for number in range(100)]
    assert (tokens.prefix, tokens.suffix, tokens.pad, tokens.mask) == ((), (1,), 0, None)
    assert set(found) < tokens.special
    assert tokens.encode(["one<extra_id_7>two"])[0].count(found[7]) == 1


def test_a_tokenizer_is_trained_with_what_the_objective_writes(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    train_tokenizer(TEXTS, recipe_of("gpt2", MIXED), tmp_path / "t")
    tokens = load_tokenizer(tmp_path / "t")
    groups = {name: tokens.group(name) for name in GROUPS}
    assert all(groups.values())
    assert tokens.size == 600
    assert {index for ids in groups.values() for index in ids or ()} < tokens.special
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "t")
    assert set(theirs.all_special_ids) == tokens.special
    assert theirs.mask_token_id == tokens.mask
    assert theirs(NASTY, add_special_tokens=False)["input_ids"] == tokens.encode(NASTY)
    train_tokenizer(TEXTS, recipe_of("gpt2", {"kind": "causal"}), tmp_path / "plain")
    plain = load_tokenizer(tmp_path / "plain")
    assert not any(plain.group(name) for name in GROUPS)


@pytest.mark.parametrize(
    ("objective", "lacking"),
    [
        ({"kind": "span-corruption"}, r"no sentinels \(<extra_id_0>"),
        ({"kind": "denoisers"}, r"no sentinels .* and no tokens for the modes of denoisers"),
        ({"kind": "fill-in-the-middle"}, "no tokens for prefix, suffix and middle"),
        ({"kind": "hybrid"}, "no mask token"),
        (MIXED, r"no sentinels .* modes .* prefix, suffix and middle .* mask token"),
    ],
)
def test_what_a_loaded_tokenizer_lacks_is_named_and_added_when_asked(
    tmp_path: Path, load: Callable[..., Tokens], trained: Callable[..., Path], objective: dict, lacking: str
) -> None:
    given, before = trained("gpt2"), load("gpt2")
    with pytest.raises(UserError, match=rf"{lacking}.*objective {objective['kind']} needs; tokenizer.add_special=true") as caught:
        adopt_tokenizer(given, TEXTS, recipe_of("gpt2", objective), tmp_path / "not")
    assert str(given) in str(caught.value)
    asked = recipe_of("gpt2", objective, add_special=True)
    adopt_tokenizer(given, TEXTS, asked, tmp_path / "more")
    after = load_tokenizer(tmp_path / "more")
    new = [index for name in asked.objective.special for index in after.group(name) or ()]
    assert sorted(new) == list(range(before.size, after.size))
    assert set(new) < after.special
    assert after.encode(NASTY[1:14:2]) == before.encode(NASTY[1:14:2])
    config = json.loads((tmp_path / "more" / "tokenizer_config.json").read_text())
    assert ("mask_token" in config) == ("mask" in asked.objective.special)
    adopt_tokenizer(tmp_path / "more", TEXTS, recipe_of("gpt2", objective), tmp_path / "again")   # nothing is lacking now
    assert load_tokenizer(tmp_path / "again").hash == after.hash


def test_other_names_for_the_same_tokens_are_known(load: Callable[..., Tokens]) -> None:
    from tokenizers import AddedToken

    for names in GROUPS["gaps"]:
        tokenizer = load("gpt2").tokenizer.from_str(load("gpt2").json.decode())
        tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
        tokens = Tokens.from_json(tokenizer.to_str().encode())
        assert tokens.group("gaps") == tuple(tokenizer.token_to_id(name) for name in names)
        assert tokens.with_special(["gaps"]) is tokens
