"""How is HTML written? By ``tag``, which escapes whatever is not markup already: the one place where that is done."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any


class Markup(str):
    """A text that is HTML already."""

    __slots__ = ()


Child = str | Iterable[str] | None
VOID = ("link", "meta")
EMPTY = ("rect", "line", "path", "circle")


def escape(text: str) -> Markup:
    """Return foreign text as HTML that shows it; markup stays what it is."""
    return text if isinstance(text, Markup) else Markup(html.escape(str(text)))


def tag(name: str, /, *children: Child, **attributes: Any) -> Markup:
    """Write an element. ``class_`` is ``class``, ``stroke_width`` is ``stroke-width``; None leaves an attribute out."""
    head = name + "".join(_attribute(key, value) for key, value in attributes.items() if value is not None)
    if name in VOID:
        return Markup(f"<{head}>")
    if name in EMPTY:
        return Markup(f"<{head}/>")
    return Markup(f"<{head}>{joined(children)}</{name}>")


def joined(children: Iterable[Child], between: str = "") -> Markup:
    """Join texts and markup, escaping the texts."""
    parts: list[str] = []
    for child in children:
        if isinstance(child, str):
            parts.append(escape(child))
        elif child is not None:
            parts.append(joined(child))
    return Markup(between.join(parts))


def _attribute(key: str, value: Any) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    if isinstance(value, float):
        value = f"{value:.2f}".rstrip("0").rstrip(".")
    return f' {name}="{escape(str(value))}"'
