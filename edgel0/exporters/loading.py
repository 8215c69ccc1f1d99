"""How does a saved program become a Slimmed again? From a ``.pt2`` that edgel0 or ``torch.export.save`` wrote.

``torch.export.load`` falls back to unpickling anything, hands size expressions to ``sympify`` (an ``eval``) and guards
to ``exec``. So an archive is read here first, and goes there only if it holds nothing but JSON and plain tensors.
"""

from __future__ import annotations

import io
import json
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export.pt2_archive import PT2ArchiveReader

from edgel0.cost import program_cost
from edgel0.errors import DeviceError, UsageError
from edgel0.exporters.foreign import foreign
from edgel0.exporters.writing import export
from edgel0.types import Artifact, Cost, Slimmed

MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/\w+|extra/.+|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
)
OPERATORS = re.compile(r"torch\.ops(\.\w+){3}|torch\.ops\.higher_order\.\w+|_operator\.\w+")
NAMES = re.compile(r"[\w.]*")  # they become Python source


def save(slim: Slimmed, path: str | Path) -> Artifact:
    """Save a slimmed program as ``.pt2``: it loads and runs without the class that defined it.

    Raises:
        UsageError: the suffix is another.
    """
    if Path(path).suffix != ".pt2":
        raise UsageError(
            f"{Path(path).name!r} was given to save; a slimmed program is saved as .pt2. For other formats use export."
        )
    return export(slim, path, provenance={"dense_cost": slim.dense.as_dict()})


def load(path: str | Path) -> Slimmed:
    """Load what :func:`save` wrote, or any exported program of static shapes (its dense cost is then its own).

    Nothing is unpickled and nothing of the file is evaluated.

    Raises:
        UsageError: the file is absent, not an exported program, or holds more than tensors and a graph.
        DeviceError: the file cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}; name a .pt2 that edgel0.save or torch.export.save wrote.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DeviceError(f"{path} cannot be read ({error.strerror or error}); correct its permissions.") from error
    extra: dict[str, Any] = {"edgel0": ""}
    try:
        with tempfile.TemporaryDirectory() as folder, foreign("reading it", Path(folder) / "log"):
            _refuse_code(content)
            program = torch.export.load(io.BytesIO(content), extra_files=extra)
            cost = program_cost(program)
            provenance = json.loads(extra["edgel0"] or "{}")
            dense = provenance.pop("dense_cost", None)
            return Slimmed(program, cost, Cost(**dense) if dense else cost, provenance)
    except UsageError as error:
        cause = error.__cause__ or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")[:160]
        raise UsageError(
            f"{str(path)!r} is not an exported program that can be loaded: {reason}. Name a .pt2 that edgel0.save or "
            "torch.export.save wrote of a model with static shapes."
        ) from error


def _refuse_code(content: bytes) -> None:
    """Read an archive with torch's own reader, and raise if loading it would do more than fill tensors."""
    with zipfile.ZipFile(io.BytesIO(content)) as members:
        for member in members.infolist():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > len(content):
                raise UsageError(f"its member {member.filename!r} is compressed, as torch never writes it")
    archive = PT2ArchiveReader(io.BytesIO(content))
    names = archive.get_file_names()
    for name, count in Counter(name.casefold() for name in names).items():
        if count > 1:
            raise UsageError(f"it holds {name!r} {count} times")
    for name in names:
        if not MEMBERS.fullmatch(name):
            raise UsageError(f"it holds {name!r}, which may be code")
        if name.endswith("config.json"):
            for key, entry in json.loads(archive.read_string(name))["config"].items():
                if entry["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
                    raise UsageError(f"its tensor {key!r} is pickled, and a pickle may run code")
    torch.load(io.BytesIO(archive.read_bytes("data/sample_inputs/model.pt")), weights_only=True)
    document = json.loads(archive.read_string("models/model.json"))
    if document["guards_code"]:
        raise UsageError("it holds guards, which are code")
    for key, value in _entries(document):
        if key == "expr_str":
            raise UsageError(f"it has the size {value!r}, and a number is needed")
        if key == "target" and not OPERATORS.fullmatch(str(value)):
            raise UsageError(f"it calls {value!r}, which is no operator")
        if key in ("name", "as_name") and not NAMES.fullmatch(str(value or "")):
            raise UsageError(f"it calls something {value!r}, which is no name")
        if isinstance(value, str) and "__enum__" in value:
            raise UsageError("its inputs or outputs are nested in a class of its author")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key and value of nested JSON."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield str(key), inner
        yield from _entries(inner)
