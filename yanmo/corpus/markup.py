"""Markdown and HTML to plain text, content kept. Every expression is linear in the length of the text."""

from __future__ import annotations

import html
import re

from yanmo.errors import UserError

_FRONT = re.compile(r"\A---[ \t]*\n.*?\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.S)
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[^\n]*$", re.M)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.S)
_BREAK = re.compile(r"<br\s*/?>", re.I)
_TAG = re.compile(r"</?[A-Za-z][A-Za-z0-9\-]*(?:\s[^<>]{0,1000})?/?>")
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+([^\n]*)$", re.M)
_UNDERLINE = re.compile(r"^ {0,3}(?:=+|-{2,}|\*{3,}|_{3,}|(?:[*_-][ \t]+){2,}[*_-])[ \t]*$\n?", re.M)
_QUOTE = re.compile(r"^(?: {0,3}>[ \t]?)+", re.M)
_BULLET = re.compile(r"^[ \t]*[*+\-][ \t]+(?:\[[ xX]\][ \t]+)?", re.M)
_DEFINITION = re.compile(r"^ {0,3}\[[^\]\n]{1,200}\]:[ \t]*\S+[^\n]*$\n?", re.M)
_TABLE_RULE = re.compile(r"^[ \t]*\|?(?:[ \t]*:?-{2,}:?[ \t]*\|)+[ \t]*(?::?-{2,}:?)?[ \t]*$\n?", re.M)
_CELLS = re.compile(r"^[ \t]*\|(.*)\|[ \t]*$", re.M)
_LINK = re.compile(
    r"!?\[([^\[\]\n]{0,1000})\]"
    r"(?:\([^()\n]{0,1000}(?:\([^()\n]{0,1000}\)[^()\n]{0,1000})?\)|\[[^\]\n]{0,200}\])"
)
_AUTOLINK = re.compile(r"<((?:https?://|mailto:)[^<>\s]{1,1000})>")
_STRONG = re.compile(r"(\*\*|__|~~)(?=\S)([^*_~\n]{1,1000}?)(?<=\S)\1")
_EMPHASIS = re.compile(
    r"(?<![\w*])\*(?=\S)([^*\n]{1,1000}?)(?<=\S)\*(?![\w*])"
    r"|(?<![\w_])_(?=\S)([^_\n]{1,1000}?)(?<=\S)_(?![\w_])"
)
_CODE = re.compile(r"(?<!`)(`{1,3})(?!`)([^`\n]{1,1000})\1(?!`)")
_ESCAPE = re.compile(r"\\([\\`*_{}\[\]()#+\-.!|>~<])")


def markdown_to_text(text: str) -> str:
    """The words of a Markdown document: markup goes, link texts, code, list items and table cells stay (CommonMark 0.31)."""
    text = _FRONT.sub("", text, count=1)
    parts: list[str] = []
    fence, position, code = "", 0, False
    for match in _FENCE.finditer(text):
        mark = match[1]
        if code and not (mark[0] == fence[0] and len(mark) >= len(fence)):
            continue
        piece = text[position : match.start()]
        parts.append(piece if code else _prose(piece))
        fence, position, code = mark, min(match.end() + 1, len(text)), not code
    parts.append(text[position:] if code else _prose(text[position:]))
    return "".join(parts)


def _prose(text: str) -> str:
    for pattern, replacement in (
        (_COMMENT, ""), (_AUTOLINK, r"\1"), (_BREAK, "\n"), (_TAG, ""), (_QUOTE, ""), (_TABLE_RULE, ""),
        (_UNDERLINE, ""), (_BULLET, ""), (_DEFINITION, ""), (_LINK, r"\1"), (_LINK, r"\1"), (_STRONG, r"\2"),
    ):  # fmt: skip
        text = pattern.sub(replacement, text)      # links twice: an image may stand inside a link
    text = _HEADING.sub(lambda line: line[1].rstrip(" \t").rstrip("#").rstrip(" \t"), text)
    text = _CELLS.sub(lambda row: "\t".join(cell.strip() for cell in row[1].split("|")), text)
    text = _EMPHASIS.sub(lambda match: match[1] or match[2], text)
    text = _CODE.sub(r"\2", text)
    return html.unescape(_ESCAPE.sub(r"\1", text))


def html_to_text(page: str) -> str:
    """The main text of a page, by trafilatura; where it finds none, all the text the page shows."""
    try:
        import trafilatura
        from trafilatura.settings import use_config
    except ImportError as error:                                # old versions of pip leave lxml_html_clean out
        raise UserError(f"HTML cannot be read: {error}; pip install trafilatura lxml_html_clean") from None

    if not _SETTINGS:
        settings = use_config()
        settings.set("DEFAULT", "EXTRACTION_TIMEOUT", "0")      # its timeout is a signal, which workers must not get
        _SETTINGS.append(settings)
    page = _DECLARATION.sub("", page, count=1)                  # lxml refuses text that declares an encoding
    if not page.strip():
        return ""
    text = trafilatura.extract(page, include_comments=False, include_tables=True, config=_SETTINGS[0])
    return text or trafilatura.html2txt(page)


_SETTINGS: list = []
_DECLARATION = re.compile(r"\A\s*<\?xml[^>]{0,200}\?>")
