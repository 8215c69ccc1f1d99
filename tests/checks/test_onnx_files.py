"""External data of ONNX models: the walk against the onnx package, and against bytes that are no model."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgel0.checks.onnx_files import INSIDE, external_files

from .artefacts import field, model

MESSAGES = {"model": "ModelProto", "training": "TrainingInfoProto", "function": "FunctionProto", "graph": "GraphProto",
            "node": "NodeProto", "attribute": "AttributeProto", "sparse": "SparseTensorProto", "tensor": "TensorProto",
            "entry": "StringStringEntryProto"}  # fmt: skip


def test_every_message_is_known_by_its_name_in_onnx():
    assert set(MESSAGES) == set(INSIDE)


@pytest.mark.parametrize("message", INSIDE)
def test_the_rows_are_the_fields_of_onnx_proto(message):
    onnx = pytest.importorskip("onnx")
    kinds = {name: kind for kind, name in MESSAGES.items()}
    fields = getattr(onnx, MESSAGES[message]).DESCRIPTOR.fields
    real = {f.number: kinds.get(f.message_type.name) for f in fields if f.message_type}
    leading = {number: kind for number, kind in real.items() if kind and kind != "entry"}
    if message == "tensor":
        leading = {13: "entry"}  # the other entries are metadata
        assert onnx.TensorProto.DESCRIPTOR.fields_by_name["external_data"].number == 13
    assert INSIDE[message] == leading


def test_a_model_saved_by_onnx_names_its_files(tmp_path):
    onnx = pytest.importorskip("onnx")
    numpy_helper, helper = pytest.importorskip("onnx.numpy_helper"), onnx.helper
    import numpy as np

    def weight(name):
        return numpy_helper.from_array(np.ones((300, 4), np.float32), name)

    constant = helper.make_node("Constant", [], ["c"], value=weight("c"))
    branch = helper.make_graph([constant], "b", [], [helper.make_tensor_value_info("c", 1, [300, 4])])
    node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    outputs = [helper.make_tensor_value_info("y", 1, None)]
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", 9, [])], outputs, [weight("w")])
    proto = helper.make_model(graph)
    assert external_files(proto.SerializeToString()) == set()
    path = tmp_path / "a.onnx"
    onnx.save(proto, path, save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0,
              convert_attribute=True)  # fmt: skip
    named = external_files(path.read_bytes())
    assert named == {file.name for file in tmp_path.iterdir()} - {"a.onnx"}
    assert "w" in named


def test_one_location_of_two_tensors_is_one_file():
    assert external_files(model("w.bin", "w.bin", "v.bin")) == {"w.bin", "v.bin"}


@pytest.mark.parametrize(
    "data",
    [
        b"x" * 100,
        b"\x08",
        b"\x08" + b"\x80" * 20,
        b"\x0b",
        b"\x07",
        b"\x00\x00",
        b"\x0d\x00",
        b"\x3a\x05ab",
        field(1, b"no graph"),
        model("w.bin")[:-1],
        field(7, field(5, field(13, field(1, b"location") + field(2, b"\xff")))),
    ],
)
def test_what_is_no_model_is_a_value_error(data):
    with pytest.raises(ValueError, match=r"cut off|no graph|wire type|decode"):
        external_files(data)


def test_depth_is_no_danger():
    graph = b""
    for _ in range(2000):
        graph = field(1, field(5, field(6, graph)))
    assert external_files(field(7, graph)) == set()


@given(st.binary(max_size=60), st.integers(0, 60), st.booleans())
def test_any_bytes_end_in_names_or_a_value_error(noise, at, alone):
    data = model("w.bin", "v.bin")
    with contextlib.suppress(ValueError):
        found = external_files(noise if alone else data[:at] + noise + data[at:])
        assert all(isinstance(name, str) for name in found)
