import contextlib
import io
import json
import os
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch
from projects import paragraph
from projects.tiny import build
from torch import nn

from edgel0.errors import UsageError
from edgel0.exporters.loading import load, save
from edgel0.slimming import slim
from edgel0.tracing import trace
from edgel0.types import Masks


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A slimmed program, and the file it was saved as."""
    torch.manual_seed(0)
    model, example = build().eval(), torch.randn(1, 1, 8, 8)
    slimmed = slim(model, Masks.random(trace(model, example), seed=1))
    path = tmp_path_factory.mktemp("saved") / "a.pt2"
    save(slimmed, path)
    return slimmed, path


def refused(path, *told):
    with pytest.raises(UsageError) as caught:
        load(path)
    paragraph(f"edgel0: {caught.value}\n", *told)
    return str(caught.value)


def changed(path, target, change):
    """Copy an archive entry by entry: ``change`` takes name and content, and returns entries."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        root = old.namelist()[0].partition("/")[0] + "/"
        for info in old.infolist():
            for name, content in change(info.filename.removeprefix(root), old.read(info)).items():
                new.writestr(root + name, content)
    return target


class Bomb:
    """Whoever unpickles this leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_a_round_trip_keeps_program_costs_and_provenance(saved):
    slimmed, path = saved
    loaded = load(path)
    assert (loaded.cost, loaded.dense, loaded.provenance) == (slimmed.cost, slimmed.dense, slimmed.provenance)
    assert loaded.cost.macs < loaded.dense.macs
    x = torch.randn(1, 1, 8, 8)
    assert torch.equal(loaded.program.module()(x), slimmed.program.module()(x))
    again = path.with_name("b.pt2")
    save(loaded, again)
    assert (load(again).cost, load(again).dense) == (slimmed.cost, slimmed.dense)


def test_a_copy_loads_like_the_archive(saved, tmp_path):
    slimmed, path = saved
    assert load(changed(path, tmp_path / "c.pt2", lambda name, content: {name: content})).cost == slimmed.cost


def test_a_program_of_others_is_its_own_dense(tmp_path):
    program = torch.export.export(build().eval(), (torch.randn(2, 1, 8, 8),))
    torch.export.save(program, tmp_path / "a.pt2")
    loaded = load(tmp_path / "a.pt2")
    assert loaded.cost == loaded.dense and loaded.provenance == {} and loaded.cost.params == 3688


def test_save_takes_only_its_own_suffix(saved, tmp_path):
    with pytest.raises(UsageError, match=r"'a\.onnx' was given to save"):
        save(saved[0], tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_what_is_no_file(tmp_path):
    refused(tmp_path, "there is no file")
    refused(tmp_path / "a.pt2", "there is no file")


def test_what_is_no_archive(saved, tmp_path):
    content = saved[1].read_bytes()
    for name, other in {
        "empty": b"",
        "text": b"hello\n",
        "half": content[: len(content) // 2],
        "short": content[:-1],
        "pickle": pickle.dumps(Bomb(tmp_path / "trace")),
    }.items():
        (tmp_path / name).write_bytes(other)
        refused(tmp_path / name, "is not an exported program", "edgel0.save")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "half", "pickle", "short", "text"]


def test_archives_of_other_kinds(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("hello.txt", "hello")
    np.savez(tmp_path / "b.npz", a=np.zeros(3))
    torch.save({"a": torch.zeros(3)}, tmp_path / "c.pt")
    torch.save(Bomb(tmp_path / "trace"), tmp_path / "d.pt")
    for name in ("a.zip", "b.npz", "c.pt", "d.pt"):
        refused(tmp_path / name, "is not an exported program")
    assert not (tmp_path / "trace").exists()


def _pickled(content):
    config = json.loads(content)
    for entry in config["config"].values():
        entry["use_pickle"] = True
    return json.dumps(config).encode()


def _torch(value):
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


@pytest.mark.parametrize("way", ["sample inputs", "weights", "legacy weights", "opaque constant", "old format"])
def test_torch_would_unpickle_this_and_load_refuses(saved, tmp_path, way):
    trace, path = tmp_path / "trace", tmp_path / "a.pt2"
    bomb = Bomb(trace)
    config = {
        "config": {"c": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}}
    }

    def change(name, content):
        if way == "sample inputs" and name == "data/sample_inputs/model.pt":
            return {name: _torch(((bomb,), {}))}
        if way == "weights" and name.endswith("weights_config.json"):
            return {name: _pickled(content)}
        if way == "weights" and name.startswith("data/weights/weight_"):
            return {name: _torch(bomb)}
        if way == "legacy weights" and name.endswith("weights_config.json"):
            return {"data/weights/model.pt": _torch(bomb)}
        if way == "opaque constant" and name.endswith("constants_config.json"):
            return {name: json.dumps(config), "data/constants/opaque_obj_0": pickle.dumps(bomb)}
        return {name: content}

    if way == "old format":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("version", "8.20")
            archive.writestr("serialized_exported_program.json", "{}")
            for part in ("state_dict", "constants", "example_inputs"):
                archive.writestr(f"serialized_{part}.pt", _torch(bomb))
    else:
        changed(saved[1], path, change)
        with contextlib.suppress(Exception):  # what torch makes of it afterwards is not the point
            torch.export.load(io.BytesIO(path.read_bytes()))
        assert trace.exists()  # torch does unpickle
        shutil.rmtree(trace)
    message = refused(path, "is not an exported program")
    assert not trace.exists(), message


def _edited(change):
    def edit(name, content):
        if name != "models/model.json":
            return {name: content}
        document = json.loads(content)
        change(document, document["graph_module"]["graph"])
        return {name: json.dumps(document).encode()}

    return edit


def _guard(document, graph):
    document["guards_code"] = ["__import__('os').mkdir('trace')"]


def _expression(document, graph):
    [value] = [value for name, value in graph["tensor_values"].items() if name == "x"]
    value["sizes"][0] = {"as_expr": {"expr_str": "__import__('os').mkdir('trace')", "hint": {"as_int": 1}}}


def _call(document, graph):
    graph["nodes"][0]["target"] = "torch.hub.load"


def _name(document, graph):
    graph["nodes"][0]["name"] = "a\nimport os"


@pytest.mark.parametrize(
    ("change", "told"),
    [(_guard, "guards"), (_expression, "the size"), (_call, "'torch.hub.load'"), (_name, "which is no name")],
)
def test_code_in_the_graph_is_refused(saved, tmp_path, monkeypatch, change, told):
    monkeypatch.chdir(tmp_path)
    refused(changed(saved[1], tmp_path / "a.pt2", _edited(change)), told)
    assert not (tmp_path / "trace").exists()


def test_members_that_nobody_knows_and_members_that_come_twice(saved, tmp_path):
    more = {"data/aotinductor/model/model.so": b"\x7fELF"}
    path = changed(
        saved[1], tmp_path / "a.pt2", lambda name, content: {name: content, **(more if "format" in name else {})}
    )
    refused(path, "it holds 'data/aotinductor/model/model.so'")
    twice = {"MODELS/model.json": b"{}"}
    path = changed(
        saved[1], tmp_path / "b.pt2", lambda name, content: {name: content, **(twice if "format" in name else {})}
    )
    refused(path, "it holds 'models/model.json' 2 times")


class Flat(nn.Module):
    def forward(self, x):
        return x.flatten(1) * 2


def test_what_would_fill_the_memory_is_not_unpacked(saved, tmp_path):
    """A deflated archive may hold a thousand times its size, in a member that is known, too."""
    bomb = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(saved[1]) as given, zipfile.ZipFile(bomb, "w") as made:
        for info in given.infolist():
            graph = info.filename.endswith("models/model.json")
            made.writestr(
                info, b" " * (64 << 20) if graph else given.read(info), zipfile.ZIP_DEFLATED if graph else None
            )
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(UsageError, match=r"its member '.*model\.json' is compressed"):
        load(bomb)


def test_dynamic_shapes_are_refused_in_one_line(tmp_path):
    program = torch.export.export(Flat(), (torch.randn(3, 4, 5),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "a.pt2")
    refused(tmp_path / "a.pt2", "static shapes")


@pytest.mark.parametrize("extra", ["[1]", "no json", '{"dense_cost": {"macs": 1}}', '{"dense_cost": 3}'])
def test_a_provenance_that_edgel0_did_not_write(tmp_path, extra):
    program = torch.export.export(Flat(), (torch.randn(3, 4, 5),))
    torch.export.save(program, tmp_path / "a.pt2", extra_files={"edgel0": extra})
    refused(tmp_path / "a.pt2", "is not an exported program")
