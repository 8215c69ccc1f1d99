"""Files in fewer bits: right in their runtimes, the same bytes every time, in one piece for the delegate."""

import json

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgel0.errors import ParityError, UsageError
from edgel0.exporters import onnx_precision
from edgel0.exporters.precision import PRECISIONS, precision_of
from edgel0.exporters.tflite_precision import partitions
from edgel0.exporters.writing import export

from .small_nets import slimmed

FORMATS = (".onnx", ".tflite")
SMALLER = [name for name in PRECISIONS if name != "float32"]


class Swish(nn.Module):
    """Weights that are large enough to count, and an activation that XNNPACK has no integer kernel for."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, image):
        x = F.hardswish(self.stem(image))
        return self.head((x + F.relu(self.body(x))).mean((2, 3)))


def drawn(slim, count=16, seed=0):
    """Samples like the program's example: real numbers are drawn, whole ones stay."""
    generator = torch.Generator().manual_seed(seed)
    example = slim.program.example_inputs[0]
    return [
        tuple(torch.randn(t.shape, generator=generator) if t.is_floating_point() else t for t in example)
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def swish():
    torch.manual_seed(0)
    return slimmed(Swish().eval(), torch.randn(1, 3, 12, 12))


@pytest.mark.parametrize("precision", SMALLER)
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", ["image", "audio", "two"])
def test_every_precision_in_every_format(slims, tmp_path, name, suffix, precision):
    slim, path = slims[name], tmp_path / f"m{suffix}"
    data = drawn(slim)
    made = export(slim, path, precision=precision, calibrate=data, inputs=drawn(slim, 4, seed=1))
    assert made.precision == precision
    assert 0 < made.parity.relative <= made.parity.tolerance == PRECISIONS[precision].tolerance
    told = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert told["precision"] == precision
    content = path.read_bytes()
    export(slim, path, precision=precision, calibrate=data, inputs=drawn(slim, 4, seed=1))
    assert path.read_bytes() == content  # no name, no time, no folder in it
    assert b"/tmp" not in content


@pytest.mark.parametrize("suffix", FORMATS)
def test_fewer_bits_are_fewer_bytes(swish, tmp_path, suffix):
    size = {
        precision: export(swish, tmp_path / f"{precision}{suffix}", precision=precision, calibrate=drawn(swish)).bytes
        for precision in PRECISIONS
    }
    weights = 4 * (3 * 16 * 9 + 16 * 16 * 9)
    assert size["float32"] - size["float16"] > 0.4 * weights
    assert size["float16"] - size["weight_only_wi8_afp32"] > 0.1 * weights


def test_weights_of_any_size_stay_in_a_tflite_file(tmp_path):
    slim = slimmed(nn.Sequential(nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)).eval(), torch.randn(1, 800))
    made = export(slim, tmp_path / "m.tflite", precision="static_wi8_ai8", calibrate=drawn(slim))
    assert made.bytes > 400_000


def test_static_tflite_stays_in_one_piece(swish, tmp_path):
    made = export(swish, tmp_path / "m.tflite", precision="static_wi8_ai8", calibrate=drawn(swish))
    told = made.provenance["tflite"]
    assert (told["partitions"], told["outside"]) == partitions(made.path.read_bytes()) == (1, [])
    assert told["kept_float"] == ["HARD_SWISH"]
    whole = export(swish, tmp_path / "f.tflite").provenance["tflite"]
    assert (whole["partitions"], whole["kept_float"]) == (1, [])


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_integer_inputs_say_what_they_stand_for(swish, tmp_path, layout):
    made = export(swish, tmp_path / "m.tflite", precision="static_wi8_ai8", calibrate=drawn(swish), layout=layout)
    (image,), (output,) = made.inputs, made.outputs
    assert image.shape == ((1, 3, 12, 12) if layout == "nchw" else (1, 12, 12, 3))
    assert (image.dtype, output.dtype) == ("int8", "int8")
    values = torch.cat([x for (x,) in drawn(swish)])
    assert 255 * image.scale == pytest.approx(float(values.max() - values.min()), rel=1e-5)  # nothing is cut off
    told = json.loads((tmp_path / "m.tflite.json").read_text())["inputs"][0]
    assert (told["scale"], told["zero_point"]) == (image.scale, image.zero_point)


