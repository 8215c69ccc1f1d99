"""How long does this model take here? Runs ON the board: Python 3.9, one runtime, and nothing of edgel0.

``python runner.py JOB`` where JOB is JSON, or a file that holds it::

    {"model": "a.onnx", "runtimes": ["onnxruntime"], "threads": 1, "seed": 0}

Then JSON lines: commands on stdin, events on stdout. Whatever a runtime prints itself goes to stderr::

    (started)                                                 ready    runtime load_ms first_ms inputs board
    {"do": "warmup", "runs": 5, "seconds": 0.5, "limit": 99}  warm     runs
    {"do": "run", "runs": 10, "seconds": 0.2, "limit": 30}    samples  samples_ms cpu_ms wall_ms
    {"do": "end"}                                             end      peak_rss_bytes
    (anything fails)                                          error    kind message; exit code 1

The runner computes only between a command and its event, so that several can share a board in turns. It leaves when
stdin closes: no runner outlives the one who asked.
"""

from __future__ import annotations

import functools
import gc
import importlib
import json
import os
import platform
import select
import sys
import threading
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

X86_FEATURES = ("avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8")
ARM_FEATURES = ("neon", "asimd", "fphp", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2")
Opened = tuple[Callable[[], object], float, dict[str, Any]]  # one inference, load_ms, the inputs it is given


class MissingRuntimeError(ImportError):
    """None of the runtimes that could run the model is installed."""


def open_onnx(api: Any, model: str, threads: int, rng: Any) -> Opened:
    """Load with ONNX Runtime. Timed: ``session.run(None, feeds)``, so copying inputs in and outputs out counts."""
    options = api.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    started = time.perf_counter_ns()
    session = api.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    load_ms = (time.perf_counter_ns() - started) / 1e6
    feeds = {}
    for i in session.get_inputs():
        dtype = i.type.removeprefix("tensor(").removesuffix(")")
        feeds[i.name] = draw(rng, i.shape, ORT_TYPES.get(dtype, dtype))
    return functools.partial(session.run, None, feeds), load_ms, feeds


def open_tflite(api: Any, model: str, threads: int, rng: Any) -> Opened:
    """Load with LiteRT or tflite-runtime. Timed: ``invoke()`` alone; the inputs are set once, before."""
    started = time.perf_counter_ns()
    interpreter = api.Interpreter(model_path=model, num_threads=threads)
    interpreter.allocate_tensors()
    load_ms = (time.perf_counter_ns() - started) / 1e6
    feeds = {}
    for i in interpreter.get_input_details():
        feeds[i["name"]] = draw(rng, i["shape"].tolist(), i["dtype"].__name__)
        interpreter.set_tensor(i["index"], feeds[i["name"]])
    return interpreter.invoke, load_ms, feeds


def draw(rng: Any, shape: list[Any], dtype: str) -> Any:
    """Make up an input: standard normal floats, integers 0 and 1 (an index of any table); a dynamic dimension is 1."""
    sizes = [size if isinstance(size, int) and size > 0 else 1 for size in shape]
    if dtype.startswith("float"):
        return rng.standard_normal(sizes).astype(dtype)
    if dtype.startswith(("int", "uint", "bool")):
        return rng.integers(0, 2, sizes).astype(dtype)
    raise TypeError(f"an input is of type {dtype}; only floats, integers and booleans can be made up")


def load(job: dict[str, Any]) -> tuple[str, Opened]:
    """Open the model in the first of the job's runtimes that is installed; also tell its name and version."""
    refused = []
    for name in job["runtimes"]:
        module, opener = OPENERS[name]
        try:
            api = importlib.import_module(module)
        except ImportError as error:
            refused.append(f"{name} ({error})")
            continue
        import numpy as np

        version = getattr(sys.modules[name], "__version__", "unknown")
        opened = opener(api, job["model"], job["threads"], np.random.default_rng(job["seed"]))
        return f"{name.replace('_', '-')} {version}", opened
    raise MissingRuntimeError("could not import " + " or ".join(refused))


def batch(infer: Callable[[], object], runs: int, seconds: float, limit: float) -> tuple[array[int], float, float]:
    """Time inferences until there are ``runs`` of them and ``seconds`` of them, or ``limit`` seconds have passed.

    Returns the samples in ns, then CPU and wall time of the batch in ms. The first samples find caches that another
    runner has filled meanwhile; ``seconds`` makes them few among many.
    """
    clock = time.perf_counter_ns
    samples = array("q")  # 8 bytes each: a list of a fast model's samples would show in the peak of memory
    spent = 0
    gc.disable()
    try:
        cpu, wall = time.process_time(), clock()
        while not samples or ((len(samples) < runs or spent < seconds * 1e9) and spent < limit * 1e9):
            started = clock()
            infer()
            samples.append(clock() - started)
            spent += samples[-1]
        cpu, wall = time.process_time() - cpu, clock() - wall
    finally:
        gc.enable()
    return samples, cpu * 1e3, wall / 1e6


def peak_rss(root: str = "/") -> int | None:
    """Return the most memory this process ever held, in bytes: Python and the runtime included."""
    high_water = fields(root, "proc/self/status").get("VmHWM")
    if high_water:
        return int(high_water.split()[0]) * 1024
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def read(root: str, path: str) -> str | None:
    """Return a file of the board without its trailing newline or NUL, None when it is absent."""
    try:
        return (Path(root) / path).read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return None


def fields(root: str, path: str) -> dict[str, str]:
    """Return the ``key : value`` lines of a /proc file; of a key that repeats, the first."""
    pairs = [line.partition(":") for line in (read(root, path) or "").splitlines()]
    return {key.strip(): value.strip() for key, _, value in reversed(pairs)}


def cpu(root: str = "/") -> str | None:
    """Return the processor's name."""
    info = fields(root, "proc/cpuinfo")
    part = info.get("CPU part", "")
    return info.get("model name") or CPU_PARTS.get(part, part) or None


def cores(root: str = "/") -> int | None:
    """Return how many processors are online."""
    lines = (read(root, "proc/cpuinfo") or "").splitlines()
    return sum(line.partition(":")[0].strip() == "processor" for line in lines) or None


def features(root: str = "/") -> list[str] | None:
    """Return the instruction sets that decide which kernels a runtime picks."""
    info = fields(root, "proc/cpuinfo")
    found = info.get("flags", info.get("Features"))
    return None if found is None else [name for name in X86_FEATURES + ARM_FEATURES if name in found.split()]


def governor(root: str = "/") -> str | None:
    """Return the frequency governor; all of them where clusters differ."""
    paths = Path(root).glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")
    return "/".join(sorted({text for path in paths if (text := read(root, str(path.relative_to(root))))})) or None


def memory(root: str = "/") -> int | None:
    """Return the main memory in bytes."""
    total = fields(root, "proc/meminfo").get("MemTotal")
    return int(total.split()[0]) * 1024 if total else None


def describe(root: str = "/") -> dict[str, Any]:
    """Return what the board is; a fact that cannot be read is None."""
    return {
        "board": read(root, "proc/device-tree/model"),
        "cpu": cpu(root),
        "cores": cores(root),
        "features": features(root),
        "governor": governor(root),
        "kernel": read(root, "proc/sys/kernel/osrelease"),
        "machine": platform.machine(),
        "memory_bytes": memory(root),
        "python": platform.python_version(),
    }


def serve(job: dict[str, Any], say: Callable[..., None]) -> None:
    """Load, say ``ready``, then answer commands until ``end`` or until nobody asks any more."""
    runtime, (infer, load_ms, feeds) = load(job)
    inputs = [{"name": name, "shape": list(x.shape), "dtype": x.dtype.name} for name, x in feeds.items()]
    first_ms = batch(infer, 1, 0, 0)[0][0] / 1e6
    say("ready", runtime=runtime, load_ms=load_ms, first_ms=first_ms, inputs=inputs, board=describe())
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "end":
            return say("end", peak_rss_bytes=peak_rss())
        samples, cpu_ms, wall_ms = batch(infer, command["runs"], command["seconds"], command["limit"])
        if command["do"] == "warmup":
            say("warm", runs=len(samples))
        else:
            say("samples", samples_ms=[ns / 1e6 for ns in samples], cpu_ms=cpu_ms, wall_ms=wall_ms)
    return None


def watch(events: int) -> None:
    """Leave at once when nobody reads the events any more: a link was cut in the middle of a run, or a hang."""
    closed = select.poll()
    closed.register(events, 0)  # an error of a pipe, or the hang-up of a socket, is always reported
    while not closed.poll():
        pass
    os._exit(1)


def main(argument: str) -> int:
    """Serve one job; keep the real stdout for events and point file descriptor 1 at stderr."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if hasattr(select, "poll"):
        threading.Thread(target=watch, args=(events.fileno(),), daemon=True).start()

    def say(event: str, **details: Any) -> None:
        print(json.dumps({"event": event, **details}), file=events, flush=True)

    try:
        text = argument if argument.startswith("{") else Path(argument).read_text(encoding="utf-8")
        serve(json.loads(text), say)
    except Exception as error:  # noqa: BLE001 - runtimes raise types of their own; whatever it is must become an event
        kind = "missing" if isinstance(error, MissingRuntimeError) else "failed"
        say("error", kind=kind, message=f"{type(error).__name__}: {error}")
        return 1
    return 0


CPU_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
}

ORT_TYPES = {"float": "float32", "double": "float64"}  # the others are called as in NumPy

OPENERS = {
    "onnxruntime": ("onnxruntime", open_onnx),
    "ai_edge_litert": ("ai_edge_litert.interpreter", open_tflite),
    "tflite_runtime": ("tflite_runtime.interpreter", open_tflite),
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
