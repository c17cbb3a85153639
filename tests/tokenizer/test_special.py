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
from yanmo.tokenizer import Tokens, adopt_tokenizer, encode_documents, load_tokenizer, train_tokenizer
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
    assert tokens.encode(["one<extra_id_7>two"], named=True)[0].count(found[7]) == 1


def test_a_tokenizer_is_trained_with_what_the_objective_writes(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    train_tokenizer(TEXTS, recipe_of("gpt2", MIXED), tmp_path / "t")
    tokens = load_tokenizer(tmp_path / "t")
    groups = {name: tokens.group(name) for name in recipe_of("gpt2", MIXED).objective.special}
    assert len(groups) == 4
    assert all(groups.values())
    assert tokens.size == 600
    assert {index for ids in groups.values() for index in ids or ()} < tokens.special
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "t")
    assert set(theirs.all_special_ids) == tokens.special
    assert theirs.mask_token_id == tokens.mask
    assert theirs(NASTY, add_special_tokens=False)["input_ids"] == tokens.encode(NASTY, named=True)
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


INJECTED = "a [MASK] b</s>c <mask><extra_id_7> <pad>x<s>y [SEP][CLS]<|endoftext|><|im_start|>\n<|fim_prefix|> <mode_S> <cls>. end"


@pytest.mark.parametrize(
    ("family", "kind"),
    [(family, None) for family in FAMILIES] + [("bert", kind) for kind in ("byte-bpe", "bpe", "unigram", "character")],
)
def test_a_special_token_is_nothing_that_a_text_can_say(load: Callable[..., Tokens], family: str, kind: str | None) -> None:
    tokens = load(family, kind).with_special(GROUPS)
    names = [tokens.tokenizer.id_to_token(index) for index in sorted(tokens.special)]
    texts = [INJECTED, *names, "".join(names), "中文".join(names), f"{names[-1].upper()} {names[-1]}s"]
    for text, encoded in zip(texts, encode_documents(tokens, texts), strict=True):
        ids = encoded.tokens.tolist()
        assert ids == tokens.encode([text])[0]
        assert not set(ids) & tokens.special - {tokens.unknown}
        if tokens.unknown not in ids and json.loads(tokens.json)["model"]["type"] != "WordPiece":
            assert tokens.decode(ids) == text
    assert tokens.special == {index for name in names for index in tokens.encode([name], named=True)[0]}


@pytest.mark.parametrize("spaces", [False, True], ids=["no spaces before", "spaces before"])
def test_the_names_in_a_unigram_as_it_was_published_are_cut(spaces: bool) -> None:
    """SentencePiece's special tokens are pieces of the highest score, and nothing splits a text but its spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    pieces = [(name, 0.0) for name in ("<pad>", "</s>", "<unk>", "<extra_id_0>")]
    pieces += [(piece, -9.0) for piece in ("\u2581", *"</>_abcdeiknprstux0")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    if spaces:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens([name for name, _ in pieces[:4]])
    tokens = Tokens.from_json(tokenizer.to_str().encode())
    assert tokens.special == {0, 1, 2, 3}
    [ids] = tokens.encode(["a</s>b<extra_id_0><pad>d<unk>"])
    text = "".join(tokens.tokenizer.id_to_token(index) for index in ids).replace("\u2581", "")
    assert text == "a</s>b<extra_id_0><pad>d<unk>"
    assert not set(ids) & tokens.special
    assert tokens.encode(["a</s>"], named=True)[0][-1] == 1
    assert encode_documents(tokens, ["a</s>b"])[0].tokens.tolist() == tokens.encode(["a</s>b"])[0]


def test_shards_hold_no_special_token_that_a_corpus_wrote(tmp_path: Path, load: Callable[..., Tokens]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from yanmo.shards import Shards, write_shards

    tokens = load("bert")
    (tmp_path / "corpus").mkdir()
    for split in ("train", "validation"):
        pq.write_table(pa.table({"text": [INJECTED, "[MASK] 中文。[SEP]"]}), tmp_path / "corpus" / f"{split}-00000.parquet")
    write_shards(tmp_path / "corpus", tokens, tmp_path / "shards", workers=1)
    shards = Shards.open(tmp_path / "shards", "train", tokens.hash)
    for ids, _, _ in shards:
        assert len(ids)
        assert not set(ids.tolist()) & tokens.special - {tokens.unknown}
