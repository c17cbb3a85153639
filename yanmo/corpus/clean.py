"""Repairs inside a document. Good text does not pay: each step begins with a check that runs at the speed of memory.

Every expression is linear in the length of the text, so that a document of 100 MB on one line is no trap.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Literal

from yanmo.corpus.scrub import scrub
from yanmo.errors import UserError
from yanmo.recipe import Clean

Step = Callable[[str, Counter[str]], str]


def steps_of(clean: Clean) -> list[tuple[str, Step]]:
    """The steps that are switched on, in their order: each takes a text and its own counter and returns the text.

    Raises UserError where `simplify` is on and the extra it needs is missing.
    """
    steps: list[tuple[str, Step]] = []
    if clean.mojibake:
        steps.append(("mojibake", _mojibake))
    if clean.unicode != "none":
        form: Literal["NFC", "NFKC"] = clean.unicode
        steps.append(("unicode", lambda text, count: _unicode(text, form)))
    if clean.control:
        steps.append(("control", _control))
    if clean.width:
        steps.append(("width", _width))
    if clean.simplify:
        steps.append(("simplify", _Simplify()))
    if clean.whitespace:
        steps.append(("whitespace", _whitespace))
    if clean.boilerplate:
        steps.append(("boilerplate", _boilerplate))
    if clean.scrub:
        kinds = clean.scrub
        steps.append(("scrub", lambda text, count: scrub(text, kinds, count)))
    return steps


# UTF-8 read as Latin-1 or Windows-1252: a lead byte and a continuation byte, each as a character. And as GBK: the
# characters that 的, ， and 。 turn into, with whatever byte follows.
_SUSPECT = re.compile(
    "[\xc2-\xf4][\x80-\xbf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
)
_SUSPECT_GBK = re.compile("[鐨銆锛鏄鍦涓浜]")


def _mojibake(text: str, count: Counter[str]) -> str:
    latin, gbk = _SUSPECT.search(text), _SUSPECT_GBK.search(text)
    if not latin and not gbk:
        return text
    import ftfy

    lines = text.split("\n")
    for index, line in enumerate(lines):
        repaired = line
        if latin and _SUSPECT.search(line):
            repaired = ftfy.fix_encoding(line)
        if gbk and len(_SUSPECT_GBK.findall(line)) > 1:
            repaired = _from_gbk(repaired)
        if repaired != line:
            count["lines"] += 1
            lines[index] = repaired
    return "\n".join(lines)


def _from_gbk(line: str) -> str:
    """UTF-8 that was read as GBK, put right; the line as it is where its bytes are not UTF-8 from end to end."""
    try:
        return line.encode("gb18030").decode("utf-8")
    except UnicodeError:
        return line


def _unicode(text: str, form: Literal["NFC", "NFKC"]) -> str:
    return text if unicodedata.is_normalized(form, text) else unicodedata.normalize(form, text)


# Joiners (U+200C, U+200D) stay: Persian, the scripts of India and emoji are spelled with them.
_BREAKS = re.compile("\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]")
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff]"
)


def _control(text: str, count: Counter[str]) -> str:
    if not _CONTROL.search(text):
        return text
    text = _BREAKS.sub("\n", text)
    text, removed = _CONTROL.subn("", text)
    count["characters"] += removed
    return text


_FULL = {code: code - 0xFEE0 for code in range(0xFF10, 0xFF5B) if chr(code - 0xFEE0).isalnum()}
_FULL_RUN = re.compile("[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]+")
_HALF_KANA_RUN = re.compile("[\uff61-\uff9f]+")


def _width(text: str, count: Counter[str]) -> str:
    text, letters = _FULL_RUN.subn(lambda run: run[0].translate(_FULL), text)
    text, kana = _HALF_KANA_RUN.subn(lambda run: unicodedata.normalize("NFKC", run[0]), text)
    count["runs"] += letters + kana
    return text


_SPACES = re.compile("[\t\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_RUN = re.compile("[ \t\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
_BLANK = re.compile("\n{3,}")


def _whitespace(text: str, count: Counter[str]) -> str:
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if _SPACES.search(text) or "  " in text:
        text = _RUN.sub(" ", text)
    if " \n" in text:
        text = text.replace(" \n", "\n")
    if "\n " in text:
        text = text.replace("\n ", "\n")
    if "\n\n\n" in text:
        text = _BLANK.sub("\n\n", text)
    return text.strip()


LONGEST_BOILERPLATE = 80
SHORTEST_REPEAT = 8
REPEATS = 3
_BOILERPLATE = re.compile(
    r"©|\(c\) ?\d{4}|all rights reserved|版权所有|版權所有|著作权归|保留所有权利|未经(?:授权|许可|书面).{0,12}(?:转载|使用)"
    r"|[京沪粤浙苏川鄂湘闽津渝]icp|icp备|公网安备|使用.{0,10}cookie"
    r"|(?:we|this (?:web)?site) uses? cookies|accept (?:all )?cookies|cookie (?:policy|settings|preferences)"
    r"|^(?:home|login|log in|sign in|sign up|register|subscribe|share|print|next|previous|back to top|read more"
    r"|skip to (?:main )?content|menu|privacy policy|terms of (?:use|service)|contact us|about us)$"
    r"|^(?:首页|登录|注册|返回顶部|返回首页|上一篇|下一篇|上一页|下一页|分享到?|打印本?页?|关闭窗口|收藏本站|设为首页"
    r"|联系我们|关于我们|网站地图|隐私政策|免责声明|点击查看更多|阅读全文|查看更多)[:：]?$"
    r"|^(?:当前位置|您的位置|您现在的位置|责任编辑|分享到|扫一扫|扫描二维码)[:：]?.{0,40}$"
    r"|^(?:[^|>»/]{1,12} ?[|>»] ?){2,}[^|>»]{1,30}$",
    re.I,
)


def _boilerplate(text: str, count: Counter[str]) -> str:
    if len(text) > LONGEST_BOILERPLATE and "\n" not in text:
        return text
    lines = text.split("\n")
    drop = {line for line in set(lines) if 0 < len(line) <= LONGEST_BOILERPLATE and _BOILERPLATE.search(line)}
    often: set[str] = set()
    if len(lines) - len(set(lines)) >= REPEATS - 1:
        often = {line for line, times in Counter(lines).items() if times >= REPEATS and len(line) >= SHORTEST_REPEAT}
    if not drop and not often:
        return text
    kept = []
    for line in lines:
        if line in drop:
            continue
        kept.append(line)
        if line in often:                  # its first place stays
            often.remove(line)
            drop.add(line)
    count["lines"] += len(lines) - len(kept)
    return "\n".join(kept).strip("\n")


class _Simplify:
    """Traditional to simplified Chinese by OpenCC's phrases, where a line has a traditional character at all."""

    def __init__(self) -> None:
        try:
            import opencc
        except ImportError:
            raise UserError("corpus.clean.simplify needs an extra package: pip install yanmo[chinese]") from None
        self.convert = opencc.OpenCC("t2s").convert
        hans = "".join(map(chr, range(0x3400, 0xA000)))
        self.traditional = re.compile(f"[{''.join(one for one in hans if self.convert(one) != one)}]")

    def __call__(self, text: str, count: Counter[str]) -> str:
        if not self.traditional.search(text):
            return text
        lines = text.split("\n")
        for index, line in enumerate(lines):
            if self.traditional.search(line):
                lines[index] = self.convert(line)
                count["lines"] += 1
        return "\n".join(lines)
