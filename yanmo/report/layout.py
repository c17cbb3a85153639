"""Pieces that every section is made of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree.ElementTree import Element

from yanmo.report.tags import Child, Children, tag


def section(name: str, title: str, lead: str, *content: Children) -> Element | None:
    """A titled section; None where nothing is in it."""
    body = tag("div", *content, class_="body")
    for child in list(body):
        if child.tag == "div" and len(child) == 0:  # a row of which nothing was left
            body.remove(child)
    if len(body) == 0:
        return None
    return tag(
        "section",
        tag("header", tag("h2", title), tag("p", lead) if lead else None),
        body,
        id=name,
    )


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[Child]], quiet: Sequence[bool] = ()) -> Element | None:
    """A table whose first column is names and whose others are numbers; rows marked quiet are shown paler."""
    if not rows:
        return None
    lines = []
    for index, row in enumerate(rows):
        cells = [tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])]
        lines.append(tag("tr", cells, class_="quiet" if index < len(quiet) and quiet[index] else None))
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption) if caption else None,
            tag("thead", tag("tr", [tag("th", head, scope="col") for head in heads])),
            tag("tbody", lines),
        ),
        class_="table narrow" if len(heads) == 2 else "table",
    )


def script_of(text: str) -> str | None:
    """The language to set on a sample, so that its characters get the right forms: ja, ko, zh-Hans or none."""
    if re.search("[\u3040-\u30ff]", text):
        return "ja"
    if re.search("[\uac00-\ud7af]", text):
        return "ko"
    return "zh-Hans" if re.search("[\u4e00-\u9fff]", text) else None
