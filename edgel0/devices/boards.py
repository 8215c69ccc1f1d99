"""Which board is meant? ``local``, ``ssh://pi@host``, ``adb:SERIAL``, ``qemu:CORE``, or a ``devices/NAME.toml``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgel0.errors import BudgetError, DeviceError, UsageError, nearest
from edgel0.quantities import parse_bytes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KINDS = ("local", "ssh", "adb", "qemu")
RUNTIMES = ("onnxruntime", "ai-edge-litert", "tflite-runtime")
MEASURING = ("runtime", "cores", "memory")  # what counting in an emulator does not read
FOLDER = Path("devices")


@dataclass(frozen=True)
class Board:
    """A place where models run; ``python`` is its interpreter ("" is the default of the transport).

    ``address`` is ``user@host``, an adb serial or a core; ``port`` 0 leaves the port to ssh. ``runtime`` is the only
    one to use ("" any that is there), ``cores`` are the processors to stay on (() any), ``memory`` is the bytes that a
    model's weights and activations may take (0 any).
    """

    name: str
    transport: str
    address: str = ""
    port: int = 0
    python: str = ""
    folder: str = ""
    threads: int = 0
    notes: str = ""
    runtime: str = ""
    cores: tuple[int, ...] = ()
    memory: int = 0


def find_board(text: str, folder: Path = FOLDER) -> Board:
    """Return the board that ``--on`` names. Raises UsageError where there is no such board."""
    kind, _, rest = text.partition(":")
    if text == "local":
        return Board(text, "local")
    if kind == "ssh" and rest.startswith("//"):
        return _ssh(text)
    if kind in ("adb", "qemu") and (rest or text == "adb"):
        return Board(text, kind, rest)
    path = Path(text) if text.endswith(".toml") else folder / f"{text}.toml"
    if path.is_file() and (text.endswith(".toml") or path.parent == folder):
        return read_board(path)
    known = ["local", *(board.stem for board in sorted(folder.glob("*.toml")))]
    raise UsageError(
        f"there is no board {text!r}: neither local, ssh://USER@HOST, adb, adb:SERIAL or qemu:CORE, nor a file "
        f"{path.as_posix()!r}; known are {', '.join(known)}{nearest(text, known) or '.'}"
    )


def read_board(path: Path) -> Board:
    """Read a board file. Raises UsageError for a wrong key or value, DeviceError when it cannot be read."""
    try:
        rows: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DeviceError(f"cannot read the board file {path.as_posix()!r}: {error}.") from error
    except ValueError as error:
        raise UsageError(f"{path.as_posix()!r} is not TOML ({error}); correct that line.") from error
    rows.pop("board", None)  # what it is, for people and predictions: a table that measuring does not need
    for key, value in rows.items():
        if key not in KEYS:
            raise UsageError(f"{path.as_posix()!r} has a key {key!r}, which no board has{nearest(key, KEYS) or '.'}")
        try:
            rows[key] = KEYS[key](value)
        except ValueError as error:
            raise UsageError(f"{key!r} in {path.as_posix()!r} is {value!r}; expected {error}") from None
    if rows.get("transport") not in KINDS:
        raise UsageError(f"'transport' in {path.as_posix()!r} is {rows.get('transport')!r}; it is {', '.join(KINDS)}.")
    if rows["transport"] == "ssh" and not rows.get("address"):
        raise UsageError(f'{path.as_posix()!r} has no address; give one, as in  address = "pi@raspberrypi.local".')
    if rows["transport"] == "qemu" and (unread := [key for key in MEASURING if key in rows]):
        raise UsageError(f"{path.as_posix()!r} has {unread[0]!r}, which an emulated core has no use for; remove it.")
    return Board(path.stem, **rows)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("str.")
    return value


def _number(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("int, 0 or more.")
    return value


def _runtime(value: object) -> str:
    if value not in RUNTIMES:
        raise ValueError(f"one of {', '.join(RUNTIMES)}{nearest(str(value), RUNTIMES) or '.'}")
    return str(value)


def _cores(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or not all(type(core) is int and core >= 0 for core in value):
        raise ValueError("numbers of processors, as in [0, 1].")
    return tuple(dict.fromkeys(value))


def _memory(value: object) -> int:
    try:
        found = parse_bytes(value) if isinstance(value, str) or type(value) is int else 0
    except BudgetError:
        found = 0
    if found <= 0:
        raise ValueError('bytes, or a size such as "512 MB".')
    return found


def _ssh(text: str) -> Board:
    """Take an ssh:// address apart; everything that is not in it is left to the user's ssh configuration."""
    try:
        port = urlsplit(text).port or 0
    except ValueError as error:
        raise UsageError(
            f"{text!r} is no address ({error}); expected ssh://USER@HOST or ssh://USER@HOST:PORT."
        ) from None
    place = text.removeprefix("ssh://").rstrip("/")
    place = place.removesuffix(f":{port}") if port else place
    if not place or "/" in place:
        raise UsageError(f"{text!r} names no host; expected ssh://USER@HOST or ssh://USER@HOST:PORT.")
    user, at, host = place.rpartition("@")
    if host.startswith("[") and host.endswith("]"):  # ssh takes an IPv6 address without its brackets
        place = f"{user}{at}{host[1:-1]}"
    return Board(text, "ssh", place, port)


KEYS: dict[str, Callable[[object], Any]] = {
    **dict.fromkeys(("transport", "address", "python", "folder", "notes"), _text),
    **dict.fromkeys(("port", "threads"), _number),
    "runtime": _runtime,
    "cores": _cores,
    "memory": _memory,
}
