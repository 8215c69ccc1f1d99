"""How does a saved program become a Slimmed again? From a ``.pt2`` that edgel0 or ``torch.export.save`` wrote."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import torch

from edgel0.cost import program_cost
from edgel0.errors import UsageError
from edgel0.exporters.foreign import foreign
from edgel0.exporters.writing import export
from edgel0.types import Artifact, Cost, Slimmed


def save(slim: Slimmed, path: str | Path) -> Artifact:
    """Save a slimmed program as ``.pt2``: it loads and runs without the class that defined it.

    Raises:
        UsageError: the suffix is another.
    """
    if Path(path).suffix != ".pt2":
        raise UsageError(f"{Path(path).name!r} was given to save; a slimmed program is saved as .pt2. For other formats use export.")
    return export(slim, path, provenance={"dense_cost": slim.dense.as_dict()})


def load(path: str | Path) -> Slimmed:
    """Load what :func:`save` wrote, or any exported program (its dense cost is then its own).

    Raises:
        UsageError: the file is absent or not an exported program.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}; name a .pt2 that edgel0.save or torch.export.save wrote.")
    extra: dict[str, Any] = {"edgel0": ""}
    try:
        with foreign("torch.export.load", path.with_name(f".{path.name}.log")):
            program = torch.export.load(path, extra_files=extra)
        provenance = json.loads(extra["edgel0"] or "{}")
    except (UsageError, RuntimeError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        path.with_name(f".{path.name}.log").unlink(missing_ok=True)
        raise UsageError(
            f"{str(path)!r} is not an exported program ({str(error).splitlines()[0][:120]}); name a .pt2 that edgel0.save "
            "or torch.export.save wrote."
        ) from error
    cost = program_cost(program)
    dense = provenance.get("dense_cost")
    return Slimmed(program, cost, Cost(**dense) if dense else cost, provenance)
