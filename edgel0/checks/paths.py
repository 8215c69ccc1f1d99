"""Which files a budget's patterns mean: globs below one folder, "!" before what to leave out, nothing outside of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath, PureWindowsPath

_MAGIC = re.compile(r"[*?\[]")


def matches(folder: Path, patterns: Sequence[str]) -> list[str]:
    """Return the files that patterns mean, relative to ``folder`` with "/", sorted within each pattern.

    A pattern without wildcards, or that is a file's very name, means that file, whether it is there or not. ``*`` stays
    within a folder, ``**`` goes through all below, and neither meets names that begin with a dot.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        if not pattern.startswith("!"):
            found |= dict.fromkeys(_expand(folder, pattern))
    return chosen(found, [pattern for pattern in patterns if pattern.startswith("!")], every=True)


def chosen(names: Iterable[str], patterns: Sequence[str], every: bool = False) -> list[str]:
    """Return those of ``names`` that patterns mean, or, of ``every``, those that no "!" leaves out."""
    wanted = [plain(pattern) for pattern in patterns if not pattern.startswith("!")]
    unwanted = [plain(pattern[1:]) for pattern in patterns if pattern.startswith("!")]
    return [
        name
        for name in names
        if (every or any(name == w or _fits(name, w) for w in wanted))
        and not any(name == u or _fits(name, u) for u in unwanted)
    ]


def plain(pattern: str) -> str:
    """Return a path as tables and baselines hold it: "/" between names, no "./" before them."""
    return Path(pattern).as_posix()


def printable(text: str) -> str:
    """Show what would steer a terminal by its number: names of files, layers and runtimes are foreign."""
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)


def leaves(folder: Path, pattern: str) -> bool:
    """Tell whether a path or pattern leads out of ``folder``, on any system and through any symbolic link.

    Raises ``OSError`` or ``RuntimeError`` (a loop of links) when it leads nowhere.
    """
    windows = PureWindowsPath(pattern)  # knows both slashes, drives and shares
    place = (folder / _fixed(pattern)).resolve()
    home = folder.resolve()
    whole = place == home and not _MAGIC.search(pattern)
    return bool(windows.anchor or ".." in windows.parts or whole or not place.is_relative_to(home))


def _expand(folder: Path, pattern: str) -> list[str]:
    """Return the files of one pattern."""
    if not _MAGIC.search(pattern) or (folder / pattern).is_file():
        return [plain(pattern)]
    return sorted(name for name in _below(folder, pattern) if _fits(name, plain(pattern)))


def _below(folder: Path, pattern: str) -> Iterator[str]:
    """Yield the files below the fixed part of a pattern, as deep as it can match, and through no symbolic link."""
    depth = 10**6 if "**" in pattern else len(PurePosixPath(plain(pattern)).parts)
    for root, folders, files in os.walk(folder / _fixed(pattern)):
        here = Path(root).relative_to(folder)
        folders[:] = [name for name in folders if not name.startswith(".") and len(here.parts) + 1 < depth]
        yield from ((here / name).as_posix() for name in files)


def _fixed(pattern: str) -> str:
    """Return the folder that a pattern begins with, or a whole path without wildcards."""
    if not _MAGIC.search(pattern):
        return pattern
    parts = PurePosixPath(plain(pattern)).parts
    wild = next(number for number, part in enumerate(parts) if _MAGIC.search(part))
    return "/".join(parts[:wild])


def _fits(name: str, pattern: str) -> bool:
    """Tell whether a relative path fits a pattern, folder by folder."""
    ends = {0}  # how much of the name the pattern's parts so far may have taken
    parts = name.split("/")
    for wanted in (f"{pattern}/*" if pattern.endswith("**") else pattern).split("/"):
        if wanted == "**":
            ends = {end for start in ends for end in _through(parts, start)}
        else:
            ends = {end + 1 for end in ends if end < len(parts) and _same(parts[end], wanted)}
    return len(parts) in ends


def _through(parts: list[str], start: int) -> Iterator[int]:
    """Yield how far ``**`` may go: over any number of folders that are not hidden."""
    yield start
    for end in range(start, len(parts) - 1):
        if parts[end].startswith("."):
            return
        yield end + 1


def _same(part: str, wanted: str) -> bool:
    hidden = part.startswith(".") and not wanted.startswith(".")
    return not hidden and fnmatchcase(part, wanted)
