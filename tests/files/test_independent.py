"""Figures that others count: fvcore 0.1.5 (convolutions and linear layers) and torchinfo 1.8.0 (parameters).

``FlopCountAnalysis(model, x).by_operator()`` and ``torchinfo.summary(model, input_data=x)``. Parameters of the file are
fewer by what a folded batch norm takes along: its scale and shift become one bias. TFLite keeps a bias of zeros where
there is none.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import edgel0
from edgel0.files.counting import figures
from edgel0.files.reading import read
from edgel0.types import Masks

sys.path.insert(0, str(Path(__file__).parents[2]))

from export import resnet8, spoken_digits


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
@pytest.mark.parametrize(
    ("build", "shape", "macs", "params", "folded"),
    [
        (resnet8.build, (1, 3, 32, 32), 12_501_632, 77_946, 480),
        (spoken_digits.build_dscnn, (1, 1, 49, 20), 5_100_160, 23_050, 1_152),
    ],
    ids=["resnet8", "dscnn"],
)
def test_others_count_the_same(build, shape, macs, params, folded, suffix, tmp_path):
    model = build().eval()
    coupling = edgel0.trace(model, (torch.randn(shape),))
    slim = edgel0.slim(model, Masks(coupling, np.ones(coupling.units + 1, bool), "dense"))
    assert (slim.cost.macs, slim.cost.params) == (macs, params)
    found = figures(read(edgel0.export(slim, tmp_path / f"m{suffix}").path))
    assert found.macs == macs
    assert params - folded <= found.params <= params - folded + 112
    assert found.activation_bytes == slim.cost.activation_bytes
