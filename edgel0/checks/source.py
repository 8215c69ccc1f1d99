"""A TOML file, and the line on which each of its keys stands.

The TOML library gives no lines, so they come from a scan of the text that knows table headers, ``key =`` and
multi-line strings. Where it finds nothing (a key inside an inline table) the nearest enclosing key answers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgel0.errors import RecipeError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_HEADER = re.compile(r"(?P<array>\[)?\[(?P<name>[^\[\]]+)\](?(array)\])\s*(#.*)?")
_KEY = re.compile(r"(?P<name>(?:[\w-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[\w-]+|\"[^\"]*\"|'[^']*'))*)\s*=")


@dataclass(frozen=True)
class Source:
    """A TOML file as data, with ``lines`` from addresses such as ``budget[0].max_size``."""

    path: Path
    document: dict[str, Any]
    lines: dict[str, int]

    def line(self, address: str) -> int | None:
        """Return the line of an address, or of what encloses it."""
        while address and address not in self.lines:
            address = address[: max(address.rfind("."), address.rfind("["), 0)]
        return self.lines.get(address)

    def where(self, address: str) -> str:
        """Return ``file:line`` of an address, for messages and editors."""
        line = self.line(address)
        return f"{self.path}:{line}" if line else str(self.path)

    def error(self, address: str, text: str) -> RecipeError:
        """Make the error that begins with file and line; the caller raises it."""
        return RecipeError(f"{self.where(address)}: {text}{'' if text.endswith(('.', '?')) else '.'}")

    def refuse_unknown(self, table: Iterable[str], known: Iterable[str], prefix: str = "") -> None:
        """Raise for the first key that nobody would read; ``prefix`` is the address of the table, with its dot."""
        for key in table:
            if key not in known:
                hint = nearest(key, known)
                raise self.error(f"{prefix}{key}", f"unknown key {key!r}; known are {', '.join(known)}{hint}")


def read_source(path: Path) -> Source:
    """Read a TOML file; a file that is absent or broken is a :class:`RecipeError` with line and column."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8.") from error
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror}); name a TOML file.") from error
    try:
        document = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or an integer of too many digits
        raise RecipeError(_broken(path, text, str(error))) from error
    except RecursionError as error:
        raise RecipeError(f"{path}: the TOML is nested too deeply; flatten it.") from error
    return Source(path, document, _lines(text))


def _broken(path: Path, text: str, message: str) -> str:
    """Turn the library's ``… (at line 3, column 5)`` into ``file:3:5: …``."""
    found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", message, re.DOTALL)
    if found:
        message, line, column = found.groups()
        return f"{path}:{line}:{column}: this is not TOML: {message}."
    rows = text.split("\n")
    end = f":{len(rows)}:{len(rows[-1]) + 1}" if "end of document" in message else ""
    return f"{path}{end}: this is not TOML: {message}."


def _lines(text: str) -> dict[str, int]:
    """Return the line of every table and key by its address; entries of an array of tables are numbered."""
    lines: dict[str, int] = {}
    count: dict[str, int] = {}
    table, inside = "", ""
    for number, row in enumerate(text.split("\n"), start=1):
        row = row.strip()
        if inside:
            inside = "" if inside in row else inside
            continue
        if row.startswith("#"):
            continue
        header, key = _HEADER.fullmatch(row), _KEY.match(row)
        if header:
            table = _address(header["name"], count)
            if header["array"]:
                count[table] = count.get(table, -1) + 1
                lines.setdefault(table, number)
                table = f"{table}[{count[table]}]"
        address = table
        if key:
            address = f"{table}.{_plain(key['name'])}".lstrip(".")
        while address:
            lines.setdefault(address, number)
            address = address.rpartition(".")[0]
        inside = next((quote for quote in ('"""', "'''") if row.count(quote) % 2), "")
    return lines


def _address(name: str, count: dict[str, int]) -> str:
    """Give the parts of a header the number of the array entry they belong to: ``budget[1].latency``."""
    address = ""
    parts = _plain(name).split(".")
    for part in parts[:-1]:
        address += part
        address += f"[{count[address]}]." if address in count else "."
    return address + parts[-1]


def _plain(name: str) -> str:
    """Drop quotes and spaces from a dotted key."""
    return ".".join(part.strip().strip("\"'") for part in name.split("."))