def test_weights_in_fewer_bits_are_restored_by_constants_alone(swish, tmp_path):
    """So a runtime does it once, when it loads the file."""
    for precision in onnx_precision.STORED:
        graph = onnx.load(export(swish, tmp_path / "m.onnx", precision=precision).path).graph
        known = {tensor.name for tensor in graph.initializer}
        stored = [tensor for tensor in graph.initializer if tensor.data_type in (10, 3)]  # float16, int8
        assert len(stored) == 3
        for node in graph.node:
            if node.op_type in ("Cast", "Mul") and set(node.input) <= known:
                known |= set(node.output)
        for node in graph.node:
            if node.op_type in ("Conv", "Gemm"):
                assert node.input[1] in known


@pytest.mark.parametrize("shape", [(16, 8, 3, 3), (8, 16, 3, 3), (2, 40, 12), (64, 7), (7, 64), (65,), (1, 64)])
def test_a_scale_per_channel_of_the_axis_that_needs_it(shape):
    rng = np.random.default_rng(0)
    for axis in range(len(shape)):
        weight = rng.normal(size=shape).astype(np.float32)
        along = [n if i == axis else 1 for i, n in enumerate(shape)]
        weight *= 10.0 ** np.linspace(-3, 3, shape[axis]).astype(np.float32).reshape(along)
        numbers, scale = onnx_precision._int8(weight)
        assert numbers.dtype == np.int8
        assert (np.abs(weight - numbers * scale) <= scale / 2 * (1 + 1e-6)).all()
        if shape[axis] * onnx_precision.PER_SCALE <= weight.size and shape[axis] > 1:
            assert scale.shape == tuple(along)


def test_zeros_stay_zeros():
    numbers, scale = onnx_precision._int8(np.zeros((16, 16), np.float32))
    assert not (numbers * scale).any()
    assert np.isfinite(scale).all()


def test_float16_does_not_overflow():
    numbers, _ = onnx_precision._float16(np.array([1e6, -1e9, 1.0], np.float32))
    assert np.isfinite(numbers).all()


@pytest.mark.parametrize("suffix", FORMATS)
def test_integer_activations_need_data(swish, tmp_path, suffix):
    with pytest.raises(UsageError, match="there is none to calibrate on; give some tens of real samples"):
        export(swish, tmp_path / f"m{suffix}", precision="static_wi8_ai8")
    with pytest.raises(UsageError, match="sample 0 of inputs holds"):
        export(swish, tmp_path / f"m{suffix}", precision="static_wi8_ai8", calibrate=[(torch.zeros(1, 3, 5, 5),)])
    assert not list(tmp_path.iterdir())


def test_an_unknown_precision_names_the_nearest(swish, tmp_path):
    with pytest.raises(UsageError, match=r"no precision 'static_w8_ai8'; it must be one of float32, .*did you mean"):
        export(swish, tmp_path / "m.onnx", precision="static_w8_ai8")
    assert precision_of("float16").tolerance == 0.01


def test_a_program_file_keeps_its_numbers(swish, tmp_path):
    with pytest.raises(UsageError, match=r"was asked of a \.pt2 file"):
        export(swish, tmp_path / "m.pt2", precision="float16")


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_that_loses_too_much_is_rejected(swish, tmp_path, suffix):
    """Calibrated on data a hundred times too small, it cuts off what it sees later."""
    tiny = [(0.01 * x,) for (x,) in drawn(swish)]
    with pytest.raises(ParityError, match=r"differs by .* The file is kept as .*rejected"):
        export(swish, tmp_path / f"m{suffix}", precision="static_wi8_ai8", calibrate=tiny, inputs=drawn(swish))
    assert [p.name for p in tmp_path.iterdir()] == [f"m{suffix}.rejected"]
