"""ONNX files for any number of samples, proven equal to one by one; a clear no where that cannot be."""

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import edgel0
from edgel0.errors import UsageError
from edgel0.exporters.writing import export
from edgel0.types import Masks

from .test_precision import drawn
from .test_tidying import Said


def slimmed(model, example):
    coupling = edgel0.trace(model, (example,))
    return edgel0.slim(model, Masks(coupling, np.ones(coupling.units + 1, bool), "dense"))


class Sequence(nn.Module):
    """A recurrent layer, with initial states of zeros written out."""

    def __init__(self, kind):
        super().__init__()
        self.cells, self.head = kind(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.cells(x)[0][:, -1])


class Encoder(nn.Module):
    """Attention as torch has it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)

    def forward(self, x):
        return self.layer(x).mean(1)


class Windows(nn.Module):
    """Windows of a picture beside its samples, as Swin has them."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(16, 16)

    def forward(self, x):
        x = x.view(1, 4, 2, 2, 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(4, 16)
        return F.relu(self.mix(x)).view(1, 64)


MODELS = {
    "conv": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)), (1, 3, 8, 8)),
    "pool": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (1, 3, 8, 8)),
    "view": (lambda: Said(lambda x: x.view(1, 4, 6).transpose(1, 2).reshape(1, 24) * 2), (1, 24)),
    "encoder": (Encoder, (1, 7, 16)),
    "gru": (lambda: Sequence(nn.GRU), (1, 5, 6)),
    "lstm": (lambda: Sequence(nn.LSTM), (1, 5, 6)),
    "windows": (Windows, (1, 4, 4, 4)),
}


@pytest.mark.parametrize("name", MODELS)
def test_many_at_once_are_as_one_by_one(name, tmp_path):
    build, shape = MODELS[name]
    torch.manual_seed(0)
    slim = slimmed(build().eval(), torch.randn(shape))
    made = export(slim, tmp_path / "m.onnx", dynamic_batch=True)
    assert made.inputs[0].shape == ("batch", *shape[1:])
    assert made.outputs[0].shape[0] == "batch"
    session = onnxruntime.InferenceSession(made.path)
    samples = [x for (x,) in drawn(slim, 5, seed=9)]
    with torch.no_grad():
        expected = torch.cat([slim.program.module()(x) for x in samples])
    (found,) = session.run(None, {made.inputs[0].name: torch.cat(samples).numpy()})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    again = export(slim, tmp_path / "again.onnx", dynamic_batch=True)
    assert again.sha256 == made.sha256


def test_integer_files_too(tmp_path):
    build, shape = MODELS["conv"]
    slim = slimmed(build().eval(), torch.randn(shape))
    data = drawn(slim, 8)
    made = export(
        slim, tmp_path / "m.onnx", dynamic_batch=True, precision="static_wi8_ai8", calibrate=data, inputs=data
    )
    session = onnxruntime.InferenceSession(made.path)
    (together,) = session.run(None, {made.inputs[0].name: torch.cat([x for (x,) in data]).numpy()})
    alone = [session.run(None, {made.inputs[0].name: x.numpy()})[0] for (x,) in data]
    np.testing.assert_array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize(
    ("said", "shape", "words"),
    [
        (lambda x: x - x.mean(0), (1, 6), "mixes the first axis with others"),
        (lambda x: x.transpose(0, 1) * 2, (1, 6), "no first axis of size 1"),
        (lambda x: x * 2, (4, 6), "no first axis of size 1"),
    ],
    ids=["across", "turned", "four"],
)
def test_what_cannot_be(said, shape, words, tmp_path):
    slim = slimmed(Said(said).eval(), torch.randn(shape))
    with pytest.raises(UsageError, match=words):
        export(slim, tmp_path / "m.onnx", dynamic_batch=True)
    assert not [p for p in tmp_path.iterdir() if p.suffix != ".log"]


@pytest.mark.parametrize("suffix", [".tflite", ".pt2"])
def test_other_formats_say_that_they_take_one(suffix, tmp_path):
    slim = slimmed(nn.Linear(4, 3).eval(), torch.randn(1, 4))
    with pytest.raises(UsageError, match="takes one sample at a time; write ONNX"):
        export(slim, tmp_path / f"m{suffix}", dynamic_batch=True)
