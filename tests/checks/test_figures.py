"""Figures: the right number, or the words that say why there is none."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgel0.checks.figures import FIGURES, Subject, figure
from edgel0.quantities import METRICS

from .artefacts import TIMES, model, sidecar
from .repositories import counts, network


@pytest.fixture
def tflite(tmp_path):
    path = tmp_path / "slim.tflite"
    path.write_bytes(bytes(1234))
    sidecar(path)
    return path


def of(path, metric, **qualifiers):
    return figure(Subject(path.parent, path.name), metric, qualifiers)[0]


@pytest.mark.parametrize(
    ("metric", "qualifiers", "value"),
    [
        ("size", {}, 1234),
        ("macs", {}, 2_000_000),
        ("params", {}, 60_000),
        ("latency", {}, 4),
        ("latency", {"stat": "p10"}, 3.5),
        ("latency", {"stat": "p90", "runtime": "onnxruntime"}, 5.25),
        ("latency", {"stat": "p50", "runtime": "onnxruntime 1.32.0"}, 4),
    ],
)
def test_every_figure(tflite, metric, qualifiers, value):
    assert of(tflite, metric, **qualifiers) == value


def test_the_size_needs_no_sidecar(tflite):
    tflite.with_name("slim.tflite.json").unlink()
    assert of(tflite, "size") == 1234
    assert of(tflite, "macs") == "slim.tflite.json is missing; export with edgel0, which writes it"


def test_external_data_are_summed_once(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(model("w.bin", "w.bin", "sub/v.bin"))
    assert of(path, "size") == "its external data file 'v.bin' is missing"
    (tmp_path / "w.bin").write_bytes(bytes(1000))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "v.bin").write_bytes(bytes(500))
    (tmp_path / "a.onnx.data").write_bytes(bytes(70))  # nobody names it
    assert of(path, "size") == path.stat().st_size + 1500


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname", "sub/../../w.bin", "link"])
def test_external_data_outside_are_not_weighed(tmp_path, location):
    folder = tmp_path / "dist"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(b"1")
    (folder / "link").symlink_to("../w.bin")
    path = folder / "a.onnx"
    path.write_bytes(model(location))
    assert of(path, "size") == "its external data lie outside its folder"


@pytest.mark.parametrize("location", ["", "a\0b", ".", "loop"])
def test_external_data_that_are_no_file(tmp_path, location):
    (tmp_path / "loop").symlink_to("loop")
    path = tmp_path / "a.onnx"
    path.write_bytes(model(location))
    assert isinstance(of(path, "size"), str)


@pytest.mark.parametrize("metric", ["size", "macs", "params", "latency"])
def test_a_missing_file_has_no_figures(tmp_path, metric):
    path = tmp_path / "gone.onnx"
    assert of(path, metric) == "file is missing"
    path.write_bytes(model())
    sidecar(path)
    path.unlink()  # the sidecar stayed behind
    assert of(path, metric) == "file is missing"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.onnx", b"", "file is empty"),
        ("a.tflite", b"", "file is empty"),
        ("a.onnx", b"x" * 101, "file is not a readable ONNX model: it is cut off or is no protobuf message"),
        ("a.ONNX", b"x" * 100, "file is not a readable ONNX model: it holds no graph"),
    ],
)
def test_a_file_that_cannot_be_weighed(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    assert of(tmp_path / name, "size") == reason


@pytest.mark.parametrize("metric", ["size", "macs", "params", "latency"])
def test_a_folder_has_no_figures(tmp_path, metric):
    (tmp_path / "a.onnx").mkdir()
    assert of(tmp_path / "a.onnx", metric) == "it is not a regular file"
    assert of(tmp_path / ".", metric) == "it is not a regular file"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not readable JSON"),
        (b"{", "not readable JSON"),
        (b"\xff\xfe{", "not readable JSON"),
        (b"[" * 100_000, "not readable JSON"),
        (b'{"schema": ' + b"9" * 5000 + b"}", "not readable JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"3", "not a JSON object"),
        (b"{}", "does not follow schema 1"),
    ],
)
def test_a_broken_sidecar_is_told(tflite, content, reason):
    tflite.with_name("slim.tflite.json").write_bytes(content)
    for metric in ("macs", "params", "latency"):
        assert reason in of(tflite, metric)


@pytest.mark.parametrize("schema", [0, 2, "1", 1.0, True, None, [1]])
def test_another_schema_is_not_believed(tflite, schema):
    sidecar(tflite, schema=schema)
    assert "does not follow schema 1" in of(tflite, "macs")


@pytest.mark.parametrize("digest", ["0" * 64, "", None, 5, []])
def test_another_file_is_not_believed(tflite, digest):
    sidecar(tflite, sha256=digest)
    assert of(tflite, "params") == "slim.tflite.json describes another file (its sha256 differs); export again"


def test_one_changed_bit_is_another_file(tflite):
    tflite.write_bytes(bytes(1233) + b"\1")
    assert "sha256 differs" in of(tflite, "macs")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo] if hasattr(os, "mkfifo") else [Path.mkdir])
def test_a_folder_or_a_pipe_is_no_sidecar_and_no_artefact(tflite, make):
    beside = tflite.with_name("slim.tflite.json")
    beside.unlink()
    make(beside)
    assert of(tflite, "macs") == "slim.tflite.json is missing; export with edgel0, which writes it"
    tflite.unlink()
    make(tflite)
    for metric in ("size", "macs"):
        assert of(tflite, metric) == "it is not a regular file"


def test_what_may_not_be_read_is_told(tflite, monkeypatch):
    def refuse(path, *args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)  # root may read everything, so no file mode would do
    assert of(tflite, "macs") == "slim.tflite.json cannot be read (Permission denied)"
    model_file = tflite.rename(tflite.with_suffix(".onnx"))
    assert of(model_file, "size") == "file cannot be read (Permission denied)"


WRONG = [float("nan"), float("inf"), -1, "60000", None, True, [1], {}, 2**63, 1e300]


@pytest.mark.parametrize("value", [*WRONG, 1.5, 6e6])
@pytest.mark.parametrize("metric", ["macs", "params"])
def test_a_wrong_count_is_a_missing_figure(tflite, metric, value):
    sidecar(tflite, cost={"macs": 1, "params": 1} | {metric: value})
    assert of(tflite, metric) == f"the exporter's JSON gives no usable number of {metric}; export again"


@pytest.mark.parametrize("value", WRONG)
def test_a_wrong_time_is_a_missing_figure(tflite, value):
    sidecar(tflite, latency_ms={"onnxruntime 1.32.0": {"p50": value}})
    assert of(tflite, "latency") == "the exporter's JSON gives no usable p50 in 'onnxruntime 1.32.0'"


@pytest.mark.parametrize("cost", [None, [], 3, "x", {}])
def test_a_wrong_cost_is_a_missing_figure(tflite, cost):
    sidecar(tflite, cost=cost)
    assert isinstance(of(tflite, "macs"), str)


@pytest.mark.parametrize("times", [None, [], 3, "x", {}])
def test_no_latency_is_a_missing_figure(tflite, times):
    sidecar(tflite, latency_ms=times)
    assert of(tflite, "latency") == "the exporter's JSON holds no measured latency; measure the artefact first"


def test_the_runtime_is_never_guessed(tflite):
    sidecar(
        tflite, latency_ms={"onnxruntime 1.32.0": {"p50": 4}, "onnxruntime 1.31.0": {"p50": 9}, "litert": {"p50": 5}}
    )
    assert of(tflite, "latency", runtime="litert") == 5
    assert of(tflite, "latency", runtime="onnxruntime 1.31.0") == 9
    for qualifiers in ({}, {"runtime": "onnxruntime"}):
        assert of(tflite, "latency", **qualifiers).startswith("latency was measured in several runtimes; name one")
    assert of(tflite, "latency", runtime="onnx") == (
        "no latency was measured in 'onnx'; there is: 'onnxruntime 1.32.0', 'onnxruntime 1.31.0', 'litert'"
    )


@pytest.mark.parametrize("runtime", ["\x1b[2J", "\ud800", "a\nb"])
def test_a_foreign_runtime_cannot_steer_the_terminal(tflite, runtime):
    sidecar(tflite, latency_ms={runtime: {}, "other": {}})
    for qualifiers in ({}, {"runtime": "third"}, {"runtime": runtime}):
        assert of(tflite, "latency", **qualifiers).isprintable()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["macs", "p50", "onnxruntime 1", ""]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(st.dictionaries(st.sampled_from(["schema", "sha256", "cost", "latency_ms"]), JSON, max_size=2))
def test_any_sidecar_gives_a_number_or_a_reason(tflite, changes):
    beside = sidecar(tflite, **changes)
    json.loads(beside.read_text())
    for metric in ("macs", "params", "latency"):
        found = of(tflite, metric)
        assert isinstance(found, str) or 0 <= found < 2**63


def test_every_metric_has_a_figure():
    assert list(FIGURES) == list(METRICS)


# What is counted in the file itself.


def test_an_onnx_file_is_counted_without_a_sidecar(tmp_path):
    path = network(tmp_path / "digits.onnx")
    wanted = counts()
    assert {metric: of(path, metric) for metric in wanted} == wanted
    assert (of(path, "operators"), of(path, "transposes")) == (6, 0)
    assert list(Subject(tmp_path, path.name).layers) == ["conv1", "fc1", "fc2"]


def test_compressed_is_what_gzip_gives(tmp_path):
    import gzip

    path = network(tmp_path / "digits.onnx", external=True)
    files = [path, path.with_name("digits.onnx.data")]
    expected = sum(len(gzip.compress(file.read_bytes(), 9, mtime=0)) for file in files)
    found, key = figure(Subject(tmp_path, path.name), "compressed", {})
    assert found == expected < of(path, "size") and key in ("compressed by zlib", "compressed by zlib-ng")


@pytest.mark.parametrize(
    ("provenance", "found"),
    [({"tflite": {"partitions": 3}}, 3), ({}, None), (None, None), ({"tflite": {"partitions": "1"}}, None), (3, None)],
)
def test_partitions(tflite, provenance, found):
    sidecar(tflite, provenance=provenance)
    missing = "the JSON beside the file gives no number of delegate partitions"
    assert of(tflite, "partitions") == (missing if found is None else found)


COUNTED = {"cortex-a72": {"runtime": "onnxruntime 1.32.0", "count": 4_000_000}, "broken": {"count": 1.5}, "odd": 3}


@pytest.mark.parametrize(
    ("qualifiers", "found"),
    [
        ({"core": "cortex-a72"}, 4_000_000),
        ({"core": "cortex-a72", "runtime": "onnxruntime"}, 4_000_000),
        ({"core": "cortex-a72", "runtime": "onnxruntime 1.32.0"}, 4_000_000),
        ({"core": "cortex-a72", "runtime": "onnxruntime 1.31.0"}, "were counted in 'onnxruntime 1.32.0', not in"),
        (
            {"core": "cortex-a53"},
            "no instructions were counted on 'cortex-a53'; there is: 'cortex-a72', 'broken', 'odd'",
        ),
        ({"core": "broken"}, "gives no usable count of instructions on 'broken'"),
        ({"core": "odd"}, "gives no usable count of instructions on 'odd'"),
    ],
)
def test_instructions_of_a_core_and_a_runtime(tflite, qualifiers, found):
    sidecar(tflite, instructions=COUNTED)
    value = of(tflite, "instructions", **qualifiers)
    assert found in value if isinstance(found, str) else value == found


@pytest.mark.parametrize("counted", [None, [], 3, {}])
def test_no_instructions_are_a_missing_figure(tflite, counted):
    sidecar(tflite, instructions=counted)
    assert of(tflite, "instructions", core="x") == "no instructions were counted on 'x'"


@pytest.mark.parametrize(
    ("changes", "absolute", "found"),
    [
        ({}, True, 4),
        ({"pinned": False}, True, "the clock and cores of 'rpi4' were not pinned"),
        ({"pinned": 1}, True, "were not pinned"),
        ({"pinned": False}, False, 4),
        ({"throttled": True}, False, "was taken while its clock was throttled"),
        ({"board": "laptop"}, False, "it was measured on 'laptop', not on 'rpi4'; measure it there"),
    ],
)
def test_a_time_holds_on_its_board_and_absolutely_where_it_was_pinned(tflite, changes, absolute, found):
    sidecar(tflite, latency_ms={"onnxruntime 1.32.0": TIMES | changes})
    value = of(tflite, "latency", board="rpi4", absolute=absolute)
    assert found in value if isinstance(found, str) else value == found


def test_a_key_says_what_a_figure_depends_on(tflite):
    sidecar(tflite, instructions=COUNTED)
    subject = Subject(tflite.parent, tflite.name)
    keys = [figure(subject, metric, {"core": "cortex-a72"})[1] for metric in ("size", "instructions", "latency")]
    times = "latency p50 on rpi4, onnxruntime 1.32.0, 1 threads"
    assert keys == ["size", "instructions on cortex-a72, onnxruntime 1.32.0", times]


RESULT = {
    "dense": {"accuracy": 0.99, "files": {"dense.tflite": 9999}},
    "slim": {"accuracy": 0.985, "files": {"slim.tflite": 1234}},
    "quantized": {"slim.int8.tflite": {"accuracy": 0.97, "bytes": 1234}, "old.tflite": {"accuracy": 0.9, "bytes": 1}},
}


@pytest.mark.parametrize(
    ("qualifiers", "found"),
    [
        ({}, 0.985),
        ({"of": "slim"}, 0.985),
        ({"of": "dense"}, 0.99),
        ({"of": "slim.int8.tflite"}, 0.97),
        ({"of": "dense.tflite"}, "describes another 'dense.tflite' (its size differs)"),
        ({"of": "old.tflite"}, "describes another 'old.tflite' (its size differs)"),
        ({"of": "x"}, "knows no 'x'"),
        ({"result": "nothing.json"}, "there is no nothing.json of a run"),
    ],
)
def test_accuracy_is_that_of_the_run_and_the_file(tflite, qualifiers, found):
    tflite.with_name("result.json").write_text(json.dumps(RESULT))
    value = of(tflite, "accuracy", **qualifiers)
    assert found in value if isinstance(found, str) else value == found


@pytest.mark.parametrize(
    "content", ["", "[]", "{", "[" * 100_000, "{}", '{"slim": 3}', '{"slim": {"files": {"slim.tflite": 1234}}}',
                '{"slim": {"accuracy": 98.5, "files": {"slim.tflite": 1234}}}', '{"quantized": []}']
)  # fmt: skip
def test_a_broken_result_is_a_missing_figure(tflite, content):
    tflite.with_name("result.json").write_text(content)
    assert isinstance(of(tflite, "accuracy"), str)


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
def test_any_bytes_give_a_figure_or_a_reason(tmp_path, content):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"\x3a" + bytes([len(content)]) + content if len(content) < 128 else content)
    for metric in ("size", "params", "operators"):
        assert isinstance(of(path, metric), (int, str))


def test_a_tensor_larger_than_any_file_is_refused(tmp_path):
    import onnx

    path = network(tmp_path / "digits.onnx")
    huge = onnx.load(path)
    huge.graph.initializer[2].dims[0] = 2**62
    path.write_bytes(huge.SerializeToString())
    assert isinstance(of(path, "params"), str) and of(path, "size") > 0
    assert Subject(tmp_path, path.name).layers == {}
