"""Two real, tiny models (x @ w, 8 features), each built without the exporter that edgel0 uses."""

import os
import sys
from pathlib import Path

import flatbuffers
import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as tflite
from onnx import TensorProto, helper, numpy_helper

FEATURES = 8
FAKE_QEMU = Path(__file__).with_name("fake_qemu.py")


def save_onnx(path: Path, features: int = FEATURES) -> Path:
    weight = np.random.default_rng(0).standard_normal((features, features), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", features])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", features])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def save_tflite(path: Path) -> Path:
    def tensor(name: str, rows: int, buffer: int) -> tflite.TensorT:
        made = tflite.TensorT()
        made.name, made.shape, made.type, made.buffer = name, [rows, FEATURES], tflite.TensorType.FLOAT32, buffer
        return made

    code, operator, graph, model = tflite.OperatorCodeT(), tflite.OperatorT(), tflite.SubGraphT(), tflite.ModelT()
    code.builtinCode = code.deprecatedBuiltinCode = tflite.BuiltinOperator.FULLY_CONNECTED
    code.version = 1
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0, 1, -1], [2]
    operator.builtinOptionsType = tflite.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = tflite.FullyConnectedOptionsT()
    graph.tensors = [tensor("x", 1, 0), tensor("w", FEATURES, 1), tensor("y", 1, 0)]
    graph.inputs, graph.outputs, graph.operators = [0], [2], [operator]
    weight = np.random.default_rng(0).standard_normal((FEATURES, FEATURES), np.float32)
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [tflite.BufferT(), tflite.BufferT()]
    model.buffers[1].data = weight.view(np.uint8).reshape(-1)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    return path


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory):
    return save_onnx(tmp_path_factory.mktemp("models") / "tiny.onnx")


@pytest.fixture(scope="session")
def tflite_file(tmp_path_factory):
    return save_tflite(tmp_path_factory.mktemp("models") / "tiny.tflite")


@pytest.fixture(scope="session")
def large_onnx_file(tmp_path_factory):
    """32 MiB of weights."""
    return save_onnx(tmp_path_factory.mktemp("models") / "large.onnx", 2896)


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder that is first on the PATH, with a qemu-aarch64 in it that emulates nothing."""
    folder = tmp_path / "bin"
    folder.mkdir()
    # -E: the emulated Python's home is not for this one
    (folder / "qemu-aarch64").write_text(f'#!/bin/sh\nexec {sys.executable} -E {FAKE_QEMU} "$@"\n')
    (folder / "qemu-aarch64").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder
