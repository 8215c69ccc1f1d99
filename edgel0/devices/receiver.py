"""How do files get onto a board, whole? Runs ON the board: Python 3.9, its stdin, and nothing of edgel0.

Its source is the first line of stdin, as JSON; the next is ``{"files": [[name, size, sha256], ...],
"run": name, "job": {...}, "patience": seconds}``; then come the files, one after the other, and then what the program
``run`` reads. The model in the job is the name of a file. Everything is in one process and on one connection, so a
link that is cut ends all of it, and the shell that started this removes the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import runpy
import select
import shutil
import sys
import time
from pathlib import Path
from typing import Any

STALE = 86400.0  # seconds after which the folder of an earlier job is nobody's
OURS = re.compile(r"edgel0\.[0-9a-f]{16}")


def line() -> Any:
    """Read a line of JSON and not a byte more: what follows is for others."""
    with open(0, "rb", 0, closefd=False) as stdin:
        return json.loads(stdin.readline())


def store(name: str, size: int, digest: str, patience: float) -> None:
    """Write one file below the current folder, which is never made anew: it is gone when the job is."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    sha = hashlib.sha256()
    with Path(name).open("wb") as file:
        while size:
            if not select.select([0], [], [], patience)[0]:
                sys.exit(f"nothing came within {patience:g} s: timed out")
            data = os.read(0, min(size, 1 << 16))
            if not data:
                sys.exit("the files ended early: Connection closed")
            sha.update(data)
            file.write(data)
            size -= len(data)
    if sha.hexdigest() != digest:
        sys.exit(f"{name!r} was damaged on the way: its sha256 is another")


def sweep(folder: str) -> None:
    """Remove what earlier jobs of this user could not: their board lost its power, say."""
    for path in Path(folder).parent.glob("edgel0.*"):
        with contextlib.suppress(OSError):  # somebody else's, or gone by now
            facts = path.lstat()
            if OURS.fullmatch(path.name) and facts.st_uid == os.getuid() and time.time() - facts.st_mtime > STALE:
                shutil.rmtree(path, ignore_errors=True)


def main() -> None:
    """Receive, then be the runner."""
    told = line()
    os.chdir(sys.argv[1])
    sweep(sys.argv[1])
    try:
        for name, size, digest in told["files"]:
            store(name, size, digest, told["patience"])
    except OSError as error:
        sys.exit(f"cannot store the files: {error}")
    print(json.dumps({"event": "stored"}), flush=True)
    job = told["job"]
    job["model"] = os.path.join(sys.argv[1], job["model"])  # noqa: PTH118
    script = os.path.join(sys.argv[1], told["run"])  # noqa: PTH118
    sys.argv = [script, json.dumps(job)]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
