"""Which errors edgel0 raises, and which exit code each one carries.

::

    EdgeL0Error                 exit 2, unless a child says otherwise
    ├── UsageError              2  an argument, a model or an example that cannot work
    │   ├── RecipeError         2  a recipe (TOML) with a wrong key, value or reference
    │   ├── BudgetError         2  a limit that cannot be reached or read
    │   └── TrainingError       2  a run that diverged, or data that do not fit the model
    ├── TraceError              2  a model that cannot be captured or has nothing removable
    ├── SlimError               2  masks that leave no working network
    ├── ExtraError              3  an optional dependency is not installed
    ├── DeviceError             3  a board, runtime or file system failed
    └── ParityError             4  an artefact disagrees with the model it came from

Every message is one paragraph: what was found, what was expected, what to do.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any


class EdgeL0Error(Exception):
    """Any failure that edgel0 explains; ``exit_code`` is what the command line returns."""

    exit_code = 2


class UsageError(EdgeL0Error, ValueError):
    """An argument, a model or an example input cannot work as given."""


class RecipeError(UsageError):
    """A recipe or configuration file holds a wrong key, value or reference."""


class BudgetError(UsageError):
    """A limit cannot be read or cannot be reached."""


class TrainingError(UsageError):
    """Training diverged, or the data do not fit the model."""


class TraceError(EdgeL0Error):
    """The model cannot be captured, or nothing in it can be removed."""


class SlimError(EdgeL0Error):
    """The masks leave no working network."""


class ExtraError(EdgeL0Error, ImportError):
    """An optional dependency is not installed."""

    exit_code = 3


class DeviceError(EdgeL0Error, OSError):
    """A board, a runtime or the file system failed."""

    exit_code = 3


class ParityError(EdgeL0Error):
    """An artefact and the model it came from give different answers."""

    exit_code = 4


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known word, or ``""`` when none is close."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


def need(module: str, extra: str) -> Any:
    """Import ``module`` or raise an :class:`ExtraError` that names the extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ExtraError(
            f"{module!r} could not be imported ({error}); it comes with the extra {extra!r}: "
            f'run  pip install "edgel0[{extra}]"  and try again.'
        ) from error


def printable(text: str, keep: str = "") -> str:
    """Return text that cannot steer a terminal: control and format characters are escaped, but those to ``keep``."""
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape", "backslashreplace").decode() for c in text
    )
