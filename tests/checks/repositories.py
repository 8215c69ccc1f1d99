"""A repository as a user has it: a model, a budget, a baseline, and a history of git."""

import json
import os
import subprocess

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

QUIET = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "HOME": os.devnull}
WHO = {f"GIT_{who}_{what}": f"a@{what}" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

CONFIG = """\
[[budget]]
name = "digits"
path = "dist/digits.onnx"
max_size = "100 kB"
max_increase = "1 %"
message = "See docs/size.md."
"""


def git(folder, *arguments):
    """Run git as nobody in particular, and return what it prints."""
    command = ["git", "-c", "init.defaultBranch=main", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **QUIET, **WHO}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(folder, message="change"):
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", message)
    return git(folder, "rev-parse", "HEAD")


def network(path, hidden=200, channels=4, external=False):
    """Write a small ONNX network: conv1, relu, flatten, fc1 with ``hidden`` units, fc2."""
    rng = np.random.default_rng(0)
    sizes = {
        "conv1.weight": (channels, 1, 3, 3), "conv1.bias": (channels,), "fc1.weight": (hidden, channels * 16),
        "fc1.bias": (hidden,), "fc2.weight": (10, hidden), "fc2.bias": (10,),
    }  # fmt: skip
    weights = [numpy_helper.from_array(rng.random(size, np.float32), name) for name, size in sizes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "conv1.weight", "conv1.bias"], ["a"], "conv1"),
        helper.make_node("Relu", ["a"], ["b"], "relu1"),
        helper.make_node("Flatten", ["b"], ["c"], "flatten"),
        helper.make_node("Gemm", ["c", "fc1.weight", "fc1.bias"], ["d"], "fc1", transB=1),
        helper.make_node("Relu", ["d"], ["e"], "relu2"),
        helper.make_node("Gemm", ["e", "fc2.weight", "fc2.bias"], ["y"], "fc2", transB=1),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", (1, 1, 6, 6)), ("y", (1, 10)))]
    graph = helper.make_graph(nodes, "digits", ends[:1], ends[1:], weights)
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)  # onnx would add to it
    onnx.save(model, path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=0)
    return path


def repository(folder, config=CONFIG, **options):
    """Make a repository with one commit: a network within its budget."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q")
    network(folder / "dist" / "digits.onnx", **options)
    (folder / "edgel0.toml").write_text(config)
    commit(folder, "a model and its budget")
    return folder


def counts(hidden=200, channels=4):
    """MACs and parameters of :func:`network`, by hand."""
    macs = channels * 9 * 16 + channels * 16 * hidden + hidden * 10
    params = channels * 9 + channels + channels * 16 * hidden + hidden + hidden * 10 + 10
    return {"macs": macs, "params": params, "weight_bytes": 4 * params}


def checks(out):
    """The checks of ``--format json`` by metric and bound."""
    return {(row["metric"], row["bound"]): row for row in json.loads(out)["checks"]}
