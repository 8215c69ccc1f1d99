"""How fast are these files on these boards? Boards in parallel, one job per board at a time, failures as rows."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgel0.devices import links, local
from edgel0.devices.base import Job, Session
from edgel0.devices.boards import Board
from edgel0.devices.measure import measure
from edgel0.devices.suiting import suited
from edgel0.errors import DeviceError, EdgeL0Error, UsageError
from edgel0.types import Count, Measurement

QUEUE_SECS = 1800.0  # how long a job waits for the one before it


@dataclass(frozen=True)
class Failure:
    """What could not be measured: a file ("" is all of them) on a board, and why."""

    board: str
    artifact: str
    error: EdgeL0Error


Row = Measurement | Count | Failure
INTERRUPTED = "interrupted"


def profile(
    boards: Sequence[Board],
    files: Sequence[Path],
    *,
    found: Callable[[list[Row]], None] = lambda rows: None,
    progress: Callable[[str, float], None] | None = None,
    binary: Path | None = None,
    **how: Any,
) -> list[Row]:
    """Measure all files on each board and return the rows, board after board; ``found`` hears each board's.

    Boards are measured in parallel; emulated cores count after them, for both would compute here. ``how`` are the
    arguments of :func:`edgel0.devices.measure.measure`. With ``binary``, LiteRT's benchmark_model measures instead of a
    Python on the board, and ``how`` are those of :func:`edgel0.devices.benchmark_model.measure_by_binary`. An interrupt
    ends every runner on every board, ``found`` hears what each has measured until then, and it is raised again.
    """
    running = Running()
    emulated = [board for board in boards if board.transport == "qemu"]
    measured = [board for board in boards if board.transport != "qemu"]
    rows: dict[Board, list[Row]] = {}
    with ThreadPoolExecutor(max(1, len(measured))) as pool:
        jobs = {pool.submit(_one, board, files, running, progress, binary, how): board for board in measured}
        try:
            for job in as_completed(jobs):
                rows[jobs[job]] = job.result()
                found(rows[jobs[job]])
        except BaseException as error:
            running.end(INTERRUPTED if isinstance(error, KeyboardInterrupt) else "stopped")
            for job in as_completed(jobs):
                if jobs[job] not in rows and not job.exception():
                    found(job.result())
            raise
    for board in emulated:
        rows[board] = []
        try:
            for row in _counted(board, files, progress):
                rows[board].append(row)
        finally:
            found(rows[board])
    return [row for board in boards for row in rows[board]]


class Running:
    """The sessions of all boards, which an interrupt ends together."""

    def __init__(self) -> None:
        self._lock, self._sessions = threading.Lock(), list[Session]()
        self.stop = threading.Event()

    def begin(self, board: Board, start: Callable[[], Session]) -> Session:
        """Start a session, unless all were ended."""
        with self._lock:
            if self.stop.is_set():
                raise DeviceError(f"{board.name}: {INTERRUPTED}.")
            self._sessions.append(start())
            return self._sessions[-1]

    def end(self, why: str) -> None:
        """End all sessions, and let none begin."""
        with self._lock:
            self.stop.set()
            for session in self._sessions:
                session.kill(why)


def _counted(board: Board, files: Sequence[Path], progress: Callable[[str, float], None] | None) -> Iterator[Row]:
    """Count each file's instructions on an emulated core."""
    from edgel0.devices.emulator.place import emulator
    from edgel0.devices.qemu import count

    try:
        emulator()
    except EdgeL0Error as error:
        yield Failure(board.name, "", error)
        return
    for number, file in enumerate(files):

        def tell(what: str, share: float, number: int = number) -> None:
            if progress:
                progress(what, (number + share) / len(files))

        try:
            yield from count([file], board.address, progress=tell)
        except UsageError:  # wrong on every board
            raise
        except KeyboardInterrupt:
            yield Failure(board.name, file.as_posix(), DeviceError(f"{board.name}: {INTERRUPTED}."))
            raise
        except EdgeL0Error as error:
            yield Failure(board.name, file.as_posix(), error)


def _one(
    board: Board,
    files: Sequence[Path],
    running: Running,
    progress: Callable[[str, float], None] | None,
    binary: Path | None,
    how: dict[str, Any],
) -> list[Row]:
    """Measure all files on one board."""
    failures: list[Row] = []

    def begin(job: Job, patience: float) -> Session:
        return running.begin(board, lambda: opened(job, patience))

    def tell(what: str, share: float) -> None:
        if progress:
            progress(f"{board.name}: {what}", share)

    def failed(path: Path, error: EdgeL0Error) -> None:
        failures.append(Failure(board.name, path.as_posix(), error))

    asked = how | {"threads": threads_of(board, how.get("threads", 1))}
    try:
        opened = starter(board)
        with alone(board, stop=running.stop, tell=tell):
            if binary:
                measured = _by_binary(board, files, binary, running, asked | {"progress": tell, "failed": failed})
            else:
                measured = measure(files, start=begin, progress=tell, failed=failed, **asked)
    except UsageError:  # wrong on every board
        raise
    except EdgeL0Error as error:
        return [*failures, Failure(board.name, "", error)]
    return [*measured, *failures]


def _by_binary(
    board: Board, files: Sequence[Path], binary: Path, running: Running, how: dict[str, Any]
) -> list[Measurement]:
    """Let LiteRT's binary measure all files, on this computer or on a board."""
    from edgel0.devices.benchmark_model import measure_by_binary, measure_by_binary_there
    from edgel0.devices.holding import held

    if board.transport == "local":
        return measure_by_binary(files, binary, **how)
    with held(links.open_board(board), binary.name, lambda start: running.begin(board, start)) as there:
        return measure_by_binary_there(files, binary, board, there, **how)


def threads_of(board: Board, threads: int) -> int:
    """Return the threads to use: those of the board's file, unless more than one was asked for."""
    return board.threads if board.threads and threads == 1 else threads


def starter(board: Board) -> Callable[[Job, float], Session]:
    """Return what starts a runner on the board, as its file asks. Raises UsageError where nothing can be timed."""
    here = board.transport == "local" and not board.python
    begin = local.start if here else partial(links.start, links.open_board(board))
    return lambda job, patience: begin(suited(board, job), patience)


@contextlib.contextmanager
def alone(
    board: Board,
    patience: float = QUEUE_SECS,
    stop: threading.Event | None = None,
    tell: Callable[[str, float], None] = lambda what, share: None,
) -> Iterator[None]:
    """Hold the board: jobs of this user on one address take turns, whatever process they are in; ``stop`` ends a wait.

    ``tell`` hears that it waits. Raises DeviceError after ``patience`` seconds.
    """
    stop = stop or threading.Event()
    try:
        import fcntl
    except ImportError:  # Windows: nobody waits for anybody there
        yield
        return
    key = f"{board.transport} {board.address} {board.port}"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgel0" / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:16]).open("w") as file:
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise DeviceError(
                        f"{board.name} has been busy with another job of edgel0 for {patience:g} s; try again later."
                    ) from None
                tell("wait for another job", 0.0)
                if stop.wait(0.1):
                    raise DeviceError(f"{board.name}: {INTERRUPTED} while another job of edgel0 had it.") from None
        yield
