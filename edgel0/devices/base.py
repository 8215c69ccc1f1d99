"""How does one talk to a runner? A process, JSON lines both ways, a limit on every wait, an end in every case.

Transports differ only in how they start it: ``python runner.py JOB`` here, the same command behind ssh elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import math
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from types import TracebackType
from typing import IO, Any

from edgel0.devices.curing import cure, explained
from edgel0.errors import DeviceError, ExtraError

HEAD, LONGEST, CHATTER = 1 << 16, 1 << 28, 1 << 20  # bytes: of a line to judge it by, of a line, of a login's greeting
DOING = {
    "stored": "sending",
    "ready": "loading",
    "warm": "warming up",
    "samples": "running",
    "look": "looking at the board before running",
    "operators": "profiling",
    "end": "closing",
}


@dataclass(frozen=True)
class Job:
    """What a runner is started with; ``extra`` is the extra of edgel0 that brings the runtimes (import names).

    ``cores`` are the processors that it may use, () for any; ``root`` is where it reads what the board is.
    """

    model: str
    runtimes: tuple[str, ...]
    extra: str
    threads: int
    seed: int = 0
    cores: tuple[int, ...] = ()
    root: str = "/"


@dataclass(frozen=True)
class Parcel:
    """What a command on a board reads before it is a runner; ``seconds`` is how long that may take.

    ``marker`` is the line that it writes when it is there: what a login prints before is not for us.
    """

    marker: str
    pieces: Callable[[], Iterator[bytes]]
    seconds: float


class Session:
    """A runner process: started here, killed when the ``with`` block ends, however that happens.

    ``patience`` is the longest wait for an event, in seconds; ``tidy`` removes what was copied to a board.
    """

    def __init__(
        self,
        transport: str,
        job: Job,
        command: Sequence[str],
        patience: float,
        tidy: Callable[[], None] | None = None,
        parcel: Parcel | None = None,
    ) -> None:
        self.transport, self.job, self.patience, self.tidy, self.parcel = transport, job, patience, tidy, parcel
        self.some: list[dict[str, Any]] = []  # what the runner has told of the answer that is awaited
        self._there = self._stored = parcel is None
        self.why = ""  # it was ended from here
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        # A file, not a pipe: nobody has to drain it, and a runtime's last words are there when they are needed.
        self._words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._words,
            )
        except OSError as error:
            self._words.close()
            raise DeviceError(f"cannot start {command[0]!r} to measure {self.name}: {error}.") from error
        # A thread, not select(): pipes have no select() on Windows.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._sender.start()

    @property
    def name(self) -> str:
        """The model's file name, quoted, for messages."""
        return repr(PurePath(self.job.model).name)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()  # it has nothing to save
        self._process.wait()
        self._sender.join(timeout=5)
        self._reader.join(timeout=1)
        with contextlib.suppress(OSError):  # closing flushes, and the other end is gone
            if self._process.stdin:
                self._process.stdin.close()
        self._words.close()
        if self.tidy and self._there:
            with contextlib.suppress(DeviceError):  # a board that is gone; its own shell tidies when the link ends
                self.tidy()

    def kill(self, why: str) -> None:
        """End the conversation from another thread; whoever listens hears why."""
        self.why = why
        self._process.kill()

    def ask(self, event: str, do: str, **details: Any) -> dict[str, Any]:
        """Send a command and return the event that answers it."""
        with contextlib.suppress(OSError):  # a dead runner takes no command; hear() tells how it died
            if self._process.stdin:
                self._process.stdin.write((json.dumps({"do": do, **details}) + "\n").encode())
                self._process.stdin.flush()
        return self.hear(event)

    def hear(self, event: str) -> dict[str, Any]:
        """Return the next event, which must be ``event``; parts of it that come before are in ``some``.

        Raises DeviceError when it is not, when the runner failed, died or kept silent, and ExtraError when the board
        has no runtime for the model.
        """
        if not self._stored:
            self._stored = True
            if event != "stored":
                self.hear("stored")
        self.some = []
        while (heard := self._next(event))["event"] == "some":
            self.some.append(heard)
        if heard["event"] == event:
            return heard
        message = " ".join(str(heard.get("message")).split()).rstrip(".")
        if heard.get("kind") == "missing" and self.tidy:
            module = self.job.runtimes[0].replace("_", "-")
            raise DeviceError(
                f"there is no runtime for {self.name} on {self.transport}: {message}; run  python3 -m pip install "
                f"{module}  there, or name an interpreter that has one in the board's file (python = ...)."
            )
        if heard.get("kind") == "missing":
            raise ExtraError(
                f"there is no runtime for {self.name} ({self.transport}): {message}; it comes with the "
                f'extra {self.job.extra!r}: run  pip install "edgel0[{self.job.extra}]"  and try again.'
            )
        raise DeviceError(
            f"the runtime ({' or '.join(self.job.runtimes)}, {self.transport}) failed while {DOING[event]} "
            f"{self.name}: {message}; check that the file is whole and made for this runtime's version."
        )

    def _next(self, event: str) -> dict[str, Any]:
        """Return the next event of those that may come while ``event`` is awaited."""
        patience = self.parcel.seconds if event == "stored" and self.parcel else self.patience
        try:
            line = self._lines.get(timeout=patience)
        except queue.Empty:
            raise DeviceError(
                f"no answer within {patience:g} s while {DOING[event]} {self.name} ({self.transport}), so its "
                f"runner was stopped; if one inference really takes that long, raise max_secs."
            ) from None
        if not line.endswith("\n"):
            raise DeviceError(self._obituary(event))
        try:
            heard = json.loads(line)
        except ValueError:
            heard = None
        due = (event, "error", *(["some"] if event == "samples" else []))
        if not isinstance(heard, dict) or heard.get("event") not in due or not _complete(heard):
            raise DeviceError(
                f"while {DOING[event]} {self.name} ({self.transport}) the runner wrote {line.strip()[:200]!r} to its "
                f"stdout, where the event {event!r} was expected; find out what else prints there "
                f"(a sitecustomize, a login script) and silence it."
            )
        return heard

    def _send(self) -> None:
        """Send what the runner consists of; a link that is cut meanwhile is heard of by whoever listens."""
        if self.parcel and self._process.stdin:
            with contextlib.suppress(OSError, ValueError):
                for piece in self.parcel.pieces():
                    self._process.stdin.write(piece)
                self._process.stdin.flush()

    def _read(self) -> None:
        """Queue the runner's lines; a line without its newline says that there will be no more."""
        if self._process.stdout:
            with self._process.stdout as stream:
                if self.parcel and not self._arrive(stream, self.parcel.marker.encode()):
                    return
                for line in whole_lines(stream):
                    self._lines.put(line.decode("utf-8", errors="replace"))
        self._lines.put("")

    def _arrive(self, stream: IO[bytes], marker: bytes) -> bool:
        """Pass over what the board's login prints, up to the marker; tell whether it came."""
        heard = b""
        while line := stream.readline(HEAD):
            if line.strip() == marker:
                self._there = True
                return True
            heard += line
            if len(heard) > CHATTER:
                self._lines.put(heard[:HEAD].decode("utf-8", errors="replace").strip() + "\n")
                return False
        self._lines.put("")
        return False

    def _obituary(self, event: str) -> str:
        """Say how the runner died and what it wrote last."""
        if self.why:
            return f"{self.why} while {DOING[event]} {self.name} ({self.transport})."
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = 0  # it closed its stdout and lives on
        if not self._there and code > 0:
            self._words.seek(0)
            return f"{self.transport}: {explained(code, self._words.read())}."
        names = {-member.value: member.name for member in signal.Signals}
        if self.tidy and code > 128 and 128 - code in names:
            code = 128 - code  # as the board's shell tells of a signal
        how = f"was killed by {names.get(code, f'signal {-code}')}" if code < 0 else f"ended with exit code {code}"
        self._words.seek(0)
        words = self._words.read().decode("utf-8", errors="replace").strip()
        advice = cure(words) if self.tidy and code > 0 else ""
        if self.tidy and code == 0:  # so does adb end, without a word, when its link is cut
            advice = f"most likely {cure('Connection closed')}"
        words, again = words[-300:], "" if advice else "; run it again, or try a smaller model"
        return (
            f"the runner {how} while {DOING[event]} {self.name} ({self.transport}); "
            + (f"most likely {CAUSES[names[code]]}; " if names.get(code) in CAUSES else "")
            + (f"{advice}; " if advice else "")
            + (f"its last words: {words!r}." if words else f"it left no words{again}.")
        )


