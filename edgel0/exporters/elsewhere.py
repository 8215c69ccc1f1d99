"""What does a file answer in the runtime of another Python? An older one, say, or the one that boards have."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgel0.errors import DeviceError, ExtraError
from edgel0.exporters import answering
from edgel0.exporters.parity import Arrays
from edgel0.exporters.runtimes import ends_of
from edgel0.exporters.signature import Tensors, channels_last

PATIENCE = 600.0  # seconds for all samples of one file
MODULES = {"onnx": ("onnxruntime",), "tflite": ("tflite_runtime", "ai_edge_litert")}


@dataclass(frozen=True)
class Answers:
    """What a runtime elsewhere answered; ``runtime`` is its name and version."""

    runtime: str
    found: list[Arrays]


def answers_in(python: str, file: Path, kind: str, layout: str, samples: Sequence[Tensors]) -> Answers:
    """Have an interpreter, a path or a program name, answer samples of the program's own layout and numbers.

    Raises:
        ExtraError: it has no runtime for the file.
        DeviceError: it does not start, does not end, or its runtime cannot run the file.
    """
    inputs, outputs = ends_of(file, kind)
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "given.npz", Path(folder) / "made.npz"
        turned = [[channels_last(t) if layout == "nhwc" else t for t in sample] for sample in samples]
        named: dict[str, Any] = {f"{at}.{i}": t.numpy() for at, row in enumerate(turned) for i, t in enumerate(row)}
        np.savez(given, **named)
        job: dict[str, object] = {
            "model": str(file),
            "runtimes": MODULES[kind],
            "inputs": inputs,
            "outputs": outputs,
            "given": str(given),
            "made": str(made),
        }
        runtime = _started(python, file, job)
        with np.load(made, allow_pickle=False) as arrays:
            found = [tuple(arrays[f"{at}.{i}"] for i in range(len(outputs))) for at in range(len(samples))]
    return Answers(f"{runtime} of {python}", found)


def _started(python: str, file: Path, job: dict[str, object]) -> str:
    """Run the job there and return the runtime's name and version."""
    command = [python, "-I", answering.__file__, json.dumps(job)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE, stdin=subprocess.DEVNULL, check=False)
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"{python} did not answer within {PATIENCE:g} s for {file.name}; give fewer samples."
        ) from error
    except OSError as error:
        raise DeviceError(
            f"{python!r} cannot be started ({error.strerror or error}); name the python of an environment that has a "
            "runtime, such as old/bin/python."
        ) from error
    try:
        told = json.loads(done.stdout.decode("utf-8", "replace"))
    except ValueError:
        told = None
    if isinstance(told, dict) and "runtime" in told:
        return str(told["runtime"])
    if isinstance(told, dict) and told.get("error") == "missing":
        raise ExtraError(
            f"{python} has no runtime for {file.name}: {told.get('message')}; install one there, such as "
            "tflite-runtime with numpy<2, ai-edge-litert or onnxruntime."
        )
    said = told.get("message") if isinstance(told, dict) else done.stderr.decode("utf-8", "replace").strip()[-300:]
    raise DeviceError(
        f"the runtime of {python} cannot run {file.name} (exit code {done.returncode}): {said or 'it left no words'}; "
        "write it in another precision, or update that runtime."
    )
