import dataclasses
import hashlib
import json
import resource
from importlib.metadata import version

import numpy as np
import pytest
import torch
from torch import nn

from edgel0.errors import DeviceError, ParityError, UsageError
from edgel0.exporters import writing
from edgel0.exporters.writing import EXPORTERS, export

from .small_nets import WRITABLE, slimmed


@pytest.fixture(scope="module")
def line():
    """The smallest program there is: quick to write where the file itself does not matter."""
    torch.manual_seed(0)
    return slimmed(nn.Linear(3, 2).eval(), torch.randn(1, 3))


def test_the_sidecar(artifacts, slims):
    artifact = artifacts["two", ".onnx"]
    content, onnx = artifact.path.read_bytes(), pytest.importorskip("onnx")
    text = artifact.path.with_name("two.onnx.json").read_text()
    told = json.loads(text)
    keys = "schema file sha256 bytes format precision layout inputs outputs cost dense_cost parity elsewhere provenance"
    assert " ".join(told) == f"{keys} counted versions"
    assert told["counted"]["operators"] == len(onnx.load(artifact.path).graph.node)
    assert artifact.provenance["versions"] == told["versions"]
    assert artifact.provenance["cost"] == told["cost"]
    assert told["schema"] == 1
    assert told["file"] == "two.onnx"
    assert told["sha256"] == artifact.sha256 == hashlib.sha256(content).hexdigest()
    assert told["bytes"] == artifact.bytes == len(content)
    assert (told["format"], told["precision"], told["layout"]) == ("onnx", "float32", "nchw")
    assert told["inputs"] == [
        {"name": "picture", "shape": [1, 3, 8, 8], "dtype": "float32"},
        {"name": "tokens", "shape": [1, 3], "dtype": "int64"},
    ]
    assert [o["name"] for o in told["outputs"]] == ["relu", "map"]
    assert told["cost"] == slims["two"].cost.as_dict()
    assert told["dense_cost"] == slims["two"].dense.as_dict()
    assert told["parity"]["samples"] == 3
    assert told["parity"]["runtime"] == f"onnxruntime {version('onnxruntime')}"
    assert told["parity"]["max_abs"] == artifact.parity.max_abs <= told["parity"]["tolerance"] == 1e-5
    assert told["parity"]["top1"] == 1.0
    assert told["provenance"] == artifact.provenance
    assert told["versions"]["onnx"] == version("onnx")
    assert "ai-edge-litert" not in told["versions"]


def test_every_export_tells_its_parity(artifacts):
    for artifact in artifacts.values():
        assert artifact.parity.max_abs <= 1e-5
        assert artifact.parity.samples == 3
        leftovers = {p.name for p in artifact.path.parent.iterdir() if "partial" in p.name or p.suffix == ".log"}
        assert not leftovers


def test_the_users_model_and_samples_are_the_reference(line, tmp_path):
    model = line.program.module()
    asked = []

    def masked(x):
        asked.append(x)
        return model(x)

    data = [(torch.full((1, 3), float(i)),) for i in range(7)]
    told = []
    artifact = export(
        line, str(tmp_path / "m.onnx"), reference=masked, inputs=data, provenance={"seed": 3}, progress=told.append
    )
    assert [x.tolist() for x in asked] == [x.tolist() for (x,) in data]
    assert (artifact.parity.reference, artifact.parity.samples) == ("masked", 7)
    assert artifact.provenance["seed"] == 3
    assert artifact.provenance["rule"] == "median"
    assert [text.split()[0] for text in told] == ["writing", "running", "m.onnx"]


@pytest.mark.parametrize("suffix", WRITABLE)
def test_a_file_that_disagrees_never_takes_the_name(suffix, line, tmp_path):
    target = tmp_path / f"m{suffix}"
    target.write_text("old")
    model = line.program.module()
    with pytest.raises(ParityError, match=r"'output' differs by 0\.25 in sample \d at \(0, \d\).*rejected") as caught:
        export(line, target, reference=lambda x: model(x) + 0.25)
    assert caught.value.exit_code == 4
    assert target.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == [target.name, f"{target.name}.rejected"]
    assert (tmp_path / f"{target.name}.rejected").stat().st_size > 100


def test_a_reference_in_training_mode_is_named(line, tmp_path):
    wrong = nn.Sequential(nn.Linear(3, 2), nn.Dropout()).train()
    with pytest.raises(ParityError, match=r"training mode: call its eval\(\)"):
        export(line, tmp_path / "m.pt2", reference=wrong)


