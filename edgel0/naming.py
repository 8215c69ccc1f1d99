"""Which modules, parameters and groups does a name or a pattern mean? A name covers everything below it."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from edgel0.errors import UsageError, nearest


def module_of(node: Any) -> str:
    """Return the path of the module that a node of a program runs in; "" is the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(next(reversed(stack.values()))[0]) if stack else ""


def covers(pattern: str, path: str) -> bool:
    """Tell whether a pattern (of :mod:`fnmatch`, case-sensitive) matches a dotted path or anything that encloses it."""
    parts = path.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def refuse_unmatched(
    pattern: str, paths: Iterable[str], what: str, kind: str, error: type[UsageError] = UsageError
) -> None:
    """Raise if ``pattern`` covers none of ``paths``; ``what`` names the argument it stands in, ``kind`` what it may be.

    Raises:
        UsageError (or ``error``): with the nearest of the paths and of all that encloses them.
    """
    paths = [path for path in paths if path]
    if pattern and any(covers(pattern, path) for path in paths):
        return
    parts = [path.split(".") for path in paths]
    known = dict.fromkeys(".".join(each[:end]) for each in parts for end in range(1, len(each) + 1))
    hint = nearest(pattern, known) or f"; there are, say, {', '.join([*known][:5]) or 'none'}"
    raise error(
        f"{what} names {pattern!r}, which is no {kind} of this model{hint}{'' if hint.endswith('?') else '.'} Name a "
        f"{kind}, or a pattern such as 'layer1.*'."
    )
