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
from edgel0.types import Measurement

QUEUE_SECS = 1800.0  # how long a job waits for the one before it


@dataclass(frozen=True)
class Failure:
    """What could not be measured: a file ("" is all of them) on a board, and why."""

    board: str
    artifact: str
    error: EdgeL0Error


Row = Measurement | Failure


def profile(
    boards: Sequence[Board],
    files: Sequence[Path],
    *,
    found: Callable[[Row], None] = lambda row: None,
    progress: Callable[[str, float], None] | None = None,
    **how: Any,
) -> list[Row]:
    """Measure all files on each board and return rows and failures, board after board; ``found`` hears them at once.

    ``how`` are the arguments of :func:`edgel0.devices.measure.measure`. An interrupt ends every runner on every board.
    """
    sessions: list[Session] = []
    stop = threading.Event()
    rows: dict[int, list[Row]] = {}
    with ThreadPoolExecutor(len(boards)) as pool:
        try:
            jobs = {
                pool.submit(_one, board, files, (sessions, stop), progress, how): i for i, board in enumerate(boards)
            }
            for job in as_completed(jobs):
                rows[jobs[job]] = job.result()
                for row in rows[jobs[job]]:
                    found(row)
        except BaseException:
            stop.set()
            for session in sessions:
                session.kill()
            raise
    return [row for i in range(len(boards)) for row in rows[i]]


def _one(
    board: Board,
    files: Sequence[Path],
    running: tuple[list[Session], threading.Event],
    progress: Callable[[str, float], None] | None,
    how: dict[str, Any],
) -> list[Row]:
    """Measure all files on one board."""
    failures: list[Row] = []

    def begin(job: Job, patience: float) -> Session:
        sessions, stop = running
        if stop.is_set():  # or the next file would begin after an interrupt
            raise DeviceError(f"{board.name}: interrupted.")
        sessions.append(opened(job, patience))
        return sessions[-1]

    def tell(what: str, share: float) -> None:
        if progress:
            progress(f"{board.name}: {what}", share)

    def failed(path: Path, error: EdgeL0Error) -> None:
        failures.append(Failure(board.name, path.as_posix(), error))

    asked = how | {"threads": threads_of(board, how.get("threads", 1))}
    try:
        opened = starter(board)
        with alone(board):
            measured = measure(files, start=begin, progress=tell, failed=failed, **asked)
    except UsageError:  # wrong on every board
        raise
    except EdgeL0Error as error:
        return [*failures, Failure(board.name, "", error)]
    return [*measured, *failures]


def threads_of(board: Board, threads: int) -> int:
    """Return the threads to use: those of the board's file, unless more than one was asked for."""
    return board.threads if board.threads and threads == 1 else threads


def starter(board: Board) -> Callable[[Job, float], Session]:
    """Return what starts a runner on the board, as its file asks. Raises UsageError where nothing can be timed."""
    here = board.transport == "local" and not board.python
    begin = local.start if here else partial(links.start, links.open_board(board))
    return lambda job, patience: begin(suited(board, job), patience)


@contextlib.contextmanager
def alone(board: Board, patience: float = QUEUE_SECS) -> Iterator[None]:
    """Hold the board: jobs of this user on one address take turns, whatever process they are in."""
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
                time.sleep(0.1)
        yield
