"""Is slimming exact on everybody's models? torchvision's and timm's, each with a random half of its units closed.

``python -m benchmarks.zoo --store docs/zoo.jsonl`` measures every model in a process of its own and goes on where an
interrupted run stopped; ``--report docs/zoo.md`` makes the table from what is stored. Where Torch-Pruning is installed
it prunes half of the channels of the same model (its ``ignored_layers`` set to the classifier), and its pruned model is
compared with one whose pruned channels were zeroed in place.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import json
import operator
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

import edgel0
from edgel0.capturing import capture
from edgel0.cost import cost_of, sums
from edgel0.errors import EdgeL0Error
from edgel0.flow import FLOW
from edgel0.masks import masked
from edgel0.slimming import slim
from edgel0.tracing import couple
from edgel0.types import Coupling, Masks

TOLERANCE = 1e-9
LIBRARIES: list[torch.library.Library] = []
PER_FAMILY = 2
TIMEOUT, PEER_TIMEOUT = 1200, 100  # seconds
PEER_MEMORY = 8 << 30  # bytes that the peer may use beside two copies of the model
LARGE = 100_000_000  # parameters; such models are measured one at a time


def torchvision_models() -> Any:
    """Import torchvision, whose compiled operators a CPU-only torch may lack, and return its models."""
    try:
        from torchvision import models
    except (RuntimeError, ImportError):
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        LIBRARIES.append(library)
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        from torchvision import models
    return models


def choose() -> Iterator[tuple[str, int]]:
    """Every torchvision classifier and segmenter and the smallest members of each of timm's families, with their size.

    A family is one of timm's model files; sizes are parameters. Of timm none of ``LARGE`` and more.
    """
    models = torchvision_models()
    for module in (models, models.segmentation):
        for name in models.list_models(module=module):
            yield f"torchvision:{name}", _size(lambda name=name: create(f"torchvision:{name}"))
    import timm

    families: dict[str, list[tuple[int, str]]] = {}
    for name in timm.list_models():
        family = timm.models.model_entrypoint(name).__module__
        families.setdefault(family, []).append((_size(lambda name=name: timm.create_model(name)), name))
    for family in sorted(families):
        for size, name in sorted(families[family])[:PER_FAMILY]:
            if size < LARGE:
                yield f"timm:{name}", size


def _size(make: Callable[[], nn.Module]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.device("meta"):
                made = make()
        except NotImplementedError:  # its constructor reads values of tensors
            made = make()
    return sum(p.numel() for p in made.parameters())


def create(name: str) -> nn.Module:
    """Make a model of the list as its library makes it, without pretrained weights."""
    source, _, model_name = name.partition(":")
    models = torchvision_models()  # timm imports torchvision as well
    if source == "timm":
        import timm

        made: nn.Module = timm.create_model(model_name)
        return made
    segments = model_name in models.list_models(module=models.segmentation)
    return models.get_model(model_name, weights=None, **({"weights_backbone": None} if segments else {}))


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    """Make a model with random weights in float64 and an input of the size that it is trained for."""
    model = create(name)
    side = 299 if name == "torchvision:inception_v3" else 224
    shape = getattr(model, "default_cfg", {}).get("input_size", (3, side, side))
    return randomized_(model.double().eval()), torch.randn(1, *shape, dtype=torch.float64)


def randomized_(model: nn.Module) -> nn.Module:
    """Give every tensor values that matter: no zero head, no layer scale of 1e-6, no trivial statistics."""
    generator = torch.Generator().manual_seed(0)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator, dtype=torch.float64))
        elif name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator, dtype=torch.float64))
    with torch.no_grad():
        for parameter in model.parameters():
            if sum(size > 1 for size in parameter.shape) < 2:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
                if parameter.abs().max() < 0.5:
                    parameter.add_(0.5)
            elif parameter.abs().max() == 0:
                parameter.normal_(0, 0.02, generator=generator)
    return model


def one(name: str) -> dict[str, Any]:
    """Measure one model; what goes wrong is part of the row."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    row: dict[str, Any] = {
        "model": name,
        "captured": False,
        "edgel0": edgel0.__version__,
        "torch": str(torch.__version__),
    }
    model, x = build(name)
    row["parameters"] = sum(p.numel() for p in model.parameters())
    with Growth() as exporting:
        began = time.perf_counter()
        try:
            program = capture(model, x, FLOW)
        except EdgeL0Error as error:
            return row | {"reason": str(error)[:300]}
        row |= {"captured": True, "export_s": _since(began)}
    with Growth() as tracing:
        began = time.perf_counter()
        coupling = couple(program)
        row["trace_s"] = _since(began)
    row |= {"export_peak_bytes": exporting.bytes, "trace_peak_bytes": tracing.bytes}
    row |= {"units": coupling.units, "unknown": list(coupling.unknown)}
    dense = cost_of(coupling)
    row |= {"macs": dense.macs, "params": dense.params, **removable(coupling)}
    masks = Masks.random(coupling, share=0.5, seed=0)
    began = time.perf_counter()
    smaller = slim(model, masks)
    row["slim_s"] = _since(began)
    with torch.no_grad():
        wanted = leaves(masked(model, masks)(x))
        found = leaves(smaller.program.module()(x))
        plain = leaves(model(x))
    scale = max(float(t.abs().max()) for t in wanted)
    row["error"] = max(float((a - b).abs().max()) for a, b in zip(wanted, found, strict=True)) / scale
    row["mask_effect"] = max(float((a - b).abs().max()) for a, b in zip(wanted, plain, strict=True)) / scale
    row |= {"slim_macs": smaller.cost.macs, "slim_params": smaller.cost.params}
    del smaller, program, coupling, masks
    return row | torch_pruning(model, x)


