"""What training writes is what transformers loads, loses nothing, and says what it could not do."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tokenizer.conftest import NASTY, chinese, english
from yanmo.errors import UserError
from yanmo.recipe import parse_recipe
from yanmo.tokenizer import Tokens, adopt_tokenizer, load_tokenizer, save_tokenizer, train_tokenizer
from yanmo.tokenizer.training import Sample

FAMILIES = ["bert", "roberta", "modernbert", "gpt2", "llama", "qwen3", "t5", "bart"]
CASES = [(family, None) for family in FAMILIES] + [("bert", kind) for kind in ("byte-bpe", "bpe", "unigram", "character")]
AROUND = {
    "bert": (2, 3),
    "roberta": (0, 2),
    "modernbert": (2, 3),
    "gpt2": ((), ()),
    "llama": (1, ()),
    "qwen3": ((), ()),
    "t5": ((), 1),
    "bart": (0, 2),
}

Load = Callable[..., Tokens]


def recipe(family: str = "bert", **tokenizer: object):
    return parse_recipe({"model": {"family": family}, "tokenizer": tokenizer}, "test")


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside config.json"])
@pytest.mark.parametrize(("family", "kind"), CASES)
def test_transformers_gives_the_same_ids(load: Load, tmp_path: Path, family: str, kind: str | None, beside: bool) -> None:
    transformers = pytest.importorskip("transformers")
    tokens = load(family, kind)
    save_tokenizer(tokens, tmp_path, length=128)
    if beside:
        transformers.AutoConfig.for_model(family).save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = [*NASTY, *chinese()[:30], *english()[:30]]
    text_is_text = transformers.AutoTokenizer.from_pretrained(tmp_path, split_special_tokens=True)
    assert text_is_text(texts, add_special_tokens=False)["input_ids"] == tokens.encode(texts)
    ours = tokens.encode(texts, named=True)
    assert theirs(texts, add_special_tokens=False)["input_ids"] == ours
    before, after = ([ids] if isinstance(ids, int) else list(ids) for ids in AROUND[family])
    assert theirs(texts)["input_ids"] == [before + ids + after for ids in ours]
    assert list(tokens.prefix) == before
    assert theirs.model_max_length == 128
    assert (theirs.pad_token_id, theirs.mask_token_id, theirs.unk_token_id) == (tokens.pad, tokens.mask, tokens.unknown)
    assert len(theirs) == tokens.size
    assert set(theirs.all_special_ids) == tokens.special
    if (family, kind) == ("bert", None):
        assert type(theirs).__name__.startswith("BertTokenizer")
        assert theirs("a", "b")["token_type_ids"] == [0, 0, 0, 1, 1]
    if family != "bert":
        assert "token_type_ids" not in theirs("a")


def test_special_tokens_are_where_families_expect_them(load: Load) -> None:
    bert = load("bert")
    assert [bert.tokenizer.id_to_token(index) for index in range(5)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert (bert.prefix, bert.separator, bert.suffix, bert.pad, bert.unknown, bert.mask) == ((2,), 3, (3,), 0, 1, 4)
    roberta = load("roberta")
    assert [roberta.tokenizer.id_to_token(index) for index in range(5)] == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pair = roberta.tokenizer.encode("a", "b").ids
    assert pair.count(2) == 3
    assert load("gpt2").suffix == load("qwen3").suffix == (0,)
    assert load("llama").prefix == (1,)
    assert load("llama").suffix == (2,)
    assert load("qwen3").tokenizer.id_to_token(1) == "<|im_start|>"


@pytest.mark.parametrize("kind", ["byte-bpe", "bpe", "unigram"])
def test_any_text_comes_back(load: Load, kind: str) -> None:
    tokens = load("gpt2", kind)

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.text(st.characters(codec="utf-8"), max_size=60))
    def check(text: str) -> None:
        assert tokens.decode(tokens.encode([text])[0]) == text

    check()
    for text in [*NASTY, *chinese()[:100], *english()[:100]]:
        assert tokens.decode(tokens.encode([text])[0]) == text


@pytest.mark.parametrize("lowercase", [False, True])
def test_kana_keep_their_marks(tmp_path: Path, lowercase: bool) -> None:
    texts = ["ガギグゲゴ が で プ バナナ Banana"] * 20
    train_tokenizer(texts, recipe(vocabulary=40, lowercase=lowercase, min_frequency=1), tmp_path / "t")
    tokens = load_tokenizer(tmp_path / "t")
    back = tokens.decode(tokens.encode(texts[:1])[0])
    assert back.replace(" ", "") == (texts[0].lower() if lowercase else texts[0]).replace(" ", "")


def test_chinese_characters_stand_alone_in_wordpiece(load: Load) -> None:
    assert [load("bert").tokenizer.id_to_token(index) for index in load("bert").encode(["中国人"])[0]] == [
        "中",
        "国",
        "人",
    ]


def test_long_text_without_spaces_and_marks_is_bounded(tmp_path: Path) -> None:
    text = "".join(text.translate({ord(mark): None for mark in "，。！？、；： "}) for text in chinese()[:400])
    train_tokenizer([text], recipe("gpt2", vocabulary=1500), tmp_path / "t")
    tokens = load_tokenizer(tmp_path / "t")
    assert max(len(tokens.decode([index])) for index in range(tokens.size)) <= 16
    assert tokens.decode(tokens.encode([text])[0]) == text


def test_training_is_deterministic(tmp_path: Path, load: Load) -> None:
    for kind in ("wordpiece", "byte-bpe", "bpe"):
        hashes = set()
        for name in ("a", "b"):
            train_tokenizer(chinese()[::5], recipe(kind=kind, vocabulary=1500), tmp_path / name)
            hashes.add(load_tokenizer(tmp_path / name).hash)
        assert len(hashes) == 1, kind


@pytest.mark.parametrize("kind", ["wordpiece", "byte-bpe", "bpe", "unigram"])
def test_a_vocabulary_larger_than_the_text_supports(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match=r"support only \d+ tokens.*set tokenizer.vocabulary"):
        train_tokenizer(["你好，世界。Hello world"] * 3, recipe(kind=kind, vocabulary=5000), tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_no_text_and_no_room(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text"):
        train_tokenizer([], recipe(), tmp_path / "t")
    with pytest.raises(UserError, match="set it to at least"):
        train_tokenizer(["a b c"], recipe("llama", vocabulary=100), tmp_path / "t")


def test_the_report_measures(trained: Callable[..., Path]) -> None:
    report = json.loads((trained("bert") / "report.json").read_text())
    assert report["kind"] == "wordpiece"
    assert report["size"] == report["asked"] == 3000
    assert report["bytes_sampled"] == report["bytes_seen"] > 100_000
    han = report["scripts"]["Han"]
    assert han["tokens_per_character"] == pytest.approx(1)
    assert 0 <= report["unknown_share"] < 0.01
    assert sum(script["tokens"] for script in report["scripts"].values()) == report["tokens"]
    lossless = json.loads((trained("roberta") / "report.json").read_text())
    assert lossless["round_trip_failures"] == 0
    assert 0.2 < lossless["tokens_per_byte"] < 0.5


def test_characters_without_a_token_are_reported(tmp_path: Path) -> None:
    train_tokenizer(["中文中文 abc"] * 50 + ["龘"], recipe(kind="character", vocabulary=100), tmp_path / "t")
    report = json.loads((tmp_path / "t" / "report.json").read_text())
    assert report["round_trip_failures"] == 1
    assert report["scripts"]["Han"]["round_trip_examples"][0]["text"] == "龘"
    assert report["scripts"]["Han"]["unknown_share"] > 0


def test_the_sample_is_even_capped_and_deterministic() -> None:
    texts = [f"{index:06d}" + "x" * 994 for index in range(20_000)]
    samples = []
    for _ in range(2):
        sample = Sample(1_000_000)
        for text in texts:
            sample.add(text)
        samples.append(sample.texts())
    assert samples[0] == samples[1]
    assert 990_000 <= sum(map(len, samples[0])) <= 1_000_000
    places = [int(text[:6]) for text in samples[0]]
    assert places == sorted(places)
    assert sum(places) / len(places) == pytest.approx(10_000, rel=0.1)


def test_existing_tokenizers(tmp_path: Path, load: Load) -> None:
    """Special tokens are found from tokenizer.json alone, and a truncation that a model left there is not obeyed."""
    for family in FAMILIES:
        tokens = load(family)
        tokenizer = tokens.tokenizer.from_str(tokens.json.decode())
        tokenizer.enable_truncation(4)
        path = tmp_path / f"{family}.json"
        tokenizer.save(str(path))
        found = load_tokenizer(path)
        assert (found.prefix, found.separator, found.suffix) == (tokens.prefix, tokens.separator, tokens.suffix)
        assert (found.mask, found.special) == (tokens.mask, tokens.special)
        assert len(found.encode(["one two three four five six seven"])[0]) > 4
        assert pickle.loads(pickle.dumps(found)).hash == found.hash
    adopt_tokenizer(tmp_path / "roberta.json", chinese()[:50], recipe("roberta"), tmp_path / "adopted")
    assert load_tokenizer(tmp_path / "adopted").hash == load_tokenizer(tmp_path / "roberta.json").hash
    with pytest.raises(UserError, match="no mask token"):
        adopt_tokenizer(tmp_path / "gpt2.json", chinese()[:50], recipe("bert"), tmp_path / "not")


def test_what_is_not_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer can be read"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", ["bpe", "byte-bpe"])
def test_lower_case_is_refused_where_it_does_nothing(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match=rf"lowercase is true, and kind {kind} keeps case.*wordpiece, unigram, character"):
        train_tokenizer(["Some text"], recipe(kind=kind, lowercase=True), tmp_path / "t")
