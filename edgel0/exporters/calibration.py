"""Which samples is a file calibrated and compared on? Those of a NumPy file, checked against what the program takes."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from edgel0.errors import UsageError
from edgel0.exporters.signature import example, signature

Sample = tuple[Any, ...]


def read_samples(path: Path, program: ExportedProgram) -> list[Sample]:
    """Read ``.npy`` (one input) or ``.npz`` (an array per input, by its name), samples along the first axis.

    A sample is shaped like the program's example, with or without its first axis of 1. Nothing is unpickled.

    Raises:
        UsageError: the file cannot be read, or does not hold what the program takes.
    """
    names, wanted = signature(program).inputs, example(program)
    arrays = _arrays(path, names)
    if set(arrays) != set(names):
        raise UsageError(f"{path} holds {_listed(arrays)}; the program takes {_listed(names)}: name the arrays so.")
    columns = [_column(path, name, arrays[name], like) for name, like in zip(names, wanted, strict=True)]
    counts = {name: len(column) for name, column in zip(names, columns, strict=True)}
    if len(set(counts.values())) > 1 or not all(counts.values()):
        raise UsageError(f"{path} holds {counts} samples per input; the same number above 0 is needed of each.")
    spec = pytree.tree_structure(program.example_inputs[0])
    return [pytree.tree_unflatten(row, spec) for row in zip(*columns, strict=True)]


def spread_out(samples: list[Any], count: int) -> list[Any]:
    """Choose ``count`` samples, evenly spaced; all where there are fewer."""
    if count >= len(samples):
        return samples
    return [samples[at * len(samples) // count] for at in range(count)]


def _arrays(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:  # numpy leaves a broken archive open
            loaded = np.load(file, allow_pickle=False)
            arrays = {key: loaded[key] for key in loaded.files} if hasattr(loaded, "files") else {"": loaded}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UsageError(
            f"{path} is no file of samples ({reason}); give a .npy or .npz that numpy.save or numpy.savez wrote."
        ) from error
    if len(arrays) == len(names) == 1:
        return {names[0]: next(iter(arrays.values()))}
    return arrays


def _column(path: Path, name: str, array: np.ndarray, like: torch.Tensor) -> list[torch.Tensor]:
    shape = tuple(like.shape)
    shapes = (shape, shape[1:]) if shape[:1] == (1,) else (shape,)
    if array.dtype.kind not in "biuf" or array.ndim == 0 or array.shape[1:] not in shapes:
        raise UsageError(
            f"{name!r} in {path} is {array.dtype} of shape {array.shape}; samples of shape {shape} along a first axis "
            "are needed."
        )
    tensor = torch.from_numpy(np.ascontiguousarray(array)).to(like.dtype)
    return [row.reshape(shape) for row in tensor]


def _listed(names: Any) -> str:
    return ", ".join(repr(name) for name in names) or "nothing"