def removable(coupling: Coupling) -> dict[str, float]:
    """Shares of parameters and MACs that lie on a unit: what is gone when every unit is."""
    nothing = torch.zeros(coupling.units + 1, dtype=torch.float64)
    nothing[0] = 1
    everything = torch.ones_like(nothing)
    costs = sums(coupling)
    return {
        f"removable_{metric}": round(1 - float(costs[metric](nothing)) / max(float(costs[metric](everything)), 1), 4)
        for metric in ("macs", "params")
    }


def torch_pruning(model: nn.Module, x: torch.Tensor) -> dict[str, Any]:
    """Prune half of the channels with Torch-Pruning, where it is installed, and compare. ``model`` is changed."""
    try:
        import torch_pruning as tp
    except ImportError:
        return {}
    row: dict[str, Any] = {"tp_version": importlib.metadata.version("torch-pruning"), "tp_forward": False}
    model.requires_grad_(True)
    with torch.no_grad():
        classes = leaves(model(x))[0].shape[1]
    pruned, zeroed = copy.deepcopy(model), model
    layers = [m for m in pruned.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    ignored = [m for m in layers if getattr(m, "out_features", getattr(m, "out_channels", None)) == classes]
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * size + PEER_MEMORY, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(PEER_TIMEOUT)
    began = time.perf_counter()
    try:
        pruner = tp.pruner.MagnitudePruner(
            pruned, x, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=0.5, ignored_layers=ignored
        )
        names = {module: name for name, module in pruned.named_modules()}
        left: dict[str, list[int]] = {}
        with torch.no_grad():
            for group in pruner.step(interactive=True):
                for dependency, indices in group:
                    name = names.get(dependency.target.module)
                    if name and "in_channels" in getattr(dependency.handler, "__name__", ""):
                        zero_(zeroed.get_submodule(name), left.setdefault(name, []), indices)
                group.prune()
            row |= {"tp_s": _since(began), "tp_params": sum(p.numel() for p in pruned.parameters())}
            got = leaves(pruned(x))
            row["tp_forward"] = True
            want = leaves(zeroed(x))
            scale = max(float(t.abs().max()) for t in want)
            row["tp_error"] = max(float((a - b).abs().max()) for a, b in zip(want, got, strict=True)) / scale
    except Exception as error:  # noqa: BLE001 - a peer may fail in any way, and that is the finding
        row["tp_reason"] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:150]}"
    signal.alarm(0)
    return row


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"no end after {PEER_TIMEOUT} s")