@pytest.mark.parametrize("moment", ["write", "open", "compare", "_sidecar"])
def test_an_interrupt_leaves_the_old_file(moment, line, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    target, sidecar = tmp_path / "m.pt2", tmp_path / "m.pt2.json"
    export(line, target)
    before = target.read_bytes(), sidecar.read_bytes()
    if hasattr(writing, moment):
        monkeypatch.setattr(writing, moment, interrupt)
    else:
        monkeypatch.setitem(EXPORTERS, ".pt2", dataclasses.replace(EXPORTERS[".pt2"], **{moment: interrupt}))
    with pytest.raises(KeyboardInterrupt):
        export(line, target)
    assert (target.read_bytes(), sidecar.read_bytes()) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.pt2", "m.pt2.json"]


def test_a_folder_that_is_not_there_or_not_writable(line, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "missing", tmp_path / "file", "/proc"):
        with pytest.raises(DeviceError, match=r"cannot be written: .*; give a folder") as caught:
            export(line, f"{folder}/m.onnx")
        assert caught.value.exit_code == 3


@pytest.mark.parametrize("suffix", WRITABLE)
def test_a_full_disk_leaves_the_old_file(suffix, line, tmp_path):
    target = tmp_path / f"m{suffix}"
    target.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))  # no file may grow beyond 300 B
    try:
        with pytest.raises(DeviceError, match=f"m{suffix} cannot be written: File too large"):
            export(line, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize("name", ["m", "m.onxx", "m.tflit", "m.ONNX"])
def test_an_unknown_suffix_names_the_known_ones(name, line, tmp_path):
    with pytest.raises(UsageError, match=r"must be one of \.onnx, \.tflite, \.pt2"):
        export(line, tmp_path / name)


def test_inputs_of_another_shape(line, tmp_path):
    for wrong in (
        [(torch.ones(1, 4),)],
        [(torch.ones(1, 3), torch.ones(1))],
        [(torch.ones(1, 3).int(),)],
        [torch.ones(1, 3)],
    ):
        with pytest.raises(UsageError, match=r"sample 0 of inputs holds .*the program takes a tuple of \[\(\(1, 3\)"):
            export(line, tmp_path / "m.onnx", inputs=wrong)
    with pytest.raises(UsageError, match="inputs is empty"):
        export(line, tmp_path / "m.onnx", inputs=[])


def test_provenance_that_is_not_json(line, tmp_path):
    with pytest.raises(UsageError, match="plain JSON values"):
        export(line, tmp_path / "m.onnx", provenance={"mask": np.ones(2)})


def test_programs_that_no_file_can_hold(tmp_path):
    class Keyword(nn.Module):
        def forward(self, x, *, y):
            return x + y

    ones = torch.ones(1, 3)
    keyword = torch.export.export(Keyword(), (ones,), {"y": ones})
    dynamic = torch.export.export(nn.Linear(3, 2), (torch.ones(2, 3),), dynamic_shapes=({0: torch.export.Dim("n")},))
    double = torch.export.export(nn.Linear(3, 2).double(), (ones.double(),))
    for program, text in ((keyword, "keyword"), (dynamic, "dynamic dimension"), (double, "float64")):
        slim = slimmed(nn.Identity(), ones)
        with pytest.raises(UsageError, match=text):
            export(dataclasses.replace(slim, program=program), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("suffix", "who"), [(".onnx", "the ONNX exporter"), (".tflite", "the LiteRT converter")])
def test_a_model_that_the_converter_refuses(suffix, who, tmp_path, capfd):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    target = tmp_path / f"m{suffix}"
    with pytest.raises(UsageError, match=rf"{who} failed with .*m{suffix}\.log"):
        export(slimmed(Odd(), torch.randn(1, 3, 3)), target)
    assert [p.name for p in tmp_path.iterdir()] == [f"m{suffix}.log"]
    assert "bessel_j0" in (tmp_path / f"m{suffix}.log").read_text()
    assert capfd.readouterr() == ("", "")


def test_names_that_parameters_bear_too(tmp_path):
    class Clash(nn.Linear):
        def forward(self, weight):
            return {"bias": super().forward(weight), "weight": weight.sum()}

    slim = slimmed(Clash(3, 2), torch.randn(1, 3))
    for suffix in (".onnx", ".tflite"):
        artifact = export(slim, tmp_path / f"m{suffix}")
        assert [t.name for t in (*artifact.inputs, *artifact.outputs)] == ["weight", "bias", "weight_out"]


class Awkward(nn.Module):
    """Nested inputs, an input that nobody reads, one that is handed through, one output twice, one that is None."""

    def forward(self, pair, unused):
        left, right = pair
        total = left + right
        return total, left, total, None, {"left": left * 2, "best": right.argmax(-1)}


@pytest.mark.parametrize("suffix", WRITABLE)
def test_an_awkward_signature(suffix, tmp_path):
    slim = slimmed(Awkward(), (torch.ones(1, 3), torch.randn(1, 3)), torch.ones(1, 2))
    artifact = export(slim, tmp_path / f"m{suffix}", reference=Awkward())
    assert [i.shape for i in artifact.inputs] == [(1, 3), (1, 3), (1, 2)]
    assert [o.name for o in artifact.outputs] == ["output_0", "output_1", "output_2", "output_4", "output_5"]


def test_export_says_nothing(line, tmp_path, capfd):
    for suffix in WRITABLE:
        export(line, tmp_path / f"m{suffix}")
    assert capfd.readouterr() == ("", "")


def test_many_outputs_keep_their_order(tmp_path):
    class Many(nn.Module):
        def forward(self, *x):
            return tuple(value * float(i) for i, value in enumerate(x))

    slim = slimmed(Many(), *(torch.full((1, 2), float(i + 1)) for i in range(12)))
    for suffix in (".onnx", ".tflite"):
        assert export(slim, tmp_path / f"m{suffix}").parity.max_abs == 0
