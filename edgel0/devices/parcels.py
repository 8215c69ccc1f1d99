"""What goes to a board, and how is it packed? The runner, the model, the files that hold its weights: one stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from edgel0.checks.onnx_files import external_files
from edgel0.checks.paths import leaves
from edgel0.checks.sidecar import digest_of
from edgel0.devices import receiver, runner
from edgel0.devices.base import Job, Parcel
from edgel0.errors import DeviceError, UsageError

SLOW = 100_000  # bytes a second; a link that is slower counts as dead
PIECE = 1 << 16


def contents(model: Path) -> dict[str, Path]:
    """Return the files that a model consists of, by their place beside it on the board.

    Raises UsageError when the model names a file outside of its folder, or one that is not there.
    """
    names: set[str] = set()
    if model.suffix.lower() == ".onnx":
        try:
            names = external_files(model.read_bytes())
        except ValueError:  # its runtime will say what is wrong with it
            pass
        except OSError as error:
            raise DeviceError(f"cannot read {model.as_posix()!r} ({error}); correct its permissions.") from error
    found = {model.name: model}
    for name in sorted(names - {model.name}):
        try:
            outside = leaves(model.parent, name)
        except (OSError, RuntimeError, ValueError):
            outside = True
        if outside:
            raise UsageError(
                f"{model.as_posix()!r} says that its weights are in {name!r}, outside of its folder, so nothing was "
                "sent; save it with its data beside it."
            )
        if not (model.parent / name).is_file():
            raise UsageError(
                f"{model.as_posix()!r} has its weights in {name!r}, and there is no such file beside it; copy it there."
            )
        found[name] = model.parent / name
    return found


def pack(job: Job, marker: str, patience: float) -> Parcel:
    """Return what the receiver on a board reads: itself, a list, the files. Raises what :func:`contents` does."""
    model = Path(job.model)
    files = {"program/runner.py": Path(runner.__file__)}
    files |= {f"model/{name}": path for name, path in contents(model).items()}
    try:
        listed = [(name, path.stat().st_size, digest_of(path)) for name, path in files.items()]
    except OSError as error:
        raise DeviceError(f"cannot read {error.filename!r} ({error.strerror}); correct its permissions.") from error
    told = {
        "files": listed,
        "run": "program/runner.py",
        "job": asdict(replace(job, model=f"model/{model.name}")),
        "patience": patience,
    }

    def pieces() -> Iterator[bytes]:
        source = Path(receiver.__file__).read_text("utf-8")
        yield f"{json.dumps(source)}\n{json.dumps(told)}\n".encode()
        for (_, size, _), path in zip(listed, files.values(), strict=True):
            yield from _pieces(path, size)

    return Parcel(marker, pieces, patience + sum(size for _, size, _ in listed) / SLOW)


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    """Yield as many bytes as were promised; a file that has changed meanwhile has another digest."""
    with path.open("rb") as file:
        while size and (data := file.read(min(size, PIECE))):
            size -= len(data)
            yield data
