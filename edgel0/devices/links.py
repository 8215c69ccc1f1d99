"""How do files and commands reach a board? One protocol, push, run and pull, over the programs a user has.

ssh and adb themselves run, so that the user's keys, agent, jump hosts and configuration work. Whatever reaches the
board's shell is quoted, argument by argument; no name is ever part of a command's text. A job is one connection, on
which the files go there, the runner answers, and at whose end the board's own shell removes everything.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgel0.devices import parcels
from edgel0.devices.base import Job, Session
from edgel0.devices.boards import Board
from edgel0.devices.curing import explained
from edgel0.errors import DeviceError, UsageError, nearest


@dataclass(frozen=True)
class Link:
    """A way to a board: ``command`` turns the board's argv into this computer's, ``folder`` is where files may be."""

    board: Board
    command: Callable[[Sequence[str]], list[str]]
    folder: str = ""
    patience: float = 60.0

    def run(self, argv: Sequence[str], stdin: Path | None = None) -> bytes:
        """Run a command on the board and return its stdout. Raises DeviceError when it fails or takes too long."""
        size, marker = stdin.stat().st_size if stdin else 0, secrets.token_hex(8)
        with stdin.open("rb") if stdin else tempfile.TemporaryFile() as source:
            marked = self.command(["sh", "-c", MARK, marker, *argv])
            said = self._run(marked, source, self.patience + size / parcels.SLOW)
        _, there, told = said.partition(f"\n{marker}\n".encode())
        if not there:
            raise DeviceError(
                f"{self.board.name}: its login answered {said[-80:]!r} and ran no command; find out what it starts "
                "instead of a shell."
            )
        return told

    def push(self, source: Path, target: str) -> None:
        """Write a file on the board and see that it arrived as it was."""
        told = self.run(["sh", "-c", PUSH, target], source).split()
        content = source.read_bytes()
        same = told[0] == hashlib.sha256(content).hexdigest().encode() if told and DIGEST.fullmatch(told[0]) else None
        if same is None:  # a board without sha256sum
            same = self.run(["sh", "-c", 'cat < "$0"', target]) == content
        if not same:
            raise DeviceError(
                f"{self.board.name}: {source.name!r} was damaged on the way; run it again, and look at the board's "
                "card and cable if it happens again."
            )

    def pull(self, source: str, target: Path) -> None:
        """Fetch a file of the board."""
        beside = target.with_name(f".{target.name}.part")
        beside.write_bytes(self.run(["sh", "-c", 'cat < "$0"', source]))
        beside.replace(target)

    def _run(self, command: list[str], source: Any, seconds: float) -> bytes:
        try:
            done = subprocess.run(command, stdin=source, capture_output=True, timeout=seconds, check=False)
        except OSError as error:
            raise DeviceError(f"{self.board.name}: cannot start {command[0]!r} ({error}); install it.") from error
        except subprocess.TimeoutExpired:
            raise DeviceError(f"{self.board.name}: no answer within {seconds:.0f} s; is the board up?") from None
        if done.returncode:
            raise DeviceError(f"{self.board.name}: {explained(done.returncode, done.stderr)}.")
        return done.stdout


def worded(argv: Sequence[str]) -> str:
    """Return a command line that any login shell (sh, csh, fish) hands to sh as these very arguments.

    What shells disagree on (quotes, backslashes, "!", newlines, other alphabets) is octal in it, inside one pair of
    single quotes; ``printf %b``, which every sh has, brings it back.
    """
    text = shlex.join(argv).encode("utf-8", "surrogateescape")
    plain = "".join(chr(byte) if chr(byte) in SAFE else f"\\0{byte:03o}" for byte in text)
    return f"exec sh -c 'eval \"exec $(printf %b \"$0\")\"' '{plain}'"


def open_ssh(board: Board) -> Link:
    """Reach a board by the user's own ssh; it never asks, so a key or an agent must do."""
    port = ["-p", str(board.port)] if board.port else []
    head = ["ssh", "-T", *SSH, *port, "--", board.address]
    return Link(board, lambda argv: [*head, worded(argv)], board.folder)


def open_adb(board: Board) -> Link:
    """Reach an Android device by adb's shell; files go to where programs may run."""
    serial = ["-s", board.address] if board.address else []
    head = ["adb", *serial, "shell", "-T"]
    return Link(board, lambda argv: [*head, worded(argv)], board.folder or "/data/local/tmp")


def open_local(board: Board) -> Link:
    """Reach this computer, by another interpreter perhaps."""
    return Link(board, list, board.folder or tempfile.gettempdir())


def start(link: Link, job: Job, patience: float) -> Session:
    """Send the runner and the model to the board and start it there; nothing stays there when the session ends."""
    name, marker = f"edgel0.{secrets.token_hex(8)}", secrets.token_hex(8)

    def tidy() -> None:
        """Remove the folder in case that the board's shell was killed, and could not."""
        for pause in (0.5, 0.0):
            with contextlib.suppress(DeviceError):
                link.run(["sh", "-c", REMOVE, name, link.folder])
                return
            time.sleep(pause)

    python = link.board.python or (sys.executable if link.board.transport == "local" else "python3")
    command = link.command(["sh", "-c", KEEP, name, marker, python, RECEIVE, link.folder])
    parcel = parcels.pack(job, marker, link.patience)
    return Session(link.board.name, job, command, patience, tidy=tidy, parcel=parcel)


def open_board(board: Board) -> Link:
    """Return the way to a board. Raises UsageError for a transport that has none."""
    if board.transport not in TRANSPORTS:
        raise UsageError(
            f"{board.name}: the transport {board.transport!r} cannot time anything; known are {', '.join(TRANSPORTS)}"
            f"{nearest(board.transport, TRANSPORTS) or '.'}"
        )
    return TRANSPORTS[board.transport](board)


DIGEST = re.compile(rb"[0-9a-f]{64}")
SAFE = frozenset(chr(code) for code in range(32, 127)) - frozenset("'\\!")
MARK = 'printf "\\n%s\\n" "$0" && exec "$@"'
PUSH = 'cat > "$0" && { sha256sum < "$0" || busybox sha256sum < "$0" || toybox sha256sum < "$0" || :; } 2>/dev/null'

# Where a folder may be made: what the board's file says, else the first of these that can be written.
CANDIDATES = '"${TMPDIR:-/tmp}" /tmp /var/tmp "$HOME"'
PLACES = f'[ -n "$1" ] || set -- {CANDIDATES}\n'
MAKE = """for place do made=$place/$0; mkdir -m 700 -- "$made" && break; made=; done
[ -n "$made" ] || exit 73
"""
REMOVE = PLACES + 'for place do rm -rf -- "$place/$0" || exit; done'

# This shell outlives a runner that is killed, and a link that is cut.
KEEP = (
    "marker=$1 python=$2 program=$3 made=; shift 3\n"
    + PLACES
    + """trap 'cd /; [ -z "$made" ] || rm -rf -- "$made"' EXIT
trap 'exit 129' HUP INT TERM
"""
    + MAKE
    + """printf '\\n%s\\n' "$marker"
PYTHONUTF8=1 "$python" -B -c "$program" "$made"
"""
)
RECEIVE = 'import json; exec(json.loads(open(0, "rb", 0, closefd=False).readline()))'

SSH = [
    word
    for option in ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=15", "ServerAliveCountMax=2")
    for word in ("-o", option)
]

TRANSPORTS: dict[str, Callable[[Board], Link]] = {"local": open_local, "ssh": open_ssh, "adb": open_adb}
