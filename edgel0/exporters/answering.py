"""What does this model answer here? Runs in any interpreter that has a runtime: Python 3.9, and nothing of edgel0.

``python answering.py JOB`` where JOB is JSON::

    {"model": "a.tflite", "runtimes": ["tflite_runtime"], "inputs": [0], "outputs": [7],
     "given": "in.npz", "made": "out.npz"}

``inputs`` and ``outputs`` are names (ONNX) or numbers of tensors (TFLite) in the program's order; arrays in the files
are called SAMPLE.PLACE, and are real numbers on both sides of integer tensors. One JSON line on stdout names the
runtime and its version, or says what failed.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

Samples = list[list[Any]]


def onnx(api: Any, np: Any, job: dict[str, Any], samples: Samples) -> Samples:
    """Answer with ONNX Runtime."""
    options = api.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = api.InferenceSession(job["model"], options, providers=["CPUExecutionProvider"])
    return [session.run(job["outputs"], dict(zip(job["inputs"], sample))) for sample in samples]


def tflite(api: Any, np: Any, job: dict[str, Any], samples: Samples) -> Samples:
    """Answer with LiteRT or tflite-runtime."""
    interpreter = api.Interpreter(model_path=job["model"], num_threads=1)
    interpreter.allocate_tensors()
    details = {d["index"]: d for d in interpreter.get_input_details() + interpreter.get_output_details()}
    answers = []
    for sample in samples:
        for index, array in zip(job["inputs"], sample):
            interpreter.set_tensor(index, _integers(np, array, details[index]))
        interpreter.invoke()
        answers.append([_real(np, interpreter.get_tensor(index), details[index]) for index in job["outputs"]])
    return answers


def _integers(np: Any, array: Any, detail: dict[str, Any]) -> Any:
    scale, zero = detail["quantization"]
    if scale and array.dtype.kind == "f":
        limits = np.iinfo(detail["dtype"])
        array = np.rint(array / scale + zero).clip(limits.min, limits.max)
    return array.astype(detail["dtype"])


def _real(np: Any, array: Any, detail: dict[str, Any]) -> Any:
    scale, zero = detail["quantization"]
    return np.float32(scale) * (array.astype(np.float32) - np.float32(zero)) if scale else array


def answer(job: dict[str, Any]) -> str:
    """Run all samples in the first runtime that is installed; return its name and version."""
    refused = []
    for name in job["runtimes"]:
        module, run = RUNTIMES[name]
        try:
            api = importlib.import_module(module)
        except ImportError as error:
            refused.append(f"{name} ({error})")
            continue
        import numpy as np

        given = np.load(job["given"], allow_pickle=False)
        count = 1 + max(int(key.partition(".")[0]) for key in given.files)
        samples = [[given[f"{at}.{place}"] for place in range(len(job["inputs"]))] for at in range(count)]
        answers = run(api, np, job, samples)
        np.savez(job["made"], **{f"{at}.{i}": array for at, row in enumerate(answers) for i, array in enumerate(row)})
        return f"{name.replace('_', '-')} {getattr(sys.modules[name], '__version__', 'unknown')}"
    raise ImportError("could not import " + " or ".join(refused))


def main(argument: str) -> int:
    """Answer one job; keep the real stdout for the one line and point file descriptor 1 at stderr."""
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        print(json.dumps({"runtime": answer(json.loads(argument))}), file=told, flush=True)
    except Exception as error:  # noqa: BLE001 - runtimes raise types of their own
        kind = "missing" if isinstance(error, ImportError) else "failed"
        print(json.dumps({"error": kind, "message": f"{type(error).__name__}: {error}"}), file=told, flush=True)
        return 1
    return 0


RUNTIMES = {
    "onnxruntime": ("onnxruntime", onnx),
    "ai_edge_litert": ("ai_edge_litert.interpreter", tflite),
    "tflite_runtime": ("tflite_runtime.interpreter", tflite),
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
