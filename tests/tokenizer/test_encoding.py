"""The fast paths give the ids of tokenizer.encode, and words and sentences are those of the text."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import rjieba
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from tests.tokenizer.conftest import NASTY, chinese, english
from yanmo.tokenizer import Tokens, encode_documents
from yanmo.tokenizer.encoding import Encoder, _parts
from yanmo.tokenizer.kinds import BYTE_TOKENS, pipeline

KINDS = ["wordpiece", "byte-bpe", "bpe", "unigram", "character"]
Load = Callable[..., Tokens]

ALPHABET = st.one_of(
    st.sampled_from(list("中文的人，。！？“”『』 \n\t\r\u3000.!?'\"-_abcABC019%")),
    st.sampled_from(
        [
            "\u0301",
            "\u3099",
            "\u200d",
            "\u200b",
            "\ufe0f",
            "\x00",
            "👍",
            "🏽",
            "ガ",
            "ｶ",
            "ﬁ",
            "İ",
            "𠀀",
            "豈",
            "한",
            "ไ",
        ]
    ),
    st.characters(codec="utf-8"),
)


def same_ids(tokens: Tokens, texts: list[str]) -> None:
    expected = [tokens.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    encoded = encode_documents(tokens, texts)
    assert len(encoded) == len(texts)
    for text, one, ids in zip(texts, encoded, expected, strict=True):
        assert one.tokens.tolist() == ids, repr(text)
        for starts in (one.sentences, one.words):
            assert starts.tolist() == sorted(set(starts.tolist()))
            assert starts[:1].tolist() == [0] * bool(ids)
            assert not len(starts) or starts[-1] < len(ids)
        assert set(one.sentences.tolist()) <= set(one.words.tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_real_documents_have_the_ids_of_the_tokenizer(load: Load, kind: str) -> None:
    step = 1 if kind == "wordpiece" else 4
    same_ids(load("bert", kind), [*chinese()[::step], *english()[::step], *NASTY])


@pytest.mark.parametrize(("family", "kind"), [("bert", "wordpiece"), ("roberta", None), ("llama", None), ("gpt2", "unigram")])
def test_any_text_has_the_ids_of_the_tokenizer(load: Load, family: str, kind: str | None) -> None:
    tokens = load(family, kind)

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.text(ALPHABET, max_size=40), min_size=1, max_size=4))
    def check(texts: list[str]) -> None:
        same_ids(tokens, texts)

    check()


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("strip", [False, True, None])
@pytest.mark.parametrize("han", [False, True])
def test_other_settings_of_bert_have_the_ids_of_the_tokenizer(load: Load, lowercase: bool, strip: bool | None, han: bool) -> None:
    tokenizer = Tokenizer.from_str(load("bert").json.decode())
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip, handle_chinese_chars=han)
    same_ids(Tokens.from_json(tokenizer.to_str().encode()), [*NASTY, *chinese()[:100], *english()[:100]])


def test_every_character_between_letters_has_the_ids_of_the_tokenizer(load: Load) -> None:
    codes = [*range(0x80, 0x3400), *range(0xA000, 0xAC00), *range(0xF900, 0x10000), *range(0x1F000, 0x20010)]
    text = "\n".join(f"a{chr(code)}b{chr(code)}中{chr(code)}" for code in codes if chr(code) not in "\r")
    same_ids(load("bert"), [text[start : start + 50_000] for start in range(0, len(text), 50_000)])


def test_a_prefix_space_and_removing_splits_are_left_to_offsets(load: Load) -> None:
    tokenizer = Tokenizer.from_str(load("gpt2").json.decode())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    same_ids(Tokens.from_json(tokenizer.to_str().encode()), [*NASTY, *english()[:50]])
    vocabulary = {word: index for index, word in enumerate(["<unk>", "the", "value"])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    same_ids(Tokens.from_json(words.to_str().encode()), [*NASTY, *english()[:50]])


def test_no_order_or_company_of_texts_changes_anything(load: Load) -> None:
    tokens, texts = load("bert"), [*chinese()[:200], *NASTY]
    alone = [Encoder(tokens).encode([text]) for text in texts[-20:]]
    together = encode_documents(tokens, texts)[-20:]
    for one, other in zip(alone, together, strict=True):
        assert one.tokens[0].tolist() == other.tokens.tolist()
        assert one.words[0].tolist() == other.words.tolist()
        assert one.sentences[0].tolist() == other.sentences.tolist()


def test_forgetting_segments_changes_nothing(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yanmo.tokenizer.borders.LIMIT", 50)
    monkeypatch.setattr("yanmo.tokenizer.encoding.BATCH", 500)
    tokens, texts = load("bert"), [*chinese()[:300], *NASTY]
    encoded = [
        batch.tokens[index].tolist() for batch in Encoder(tokens).batches(texts) for index in range(len(batch.tokens.offsets) - 1)
    ]
    assert encoded == tokens.encode(texts)


RUNS = st.one_of(
    st.text("中文的人国家語々〇\u2e80\u9fef", min_size=1, max_size=40),
    st.sampled_from(["'s", "'ll", "'", "'S", "'ſ", " 's", "T恤", "卡拉OK", "3.14", "C++", "don't", "\r\n", "\u3000\u3000", "  "]),
    st.text("abé\u0301가アぁไ", min_size=1, max_size=4),
    st.text(" \n\r\t\u3000\u2028\x85\x1c", min_size=1, max_size=3),
    st.text("，。!?…'-=（", min_size=1, max_size=20),
    st.text("0123٣Ⅷ", min_size=1, max_size=5),
)


@pytest.mark.parametrize("splits", ["ours", "gpt2's own", "byte fallback"])
def test_runs_of_one_kind_beside_each_other_have_the_ids_of_the_tokenizer(load: Load, splits: str) -> None:
    tokens = {"ours": lambda: load("roberta"), "gpt2's own": lambda: gpt2_splits(load), "byte fallback": lambda: load("llama")}[
        splits
    ]()
    assert Encoder(tokens).units is not None

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.lists(RUNS, max_size=12).map("".join), min_size=1, max_size=3))
    def check(texts: list[str]) -> None:
        same_ids(tokens, texts)

    check()


@pytest.mark.parametrize("kind", ["byte-bpe", "bpe"])
def test_merges_across_the_words_of_the_segmenter_are_made(kind: str) -> None:
    """A vocabulary learned from single characters without words: nearly every joint is merged across."""
    text = "中国人民大学的国人大民学中的人" * 3
    random = np.random.default_rng(0)
    corpus = ["".join(random.permutation(list(text))) for _ in range(400)]
    tokenizer = pipeline(kind, "<unk>", lowercase=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "byte-bpe" else []
    special = ["<unk>", *(BYTE_TOKENS if kind == "bpe" else [])]
    tokenizer.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=900, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    tree = json.loads(tokenizer.to_str()) | {"added_tokens": []}
    tokens = Tokens.from_json(json.dumps(tree).encode())
    assert Encoder(tokens).units is not None
    same_ids(tokens, corpus)


@pytest.mark.parametrize("kind", ["byte-bpe", "bpe"])
def test_forgetting_units_changes_nothing_and_keeps_them_few(load: Load, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr("yanmo.tokenizer.merges.LIMIT", 200)
    monkeypatch.setattr("yanmo.tokenizer.encoding.BATCH", 500)
    tokens, texts = load("bert", kind), [*chinese()[:300], *NASTY]
    encoder, encoded, most = Encoder(tokens), [], 0
    assert encoder.units is not None
    for batch in encoder.batches(texts):
        encoded += [batch.tokens[index].tolist() for index in range(len(batch.tokens.offsets) - 1)]
        most = max(most, len(encoder.units.names))
    assert encoded == tokens.encode(texts)
    assert most < 1000


def test_a_tokenizer_whose_merges_are_not_in_order_is_asked_itself(load: Load) -> None:
    tree = json.loads(load("gpt2").json)
    for change in ({"dropout": 0.1}, {"ignore_merges": True}, {"merges": tree["model"]["merges"][::-1]}):
        changed = Tokens.from_json(json.dumps({**tree, "model": {**tree["model"], **change}}).encode())
        assert Encoder(changed).units is None
        if "dropout" not in change:
            same_ids(changed, [*chinese()[:30], *english()[:30], *NASTY])


def pieces(tokens: Tokens, text: str, what: str) -> list[str]:
    one = encode_documents(tokens, [text])[0]
    parts = np.split(one.tokens, getattr(one, what)[1:])
    return [tokens.decode(part.tolist()) for part in parts]


def test_a_chinese_word_is_one_word_in_every_kind(load: Load) -> None:
    text = "他来到北京清华大学学习语言模型。"
    expected = rjieba.cut(text)
    for kind in ("wordpiece", "character"):
        assert [piece.replace(" ", "") for piece in pieces(load("bert", kind), text, "words")] == expected
    borders = set(np.cumsum([len(word) for word in expected]).tolist())
    for kind in ("byte-bpe", "bpe", "unigram"):
        found = pieces(load("bert", kind), text, "words")
        assert "".join(found) == text
        assert set(np.cumsum([len(word) for word in found]).tolist()) <= borders


@pytest.mark.parametrize("kind", KINDS)
def test_no_word_crosses_a_space(load: Load, kind: str) -> None:
    for text in english()[:60]:
        for word in pieces(load("bert", kind), " ".join(text.split()), "words"):
            assert " " not in word.strip() or kind == "wordpiece"


def test_words_are_pretokenizer_words_in_english(load: Load) -> None:
    text = "Unbelievable tokenizers split known words, twice"
    expected = ["Unbelievable", " tokenizers", " split", " known", " words", ",", " twice"]
    assert pieces(load("gpt2"), text, "words") == expected


SENTENCES = [
    ("他说：“你好！”然后走了。再见。", ["他说：“你好！”", "然后走了。", "再见。"]),
    ("“好！”，他说。（完。）下一句", ["“好！”，他说。", "（完。）", "下一句"]),
    ("价格是3.14元。真的吗？！是的；好", ["价格是3.14元。", "真的吗？！", "是的；", "好"]),
    ("Mr. Smith paid 3.50 dollars. He left!", ["Mr. Smith paid 3.50 dollars.", " He left!"]),
    (
        'He said "Stop!" Then he went, e.g. home. "Why?" asked I.',
        ['He said "Stop!"', " Then he went, e.g. home.", ' "Why?"', " asked I."],
    ),
    ("See a.b.c and file.txt. ok... fine. End", ["See a.b.c and file.txt. ok... fine.", " End"]),
    ("第一行\n第二行\n\n第三行\n", ["第一行\n", "第二行\n\n", "第三行\n"]),
    ("A wrapped\nparagraph goes on.\nA new one.", ["A wrapped\nparagraph goes on.\n", "A new one."]),
    ("句子。  ", ["句子。  "]),
]


@pytest.mark.parametrize(("text", "expected"), SENTENCES)
@pytest.mark.parametrize("kind", ["character", "byte-bpe"])
def test_sentences(load: Load, text: str, expected: list[str], kind: str) -> None:
    assert pieces(load("gpt2", kind), text, "sentences") == expected


def test_nothing_at_all(load: Load) -> None:
    assert encode_documents(load("bert"), []) == []
    assert [len(one.tokens) for one in encode_documents(load("bert"), ["", "\u200b", " "])] == [0, 0, 0]


def same_in_parts(encoder: Encoder, text: str) -> None:
    whole = encoder.encode([text])
    (parts,) = encoder.batches([text])
    for name in ("tokens", "sentences", "words"):
        found, expected = getattr(parts, name), getattr(whole, name)
        assert found.values.tolist() == expected.values.tolist(), name
        assert found.offsets.tolist() == expected.offsets.tolist()


def gpt2_splits(load: Load) -> Tokens:
    tokenizer = Tokenizer.from_str(load("gpt2").json.decode())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return Tokens.from_json(tokenizer.to_str().encode())


@pytest.mark.parametrize("kind", [*KINDS, "lower-case unigram", "gpt2's own"])
def test_a_long_text_has_the_same_tokens_in_parts(load: Load, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr("yanmo.tokenizer.encoding.LONG", 10)
    monkeypatch.setattr("yanmo.tokenizer.encoding.BATCH", 60)
    if kind in KINDS:
        tokens = load("bert", kind)
    else:
        tokens = gpt2_splits(load) if "gpt2" in kind else load("bert", "unigram", lowercase=True)
    encoder = Encoder(tokens)
    assert encoder.cuts_safely
    nasty = [text for text in NASTY if not any(token in text for token in encoder.added)]
    lines = [*chinese()[:100], *chinese()[-50:], *english()[:80], *nasty, "Is it? Yes! No", "他说：“好。”他走了。A dog"]
    for joint in ("\n", "。", " ", "! "):
        text = joint.join(lines)
        assert len(list(_parts(text))) > 50
        same_in_parts(encoder, text)

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.text(ALPHABET, max_size=12), min_size=9, max_size=40), st.sampled_from(["\n", "。", "! ", "x\nA", "。中"]))
    def check(texts: list[str], joint: str) -> None:
        same_in_parts(encoder, "begin " + joint.join(texts) + joint + "the end")

    check()


def test_a_text_that_cannot_be_cut_safely_stays_whole(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yanmo.tokenizer.encoding.LONG", 10)
    monkeypatch.setattr("yanmo.tokenizer.encoding.BATCH", 60)
    text = "。".join(chinese()[:50])
    tokenizer = Tokenizer.from_str(load("gpt2").json.decode())
    for splits in (
        pre_tokenizers.Split(Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"), "isolated"),
        pre_tokenizers.Metaspace(),
    ):
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([splits, pre_tokenizers.ByteLevel(False, use_regex=False)])
        tokens = Tokens.from_json(tokenizer.to_str().encode())
        assert not Encoder(tokens).cuts_safely
        same_in_parts(Encoder(tokens), text)
    same_in_parts(Encoder(load("bert")), f"{text}[MASK]{text}")
    same_in_parts(Encoder(load("bert")), "no cut in here " * 100)
