"""Small projects, as a user has them: a recipe and a module beside it; copied, changed and run."""

import io
import multiprocessing
import os
import resource
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib.abc import MetaPathFinder
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from edgel0.cli import main

HERE = Path(__file__).parent


def project(folder: Path, *changes: tuple[str, str], extra: str = "") -> Path:
    """Copy the tiny project into ``folder``, change its recipe, append ``extra`` to its module; return the recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    text = (HERE / "tiny.toml").read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "tiny.toml").write_text(text)
    (folder / "tiny.py").write_text((HERE / "tiny.py").read_text() + extra)
    return folder / "tiny.toml"


def edgel0(*arguments: object) -> tuple[int, str, str]:
    """Run the command line in this process: exit code, stdout, stderr."""
    before, sys.argv = sys.argv, ["edgel0", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as end:
        return int(end.code or 0), out.getvalue(), err.getvalue()
    finally:
        sys.argv = before
    return 0, out.getvalue(), err.getvalue()


def started(folder: Path, *arguments: object, blocked: Sequence[str] = (), largest: int = 0) -> ForkServerProcess:
    """Start the command line in a process of its own, forked from one that has imported torch; output in ``folder``.

    In it, modules whose names begin with ``blocked`` cannot be imported, and no file can grow beyond ``largest`` bytes.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["projects.warm"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(HERE.parent)  # the server looks for what to preload nowhere else
    forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    process = server.Process(target=_child, args=(str(folder), [str(a) for a in arguments], tuple(blocked), largest))
    process.start()
    return process


def finished(folder: Path, *arguments: object, **settings: Any) -> tuple[int, str, str]:
    """Do the same and wait: exit code, stdout, stderr."""
    process = started(folder, *arguments, **settings)
    process.join()
    assert process.exitcode is not None
    return process.exitcode, (folder / "stdout").read_text(), (folder / "stderr").read_text()


def _child(folder: str, arguments: list[str], blocked: tuple[str, ...], largest: int) -> None:
    os.setpgid(0, 0)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(Path(folder) / name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), descriptor)
    if largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    sys.meta_path.insert(0, Blocker(blocked))
    sys.argv = ["edgel0", *arguments]
    main()


class Blocker(MetaPathFinder):
    """As if some packages were not installed."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.startswith(self.names or ("-",)):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def paragraph(error: str, *parts: str) -> None:
    """Assert that a failure was told in one clear paragraph that holds ``parts``."""
    assert error.startswith("edgel0: ") and error.count("\n") == 1 and "Traceback" not in error, error
    for part in parts:
        assert part in error, (part, error)


class Killed(BaseException):
    """What ends a run in this process as abruptly as a signal would."""


def run_until(recipe: Path, out: Path, phase: str, epoch: int, done: float) -> list[str]:
    """Run in this process until training is at a moment; return what was said, progress included.

    ``done`` 1.0 is before the epoch's checkpoint is written. A phase ``after`` is what is said after training.
    """
    from edgel0.recipe import read_recipe
    from edgel0.running import run

    said: list[str] = []

    def tick(tick: Any) -> None:
        said.append(f"{tick.phase} {tick.epoch}")
        if (tick.phase, tick.epoch) == (phase, epoch) and tick.done >= done:
            raise Killed

    def say(text: str) -> None:
        said.append(text)
        if text.startswith(phase):
            raise Killed

    try:
        run(read_recipe(recipe), out=out, progress=tick, say=say)
    except Killed:
        said.append("killed")
    return said
