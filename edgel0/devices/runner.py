"""How long does this model take here? Runs ON the board: Python 3.9, one runtime, and nothing of edgel0.

``python runner.py JOB`` where JOB is JSON, or a file that holds it::

    {"model": "a.onnx", "runtimes": ["onnxruntime"], "threads": 1, "seed": 0, "cores": [], "root": "/"}

``cores`` are the processors it may use ([] = any), ``root`` is where the board's facts are read. Then JSON lines:
commands on stdin, events on stdout. Whatever a runtime prints itself goes to stderr::

    (started)                                                 ready    runtime load_ms first_ms inputs board memory
    {"do": "warmup", "runs": 5, "seconds": 0.5, "limit": 99}  warm     runs stable after
    {"do": "look"}                                            look     after
    {"do": "run", "runs": 10, "seconds": 0.2, "limit": 30}    samples  samples_ms cpu_ms wall_ms before after
        (each second of it, so that a cut link loses no more)  some     samples_ms cpu_ms wall_ms, of that second
    {"do": "operators", "runs": 10}                           operators  operators reason
    {"do": "end"}                                             end      peak_rss_bytes
    (anything fails)                                          error    kind message; exit code 1

The runner computes only between a command and its event, so that several can share a board in turns. It leaves when
stdin closes: no runner outlives the one who asked.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import platform
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

X86_FEATURES = ("avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8")
ARM_FEATURES = ("neon", "asimd", "fphp", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2")
STABLE, WARM_BATCHES = 0.98, 10  # a batch this much of the one before has stopped falling; the most batches
SETTLE_SECS = 0.05  # of work before a round on a board that changes its clock, so that it has risen by then
PROFILED_RUNS, PROFILED_SECS = 20, 10  # at most
TOLD_SECS = 1.0  # after which a round tells what it has
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


def profile_onnx(job: dict[str, Any], feeds: dict[str, Any], runs: int) -> list[list[Any]]:
    """Return name, kind and median ms of each node, by ONNX Runtime's own profiler in a session of its own."""
    api = importlib.import_module("onnxruntime")
    folder = tempfile.mkdtemp()
    try:
        options = api.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = job["threads"], 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        session = api.InferenceSession(job["model"], options, providers=["CPUExecutionProvider"])
        for _ in range(runs + 1):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return node_times(events)


def node_times(events: list[dict[str, Any]]) -> list[list[Any]]:
    """Return name, kind and median ms of each node from Chrome-trace events (µs), without its first run."""
    found: dict[tuple[str, str], list[float]] = {}
    for event in events:
        name, _, what = event["name"].rpartition("_kernel_")
        if event.get("cat") == "Node" and what == "time":
            found.setdefault((name, event["args"].get("op_name", "")), []).append(event["dur"] / 1e3)
    return [[name, kind, statistics.median(times[1:] or times)] for (name, kind), times in found.items()]


def load(job: dict[str, Any]) -> tuple[str, Opened, dict[str, Any]]:
    """Open the model in the first of the job's runtimes that is installed; tell name and version, and the memory."""
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
        rng, root = np.random.default_rng(job["seed"]), job.get("root", "/")
        memory = {"import_peak_bytes": peak_rss(root), "forgotten": forget_peak(root), "before_load_bytes": rss(root)}
        opened = opener(api, job["model"], job["threads"], rng)
        return f"{name.replace('_', '-')} {version}", opened, memory
    raise MissingRuntimeError("could not import " + " or ".join(refused))


