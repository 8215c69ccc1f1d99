"""How do files and commands reach a board? One protocol, push, run and pull, over the programs a user has.

ssh and adb themselves run, so that the user's keys, agent, jump hosts and configuration work. Whatever reaches the
board's shell is quoted, argument by argument; no name is ever part of a command's text.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from edgel0.devices import runner
from edgel0.devices.base import Job, Session
from edgel0.devices.boards import Board
from edgel0.devices.curing import cure
from edgel0.errors import DeviceError, UsageError, nearest

SLOW = 100_000  # bytes a second; a link that is slower counts as dead
KEEP = 'trap \'rm -rf -- "$0"\' EXIT; trap "exit 129" HUP INT TERM; "$@"'  # outlives a runner that is killed


@dataclass(frozen=True)
class Link:
    """A way to a board: ``command`` turns the board's argv into this computer's, ``folder`` is where files may be."""

    board: Board
    command: Callable[[Sequence[str]], list[str]]
    folder: str = "/tmp"
    patience: float = 60.0

    def run(self, argv: Sequence[str], stdin: Path | None = None) -> bytes:
        """Run a command on the board and return its stdout. Raises DeviceError when it fails or takes too long."""
        size = stdin.stat().st_size if stdin else 0
        with stdin.open("rb") if stdin else tempfile.TemporaryFile() as source:
            return self._run(self.command(argv), source, self.patience + size / SLOW)

    def push(self, source: Path, target: str) -> None:
        """Write a file on the board and see that all of it arrived."""
        told = self.run(["sh", "-c", 'cat > "$0" && wc -c < "$0"', target], source)
        if told.strip() != str(source.stat().st_size).encode():
            raise DeviceError(
                f"{self.board.name}: {source.name!r} has {source.stat().st_size} bytes, and {told[-80:]!r} was "
                f"counted on the board; find out what else prints there (a login script) and silence it."
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


def explained(code: int, stderr: bytes) -> str:
    """Say in one line what a command that failed on the board means."""
    words = stderr.decode("utf-8", errors="replace").strip()
    advice = cure(words)
    return (f"{advice}; " if advice else f"a command there ended with exit code {code}; ") + f"it said {words[-300:]!r}"


def open_ssh(board: Board) -> Link:
    """Reach a board by the user's own ssh; it never asks, so a key or an agent must do."""
    port = ["-p", str(board.port)] if board.port else []
    head = ["ssh", "-T", *SSH, *port, "--", board.address]
    return Link(board, lambda argv: [*head, shlex.join(argv)], board.folder or "/tmp")


def open_adb(board: Board) -> Link:
    """Reach an Android device by adb's shell; files go to where programs may run."""
    serial = ["-s", board.address] if board.address else []
    head = ["adb", *serial, "shell", "-T"]
    return Link(board, lambda argv: [*head, shlex.join(argv)], board.folder or "/data/local/tmp")


def open_local(board: Board) -> Link:
    """Reach this computer, by another interpreter perhaps."""
    return Link(board, list, board.folder or tempfile.gettempdir())


def start(link: Link, job: Job, patience: float) -> Session:
    """Copy the runner and the model to the board and start it there; nothing stays there when the session ends."""
    folder = f"{link.folder.rstrip('/')}/edgel0.{secrets.token_hex(8)}"
    link.run(["mkdir", "-m", "700", folder])

    def tidy() -> None:
        link.run(["rm", "-rf", "--", folder])

    try:
        model = f"{folder}/{PurePath(job.model).name}"
        script = f"{folder}/edgel0-runner.py"
        link.push(Path(runner.__file__), script)
        link.push(Path(job.model), model)
        python = link.board.python or (sys.executable if link.board.transport == "local" else "python3")
        argv = ["sh", "-c", KEEP, folder, python, script, json.dumps(asdict(replace(job, model=model)))]
        return Session(link.board.name, job, link.command(argv), patience, tidy=tidy)
    except BaseException:
        with contextlib.suppress(DeviceError):  # what went wrong first is what the user must hear
            tidy()
        raise


def open_board(board: Board) -> Link:
    """Return the way to a board. Raises UsageError for a transport that has none."""
    if board.transport not in TRANSPORTS:
        raise UsageError(
            f"{board.name}: the transport {board.transport!r} cannot time anything; known are {', '.join(TRANSPORTS)}"
            f"{nearest(board.transport, TRANSPORTS) or '.'}"
        )
    return TRANSPORTS[board.transport](board)


SSH = [
    word
    for option in ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=15", "ServerAliveCountMax=2")
    for word in ("-o", option)
]

TRANSPORTS: dict[str, Callable[[Board], Link]] = {"local": open_local, "ssh": open_ssh, "adb": open_adb}
