"""A rejected file comes with the layer in which it begins to differ."""

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgel0.errors import ParityError
from edgel0.exporters import onnx as onnx_writer
from edgel0.exporters import tflite as tflite_writer
from edgel0.exporters.differing import INSIDE, first_difference
from edgel0.exporters.foreign import silently
from edgel0.exporters.signature import leaves
from edgel0.exporters.writing import export

from .small_nets import slimmed
from .test_precision import FORMATS


class Branches(nn.Module):
    """Layers that runtimes fuse, a residual, and two branches that meet late."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.left, self.right = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 6, 1)
        self.mixed, self.head = nn.Linear(14, 12), nn.Linear(12, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        left = F.relu(self.left(x)) + x
        both = torch.cat([left.mean((2, 3)), F.hardswish(self.right(x)).mean((2, 3))], 1)
        return self.head(F.relu(self.mixed(both)))


LAYERS = ("stem", "left", "right", "mixed", "head")


@pytest.fixture(scope="module")
def branches():
    torch.manual_seed(0)
    model = Branches().eval()
    model.norm.running_mean += 0.1
    return slimmed(model, torch.randn(1, 3, 8, 8))


def constants(suffix, content, change):
    """Give every constant array of a file to ``change``, which returns another one or None."""
    if suffix == ".onnx":
        model = onnx.load_model_from_string(content)
        for tensor in model.graph.initializer:
            if (made := change(onnx.numpy_helper.to_array(tensor))) is not None:
                tensor.CopyFrom(onnx.numpy_helper.from_array(made, tensor.name))
        return model.SerializeToString()

    def edit_(model):
        for tensor in model.subgraphs[0].tensors:
            buffer = model.buffers[tensor.buffer]
            if tensor.type == 0 and buffer.data is not None and len(buffer.data):
                array = np.asarray(buffer.data, np.uint8).view(np.float32).reshape(tensor.shape)
                if (made := change(array)) is not None:
                    buffer.data = made.astype(np.float32).ravel().view(np.uint8)

    return tflite_writer._edited(content, edit_)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("layer", LAYERS)
def test_the_layer_whose_weights_are_others_is_named(branches, tmp_path, suffix, layer):
    content = export(branches, tmp_path / f"m{suffix}").path.read_bytes()
    sizes = {name: getattr(Branches(), name).weight.numel() for name in LAYERS}
    assert len(set(sizes.values())) == len(LAYERS)
    spoiled = constants(suffix, content, lambda array: array * 1.5 if array.size == sizes[layer] else None)
    assert spoiled != content
    sample = leaves(branches.program.example_inputs[0])
    with silently():
        whole, other = (INSIDE[suffix[1:]](each, sample, "nchw") for each in (content, spoiled))
    assert first_difference(branches.program, sample, whole, 1e-5, 1.0) is None
    found = first_difference(branches.program, sample, other, 1e-5, 1.0)
    assert found.startswith(f"'{layer}' (")


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_error_says_it(branches, tmp_path, suffix, monkeypatch):
    writer = onnx_writer if suffix == ".onnx" else tflite_writer
    true = writer.fuse_batch_norm

    def wrong(program):
        module = true(program)
        for name, parameter in list(module.named_parameters()):
            if parameter.numel() == 14 * 12:  # shared with the program, so it is replaced
                owner, _, own = name.rpartition(".")
                setattr(module.get_submodule(owner), own, nn.Parameter(parameter.detach() + 1))
        return module

    monkeypatch.setattr(writer, "fuse_batch_norm", wrong)
    with pytest.raises(
        ParityError, match=r"It first differs from its program in 'mixed' \(linear\)\. The file is kept"
    ):
        export(branches, tmp_path / f"m{suffix}")
    assert [p.name for p in tmp_path.iterdir()] == [f"m{suffix}.rejected"]


def test_another_reference_is_not_the_files_fault(branches, tmp_path):
    with pytest.raises(ParityError, match=r"Inside it is what its program is: the reference is another model"):
        export(branches, tmp_path / "m.onnx", reference=lambda x: torch.ones(1, 5))
