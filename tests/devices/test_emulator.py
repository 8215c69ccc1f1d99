"""Real runtimes on emulated cores: figures that repeat, that mean something, and failures that are told.

They run where ``edgel0 devices setup qemu`` has been; ``make emulator`` does that first.
"""

import shutil
import tempfile

import numpy as np
import onnx
import pytest
import torch
from conftest import save_onnx, save_tflite
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import edgel0
from edgel0.devices.emulator.place import emulator
from edgel0.devices.qemu import count
from edgel0.errors import DeviceError
from edgel0.types import Masks

pytestmark = pytest.mark.emulator
SPREAD = 2e-4  # of ONNX Runtime, whose run reads clocks


@pytest.fixture(scope="module", autouse=True)
def there():
    try:
        return emulator()
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def convolutions(tmp_path_factory):
    """A small network in both formats, in float32 and int8, dense and with about half of its units."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten()]
    model, example = nn.Sequential(*layers, nn.Linear(32 * 144, 10)).eval(), torch.randn(1, 3, 12, 12)
    coupling = edgel0.trace(model, example)
    folder = tmp_path_factory.mktemp("models")
    samples = [(torch.randn(1, 3, 12, 12),) for _ in range(8)]
    dense = Masks(coupling, np.ones(coupling.units + 1, bool), "dense")
    for name, masks in (("dense", dense), ("slim", Masks.random(coupling, 0.5, 0))):
        slim = edgel0.slim(model, masks, example)
        for suffix in ("onnx", "tflite"):
            edgel0.export(slim, folder / f"{name}.{suffix}")
            edgel0.export(slim, folder / f"{name}8.{suffix}", precision="static_wi8_ai8", calibrate=samples)
    return folder


def instructions(files, core="cortex-a72", **options):
    return [row.instructions for row in count(files, core, **options)]


def test_figures_are_the_same_in_another_place(there, convolutions, tmp_path, monkeypatch):
    files = [convolutions / "dense.onnx", convolutions / "dense.tflite"]
    here = count(files)
    elsewhere = tmp_path / "a place, with a longer name" / there.folder.name
    shutil.copytree(there.folder, elsewhere, symlinks=True)
    (tmp_path / "temporary files, elsewhere too").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary files, elsewhere too"))
    monkeypatch.setenv("SOMETHING", "x" * 1000)
    renamed = [shutil.copy(file, tmp_path / f"another-name-{file.name}") for file in files]
    again = count(renamed, cache=elsewhere.parent)
    assert [row.runtime.split()[0] for row in here] == ["onnxruntime", "ai-edge-litert"]
    assert (again[1].instructions, again[1].accesses, again[1].samples) == (
        here[1].instructions,
        here[1].accesses,
        here[1].samples,
    )
    assert here[1].spread == 0
    assert again[0].instructions == pytest.approx(here[0].instructions, rel=SPREAD)


def test_half_of_the_units_takes_about_as_much_less(convolutions):
    for suffix in ("onnx", "tflite"):
        dense, slim = instructions([convolutions / f"dense.{suffix}", convolutions / f"slim.{suffix}"])
        assert 0.2 < slim / dense < 0.75


def test_int8_pays_where_there_are_dot_products(convolutions):
    files = [convolutions / f"{name}.{suffix}" for suffix in ("onnx", "tflite") for name in ("dense", "dense8")]
    for core, low, high in (("cortex-a72", 0.6, 1.5), ("cortex-a76", 0.2, 0.8)):
        floats, ints, floats_lite, ints_lite = instructions(files, core)
        assert low < ints / floats < high
        assert low < ints_lite / floats_lite < high


def test_a_product_of_four_times_the_size_takes_four_times_the_instructions(tmp_path):
    small, large = instructions([save_onnx(tmp_path / f"{n}.onnx", n) for n in (256, 512)])
    # four multiply-accumulates per instruction, and as many loads
    assert 512 * 512 / 4 < large < 512 * 512 * 2
    assert 2.5 < large / small < 4.5


def test_external_data(tmp_path):
    model = onnx.load(save_onnx(tmp_path / "m.onnx", 64))
    onnx.save(model, tmp_path / "e.onnx", save_as_external_data=True, location="e.bin", size_threshold=0)
    whole, parted = instructions([tmp_path / "m.onnx", tmp_path / "e.onnx"])
    assert parted == pytest.approx(whole, rel=0.05)


def onnx_of(path, node, shape=(1,), tensors=(), domain=""):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    values[1] = helper.make_empty_tensor_value_info("y") if domain else values[1]
    graph = helper.make_graph([node], "g", values[:1], values[1:], tensors)
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def test_an_unknown_operator_is_told(tmp_path):
    node = helper.make_node("Strange", ["x"], ["y"], domain="org.example")
    with pytest.raises(DeviceError, match=r"failed on 'm.onnx'.*Strange.*knows its operators"):
        count([onnx_of(tmp_path / "m.onnx", node, domain="org.example")])


def test_memory_that_runs_out_is_told(tmp_path):
    shape = numpy_helper.from_array(np.array([1 << 36]), "shape")
    node = helper.make_node("Expand", ["x", "shape"], ["y"])
    file = onnx_of(tmp_path / "m.onnx", node, tensors=[shape])
    model = onnx.load(file)
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1 << 36
    onnx.save(model, file)
    with pytest.raises(DeviceError, match="memory ran out while counting"):
        count([file])


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_a_damaged_file_is_told(tmp_path, suffix):
    whole = {"onnx": save_onnx, "tflite": save_tflite}[suffix](tmp_path / f"whole.{suffix}")
    (tmp_path / f"half.{suffix}").write_bytes(whole.read_bytes()[:-64])
    with pytest.raises(DeviceError, match="half"):
        count([tmp_path / f"half.{suffix}"])


def test_time_runs_out(tmp_path):
    with pytest.raises(DeviceError, match=r"longer than 0\.5 s"):
        count([save_tflite(tmp_path / "m.tflite")], max_secs=0.5)
