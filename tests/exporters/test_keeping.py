"""Layers that stay in float32: those that were named, or as few as keep the answers."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from edgel0.errors import ParityError, UsageError
from edgel0.exporters.keeping import Judge, Layer, Maker, as_few_as_will_do, matching, sensitivities
from edgel0.exporters.writing import export

from .small_nets import slimmed
from .test_precision import FORMATS, drawn


class Fragile(nn.Module):
    """Its second layer cannot be an integer one: what counts in it is a thousandth of its largest value."""

    def __init__(self):
        super().__init__()
        self.first, self.fragile, self.last = nn.Linear(16, 16), nn.Linear(16, 17), nn.Linear(17, 5)
        with torch.no_grad():
            self.fragile.weight[16] *= 3e3
            self.fragile.bias[16] = 1e3
            self.last.weight[:, 16] *= 0
            self.last.weight[:, :16] *= 10

    def forward(self, x):
        return self.last(self.fragile(torch.relu(self.first(x))))


@pytest.fixture(scope="module")
def fragile():
    torch.manual_seed(0)
    return slimmed(Fragile().eval(), torch.randn(1, 16))


def pretend(harm):
    """A maker of layers a, b, c, ... and a judge for whom each integer one of them changes so many of 100 answers."""
    layers = tuple(Layer(name, "CONV") for name in harm)
    maker = Maker(layers, lambda keep: json.dumps(sorted(set(harm) - keep)).encode())

    def run(content, count):
        wrong = sum(harm[name] for name in json.loads(content))
        return [(np.array([0.0, 1.0] if at < 100 - wrong else [1.0, 0.0]),) for at in range(100)][100 - count :]

    return maker, Judge(run, [(np.array([0.0, 1.0]),)] * 100, 0.02)


@pytest.mark.parametrize(
    ("harm", "kept"),
    [
        ({"a": 0, "b": 1, "c": 1}, []),
        ({"a": 0, "b": 9, "c": 1}, ["b"]),
        ({"a": 3, "b": 4, "c": 5, "d": 0, "e": 0}, ["a", "b", "c"]),
        (dict.fromkeys("abcdefgh", 3), list("abcdefgh")),
    ],
)
def test_as_few_as_will_do(harm, kept):
    maker, judge = pretend(harm)
    found = as_few_as_will_do(maker, judge, frozenset(), lambda text: None)
    assert list(found.layers) == kept
    assert judge.changed(found.content) <= judge.allowed
    assert found.content == maker.make(frozenset(kept))


def test_sensitivity_ranks_what_each_layer_costs_alone():
    maker, judge = pretend({"a": 1, "b": 0, "c": 4, "d": 2})
    assert [row.layer for row in sensitivities(maker, judge, lambda text: None)] == ["c", "d", "a"]  # b costs nothing


def test_patterns_fit_names_and_kinds():
    layers = [Layer("stem;1", "CONV_2D"), Layer("head;2", "FULLY_CONNECTED"), Layer("body;3", "CONV_2D")]
    assert matching(layers, ["CONV_*"]) == {"stem;1", "body;3"}
    assert matching(layers, ["head*", "stem;1"]) == {"head;2", "stem;1"}
    assert matching(layers, []) == frozenset()
    with pytest.raises(UsageError, match=r"no layer fits 'CONV_3D'.*did you mean 'CONV_2D'"):
        matching(layers, ["CONV_3D"])


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_fragile_layer_stays_in_float(fragile, tmp_path, suffix):
    data, path = drawn(fragile, 100), tmp_path / f"m{suffix}"
    options = {"precision": "static_wi8_ai8", "calibrate": data, "inputs": data, "tolerance": 100.0}
    with pytest.raises(ParityError, match=r"another largest output than its reference in .* where 2\.00% is allowed"):
        export(fragile, path, max_drop=0.02, **options)
    made = export(fragile, path, max_drop=0.02, keep_float="auto", **options)
    told = made.provenance[made.format]
    assert made.parity.top1 >= 0.98
    assert 0 < len(told["kept_layers"]) <= 3
    assert told["sensitivity"][0][2] < told["sensitivity"][-1][2]
    named = export(fragile, path, max_drop=0.02, keep_float=told["kept_layers"], sensitivity=True, **options)
    assert named.provenance[made.format] == told
    assert named.sha256 == made.sha256


@pytest.mark.parametrize("suffix", FORMATS)
def test_labels_decide_where_there_are_some(fragile, tmp_path, suffix):
    data = drawn(fragile, 100)
    with torch.no_grad():
        module = fragile.program.module()
        labels = [int(module(*sample).argmax()) for sample in data]
    options = {"precision": "static_wi8_ai8", "calibrate": data, "inputs": data, "tolerance": 100.0}
    with pytest.raises(ParityError, match=r"of the samples right and its reference 100\.00%: .* fewer"):
        export(fragile, tmp_path / f"m{suffix}", max_drop=0.01, labels=labels, **options)
    wrong = [(label + 1) % 5 for label in labels]  # what is wrong anyway cannot get worse
    export(fragile, tmp_path / f"m{suffix}", max_drop=0.01, labels=wrong, **options)


@pytest.mark.parametrize("suffix", FORMATS)
def test_labels_of_the_calibration_decide_what_stays_float(fragile, tmp_path, suffix):
    """Answers that were wrong anyway may change; then nothing needs to stay in float32."""
    data = drawn(fragile, 100)
    with torch.no_grad():
        module = fragile.program.module()
        right = [int(module(*sample).argmax()) for sample in data]
    options = {"precision": "static_wi8_ai8", "calibrate": data, "inputs": data, "tolerance": 100.0}
    for labels, some in ((right, True), ([(label + 1) % 5 for label in right], False)):
        made = export(
            fragile, tmp_path / f"m{suffix}", max_drop=0.02, keep_float="auto", labels=labels, calibrate_labels=labels,
            **options,
        )  # fmt: skip
        assert ("kept_layers" in made.provenance[made.format]) == some


def test_what_cannot_be_asked_for(fragile, tmp_path):
    path, data = tmp_path / "m.onnx", drawn(fragile)
    with pytest.raises(UsageError, match="give max_drop"):
        export(fragile, path, precision="static_wi8_ai8", calibrate=data, keep_float="auto")
    with pytest.raises(UsageError, match="are for precisions with integer activations"):
        export(fragile, path, precision="float16", keep_float=["Conv"])
    with pytest.raises(UsageError, match="give 'auto', or a list"):
        export(fragile, path, precision="static_wi8_ai8", calibrate=data, keep_float="Conv")
    with pytest.raises(UsageError, match="no layer fits 'Convolution'"):
        export(fragile, path, precision="static_wi8_ai8", calibrate=data, keep_float=["Convolution"])
    assert not [p for p in tmp_path.iterdir() if p.suffix != ".log"]
