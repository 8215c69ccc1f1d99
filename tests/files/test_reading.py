"""What a file holds: against counts by hand, the cost of the program it came from, and its own bytes."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from edgel0.cost import program_cost
from edgel0.errors import DeviceError, UsageError
from edgel0.exporters.writing import export
from edgel0.files.counting import figures
from edgel0.files.graph import provenance
from edgel0.files.reading import read
from edgel0.files.tflite_names import OPERATORS, TYPES
from edgel0.types import Slimmed

onnx = pytest.importorskip("onnx")
helper, numpy_helper = onnx.helper, pytest.importorskip("onnx.numpy_helper")


class Sixes(nn.Module):
    """A convolution with bias, one per channel, a transposed one, and a linear layer: all counted by hand below."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Linear(4 * 10 * 10, 5)

    def forward(self, image):
        return self.head(self.up(torch.relu(self.depthwise(torch.relu(self.conv(image))))).flatten(1))


MACS = [8 * 10 * 10 * 27, 8 * 5 * 5 * 9, 8 * 5 * 5 * 4 * 4, 5 * 400]
PARAMS = (8 * 27 + 8) + (8 * 9 + 8) + (8 * 4 * 4 + 4) + (5 * 400 + 5)


@pytest.fixture(scope="module")
def slim():
    torch.manual_seed(0)
    program = torch.export.export(Sixes().eval(), (torch.randn(1, 3, 10, 10),), strict=False)
    cost = program_cost(program)
    return Slimmed(program, cost, cost, {"rule": "median"})


@pytest.fixture(scope="module")
def files(slim, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name in ("a.onnx", "a.tflite"):
        export(slim, folder / name)
    return folder


@pytest.mark.parametrize("name", ["a.onnx", "a.tflite"])
def test_macs_and_parameters_are_those_counted_by_hand_and_those_of_the_program(files, slim, name):
    graph = read(files / name)
    found = figures(graph)
    assert sorted(each.macs for each in graph.operators if each.macs) == sorted(MACS)
    assert found.macs == sum(MACS) == slim.cost.macs
    assert found.params == PARAMS == slim.cost.params
    assert (
        found.weight_bytes
        == sum(found.weights.values())
        == 4 * PARAMS + found.weights.get("int32", 0) + (found.weights.get("int64", 0))
    )
    assert not found.unknown
    assert provenance(graph)["rule"] == "median"


def test_the_sizes_of_an_onnx_file_are_those_that_onnx_tells(files):
    graph, model = read(files / "a.onnx"), onnx.load(files / "a.onnx")
    theirs = {each.name: numpy_helper.to_array(each).nbytes for each in model.graph.initializer}
    assert {name: each.bytes for name, each in graph.tensors.items() if each.constant} == theirs
    assert [each.kind for each in graph.operators] == [each.op_type for each in model.graph.node]
    assert graph.opset == model.opset_import[0].version


def test_the_tensors_of_a_tflite_file_are_those_that_the_runtime_tells(files):
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    runtime = litert.Interpreter(str(files / "a.tflite"), experimental_op_resolver_type=plain)
    graph = read(files / "a.tflite")
    theirs = {
        each["name"]: (tuple(each["shape"]), np.dtype(each["dtype"]).name) for each in runtime.get_tensor_details()
    }
    assert {name: (each.shape, each.dtype) for name, each in graph.tensors.items()} == theirs
    assert [each.kind for each in graph.operators] == [each["op_name"] for each in runtime._get_ops_details()]


def made(nodes, inputs, outputs, weights=(), values=()):
    """Return an ONNX model; a tensor is (name, shape)."""
    info = [
        [helper.make_tensor_value_info(name, 1, shape) for name, shape in each] for each in (inputs, outputs, values)
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights]
    return helper.make_model(helper.make_graph(nodes, "g", info[0], info[1], tensors, value_info=info[2]))


def saved(tmp_path, *parts, **more):
    path = tmp_path / "m.onnx"
    path.write_bytes(made(*parts, **more).SerializeToString())
    return path


ONES = np.ones
CASES = {
    "Gemm": (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), (2, 6), (2, 4), ONES((4, 6), "f"), 2 * 4 * 6),
    "MatMul": (helper.make_node("MatMul", ["x", "w"], ["y"]), (3, 5, 6), (3, 5, 2), ONES((6, 2), "f"), 3 * 5 * 2 * 6),
    "grouped": (
        helper.make_node("Conv", ["x", "w"], ["y"], group=2), (1, 4, 5, 5), (1, 6, 3, 3), ONES((6, 2, 3, 3), "f"),
        6 * 9 * 2 * 9,
    ),
    "1-D": (helper.make_node("Conv", ["x", "w"], ["y"]), (1, 4, 9), (1, 6, 7), ONES((6, 4, 3), "f"), 6 * 7 * 4 * 3),
    "Einsum": (
        helper.make_node("Einsum", ["x", "w"], ["y"], equation="bi,oi->bo"), (2, 6), (2, 4), ONES((4, 6), "f"), 48,
    ),
    "outer": (
        helper.make_node("Einsum", ["x", "w"], ["y"], equation="bi,o->bio"), (2, 6), (2, 6, 4), ONES((4,), "f"), 0,
    ),
    "Relu": (helper.make_node("Relu", ["x"], ["y"]), (2, 6), (2, 6), ONES((4, 6), "f"), 0),
    "unknown": (helper.make_node("Blend", ["x", "w"], ["y"], domain="mine"), (2, 6), (2, 6), ONES((2,), "f"), None),
    "uncounted": (helper.make_node("DFT", ["x"], ["y"]), (1, 6, 1), (1, 6, 2), ONES((2,), "f"), None),
    "shapeless": (helper.make_node("Gemm", ["x", "w"], ["y"]), (2, 6), None, ONES((6, 4), "f"), None),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_operator_counts_as_by_hand(tmp_path, name):
    node, shape, result, weight, macs = CASES[name]
    graph = read(saved(tmp_path, [node], [("x", shape)], [("y", result)], [("w", weight)]))
    assert figures(graph).macs == macs
    assert bool(graph.operators[0].note) is (macs is None)


def test_any_number_of_samples_counts_as_one(tmp_path):
    node = helper.make_node("Gemm", ["x", "w"], ["y"])
    graph = read(saved(tmp_path, [node], [("x", ("n", 6))], [("y", ("n", 4))], [("w", ONES((6, 4), "f"))]))
    found = figures(graph)
    assert (found.macs, found.activation_bytes) == (24, 4 * (6 + 4))


def test_a_shared_weight_counts_once_and_a_batch_norms_statistics_are_no_parameters(tmp_path):
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"]),
        helper.make_node("Gemm", ["a", "w"], ["b"]),
        helper.make_node("BatchNormalization", ["b", "s", "s2", "m", "v"], ["y"]),
    ]
    weights = [("w", ONES((6, 6), "f")), *((name, ONES(6, "f")) for name in ("s", "s2", "m", "v"))]
    path = saved(tmp_path, nodes, [("x", (1, 6))], [("y", (1, 6))], weights, values=[("a", (1, 6)), ("b", (1, 6))])
    found = figures(read(path))
    assert (found.macs, found.params, found.weight_bytes) == (72, 36 + 12, 4 * (36 + 24))


