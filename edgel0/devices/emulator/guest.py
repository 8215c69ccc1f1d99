"""What does one inference of this model execute? Runs IN the emulator: one runtime, and nothing of edgel0.

``python guest.py JOB`` where JOB names a file that holds, say::

    {"model": "/job/model.onnx", "external": ["model.onnx.data"], "seed": 0, "warmups": 2, "repeats": 4}

A mark is a system call that no kernel has; ``count.c`` writes its counters down at each. An inference lies between
``BEGIN`` and ``END``, as does a call of nothing between ``EMPTY`` and ``END``, whose cost is that of marking itself.
The answer is one line of JSON on stdout, ``{"runtime": ..., "hwcap": ...}`` or ``{"error": kind, "message": ...}``;
whatever a runtime prints goes to stderr.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import math
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

MARK = 32343
WARM, EMPTY, BEGIN, END = range(1, 5)
SETTLE = 32  # calls after which Python's interpreter has specialized the instructions of ``between``
SET_PDEATHSIG, SIGKILL = 1, 9
HWCAP = 16
Run = Callable[[], object]


def open_onnx(api: Any, job: dict[str, Any]) -> Run:
    """Load with ONNX Runtime, one thread, inputs and outputs bound: copying them is not counted."""
    options = api.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    external = job["external"]
    if external:  # by name ONNX Runtime would find the host's path behind an open file, and refuse it
        data = [Path(job["model"]).with_name("data").joinpath(name).read_bytes() for name in external]
        options.add_external_initializers_from_files_in_memory(external, data, [len(one) for one in data])
    model = Path(job["model"]).read_bytes() if external else job["model"]
    session = api.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for i in session.get_inputs():
        dtype = i.type.replace("tensor(", "").replace(")", "")
        binding.bind_cpu_input(i.name, draw(job["seed"], i.shape, ORT_TYPES.get(dtype, dtype)))
    for o in session.get_outputs():
        binding.bind_output(o.name)
    # Without the Python function around it, which the interpreter would specialize during the measured calls.
    return partial(session._sess.run_with_iobinding, binding._iobinding, None)


def open_tflite(api: Any, job: dict[str, Any]) -> Run:
    """Load with LiteRT, one thread; the inputs are set once."""
    interpreter = api.Interpreter(model_path=job["model"], num_threads=1)
    interpreter.allocate_tensors()
    for i in interpreter.get_input_details():
        interpreter.set_tensor(i["index"], draw(job["seed"], i["shape"].tolist(), i["dtype"].__name__))
    return partial(interpreter._interpreter.Invoke)  # see above


def draw(seed: int, shape: list[Any], dtype: str) -> Any:
    """Make up an input: floats of variance 1, integers 0 and 1 (an index of any table); a dynamic dimension is 1.

    Numbers of splitmix64 (Steele, Lea and Flood 2014): importing NumPy's generators asks the host for random bytes.
    """
    import numpy as np

    sizes = [size if isinstance(size, int) and size > 0 else 1 for size in shape]
    bits = (np.arange(1, math.prod(sizes) + 1, dtype="uint64") + np.uint64(seed << 32)) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    if dtype.startswith("float"):
        return ((bits / 2.0**63 - 1.0) * 3.0**0.5).astype(dtype).reshape(sizes)
    if dtype.startswith(("int", "uint", "bool")):
        return (bits & np.uint64(1)).astype(dtype).reshape(sizes)
    raise TypeError(f"an input is of type {dtype}; only floats, integers and booleans can be made up")


def count(job: dict[str, Any], mark: Callable[[int], object]) -> str:
    """Run the job between marks and return the runtime's name and version."""
    module, opener = OPENERS[Path(job["model"]).suffix]
    run = opener(importlib.import_module(module), job)
    nothing: Run = partial(gc.isenabled)

    def between(begin: int, work: Run) -> None:
        mark(begin)
        work()
        mark(END)

    gc.collect()
    gc.disable()
    for _ in range(SETTLE):
        between(WARM, nothing)
    for _ in range(job["warmups"]):
        between(WARM, run)
    for _ in range(job["repeats"]):
        between(EMPTY, nothing)
        between(BEGIN, run)
    package = module.partition(".")[0]
    return f"{package.replace('_', '-')} {sys.modules[package].__version__}"


def main(path: str) -> int:
    """Count one job; it ends when whoever started it does."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    libc = ctypes.PyDLL(None)
    libc.prctl(SET_PDEATHSIG, SIGKILL)
    libc.getauxval.restype = ctypes.c_ulong
    said: dict[str, Any]
    try:
        runtime = count(json.loads(Path(path).read_text(encoding="utf-8")), partial(libc.syscall, MARK))
        said = {"runtime": runtime, "hwcap": libc.getauxval(HWCAP)}
    except Exception as error:  # noqa: BLE001 - runtimes raise types of their own; whatever it is must be told
        text = f"{type(error).__name__}: {error}"
        memory = isinstance(error, MemoryError) or any(sign in text for sign in NO_MEMORY)
        said = {"error": "memory" if memory else "failed", "message": text}
    print(json.dumps(said), file=answer, flush=True)
    return 1 if "error" in said else 0


NO_MEMORY = ("bad_alloc", "Failed to allocate memory")

ORT_TYPES = {"float": "float32", "double": "float64"}  # the others are called as in NumPy

OPENERS = {
    ".onnx": ("onnxruntime", open_onnx),
    ".tflite": ("ai_edge_litert.interpreter", open_tflite),
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
