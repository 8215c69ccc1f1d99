"""Every net in every format, run by its own runtime here in the test, against the model in torch."""

import copy
import json
import zipfile
from collections import Counter

import ai_edge_litert.interpreter as litert
import numpy as np
import onnx
import onnxruntime
import onnxsim
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema

from edgel0.errors import UsageError
from edgel0.exporters.signature import leaves
from edgel0.exporters.writing import export

from .small_nets import WRITABLE

NAMES = {
    "image": (["image"], ["output"]),
    "audio": (["wave"], ["output"]),
    "two": (["picture", "tokens"], ["relu", "map"]),
}


def samples(example, count=3):
    generator = torch.Generator().manual_seed(7)
    for _ in range(count):
        yield tuple(
            torch.randn(t.shape, generator=generator)
            if t.is_floating_point()
            else torch.randint(0, 7, t.shape, generator=generator)
            for t in example
        )


def answer(model, sample):
    with torch.no_grad():
        return [tensor.numpy() for tensor in leaves(model(*sample))]


def operators(path):
    interpreter = litert.Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    return Counter(op["op_name"] for op in interpreter._get_ops_details())


@pytest.mark.parametrize("net", NAMES)
def test_onnx_equals_torch(net, nets, artifacts):
    model, example = nets[net]
    session = onnxruntime.InferenceSession(artifacts[net, ".onnx"].path, providers=["CPUExecutionProvider"])
    inputs, outputs = NAMES[net]
    assert [i.name for i in session.get_inputs()] == inputs
    assert [o.name for o in session.get_outputs()] == outputs
    for sample in samples(example):
        found = session.run(None, {name: t.numpy() for name, t in zip(inputs, sample, strict=True)})
        for got, want in zip(found, answer(model, sample), strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("net", NAMES)
def test_tflite_equals_torch(net, nets, artifacts):
    model, example = nets[net]
    runner = litert.Interpreter(str(artifacts[net, ".tflite"].path), num_threads=1).get_signature_runner()
    inputs, outputs = NAMES[net]
    for sample in samples(example):
        feeds = {
            name: t.numpy() if t.is_floating_point() else t.numpy().astype(np.int32)
            for name, t in zip(inputs, sample, strict=True)
        }
        found = runner(**feeds)
        for name, want in zip(outputs, answer(model, sample), strict=True):
            np.testing.assert_allclose(found[name], want, rtol=0, atol=1e-5)


def test_nhwc_takes_channels_last(nets, artifacts):
    model, example = nets["image"]
    artifact = artifacts["image", "nhwc"]
    assert artifact.inputs[0].shape == (1, 12, 10, 3)
    interpreter = litert.Interpreter(str(artifact.path), num_threads=1)
    runner = interpreter.get_signature_runner()
    for (image,) in samples(example):
        found = runner(image=image.permute(0, 2, 3, 1).contiguous().numpy())["output"]
        np.testing.assert_allclose(found, answer(model, (image,))[0], rtol=0, atol=1e-5)
    nchw = operators(artifacts["image", ".tflite"].path)
    assert operators(artifact.path)["TRANSPOSE"] == nchw["TRANSPOSE"] - 1  # the one at the input


@pytest.mark.parametrize("net", NAMES)
def test_saved_programs_equal_torch(net, nets, artifacts):
    model, example = nets[net]
    module = torch.export.load(artifacts[net, ".pt2"].path).module()
    for sample in samples(example):
        for got, want in zip(answer(module, sample), answer(model, sample), strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("net", NAMES)
def test_no_batch_norm_is_left(net, artifacts):
    graph = onnx.load(artifacts[net, ".onnx"].path).graph
    assert not {node.op_type for node in graph.node} & {"BatchNormalization", "Mul", "Sub"}
    assert sum(node.op_type == "Add" for node in graph.node) == (1 if net == "two" else 0)
    found = operators(artifacts[net, ".tflite"].path)
    assert found["MUL"] == found["SUB"] == 0
    assert found["ADD"] == (1 if net == "two" else 0)  # the model's own sum


@pytest.mark.parametrize("net", NAMES)
def test_inputs_and_outputs_are_told_in_order(net, nets, artifacts):
    model, example = nets[net]
    inputs, outputs = NAMES[net]
    for suffix in WRITABLE:
        artifact = artifacts[net, suffix]
        assert [(i.name, i.shape) for i in artifact.inputs] == [
            (name, tuple(t.shape)) for name, t in zip(inputs, example, strict=True)
        ]
        assert [(o.name, o.shape) for o in artifact.outputs] == [
            (name, a.shape) for name, a in zip(outputs, answer(model, example), strict=True)
        ]
        assert {o.dtype for o in artifact.outputs} == {"float32"}
    assert artifacts["two", ".onnx"].inputs[1].dtype == "int64"
    assert artifacts["two", ".tflite"].inputs[1].dtype == "int32"


def test_provenance_travels_in_the_file(artifacts):
    model = onnx.load(artifacts["image", ".onnx"].path)
    (entry,) = model.metadata_props
    assert entry.key == "edgel0"
    assert json.loads(entry.value) == artifacts["image", ".onnx"].provenance
    assert artifacts["image", ".onnx"].provenance["onnx"] == {
        "opset": 20,
        "simplified": "yes",
        "operators": len(model.graph.node),
        "transposes": 0,
    }

    tflite = artifacts["image", ".tflite"]
    flat = schema.ModelT.InitFromObj(schema.Model.GetRootAs(tflite.path.read_bytes(), 0))
    (note,) = (m for m in flat.metadata if m.name == b"edgel0")
    assert json.loads(bytes(flat.buffers[note.buffer].data)) == tflite.provenance
    assert tflite.provenance["kept"] == {"stem": 8}

    extra = {"edgel0": ""}
    torch.export.load(artifacts["image", ".pt2"].path, extra_files=extra)
    assert json.loads(extra["edgel0"]) == artifacts["image", ".pt2"].provenance


def test_a_simplifier_that_fails_is_done_without(slims, tmp_path, monkeypatch):
    def fail(model):
        raise RuntimeError("no")

    monkeypatch.setattr(onnxsim, "simplify", fail)
    artifact = export(slims["audio"], tmp_path / "m.onnx")
    assert artifact.provenance["onnx"]["simplified"] == "no: RuntimeError in onnxsim"
    content = artifact.path.read_bytes()
    assert not [word for word in (b"stack_trace", b"small_nets.py", b"site-packages") if word in content]


def test_a_simplifier_that_changes_an_output_is_done_without(slims, tmp_path, monkeypatch):
    def break_it(model):
        broken = copy.deepcopy(model)
        weight = broken.graph.initializer[0]
        weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) + 1, weight.name))
        return broken, True

    monkeypatch.setattr(onnxsim, "simplify", break_it)
    artifact = export(slims["audio"], tmp_path / "m.onnx")
    assert artifact.provenance["onnx"]["simplified"] == "no: ParityError in onnxsim"
    assert artifact.parity.max_abs <= 1e-5


def test_no_file_tells_where_it_was_made(artifacts):
    for artifact in artifacts.values():
        if artifact.format == "pt2":
            with zipfile.ZipFile(artifact.path) as archive:
                content = b"".join(archive.read(name) for name in archive.namelist())
        else:
            content = artifact.path.read_bytes()
        assert b"small_nets.py" not in content
        assert b"site-packages" not in content
        assert str(artifact.path.parent).encode() not in content


@pytest.mark.parametrize("suffix", WRITABLE)
def test_the_same_program_gives_the_same_bytes(suffix, slims, artifacts, tmp_path):
    again = export(slims["image"], tmp_path / f"other_name{suffix}")
    assert again.path.read_bytes() == artifacts["image", suffix].path.read_bytes()


@pytest.mark.parametrize(("suffix", "layout"), [(".onnx", "nhwc"), (".pt2", "nhwc"), (".tflite", "nwhc")])
def test_a_layout_that_the_format_lacks(suffix, layout, slims, tmp_path):
    with pytest.raises(UsageError, match=f"{layout!r}.*'nchw'"):
        export(slims["image"], tmp_path / f"m{suffix}", layout=layout)
    assert list(tmp_path.iterdir()) == []
