"""What does a killed run go on from? A file that is whole, and of this very run, or else nothing."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from edgel0.staging import write

DIGEST = 32  # bytes of SHA-256: first of the run, then of the state


def save(file: Path, key: bytes, state: dict[str, Any]) -> None:
    """Write a state under the digest ``key`` of all that makes this run what it is."""
    content = io.BytesIO()  # torch tells of a full disk in its own way, Path.write_bytes by an OSError
    torch.save(state, content)
    payload = content.getvalue()
    write(file, key + hashlib.sha256(payload).digest() + payload)


def load(file: Path, key: bytes) -> dict[str, Any] | str:
    """Read a state, or say why there is none to go on from; "" where there is no file."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"the checkpoint cannot be read ({error.strerror or error}); training begins anew"
    run, digest, payload = content[:DIGEST], content[DIGEST : 2 * DIGEST], content[2 * DIGEST :]
    if hashlib.sha256(payload).digest() != digest:
        return "the checkpoint is damaged; training begins anew"
    if run != key:
        return "the checkpoint is of another recipe, model, data or version; training begins anew"
    state: dict[str, Any] = torch.load(io.BytesIO(payload), weights_only=True)
    return state
