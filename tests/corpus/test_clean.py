"""Cleaning and filters, one by one, against unicodedata, ftfy's definition of mojibake and numbers with known check digits."""

from __future__ import annotations

import time
import unicodedata
from collections import Counter

import ftfy  # noqa: F401  (registers the codec sloppy-windows-1252)
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yanmo.corpus.clean import steps_of
from yanmo.corpus.filter import Languages, symbol_share, wrong_length
from yanmo.corpus.scrub import scrub, valid_card, valid_identity
from yanmo.corpus.units import SPACE, SYMBOL, WINDOW, analyse, classes, units_of
from yanmo.errors import UserError
from yanmo.recipe import Clean, Filter

OFF = {"mojibake": False, "unicode": "none", "control": False, "whitespace": False, "width": False, "boilerplate": False}


def cleaned(text: str, **switches) -> str:
    for _, step in steps_of(Clean.model_validate(OFF | switches)):
        text = step(text, Counter())
    return text


def test_every_switch_off_changes_nothing() -> None:
    assert steps_of(Clean.model_validate(OFF)) == []


@pytest.mark.parametrize("wrong", ["latin-1", "cp1252", "gb18030"])
def test_mojibake(wrong: str) -> None:
    good = "naïve café — “quoted” déjà vu" if wrong != "gb18030" else "他们在北京的大学里学习了"
    bad = good.encode().decode({"cp1252": "sloppy-windows-1252"}.get(wrong, wrong))
    assert bad != good
    assert cleaned(f"fine\n{bad}\n好的", mojibake=True) == f"fine\n{good}\n好的"
    for text in (good, "Ünïcödé wörds ÀÉ", "銆 is rare", "我们的语言"):
        assert cleaned(text, mojibake=True) == text


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
@given(text=st.text())
@settings(max_examples=40, deadline=None)
def test_unicode_form(form: str, text: str) -> None:
    assert cleaned(text, unicode=form) == unicodedata.normalize(form, text)


@given(st.text(alphabet=st.characters(codec="utf-8")))
@settings(max_examples=50, deadline=None)
def test_control_characters_are_those_of_unicode(text: str) -> None:
    left = cleaned(text, control=True)
    assert not {c for c in left if unicodedata.category(c) == "Cc"} - {"\t", "\n"}
    printable = [c for c in text if unicodedata.category(c) not in ("Cc", "Cf", "Cn", "Zl", "Zp")]
    assert [c for c in left if unicodedata.category(c) not in ("Cc", "Cf", "Cn", "Zl", "Zp")] == printable
    assert cleaned(left, control=True) == left


def test_control_keeps_joiners_and_breaks() -> None:
    assert cleaned("\ufeffa\u200bb\u200dc\r\nd\x07\x85e\u2028f\ud800", control=True) == "ab\u200dc\nd\ne\nf"


def test_white_space() -> None:
    assert cleaned("　　段落 \t 一  \r\n \n\n\n\n  二\u00a0三  ", whitespace=True) == "段落 一\n\n二 三"


@given(st.text(alphabet=" \t\n\u3000ab"))
@settings(max_examples=50, deadline=None)
def test_white_space_is_done_after_once(text: str) -> None:
    once = cleaned(text, whitespace=True)
    assert cleaned(once, whitespace=True) == once
    assert once.split() == text.split()
    assert not any(bad in once for bad in ("  ", "\t", "\n\n\n", " \n", "\n ", "\u3000"))


def test_width() -> None:
    assert cleaned("ＡＢＣｘｙｚ０１９，。！ｶﾞｷﾞﾊﾟ", width=True) == "ABCxyz019，。！ガギパ"
    for code in range(0xFF01, 0xFF5F):
        narrow = unicodedata.normalize("NFKC", chr(code))
        assert cleaned(chr(code), width=True) == (narrow if narrow.isalnum() else chr(code))