def test_integers_and_what_scales_them(tmp_path):
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wf"]),
        helper.make_node("DequantizeLinear", ["b", "s"], ["bf"]),
        helper.make_node("Gemm", ["x", "wf", "bf"], ["y"]),
    ]
    weights = [("w", ONES((6, 4), "i1")), ("s", ONES((), "f")), ("z", ONES((), "i1")), ("b", ONES(4, "i4"))]
    path = saved(tmp_path, nodes, [("x", (1, 6))], [("y", (1, 4))], weights, values=[("wf", (6, 4)), ("bf", (4,))])
    graph = read(path)
    found = figures(graph)
    assert (found.macs, found.params, dict(found.weights)) == (24, 28, {"float32": 4, "int32": 16, "int8": 25})
    assert graph.operators[-1].params == 28
    assert found.activation_bytes == 4 * (6 + 4)


def test_a_branch_is_not_counted_as_if_it_ran(tmp_path):
    inner = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"])], "b", [], [helper.make_tensor_value_info("z", 1, (1, 4))]
    )
    node = helper.make_node("If", ["c"], ["y"], name="either", then_branch=inner, else_branch=inner)
    path = saved(tmp_path, [node], [("x", (1, 6)), ("c", ())], [("y", (1, 4))], [("w", ONES((6, 4), "f"))])
    graph = read(path)
    found = figures(graph)
    assert [each.kind for each in graph.operators] == ["If", "MatMul", "MatMul"]
    assert graph.operators[1].inputs == ("x", "w")
    assert (found.macs, found.params, found.activation_bytes) == (None, 24, None)
    assert "branch" in found.unknown[0]


def test_weights_beside_the_file_count_and_stay_in_its_folder(tmp_path):
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = made([node], [("x", (1, 60))], [("y", (1, 40))], [("w", ONES((60, 40), "f"))])
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    graph = read(tmp_path / "m.onnx")
    assert (figures(graph).weight_bytes, graph.external) == (9600, {"w.bin": 9600})
    (tmp_path / "w.bin").write_bytes(b"short")
    with pytest.raises(UsageError, match="does not fit"):
        read(tmp_path / "m.onnx")


@pytest.mark.parametrize("name", ["a.pt2", "a.pt", "a.png", "a", "a.onxx"])
def test_another_kind_of_file_is_told_what_to_do(tmp_path, name):
    with pytest.raises(UsageError, match=r"export|Known are \.onnx, \.tflite"):
        read(tmp_path / name)


def test_what_cannot_be_read_is_the_devices_fault(files, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refused)
    with pytest.raises(DeviceError, match="permissions"):
        read(files / "a.onnx")


def test_the_names_of_tflites_numbers_are_those_of_its_schema():
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

    def words(table):
        return {number: word for word, number in vars(table).items() if not word.startswith("_")}

    assert dict(enumerate(OPERATORS)) == words(schema.BuiltinOperator)
    theirs = {number: word.lower().replace("float8_", "float8") for number, word in words(schema.TensorType).items()}
    assert dict(enumerate(TYPES)) == theirs


def test_reading_imports_nothing_heavy(files):
    code = f"from edgel0.files.reading import read; read({str(files / 'a.onnx')!r}); import sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "edgel0.files.onnx_file" in loaded
    assert not {"torch", "onnx", "google", "flatbuffers", "numpy", "rich"} & set(loaded)
