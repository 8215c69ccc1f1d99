"""A tidied TFLite graph answers what the converter's answers, with fewer operators."""

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgel0.exporters import tflite
from edgel0.exporters.writing import export

from .small_nets import slimmed
from .test_precision import drawn


class Said(nn.Module):
    """A forward that is a function."""

    def __init__(self, said):
        super().__init__()
        self.said = said

    def forward(self, x):
        return self.said(x)


def attention(x):
    q, k, v = (x.view(1, 6, 3, 2, 4).permute(2, 0, 3, 1, 4) + 1).unbind(0)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, 6, 8)


# What is computed, the input's shape, and how many operators of a kind are left.
CASES = {
    "mean": (lambda x: F.relu(F.max_pool2d(x, 2)).mean((2, 3)), (1, 8, 6, 6), {"MEAN": 1}),
    "mean-one-axis": (lambda x: F.max_pool2d(x, 2).mean(2), (1, 8, 6, 6), {"MEAN": 1}),
    "mean-channels": (lambda x: F.max_pool2d(x, 2).mean(1), (1, 8, 6, 6), {"MEAN": 1}),
    "mean-kept": (lambda x: F.max_pool2d(x, 2).mean((2, 3), keepdim=True) * 2, (1, 8, 6, 6), {"MEAN": 1}),
    "layer-norm": (lambda x: F.layer_norm(x, (8,)) + 1, (1, 6, 8), {"MEAN": 2, "RESHAPE": 0}),
    "layer-norm-2d": (lambda x: F.layer_norm(x, (6, 8)) * x, (1, 6, 8), {"MEAN": 2}),
    "attention": (attention, (1, 6, 24), {"SOFTMAX": 1, "BATCH_MATMUL": 2}),
    "there-and-back": (lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2) + 1, (1, 3, 4, 5), {"TRANSPOSE": 0}),
    "around-a-one": (lambda x: x.transpose(1, 2).unsqueeze(1).transpose(2, 3) + 1, (1, 4, 5), {"TRANSPOSE": 0}),
    "turned-thrice": (lambda x: x.permute(1, 2, 0).permute(1, 2, 0).permute(1, 2, 0) + 1, (2, 3, 4), {"TRANSPOSE": 0}),
    "reshaped-twice": (lambda x: F.relu(x).view(4, 6).view(2, 12) + 1, (1, 24), {"RESHAPE": 1}),
    "reshaped-and-back": (lambda x: F.relu(x).view(4, 6).view(1, 24) + 1, (1, 24), {"RESHAPE": 0}),
    "ones-moved": (lambda x: x.permute(1, 0, 3, 2) * 3, (1, 1, 1, 7), {"TRANSPOSE": 0}),
    "only-moved": (lambda x: x.permute(0, 2, 3, 1), (1, 3, 4, 5), {"TRANSPOSE": 1}),
    "squeezed-out": (lambda x: x.unsqueeze(0).transpose(1, 2).reshape(5, 12), (3, 4, 5), {}),
    "both-read": (lambda x: (x.transpose(1, 2), x.transpose(1, 2).unsqueeze(0).transpose(2, 3) + 1), (1, 4, 5), {}),
    "softmax-elsewhere": (lambda x: x.view(1, 4, 6).softmax(1).view(1, 24), (1, 24), {}),
}


def kinds(path):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(str(path))
    interpreter.allocate_tensors()
    return Counter(o["op_name"] for o in interpreter._get_ops_details() if o["op_name"] != "DELEGATE")


@pytest.mark.parametrize("name", CASES)
def test_less_is_moved_and_nothing_changes(name, tmp_path, monkeypatch):
    said, shape, left = CASES[name]
    slim = slimmed(Said(said).eval(), torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    tidy = export(slim, tmp_path / "tidy.tflite")
    monkeypatch.setattr(tflite, "tidy_", lambda model: None)
    plain = export(slim, tmp_path / "plain.tflite")
    before, after = kinds(plain.path), kinds(tidy.path)
    assert sum(after.values()) <= sum(before.values())
    assert {kind: after[kind] for kind in left} == left
    assert {k: n for k, n in after.items() if k not in ("RESHAPE", "TRANSPOSE")} == {
        k: n for k, n in before.items() if k not in ("RESHAPE", "TRANSPOSE")
    }
    assert tidy.bytes <= plain.bytes
    assert [tuple(o.shape) for o in tidy.outputs] == [tuple(o.shape) for o in plain.outputs]
    answers = [tflite_answers(path, slim) for path in (tidy.path, plain.path)]
    for one, other in zip(*answers, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6 if after["MEAN"] else 0, atol=1e-7 if after["MEAN"] else 0)


def tflite_answers(path, slim):
    from edgel0.exporters.runtimes import open_tflite

    runtime = open_tflite(path)
    return [output for sample in drawn(slim, 3) for output in runtime.run(sample)]


def test_tensors_are_called_by_what_makes_them(tmp_path):
    torch.manual_seed(0)
    path = export(slimmed(nn.Linear(4, 3).eval(), torch.randn(1, 4)), tmp_path / "m.tflite").path
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(str(path))
    names = {detail["name"] for detail in interpreter.get_tensor_details()}
    assert {"fully_connected_1", "fully_connected_1.1", "fully_connected_1.2"} <= names
    assert not any("litert" in name for name in names)