def test_simplify(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opencc")
    assert cleaned("漢語的頭髮與發展，後來皇后說\n简体不动", simplify=True) == "汉语的头发与发展，后来皇后说\n简体不动"
    monkeypatch.setitem(__import__("sys").modules, "opencc", None)
    with pytest.raises(UserError, match=r"pip install yanmo\[chinese\]"):
        steps_of(Clean(simplify=True))


def test_boilerplate() -> None:
    prose = "标题在此\n正文说，版权所有是一个法律概念，但是这一行很长，" + "很长，" * 30
    text = f"首页 | 新闻 | 体育 | 财经\n{prose}\n返回顶部\n© 2020 Example Ltd.\n京ICP备12345678号"
    assert cleaned(text, boilerplate=True) == prose
    again = "点此下载我们的应用程序\n正文一\n点此下载我们的应用程序\n正文二\n点此下载我们的应用程序"
    assert cleaned(again, boilerplate=True) == "点此下载我们的应用程序\n正文一\n正文二"
    poem = "好\n好\n好\nwe share a home, next to the menu"
    assert cleaned(poem, boilerplate=True) == poem


# Known good: the identity number of GB 11643's example; card numbers that payment companies publish for tests.
@pytest.mark.parametrize("number", ["11010519491231002X", "440524188001010014"])
def test_identity_check_digit(number: str) -> None:
    if number.startswith("4405241880"):
        assert not valid_identity(number)  # right digit, born 1880
        return
    assert valid_identity(number)
    assert sum(valid_identity(number[:17] + digit) for digit in "0123456789X") == 1
    assert not valid_identity("11010519491331002X")


@pytest.mark.parametrize("number", ["4111 1111 1111 1111", "5500-0000-0000-0004", "6011111111111117", "6200000000000005"])
def test_card_check_digit(number: str) -> None:
    assert valid_card(number)
    assert sum(valid_card(number[:-1] + digit) for digit in "0123456789") == 1
    assert scrub(f"卡号{number}。", ("card",), Counter()) == "卡号[card]。"


def test_cards_of_19_digits_and_what_follows_a_card() -> None:
    kinds = ("email", "phone", "identity", "card")
    digits = "622202397298150616"
    number = next(digits + last for last in "0123456789" if valid_card(digits + last))
    spaced = f"{number[:4]} {number[4:8]} {number[8:12]} {number[12:16]} {number[16:]}"
    for shown in (number, spaced, spaced.replace(" ", "-")):
        assert scrub(f"卡号{shown}。", kinds, Counter()) == "卡号[card]。"
    count = Counter()
    assert scrub("4111 1111 1111 1111 123 yuan", kinds, count) == "[card] 123 yuan"
    assert count == {"card": 1}


def test_an_address_that_begins_with_a_phone_number() -> None:
    kinds = ("email", "phone", "identity", "card")
    assert scrub("写信到13812345678@qq.com，或打13812345678。", kinds, Counter()) == "写信到[email]，或打[phone]。"


def test_scrub() -> None:
    count: Counter[str] = Counter()
    text = (
        "写信 li.lei+x@mail.example.com.cn 或打13812345678、+86 138-1234-5678、010-12345678，"
        "身份证11010519491231002x，卡4111111111111111。"
    )
    assert scrub(text, ("email", "phone", "identity", "card"), count) == (
        "写信 [email] 或打[phone]、[phone]、[phone]，身份证[identity]，卡[card]。"
    )
    assert count == {"email": 1, "phone": 3, "identity": 1, "card": 1}
    for kept in (
        "价格12345678901元",
        "1998年12月31日",
        "3.14159265358979",
        "110105194912310021",
        "4111111111111112",
        "订单2023-0001-0002",
        "a@b",
    ):
        assert scrub(kept, ("email", "phone", "identity", "card"), Counter()) == kept
    assert scrub(text, (), Counter()) == text


@pytest.mark.parametrize("unit", ["a", "1", "ａ", " ", "Ã©", "-", "@a", "| ", "鐨", "\n \n"])
def test_no_step_is_quadratic(unit: str) -> None:
    every = Clean(scrub=("email", "phone", "identity", "card"))
    taken = []
    for size in (200_000, 800_000):
        text = unit * (size // len(unit))
        started = time.process_time()
        for _, step in steps_of(every):
            text = step(text, Counter())
        taken.append(time.process_time() - started)
    assert taken[1] < 10 * taken[0] + 0.5, taken  # four times the text; a quadratic step takes 16 times


def test_lengths_count_characters() -> None:
    chosen = Filter(min_characters=3, max_characters=5)
    assert [bool(wrong_length(text, chosen)) for text in ("二字", "三个字", "五个字可以", "六个字不可以")] == [
        True,
        False,
        False,
        True,
    ]


def test_classes_agree_with_unicode() -> None:
    table = classes()
    for code in [*range(0x20, 0x3000, 7), *range(0x3000, 0xD7FF, 31), 0x2000B, 0x1F600]:
        category = unicodedata.category(chr(code))[0]
        if category == "S":
            assert table[code] == SYMBOL, hex(code)
        if category == "Z":
            assert table[code] == SPACE, hex(code)
        if category == "L":
            assert table[code] < SYMBOL, hex(code)


def test_repetition_and_symbols() -> None:
    texts = [
        "哈" * 100,
        "我们今天去公园里散步，天气非常好，大家都很高兴。",
        "buy now " * 40,
        "the quick brown fox jumps over the lazy dog",
        "★☆♪♫→←■□◆◇好",
    ]
    analysis = analyse(texts)
    assert (analysis.repetition > 0.5).tolist() == [True, False, True, False, False]
    assert (symbol_share(analysis) > 0.4).tolist() == [False, False, False, False, True]


def test_repetition_does_not_punish_length() -> None:
    words = np.random.default_rng(0).zipf(1.3, 400_000) % 5000
    text = "".join(chr(0x4E00 + word) for word in words.tolist())
    whole, part = analyse([text]).repetition[0], analyse([text[:9000]]).repetition[0]
    assert len(text) < WINDOW < 2 * len(text)
    assert abs(whole - part) < 0.1


def test_units_are_characters_or_words() -> None:
    def same(first: str, second: str) -> bool:
        return units_of([first]).hashes.tolist() == units_of([second]).hashes.tolist()

    assert same("Hello,  World 123", "hello world! 123")
    assert same("研墨 hello", "研-墨Hello")
    assert not same("hello world", "helloworld")
    assert not same("ab", "ba")
    assert len(units_of(["用PyTorch训练模型v2"]).hashes) == 7
    assert len(units_of(["สวัสดี"]).hashes) == 6
    alone, beside = units_of(["汉字在此"]), units_of(["some words", "汉字在此", "and more"])
    assert beside.hashes[beside.documents == 1].tolist() == alone.hashes.tolist()
    long = "x" * 1000
    assert not same(long, long[:-1])


def test_long_documents_are_analysed_in_windows() -> None:
    text = "".join(map(chr, np.random.default_rng(1).integers(0x4E00, 0x9000, 3 * WINDOW).tolist()))
    analysis = analyse(["short one here", text, "短的也在这里呢"])
    assert analysis.counts.sum(1).tolist() == [14, len(text), 7]
    assert 0.4 < (analysis.offsets[2] - analysis.offsets[1]) / len(text) < 0.6  # one shingle in two


def test_languages() -> None:
    languages = Languages(("zh", "en"), 0.5)
    samples = [
        "今天我们去公园里散步，天气非常好。",
        "The weather was fine, so we went for a walk.",
        "Сегодня была хорошая погода, и мы гуляли.",
    ]
    assert [languages.keeps(languages.detect(text)[1]) for text in samples] == [True, True, False]
    assert [languages.detect(text)[0] for text in samples] == ["zh", "en", "ru"]
