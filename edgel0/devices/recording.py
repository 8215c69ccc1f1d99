"""Where does a count stay? In the JSON beside its artefact, from which a check reads it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgel0.errors import DeviceError, UsageError
from edgel0.types import Artifact, Count

SCHEMA = 1


def record(path: Artifact | Path | str, counts: Sequence[Count]) -> Path:
    """Write counts of the artefact ``path`` into ``<path>.json`` and return that; what else it holds stays.

    By core: ``{"instructions": {"cortex-a72": {"runtime": "onnxruntime 1.32.0", "count": 123, "accesses": 45}}}``. A
    file that edgel0 did not export gets a JSON with its name, size and digest.

    Raises UsageError when a count or the JSON is of another file, DeviceError when it cannot be read or written.
    """
    path = Path(path.path if isinstance(path, Artifact) else path)
    beside = Path(f"{path}.json")
    try:
        content = path.read_bytes()
        text = beside.read_bytes() if beside.exists() else None
    except OSError as error:
        raise DeviceError(f"cannot read {error.filename!r} ({error.strerror}), so no count is recorded.") from error
    digest = hashlib.sha256(content).hexdigest()
    known: dict[str, Any] = {"schema": SCHEMA, "file": path.name, "sha256": digest, "bytes": len(content)}
    if text is not None:
        known = _read(beside, text, digest)
    for count in counts:
        if count.sha256 != digest:
            raise UsageError(
                f"the count of {count.artifact!r} on {count.core} is of another file than {path.as_posix()!r} is now "
                "(its sha256 differs); count it again."
            )
    rows = {c.core: {"runtime": c.runtime, "count": c.instructions, "accesses": c.accesses} for c in counts}
    old = known.get("instructions")
    _write(beside, known | {"instructions": {**(old if isinstance(old, dict) else {}), **rows}})
    return beside


def _read(beside: Path, text: bytes, digest: str) -> dict[str, Any]:
    try:
        known = json.loads(text)
    except (ValueError, RecursionError):
        known = None
    if not isinstance(known, dict) or known.get("schema") != SCHEMA:
        raise UsageError(
            f"{beside.as_posix()!r} is no JSON that edgel0 wrote beside an artefact, so no count is written into it; "
            "move it away, or export the artefact again."
        )
    if known.get("sha256") != digest:
        raise UsageError(
            f"{beside.as_posix()!r} describes another file (its sha256 differs), so no count is written into it; "
            "export the artefact again, then count it."
        )
    return known


def _write(beside: Path, known: dict[str, Any]) -> None:
    partial = beside.with_name(f".{beside.name}.partial-{os.getpid()}")
    try:
        partial.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        partial.replace(beside)
    except OSError as error:
        raise DeviceError(
            f"{beside.as_posix()!r} cannot be written ({error.strerror or error}); give its folder room and "
            "permission. What stood there is untouched."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