def whole_lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield lines; one that cannot be an event, or never ends, is cut, and the last."""
    while line := stream.readline(HEAD):
        pieces, size = [line], len(line)
        while line.startswith(b"{") and not pieces[-1].endswith(b"\n") and size <= LONGEST:
            pieces.append(stream.readline(HEAD))
            size += len(pieces[-1])
            if not pieces[-1]:
                break
        cut = not pieces[-1].endswith(b"\n") and size >= HEAD and bool(pieces[-1])
        yield b"".join(pieces) + (b"\n" if cut else b"")
        if cut:
            return


def _complete(heard: dict[str, Any]) -> bool:
    """Tell whether an event has what is read of it; a line of somebody else's may look like one."""
    kinds = EVENTS.get(heard["event"], {})
    if not all(isinstance(heard.get(name), kind) for name, kind in kinds.items()):
        return False
    times = heard.get("samples_ms", [1.0])
    return bool(times) and all(type(ms) in (int, float) and 0 < ms < math.inf for ms in times)


TIMED: dict[str, type | tuple[type, ...]] = {"samples_ms": list, "cpu_ms": (int, float), "wall_ms": (int, float)}
EVENTS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "ready": {"runtime": str, "load_ms": (int, float), "first_ms": (int, float), "board": dict},
    "warm": {"runs": int},
    "samples": TIMED,
    "some": TIMED,
}

CAUSES = {
    "SIGABRT": "the runtime met what it thought impossible",
    "SIGILL": "the runtime was built for a newer processor",
    "SIGKILL": "memory ran out, or somebody killed it",
    "SIGSEGV": "the runtime crashed, as some do on a damaged file",
}
