"""How is a JSON file read that anybody may have written? Value by value; each knows where it stands."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgel0.errors import UsageError
from edgel0.report.lettering import clean

LARGEST = 256 * 2**20  # bytes of a file that is read; a real one has some 100 kB
LONGEST = 200  # letters of a name


def load(file: Path) -> Any:
    """Parse a JSON file of any content."""
    try:
        if file.stat().st_size > LARGEST:
            raise UsageError(f"{file} is larger than {LARGEST // 2**20} MiB, so no run wrote it; name another folder.")
        return json.loads(file.read_bytes(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        where = f"line {error.lineno}, {error.msg.lower()}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise UsageError(
            f"{file} is damaged: {shown(where)}; it may have been cut off. Restore it, or run the recipe again."
        ) from error
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}); correct its permissions or copy it.") from error


def _no_number(name: str) -> None:
    raise ValueError(f"it holds {name}, which is no number")


@dataclass(frozen=True)
class Value:
    """A value of a JSON file that knows where it stands; every access checks what it finds."""

    value: Any
    where: str
    file: Path

    def wrong(self, expected: str) -> UsageError:
        """Make the error that names this place."""
        return UsageError(
            f"{self.file} is damaged: {self.where or 'all of it'} is {clean(reprlib.repr(self.value))}; {expected}. "
            "Restore the file, or run the recipe again."
        )

    def find(self, key: str) -> Value | None:
        """Return an entry of an object, None when it is missing or null."""
        if not isinstance(self.value, dict):
            raise self.wrong("an object was expected")
        found = self.value.get(key)
        return None if found is None else Value(found, f"{self.where}.{key}".lstrip("."), self.file)

    def entries(self, key: str) -> Iterator[tuple[str, Value]]:
        """Yield (name, value) of an object in an object, none when it is missing; names are fit to be shown."""
        inner = self.find(key)
        if inner is None:
            return
        if not isinstance(inner.value, dict):
            raise inner.wrong("an object was expected")
        for name, value in inner.value.items():
            if value is not None:
                yield shown(name), Value(value, f"{inner.where}.{shown(name)}", self.file)

    def rows(self, key: str) -> Iterator[Value]:
        """Yield what a list in an object holds, nothing when it is missing."""
        inner = self.find(key)
        if inner is None:
            return
        if not isinstance(inner.value, list):
            raise inner.wrong("a list was expected")
        for at, value in enumerate(inner.value):
            yield Value(value, f"{inner.where}[{at}]", self.file)

    def number(self, most: float = 2.0**63) -> float:
        """Return a finite number from 0 to ``most``."""
        found = self.value
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found <= most:
            raise self.wrong(f"a number from 0 to {'1' if most == 1 else '2^63'} was expected")
        return float(found)

    def text(self) -> str:
        """Return a text that is fit to be shown."""
        if not isinstance(self.value, str):
            raise self.wrong("a text was expected")
        return shown(self.value)

    def number_at(self, key: str, most: float = 2.0**63) -> float | None:
        """Return a number of an object, None when it is missing."""
        found = self.find(key)
        return None if found is None else found.number(most)

    def count_at(self, key: str) -> int | None:
        """Return a number of things, None when it is missing."""
        found = self.number_at(key)
        return None if found is None else int(found)

    def text_at(self, key: str) -> str:
        """Return a text of an object, "" when it is missing."""
        found = self.find(key)
        return "" if found is None else found.text()


def shown(text: str) -> str:
    """Return a foreign text without what no page can show, and not endless."""
    text = clean(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
