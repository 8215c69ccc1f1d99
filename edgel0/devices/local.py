"""How does one measure on this computer? Start the runner in a fresh process of the same Python."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgel0.devices import runner
from edgel0.devices.base import Job, Session


def start(job: Job, patience: float, script: Path | str = runner.__file__) -> Session:
    """Start a runner for ``job``; use it in a ``with`` block. ``patience`` is its longest wait in seconds."""
    return Session("local", job, [sys.executable, str(script), json.dumps(asdict(job))], patience)


def describe_local(root: Path | str = "/") -> dict[str, Any]:
    """Return what this computer is: processor, cores, features, governor, kernel, memory, Python; None = unreadable."""
    return runner.describe(str(root))
