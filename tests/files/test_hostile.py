"""Hostile and broken files: one sentence and the right exit code, no traceback, nothing run, nothing outside read."""

import contextlib
import io
import os
import pickle
import random
import signal
import struct
import sys
import zipfile
from pathlib import Path

import pytest

from edgel0.cli import main
from edgel0.errors import EdgeL0Error
from edgel0.exporters.loading import save
from edgel0.files.counting import figures
from edgel0.files.reading import read
from tests.checks.artefacts import field, varint

onnx = pytest.importorskip("onnx")
helper = onnx.helper
SECONDS = 20  # a guard against hanging, not a measurement


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Suffix -> bytes of a file that edgel0 wrote."""
    import torch
    from torch import nn

    from edgel0.cost import program_cost
    from edgel0.exporters.writing import export
    from edgel0.types import Slimmed

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    program = torch.export.export(net, (torch.randn(1, 1, 8, 8),), strict=False)
    slim, folder = Slimmed(program, program_cost(program), program_cost(program)), tmp_path_factory.mktemp("good")
    made = [export(slim, folder / "g.onnx"), export(slim, folder / "g.tflite"), save(slim, folder / "g.pt2")]
    return {each.path.suffix: each.path.read_bytes() for each in made}


class Trap:
    """A pickle of it makes a file where it is loaded."""

    def __reduce__(self):
        return Path.touch, (Path("pwned"),)


def outside(location, **more):
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=1)
    for key, value in {"location": location, "offset": "0", "length": "16", **more}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    info = [helper.make_tensor_value_info(name, 1, [4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", info[:1], info[1:], [tensor])
    return helper.make_model(graph).SerializeToString()


def huge(*shape):
    info = [helper.make_tensor_value_info(name, 1, shape) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", info[:1], info[1:])
    return helper.make_model(graph).SerializeToString()


def weight(*shape, data=b"1234"):
    tensor = onnx.TensorProto(name="w", data_type=1, dims=shape, raw_data=data)
    info = [helper.make_tensor_value_info(name, 1, [4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", info[:1], info[1:], [tensor])
    return helper.make_model(graph).SerializeToString()


def nested(depth):
    """A graph in an attribute of a node of a graph, and so on; written outwards, for the inner ones are the smaller."""
    graph = field(2, b"g")
    for _ in range(depth):
        graph = field(1, field(4, b"If") + field(5, field(1, b"then_branch") + field(6, graph)))
    return field(7, graph)


def patched(data, at, form, value):
    changed = bytearray(data)
    struct.pack_into(form, changed, at, value)
    return bytes(changed)


def rooted(data):
    return struct.unpack_from("<I", data)[0]


def astray(data, slot, offset):
    """A TFLite file with the offset of one field of its root table changed."""
    fields = rooted(data) - struct.unpack_from("<i", data, rooted(data))[0]
    place = rooted(data) + struct.unpack_from("<H", data, fields + 4 + 2 * slot)[0]
    return patched(data, place, "<I", offset)


def flipped(data, seed, count=30):
    rng, changed = random.Random(seed), bytearray(data)
    for _ in range(count):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def archive(*members, like=None, compressed=False):
    buffer = io.BytesIO(like or b"")
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "a" if like else "w", kind) as file:
        for name, content in members:
            file.writestr(name, content)
    return buffer.getvalue()


def swapped(data, ending, content):
    """The archive with one member replaced."""
    source, buffer = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in source.namelist():
            file.writestr(name, content if name.endswith(ending) else source.read(name))
    return buffer.getvalue()


FOREIGN = {
    "empty": b"", "zero": bytes(4096), "text": b"hello world\n" * 20, "png": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "gzip": b"\x1f\x8b\x08" + bytes(64), "pdf": b"%PDF-1.7\n" + bytes(64), "pickle": pickle.dumps(Trap()),
    "zip": archive(("a", b"b")), "random": random.Random(0).randbytes(3000), "ones": b"\xff" * 3000,
}  # fmt: skip
BOTH = {
    **{f"cut{n}": lambda g, n=n: g[: len(g) * n // 8] for n in (1, 3, 5, 7)},
    "cut-last": lambda g: g[:-1],
    **{f"flip{n}": lambda g, n=n: flipped(g, n) for n in range(4)},
}
SUFFIXES = (".onnx", ".tflite", ".pt2")
CASES = {
    **{f"{name}{s}": (s, lambda g, d=data: d) for name, data in FOREIGN.items() for s in SUFFIXES},
    **{f"{name}{s}": (s, lambda g, c=change, s=s: c(g[s])) for name, change in BOTH.items() for s in SUFFIXES},
    "tflite-as-onnx": (".onnx", lambda g: g[".tflite"]),
    "onnx-as-tflite": (".tflite", lambda g: g[".onnx"]),
    "external-passwd": (".onnx", lambda g: outside("../../../../../../etc/passwd")),
    "external-absolute": (".onnx", lambda g: outside("/etc/passwd")),
    "external-device": (".onnx", lambda g: outside("/dev/zero")),
    "external-missing": (".onnx", lambda g: outside("missing.bin")),
    "external-self": (".onnx", lambda g: outside("case.onnx", length="999999")),
    "external-negative": (".onnx", lambda g: outside("case.onnx", offset="-5")),
    "external-enormous": (".onnx", lambda g: outside("case.onnx", offset="9" * 4000)),
    "external-nowhere": (".onnx", lambda g: outside("")),
    "external-nul": (".onnx", lambda g: outside("a\0b")),
    "external-link": (".onnx", lambda g: outside("link.bin")),
    "external-pipe": (".onnx", lambda g: outside("pipe")),
    "huge-shape": (".onnx", lambda g: huge(2**40, 2**40)),
    "huge-rank": (".onnx", lambda g: huge(*[2] * 70)),
    "huge-weight": (".onnx", lambda g: weight(2**31, 2**31)),
    "negative-weight": (".onnx", lambda g: weight(-4)),
    "short-weight": (".onnx", lambda g: weight(4)),
    "deep": (".onnx", lambda g: nested(60)),
    "very-deep": (".onnx", lambda g: nested(4000)),
    "many-fields": (".onnx", lambda g: field(7, b"\x20\x00" * 3_100_000)),
    "long-varint": (".onnx", lambda g: b"\x08" + b"\xff" * 11),
    "length-beyond": (".onnx", lambda g: b"\x3a" + varint(2**62) + b"x"),
    "group": (".onnx", lambda g: b"\x3b\x3b\x3b\x3c"),
    "no-graph": (".onnx", lambda g: b"\x08\x0a"),
    "root-beyond": (".tflite", lambda g: patched(g[".tflite"], 0, "<I", 2**31)),
    "root-last": (".tflite", lambda g: patched(g[".tflite"], 0, "<I", 2**32 - 1)),
    "root-itself": (".tflite", lambda g: patched(g[".tflite"], 0, "<I", 0)),
    "vtable-before": (".tflite", lambda g: patched(g[".tflite"], rooted(g[".tflite"]), "<i", 2**31 - 1)),
    "vtable-behind": (".tflite", lambda g: patched(g[".tflite"], rooted(g[".tflite"]), "<i", -(2**31))),
    **{f"field{n}-beyond": (".tflite", lambda g, n=n: astray(g[".tflite"], n, 2**32 - 8)) for n in (1, 2, 4)},
    **{f"field{n}-itself": (".tflite", lambda g, n=n: astray(g[".tflite"], n, 0)) for n in (1, 2, 4)},
    **{f"field{n}-root": (".tflite", lambda g, n=n: astray(g[".tflite"], n, 4)) for n in (1, 2, 4)},
    "bomb": (".pt2", lambda g: archive(("a/models/model.json", b"0" * (64 << 20)), compressed=True)),
    "members": (".pt2", lambda g: archive(*((f"a/{n}", b"") for n in range(20_000)))),
    "traversal": (".pt2", lambda g: archive(("archive/../../pwned", b"x"), like=g[".pt2"])),
    "absolute": (".pt2", lambda g: archive(("/pwned", b"x"), like=g[".pt2"])),
    "example-pickle": (".pt2", lambda g: swapped(g[".pt2"], "sample_inputs/model.pt", pickle.dumps(Trap()))),
    "weight-pickle": (".pt2", lambda g: swapped(g[".pt2"], "weight_0", pickle.dumps(Trap()))),
    "config-pickle": (".pt2", lambda g: swapped(g[".pt2"], "model_weights_config.json", pickle.dumps(Trap()))),
    "graph-no-json": (".pt2", lambda g: swapped(g[".pt2"], "models/model.json", b"[" * 100_000)),
    "graph-list": (".pt2", lambda g: swapped(g[".pt2"], "models/model.json", b"[]")),
}  # fmt: skip
# What may be read: a bit that flips in a weight or a name leaves a whole file; the huge shape is refused on its own.
MAY_BE_READ = ("flip", "huge-shape")


@pytest.fixture
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capfd, *arguments):
    """Exit code, stdout and stderr of the command line; an alarm ends what hangs."""

    def late(*_):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        sys.argv = ["edgel0", *map(str, arguments)]
        main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    out, err = capfd.readouterr()
    return code, out, err


def refused(code, out, err, codes=(2,)):
    """One paragraph on stderr, the right code, no traceback, nothing that steers a terminal, nothing run."""
    assert code in codes, err
    assert err.startswith("edgel0: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert all(c.isprintable() or c == "\n" for c in err)
    assert "root:" not in err + out
    assert not list(Path().rglob("pwned"))


@pytest.mark.skipif(os.name != "posix", reason="pipes and links")
@pytest.mark.parametrize("name", CASES)
def test_a_file_is_refused_in_one_sentence(name, good, inside, capfd, monkeypatch):
    suffix, make = CASES[name]
    monkeypatch.setattr(sys, "argv", [])
    Path("link.bin").symlink_to("/etc/passwd")
    os.mkfifo("pipe")
    path = Path(f"case{suffix}")
    path.write_bytes(make(good))
    verb = ("export", path, "out.onnx") if suffix == ".pt2" else ("show", path)
    code, out, err = run(capfd, *verb)
    if code == 0 and name.startswith(MAY_BE_READ):
        assert not err
        return
    refused(code, out, err)
    assert not Path("out.onnx").exists()
    if suffix != ".pt2":
        Path("edgel0.toml").write_text(f'[[budget]]\npath = "{path}"\nmax_size = "1 B"\nmax_macs = 1\n')
        assert run(capfd, "check")[0] == 1


@pytest.mark.skipif(os.name != "posix", reason="pipes and links")
@pytest.mark.parametrize("verb", ["show", "profile", "export"])
def test_what_is_no_file_is_refused(verb, inside, capfd, monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    suffix = ".pt2" if verb == "export" else ".tflite"
    Path(f"folder{suffix}").mkdir()
    os.mkfifo(f"pipe{suffix}")
    Path(f"loop{suffix}").symlink_to(f"loop{suffix}")
    Path(f"device{suffix}").symlink_to("/dev/zero")
    names = ("folder", "pipe", "loop", "device", "missing", "bell\a\x1b]0;title\a")
    for name in names:
        refused(*run(capfd, verb, f"{name}{suffix}", *(["out.onnx"] if verb == "export" else [])), codes=(2, 3))


@pytest.mark.parametrize("name", ["cut5.tflite", "text.tflite", "cut5.onnx", "text.onnx"])
def test_profile_refuses_what_no_runtime_loads(name, good, inside, capfd, monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    suffix, make = CASES[name]
    Path(f"case{suffix}").write_bytes(make(good))
    refused(*run(capfd, "profile", f"case{suffix}"), codes=(2, 3))


def test_names_inside_a_file_do_not_steer_the_terminal(inside, capfd, monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    evil = "\x1b]0;title\a\x1b[2J<script>alert(1)</script>\u202e"
    info = [helper.make_tensor_value_info(name, 1, [4]) for name in (evil, "y")]
    model = helper.make_model(
        helper.make_graph([helper.make_node("Relu", [evil], ["y"], name=evil)], "g", info[:1], info[1:])
    )
    model.producer_name = evil
    helper.set_model_props(model, {"edgel0": '{"a\\u0007": "\\u001b[2J"}'})
    Path("case.onnx").write_bytes(model.SerializeToString())
    code, out, err = run(capfd, "show", "case.onnx", "--html", "o.html", "--model-explorer", "o.json")
    assert (code, err) == (0, "")
    page = Path("o.html").read_text()
    assert all(c.isprintable() or c == "\n" for c in out + page)
    assert "<script" not in page


def test_mutants_of_both_formats_raise_nothing_else(good, tmp_path):
    rng = random.Random(7)
    for number in range(1500):
        suffix = (".onnx", ".tflite")[number % 2]
        data = bytearray(good[suffix])
        for _ in range(rng.choice((1, 2, 8))):
            at = rng.randrange(len(data) if rng.random() < 0.5 else 400)
            data[at] = rng.choice((0, 127, 128, 255, data[at] ^ 1 << rng.randrange(8)))
        path = tmp_path / f"m{suffix}"
        path.write_bytes(data if rng.random() < 0.8 else data[: rng.randrange(1, len(data))])
        with contextlib.suppress(EdgeL0Error):
            figures(read(path))