def zero_(layer: nn.Module, left: list[int], indices: list[int]) -> None:
    """Zero what Torch-Pruning is about to remove from a layer's *input*: the weights that read the pruned channels.

    ``left`` holds which of the layer's input channels earlier groups left over; ``indices`` count among these.
    """
    weight, groups = getattr(layer, "weight", None), getattr(layer, "groups", 1)
    if not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) or not isinstance(weight, torch.Tensor):
        return
    transposed = getattr(layer, "transposed", False)
    inputs = weight.shape[1]  # of one group
    if not left:
        left.extend(range(weight.shape[0] if transposed else inputs * groups))
    outputs = weight.shape[0] // groups
    for channel in [left[i] for i in set(indices)]:
        left.remove(channel)
        if transposed:
            weight[channel] = 0
        else:
            group = channel // inputs
            weight[group * outputs : (group + 1) * outputs, channel % inputs] = 0


def leaves(value: Any) -> list[torch.Tensor]:
    """Tensors of a model's answer."""
    return [t for t in torch.utils._pytree.tree_leaves(value) if isinstance(t, torch.Tensor)]


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 3)


class Growth:
    """Peak of the resident memory of this process inside the block, beyond what it was at its beginning (Linux)."""

    def __enter__(self) -> Growth:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        self.before = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = _status("VmHWM") - self.before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measured(name: str) -> dict[str, Any]:
    """Run :func:`one` in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.zoo", "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return {"model": name, "captured": False, "crash": f"no answer in {TIMEOUT} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        return {"model": name, "captured": False, "crash": last[:300]}
    row: dict[str, Any] = json.loads(lines[-1])
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table and what it comes to."""
    captured = [r for r in rows if r["captured"]]
    peers = [r for r in rows if "tp_forward" in r]
    ran = [r for r in peers if "tp_error" in r]
    exact = [r for r in ran if r["tp_error"] <= TOLERANCE]
    stopped = [r for r in peers if _stopped(r)]
    versions = ", ".join(sorted({f"edgel0 {r['edgel0']}, torch {r['torch']}" for r in captured}))
    worst = max(captured, key=lambda r: r["error"])
    slow = [r["model"] for r in captured if r["trace_s"] > r["export_s"]]
    lines = [
        "# The zoo",
        "",
        f"Made by `make zoo` ({versions}). {len(rows)} models of torchvision and timm with random weights in float64, "
        "each at the input size that it is made for. A random half of all units is closed (seed 0); *error* is the "
        "largest difference between the masked and the slimmed model, relative to the largest output. *Removable* is "
        "the share that lies on units. The last unit of a group stays: *MACs left* are all of them where every group "
        "is one unit. Seconds are of one run on one thread of a shared x86-64 machine; *trace* is without the export.",
        "",
        f"- captured: {len(captured)} of {len(rows)} ({len(captured) / len(rows):.1%}); crashed: "
        f"{sum('crash' in r for r in rows)}; with unknown operators: {sum(bool(r['unknown']) for r in captured)}",
        f"- largest error: {worst['error']:.1e} ({worst['model']}); exact to {TOLERANCE:.0e}: "
        f"{sum(r['error'] <= TOLERANCE for r in captured)} of {len(captured)}",
        f"- slower to trace than to export: {', '.join(slow) or 'none'}; largest growth of memory in a trace: "
        f"{max(r['trace_peak_bytes'] for r in captured) / 1e6:,.0f} MB, in an export, which runs the model on its "
        f"input: {max(r['export_peak_bytes'] for r in captured) / 1e6:,.0f} MB",
    ]
    if peers:
        lines.append(
            f"- Torch-Pruning {peers[0]['tp_version']} on the same models, half of the channels, the classifier "
            f"ignored, within {PEER_MEMORY >> 30} GiB beside two models and {PEER_TIMEOUT} s: its forward runs on "
            f"{sum(r['tp_forward'] for r in peers)} of {len(peers)} and equals the same model with the removed input "
            f"channels zeroed, to {TOLERANCE:.0e}, on {len(exact)}; {len(stopped)} were stopped by these limits, on a "
            "machine that other work shared. Its difference stands in the column *TP*; **fails** where it raises an "
            "error of its own"
        )
    lines += [
        "",
        "| model | unknown operators | units | removable MACs | parameters | MACs left | error | export s | trace s "
        "| slim s | TP | TP s |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for r in rows:
        if not r["captured"]:
            said = (r.get("crash") or r.get("reason", "")).replace("|", "/")
            lines.append(f"| {r['model']} | not captured: {said[:200]} | | | | | | | | | | |")
            continue
        failed = "stopped" if _stopped(r) else "**fails**" if "tp_forward" in r else ""
        peer = f"{r['tp_error']:.0e}" if "tp_error" in r else failed
        lines.append(
            f"| {r['model']} | {', '.join(r['unknown']) or 'none'} | {r['units']:,} | {r['removable_macs']:.1%} | "
            f"{r['removable_params']:.1%} | {r['slim_macs'] / r['macs']:.1%} | {r['error']:.0e} | "
            f"{r['export_s']:.1f} | {r['trace_s']:.2f} | {r['slim_s']:.2f} | {peer} | {r.get('tp_s', '')} |"
        )
    return "\n".join(lines) + "\n"


def _stopped(row: dict[str, Any]) -> bool:
    """Tell whether our limits ended the peer, not an error of its own."""
    return str(row.get("tp_reason")).startswith(("TimeoutError", "MemoryError"))


def main() -> None:
    """Choose the models, measure those that are not stored yet, or write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path("benchmarks/zoo.txt"), help="a model and its size a line")
    parser.add_argument("--choose", action="store_true", help="write --models anew from what is installed")
    parser.add_argument("--one", help="measure one model here and print its row")
    parser.add_argument("--store", type=Path, default=Path("docs/zoo.jsonl"))
    parser.add_argument("--report", type=Path)
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one)))
    elif options.choose:
        options.models.write_text("".join(f"{name} {size}\n" for name, size in choose()))
    elif options.report:
        rows = map(json.loads, options.store.read_text().splitlines())
        made = table(sorted(rows, key=operator.itemgetter("model")))
        options.report.write_text(made, encoding="utf-8")
        print(made)
    else:
        measure(options.models, options.store, options.only, options.jobs)


def measure(models: Path, store: Path, only: str, jobs: int) -> None:
    """Measure what is listed and not stored yet; large models one at a time, so that memory suffices."""
    store.parent.mkdir(parents=True, exist_ok=True)
    stored = {json.loads(line)["model"] for line in store.read_text().splitlines()} if store.exists() else set()
    listed = [(name, int(size)) for name, size in map(str.split, models.read_text().splitlines())]
    todo = [(name, size) for name, size in listed if only in name and name not in stored]
    done = 0
    for workers, chosen in (
        (jobs, [name for name, size in todo if size < LARGE]),
        (1, [name for name, size in todo if size >= LARGE]),
    ):
        with ThreadPoolExecutor(workers) as pool, store.open("a") as file:
            for row in pool.map(measured, chosen):
                file.write(json.dumps(row) + "\n")
                file.flush()
                done += 1
                state = row.get("crash") or row.get("reason") or f"error {row.get('error', float('nan')):.1e}"
                print(f"{done}/{len(todo)} {row['model']}: {state[:150]}", flush=True)


if __name__ == "__main__":
    main()
