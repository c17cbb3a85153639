"""Character encodings: which one a file that is not UTF-8 is in."""

from __future__ import annotations

import codecs
import re

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",      # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

# The most frequent characters of each script: a quarter or more of real text, a few percent of text decoded wrongly.
SIMPLIFIED = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心本前开但因只从想实日"
    "军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员解"
    "水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指克许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完"
    "导争运，。、：；？！“”（）《》"
)
TRADITIONAL = (
    "的一是不了在人有我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年過發後作裡用道行所然家種事成方多經麼去法學如都同現當沒動面起看定天分還進好小部其些主樣理心本前開但因只從想實日"
    "軍者意無力它與長把機十民第公此已工使情明性知全三又關點正業外將兩高間由問很最重並物手應戰向頭文體政美相見被利什二等產或新己制身果加西斯月話合回特代內信表化老給世位次度門任常先海通教兒原東聲提立及比員解"
    "水名真論處走義各入幾口認條平係氣題活爾更別打女變四神總何電數安少報才結反受目太量再感建務做接必場件計管期市直德資命山金指克許統區保至隊形社便空決治展馬科司五基眼書非則聽白卻界達光放強即像難且權思王象完"
    "導爭運，。、：；？！「」（）《》"
)
KANA = "".join(map(chr, range(0x3041, 0x30FF))) + "。、「」"
HANGUL = "이다는을에의가고로하지은도를한서그사기자인나아리어라시니대만정있들수보일해것스부과전"
CYRILLIC = "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфё"
ASCII = "".join(map(chr, range(32, 127))) + "\n\r\t"

CANDIDATES = (
    ("gb18030", SIMPLIFIED),
    ("big5hkscs", TRADITIONAL),
    ("cp932", KANA),
    ("euc_jp", KANA),
    ("cp949", HANGUL),
    ("cp1251", CYRILLIC),
    ("koi8_r", CYRILLIC),
)
WIDE = (
    ("utf-16-le", SIMPLIFIED + TRADITIONAL + KANA + CYRILLIC),
    ("utf-16-be", SIMPLIFIED + TRADITIONAL + KANA + CYRILLIC),
    ("utf-16-le", ASCII),
    ("utf-16-be", ASCII),
)
LEAST_SHARE = 0.2
"""Share of the non-ASCII characters that must be frequent ones before an encoding is believed."""

_NOT_ASCII = re.compile("[^\\x00-\\x7f]")
_DECLARED = re.compile(rb"""<(?:meta|\?xml)[^>]{0,200}?(?:charset|encoding)\s*=\s*["']?\s*([A-Za-z0-9_\-]{2,20})""", re.I)


def detect_encoding(sample: bytes, html: bool = False) -> str | None:
    """The encoding of the beginning of a file: a codec's name, "utf-8" where that fits, None for what is not text.

    Byte order marks first, then UTF-8, then (HTML) what the page declares, then the encoding under which most
    characters are frequent ones of its language, and charset-normalizer's opinion at last.
    """
    for mark, name in MARKS.items():
        if sample.startswith(mark):
            return name
    if b"\0" in sample:
        if sample.count(b"\0") < len(sample) / 1000 and _decode(sample, "utf-8") is not None:
            return "utf-8"                             # a stray byte, which `clean.control` takes out
        return _most_plausible(sample, WIDE)
    if _decode(sample, "utf-8") is not None:
        return "utf-8"
    if html and (declared := _DECLARED.search(sample[:4096])):
        name = declared[1].decode("ascii").lower()
        name = {"gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs", "shift_jis": "cp932"}.get(name, name)
        if _known(name) and _decode(sample, name) is not None:
            return name
    return _most_plausible(sample, CANDIDATES) or _second_opinion(sample)


def _most_plausible(sample: bytes, candidates: tuple[tuple[str, str], ...]) -> str | None:
    best, name = LEAST_SHARE, None
    for encoding, frequent in candidates:
        text = _decode(sample, encoding)
        if text is None:
            continue
        unusual = text if frequent is ASCII else _NOT_ASCII.findall(text)
        share = sum(map(frozenset(frequent).__contains__, unusual)) / max(1, len(unusual))
        if share > best:
            best, name = share, encoding
    return name


def _second_opinion(sample: bytes) -> str | None:
    from charset_normalizer import from_bytes

    if len(re.findall(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", sample)) > len(sample) / 100:
        return None
    match = from_bytes(sample[:64_000]).best()
    return match.encoding if match else None


def _decode(sample: bytes, encoding: str) -> str | None:
    """The text, a character cut off at the end left out; None where the bytes do not fit."""
    try:
        return codecs.getincrementaldecoder(encoding)("strict").decode(sample)
    except UnicodeError:
        return None


def _known(name: str) -> bool:
    try:
        codecs.lookup(name)
    except LookupError:
        return False
    return True
