"""Elements of the page. The serialiser escapes text and attributes: nothing from the data can become markup."""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree.ElementTree import Element, tostring

Child = Element | str | None
Children = Child | Iterable[Child]

UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
DIRECTION = re.compile("[\u202a-\u202e\u2066-\u2069]")  # a stray override would turn the rest of the line around


def tag(name: str, *children: Children, **attributes: object) -> Element:
    """An element; `class_` is class, `stroke_width` is stroke-width; attributes that are None or False are left out."""
    element = Element(name)
    for key, value in attributes.items():
        if value is not None and value is not False:
            element.set(SPELLING.get(key, key.rstrip("_").replace("_", "-")), printable(str(value)))
    for child in children:
        _append(element, child)
    return element


SPELLING = {"view_box": "viewBox", "preserve_aspect_ratio": "preserveAspectRatio"}


def html(element: Element) -> str:
    """The element as HTML."""
    return tostring(element, encoding="unicode", method="html")


def printable(text: str) -> str:
    """The text without what XML and UTF-8 cannot hold, which is shown as U+FFFD."""
    return DIRECTION.sub("", UNPRINTABLE.sub("\ufffd", text))


def _append(element: Element, child: Children) -> None:
    if child is None:
        return
    if isinstance(child, Element):  # an Element is itself iterable: asked first
        element.append(child)
    elif isinstance(child, str):
        text = printable(child)
        if len(element):
            element[-1].tail = (element[-1].tail or "") + text
        else:
            element.text = (element.text or "") + text
    else:
        for inner in child:
            _append(element, inner)