def warm(infer: Callable[[], object], runs: int, seconds: float, limit: float) -> tuple[int, bool]:
    """Infer at least ``runs`` times and ``seconds`` long, until the median of a batch has stopped falling.

    Returns the runs, and whether it did before the limit (``limit`` seconds or ``WARM_BATCHES``).
    """
    done, spent = 0, 0.0
    medians: list[float] = []
    while True:
        samples, _, wall_ms = batch(infer, -(-runs // 2), seconds / 2, limit - spent)
        done, spent = done + len(samples), spent + wall_ms / 1e3
        medians.append(statistics.median(samples))
        stable = len(medians) > 1 and medians[-1] >= STABLE * medians[-2]
        if (stable and done >= runs and spent >= seconds) or len(medians) == WARM_BATCHES or spent >= limit:
            return done, stable


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
    """Return the most memory this process held since :func:`forget_peak`, in bytes: Python and the runtime included."""
    high_water = kib(fields(root, "proc/self/status").get("VmHWM"))
    if high_water is not None:
        return high_water
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak(root: str = "/") -> bool:
    """Let the peak begin anew from what is held now (Linux's ``clear_refs``); False where the kernel does not."""
    try:
        with (Path(root) / "proc/self/clear_refs").open("r+") as file:  # never creates it
            file.write("5")
    except OSError:
        return False
    return True


def rss(root: str = "/") -> int | None:
    """Return the memory that this process holds now, in bytes."""
    return kib(fields(root, "proc/self/status").get("VmRSS"))


def kib(text: str | None) -> int | None:
    """Read ``"123 kB"`` of /proc as bytes."""
    number = (text or "").split(" ")[0]
    return int(number) * 1024 if number.isdecimal() else None


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
    return kib(fields(root, "proc/meminfo").get("MemTotal"))


def capacities(root: str = "/") -> dict[str, int] | None:
    """Return how fast each processor is beside the fastest (1024), where the kernel tells: big and little ones."""
    found = {}
    for folder in folders(root, "sys/devices/system/cpu/cpu[0-9]*"):
        capacity = number(root, f"{folder}/cpu_capacity")
        if capacity is not None:
            found[Path(folder).name.removeprefix("cpu")] = capacity
    return {cpu: found[cpu] for cpu in sorted(found, key=int)} or None


def describe(root: str = "/") -> dict[str, Any]:
    """Return what the board is; a fact that cannot be read is None."""
    return {
        "board": read(root, "proc/device-tree/model"),
        "capacities": capacities(root),
        "cpu": cpu(root),
        "cores": cores(root),
        "features": features(root),
        "governor": governor(root),
        "kernel": read(root, "proc/sys/kernel/osrelease"),
        "machine": platform.machine(),
        "memory_bytes": memory(root),
        "python": platform.python_version(),
    }


def number(root: str, path: str) -> int | None:
    """Return a file's whole number, None when it is absent or holds something else."""
    text = read(root, path) or ""
    return int(text) if text.removeprefix("-").isdecimal() else None


def folders(root: str, pattern: str) -> list[str]:
    """Return the folders of the board that match, sorted, relative to its root."""
    return sorted(str(path.relative_to(root)) for path in Path(root).glob(pattern))


def clocks(root: str = "/") -> dict[str, Any] | None:
    """Return governor, frequencies (kHz) and ticks in each frequency, per policy."""
    found = {}
    for folder in folders(root, "sys/devices/system/cpu/cpufreq/policy[0-9]*"):
        rows = [line.split() for line in (read(root, f"{folder}/stats/time_in_state") or "").splitlines()]
        found[Path(folder).name] = {
            "governor": read(root, f"{folder}/scaling_governor"),
            "cpus": [int(cpu) for cpu in (read(root, f"{folder}/related_cpus") or "").split() if cpu.isdecimal()],
            **{key: number(root, f"{folder}/scaling_{key}_freq") for key in ("cur", "min", "max")},
            "ticks": {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()} or None,
        }
    return found or None


def heat(root: str = "/") -> dict[str, Any] | None:
    """Return the temperature of each thermal zone and its trip points, in degrees Celsius."""
    found = {}
    for folder in folders(root, "sys/class/thermal/thermal_zone[0-9]*"):
        degrees = number(root, f"{folder}/temp")
        trips = []
        for trip in folders(root, f"{folder}/trip_point_[0-9]*_temp"):
            at = number(root, trip)
            if at is not None and at > 0:  # others are switched off
                trips.append([read(root, trip.replace("_temp", "_type")), at / 1e3])
        if degrees is not None:
            found[Path(folder).name] = {"type": read(root, f"{folder}/type"), "celsius": degrees / 1e3, "trips": trips}
    return found or None


def cooling(root: str = "/") -> dict[str, Any] | None:
    """Return how hard each cooling device works: type and state; above 0 a processor's is held back."""
    found = {
        Path(folder).name: [read(root, f"{folder}/type"), number(root, f"{folder}/cur_state")]
        for folder in folders(root, "sys/class/thermal/cooling_device[0-9]*")
    }
    return found or None


def throttled(root: str = "/") -> int | None:
    """Return the bits of the firmware (Raspberry Pi): from the kernel, else from ``vcgencmd get_throttled``."""
    for folder in folders(root, "sys/devices/platform/soc*/soc*firmware"):
        with contextlib.suppress(ValueError):
            return int(read(root, f"{folder}/get_throttled") or "", 16)
    for place in ("usr/bin/vcgencmd", "opt/vc/bin/vcgencmd"):
        program = Path(root) / place
        if os.access(program, os.X_OK):
            try:
                done = subprocess.run([program, "get_throttled"], capture_output=True, text=True, timeout=2)
                return int(done.stdout.partition("=")[2], 16)
            except (OSError, ValueError, subprocess.TimeoutExpired):
                return None
    return None


def occupied(root: str = "/") -> dict[str, int] | None:
    """Return the ticks since boot that all processors had, and those in which they worked (stolen ones included)."""
    words = (read(root, "proc/stat") or "").partition("\n")[0].split()
    if len(words) < 9 or words[0] != "cpu" or not all(word.isdecimal() for word in words[1:9]):
        return None
    ticks = [int(word) for word in words[1:9]]
    return {"all": sum(ticks), "busy": sum(ticks) - ticks[3] - ticks[4]}  # without idle and waiting for a disk


def pressure(root: str = "/") -> dict[str, str] | None:
    """Return the kernel's lines on how long somebody had to wait for a processor or for memory."""
    lines = {kind: (read(root, f"proc/pressure/{kind}") or "").partition("\n")[0] for kind in ("cpu", "memory")}
    return {kind: line for kind, line in lines.items() if line} or None


def switches(root: str = "/") -> list[int] | None:
    """Return how often this process gave its processor up, and how often it was taken away."""
    status = fields(root, "proc/self/status")
    found = [status.get(f"{kind}_ctxt_switches", "") for kind in ("voluntary", "nonvoluntary")]
    return [int(text) for text in found] if all(text.isdecimal() for text in found) else None


def snapshot(root: str = "/") -> dict[str, Any]:
    """Return what may change while one measures; what cannot be read is None."""
    load = (read(root, "proc/loadavg") or "").split()[:3]
    known = len(load) == 3 and all(text.replace(".", "", 1).isdecimal() for text in load)
    return {
        "clocks": clocks(root),
        "heat": heat(root),
        "cooling": cooling(root),
        "throttled": throttled(root),
        "ticks": occupied(root),
        "ticks_per_second": os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100,
        "own_cpu_ms": time.process_time() * 1e3,
        "load": [float(text) for text in load] if known else None,
        "pressure": pressure(root),
        "switches": switches(root),
        "rss_bytes": rss(root),
    }


def pin(wanted: list[int]) -> None:
    """Stay on the given processors, with every thread that a runtime starts from here."""
    if not hasattr(os, "sched_setaffinity"):
        raise OSError("this system cannot tie a process to processors")
    allowed = os.sched_getaffinity(0)
    if not set(wanted) <= allowed:
        raise ValueError(f"the board has no processors {sorted(set(wanted) - allowed)}; it has {sorted(allowed)}")
    os.sched_setaffinity(0, wanted)


def measured(
    infer: Callable[[], object], command: dict[str, Any], root: str, say: Callable[..., None]
) -> dict[str, Any]:
    """Time one round, and look at the board before and after it; a long one says ``some`` between its inferences."""
    runs, seconds, limit = command["runs"], command["seconds"], command["limit"]
    if clocks(root):
        batch(infer, 1, SETTLE_SECS, SETTLE_SECS)
    before = snapshot(root)
    samples, cpu_ms, wall_ms, spent = array("q"), 0.0, 0.0, 0.0
    while not samples or ((len(samples) < runs or spent < seconds) and spent < limit):
        piece, cpu, wall = batch(infer, runs - len(samples), seconds - spent, min(limit - spent, TOLD_SECS))
        if samples or wall >= TOLD_SECS * 1e3:
            say("some", samples_ms=[ns / 1e6 for ns in piece], cpu_ms=cpu, wall_ms=wall)
        samples.extend(piece)
        cpu_ms, wall_ms, spent = cpu_ms + cpu, wall_ms + wall, sum(samples) / 1e9
    after = snapshot(root)
    times = [ns / 1e6 for ns in samples]
    return {"samples_ms": times, "cpu_ms": cpu_ms, "wall_ms": wall_ms, "before": before, "after": after}


def operators(job: dict[str, Any], runtime: str, feeds: dict[str, Any], runs: int) -> dict[str, Any]:
    """Return the time of each operator where the runtime tells it, else why not."""
    if runtime.split()[0] != "onnxruntime":
        reason = "LiteRT's Python interpreter has no profile of operators; benchmark_model --enable_op_profiling has"
        return {"operators": [], "reason": reason}
    return {"operators": profile_onnx(job, feeds, runs), "reason": ""}


def serve(job: dict[str, Any], say: Callable[..., None]) -> None:
    """Load, say ``ready``, then answer commands until ``end`` or until nobody asks any more."""
    root = job.get("root", "/")
    if job.get("cores"):
        pin(job["cores"])
    runtime, (infer, load_ms, feeds), held = load(job)
    inputs = [{"name": name, "shape": list(x.shape), "dtype": x.dtype.name} for name, x in feeds.items()]
    first_ms = batch(infer, 1, 0, 0)[0][0] / 1e6
    held["after_first_bytes"] = rss(root)
    say("ready", runtime=runtime, load_ms=load_ms, first_ms=first_ms, inputs=inputs, board=describe(root), memory=held)
    peak = None
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "end":
            return say("end", peak_rss_bytes=peak or peak_rss(root))
        if command["do"] == "warmup":
            runs, stable = warm(infer, command["runs"], command["seconds"], command["limit"])
            say("warm", runs=runs, stable=stable, after=snapshot(root))
        elif command["do"] == "look":
            say("look", after=snapshot(root))
        elif command["do"] == "operators":
            peak = peak_rss(root)  # before a second session takes its memory
            runs = min(command["runs"], PROFILED_RUNS, 1 + int(PROFILED_SECS * 1e3 / first_ms))
            say("operators", **operators(job, runtime, feeds, runs))
        else:
            say("samples", **measured(infer, command, root, say))
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
    os.environ.setdefault(
        "ORT_DISABLE_TELEMETRY", "1"
    )  # it would leave files on the board, and a thread in the figures
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
