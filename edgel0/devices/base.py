"""How does one talk to a runner? A process, JSON lines both ways, a limit on every wait, an end in every case.

Transports differ only in how they start it: ``python runner.py JOB`` here, the same command behind ssh elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from types import TracebackType
from typing import IO, Any

from edgel0.devices.curing import cure
from edgel0.errors import DeviceError, ExtraError

DOING = {"ready": "loading", "warm": "warming up", "samples": "running", "operators": "profiling", "end": "closing"}


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
    ) -> None:
        self.transport, self.job, self.patience, self.tidy = transport, job, patience, tidy
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        # A file, not a pipe: nobody has to drain it, and a runtime's last words are there when they are needed.
        self._words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._words,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            self._words.close()
            raise DeviceError(f"cannot start {command[0]!r} to measure {self.name}: {error}.") from error
        # A thread, not select(): pipes have no select() on Windows.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

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
        self._reader.join(timeout=1)
        with contextlib.suppress(OSError):  # closing flushes, and the other end is gone
            if self._process.stdin:
                self._process.stdin.close()
        self._words.close()
        if self.tidy:
            with contextlib.suppress(DeviceError):  # a board that is gone; its own shell tidies when the link ends
                self.tidy()

    def kill(self) -> None:
        """End the conversation from another thread; whoever listens hears that the runner died."""
        self._process.kill()

    def ask(self, event: str, do: str, **details: Any) -> dict[str, Any]:
        """Send a command and return the event that answers it."""
        with contextlib.suppress(OSError):  # a dead runner takes no command; hear() tells how it died
            if self._process.stdin:
                self._process.stdin.write(json.dumps({"do": do, **details}) + "\n")
                self._process.stdin.flush()
        return self.hear(event)

    def hear(self, event: str) -> dict[str, Any]:
        """Return the next event, which must be ``event``.

        Raises DeviceError when it is not, when the runner failed, died or kept silent, and ExtraError when the board
        has no runtime for the model.
        """
        try:
            line = self._lines.get(timeout=self.patience)
        except queue.Empty:
            raise DeviceError(
                f"no answer within {self.patience:g} s while {DOING[event]} {self.name} ({self.transport}), so its "
                f"runner was stopped; if one inference really takes that long, raise max_secs."
            ) from None
        if not line.endswith("\n"):
            raise DeviceError(self._obituary(event))
        try:
            heard = json.loads(line)
        except ValueError:
            heard = None
        if not isinstance(heard, dict) or heard.get("event") not in (event, "error"):
            raise DeviceError(
                f"while {DOING[event]} {self.name} ({self.transport}) the runner wrote {line.strip()[:200]!r} to its "
                f"stdout, where the event {event!r} was expected; find out what else prints there "
                f"(a sitecustomize, a login script) and silence it."
            )
        if heard["event"] == event:
            return heard
        message = str(heard.get("message")).strip().rstrip(".")
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

    def _read(self) -> None:
        """Queue the runner's lines; a line without its newline says that there will be no more."""
        if self._process.stdout:
            with self._process.stdout as lines:
                for line in lines:
                    self._lines.put(line)
        self._lines.put("")

    def _obituary(self, event: str) -> str:
        """Say how the runner died and what it wrote last."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = 0  # it closed its stdout and lives on
        names = {-member.value: member.name for member in signal.Signals}
        if self.tidy and code > 128 and 128 - code in names:
            code = 128 - code  # as the board's shell tells of a signal
        how = f"was killed by {names.get(code, f'signal {-code}')}" if code < 0 else f"ended with exit code {code}"
        self._words.seek(0)
        words = self._words.read().decode("utf-8", errors="replace").strip()
        advice = cure(words) if self.tidy and code > 0 else ""
        words = words[-300:]
        return (
            f"the runner {how} while {DOING[event]} {self.name} ({self.transport}); "
            + (f"most likely {CAUSES[names[code]]}; " if names.get(code) in CAUSES else "")
            + (f"{advice}; " if advice else "")
            + (f"its last words: {words!r}." if words else "it left no words; run it again, or try a smaller model.")
        )


CAUSES = {
    "SIGABRT": "the runtime met what it thought impossible",
    "SIGILL": "the runtime was built for a newer processor",
    "SIGKILL": "memory ran out, or somebody killed it",
    "SIGSEGV": "the runtime crashed, as some do on a damaged file",
}
