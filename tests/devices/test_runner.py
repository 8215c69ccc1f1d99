import ast
import gc
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgel0.devices import runner

SOURCE = Path(runner.__file__)
DTYPES = [*("float16", "float32", "float64", "bool"), *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64))]

CHATTY = """
import os
import numpy as np
print("printed at import")
os.write(1, b"written to descriptor 1 at import\\n")

class Interpreter:
    def __init__(self, model_path, num_threads):
        self.given = {}

    def allocate_tensors(self):
        print("allocating")

    def get_input_details(self):
        shape = np.array([1, 3])
        return [{"name": "a", "index": 4, "shape": shape, "dtype": np.float32},
                {"name": "b", "index": 7, "shape": shape, "dtype": np.int8}]

    def set_tensor(self, index, value):
        self.given[index] = value.shape

    def invoke(self):
        assert self.given == {4: (1, 3), 7: (1, 3)}
        print("invoked")
"""


def converse(script, argument, *commands):
    """Run a runner with all its commands at hand; return its events, its exit code and its stderr."""
    text = "".join(json.dumps(command) + "\n" for command in commands)
    done = subprocess.run([sys.executable, script, argument], input=text, capture_output=True, text=True, timeout=60)
    return [json.loads(line) for line in done.stdout.splitlines()], done.returncode, done.stderr


def save(path, nodes, inputs, outputs, initializers=()):
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)


def job(model, *runtimes, **more):
    return {"model": str(model), "runtimes": runtimes, "threads": 1, "seed": 0, **more}


def test_runner_works_alone_from_a_job_file(tmp_path, onnx_file):
    shutil.copy(SOURCE, tmp_path / "runner.py")
    (tmp_path / "job.json").write_text(json.dumps(job(onnx_file, "onnxruntime")))
    batch = {"runs": 7, "seconds": 0.0, "limit": 10.0}
    events, code, _ = converse(
        tmp_path / "runner.py", tmp_path / "job.json", {"do": "warmup", **batch}, {"do": "run", **batch}, {"do": "end"}
    )
    ready, warm, samples, end = events
    assert code == 0
    assert [event["event"] for event in events] == ["ready", "warm", "samples", "end"]
    assert ready["inputs"] == [{"name": "x", "shape": [1, 8], "dtype": "float32"}]
    assert warm["runs"] >= len(samples["samples_ms"]) == 7
    assert sum(samples["samples_ms"]) <= samples["wall_ms"]
    assert end["peak_rss_bytes"] > 10e6


def test_runner_leaves_when_nobody_asks_any_more(onnx_file):
    events, code, _ = converse(SOURCE, json.dumps(job(onnx_file, "onnxruntime")))
    assert ([event["event"] for event in events], code) == (["ready"], 0)


def test_next_runtime_is_taken_and_its_chatter_kept_off_the_protocol(tmp_path, monkeypatch, tflite_file):
    for module, source in {"ai_edge_litert": "raise ImportError", "tflite_runtime": "__version__ = '2.14.0'"}.items():
        (tmp_path / module).mkdir()
        (tmp_path / module / "__init__.py").write_text(source)
    (tmp_path / "tflite_runtime" / "interpreter.py").write_text(CHATTY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    asked = json.dumps(job(tflite_file, "ai_edge_litert", "tflite_runtime", root=str(tmp_path)))
    run = {"do": "run", "runs": 3, "seconds": 0, "limit": 9}
    (ready, samples, _), code, stderr = converse(SOURCE, asked, run, {"do": "end"})
    assert code == 0
    assert ready["runtime"] == "tflite-runtime 2.14.0"
    assert [(i["name"], i["dtype"]) for i in ready["inputs"]] == [("a", "float32"), ("b", "int8")]
    assert len(samples["samples_ms"]) == 3
    assert stderr.count("invoked") == 4
    assert "written to descriptor 1 at import" in stderr


@pytest.mark.parametrize(
    ("argument", "kind", "text"),
    [
        ('{"runtimes": ["onnxruntime"], "threads": 1, "seed": 0}', "failed", "KeyError: 'model'"),
        ('{"runtimes": []}', "missing", "could not import"),
        ("no-such-job.json", "failed", "FileNotFoundError"),
    ],
)
def test_error_is_an_event_and_an_exit_code(argument, kind, text):
    (error,), code, _ = converse(SOURCE, argument)
    assert (error["event"], error["kind"], code) == ("error", kind, 1)
    assert text in error["message"]


def test_model_that_fails_while_running_is_an_event(tmp_path):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [7])
    seven = helper.make_tensor("s", TensorProto.INT64, [1], [7])
    save(tmp_path / "m.onnx", [helper.make_node("Reshape", ["x", "s"], ["y"])], [x], [y], [seven])
    (error,), code, _ = converse(SOURCE, json.dumps(job(tmp_path / "m.onnx", "onnxruntime")))
    assert (error["kind"], code) == ("failed", 1)
    assert "Reshape" in error["message"]


def test_runner_is_standard_library_and_python_3_9():
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"), feature_version=(3, 9))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    names = {alias.name for node in imports for alias in node.names}
    names |= {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names - sys.stdlib_module_names == {"numpy"}  # inside a function: the runtime brings it


@pytest.mark.parametrize("dtype", DTYPES)
def test_inputs_are_drawn_by_shape_and_type(dtype):
    drawn = runner.draw(np.random.default_rng(0), ["batch", 64, None, -1], dtype)
    assert (drawn.shape, drawn.dtype) == ((1, 64, 1, 1), np.dtype(dtype))
    assert drawn.std() > 0
    if not dtype.startswith("float"):
        assert set(np.unique(drawn).tolist()) == {0, 1}


def test_every_onnx_type_is_fed_as_what_it_is(tmp_path):
    values = [(f"in_{t}", f"out_{t}", helper.np_dtype_to_tensor_dtype(np.dtype(t))) for t in DTYPES]
    save(
        tmp_path / "types.onnx",
        [helper.make_node("Identity", [source], [result]) for source, result, _ in values],
        [helper.make_tensor_value_info(source, kind, [2, "n"]) for source, _, kind in values],
        [helper.make_tensor_value_info(result, kind, [2, "n"]) for _, result, kind in values],
    )
    (ready,), _, _ = converse(SOURCE, json.dumps(job(tmp_path / "types.onnx", "onnxruntime")))
    assert ready["inputs"] == [{"name": f"in_{t}", "shape": [2, 1], "dtype": t} for t in DTYPES]


def test_onnx_input_of_text_is_refused(tmp_path):
    x, y = (helper.make_tensor_value_info(name, TensorProto.STRING, [1]) for name in "xy")
    save(tmp_path / "text.onnx", [helper.make_node("Identity", ["x"], ["y"])], [x], [y])
    (error,), code, _ = converse(SOURCE, json.dumps(job(tmp_path / "text.onnx", "onnxruntime")))
    assert (error["kind"], code) == ("failed", 1)
    assert "type string" in error["message"]


def test_onnx_runtime_gets_one_pool_that_does_not_spin(onnx_file):
    seen = []

    def session(model, options, providers):
        seen.append((options, providers))
        return onnxruntime.InferenceSession(model, options, providers=providers)

    api = SimpleNamespace(SessionOptions=onnxruntime.SessionOptions, InferenceSession=session)
    infer, _, feeds = runner.open_onnx(api, str(onnx_file), 2, np.random.default_rng(0))
    ((options, providers),) = seen
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert providers == ["CPUExecutionProvider"]
    weight = onnx.numpy_helper.to_array(onnx.load(onnx_file).graph.initializer[0])
    np.testing.assert_allclose(infer()[0], feeds["x"] @ weight, rtol=1e-5, atol=1e-6)


def test_inputs_are_the_same_for_the_same_seed():
    one, same, other = (runner.draw(np.random.default_rng(seed), [5], "float32") for seed in (1, 1, 2))
    assert (one == same).all()
    assert not (one == other).any()


@pytest.mark.parametrize(
    ("runs", "seconds", "limit", "expected"),
    [(5, 0, 100, 5), (1, 2.0, 100, 2), (9, 0, 3.0, 3), (9, 9, 0, 1)],
    ids=["runs", "seconds", "limit", "at least one"],
)
def test_batch_ends_by_runs_and_seconds_or_at_the_limit(monkeypatch, runs, seconds, limit, expected):
    now = [0]
    monkeypatch.setattr(runner.time, "perf_counter_ns", lambda: now[0])

    def infer():
        now[0] += 1_000_000_000

    samples, _, wall_ms = runner.batch(infer, runs, seconds, limit)
    assert samples.tolist() == [1_000_000_000] * expected
    assert wall_ms == expected * 1000


def test_batch_restores_the_collector_when_inference_fails():
    def fail():
        assert not gc.isenabled()
        raise ValueError

    with pytest.raises(ValueError):
        runner.batch(fail, 1, 0, 1)
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("times", "runs", "stable"),
    [
        ([8] * 9, 4, True),  # two batches of two
        ([8, 8, 4, 4, 2, 2, 2, 2, 1], 8, True),
        ([1000 - i for i in range(100)], 4, True),  # falls by less than one in fifty
        ([2.0**-i for i in range(100)], 20, False),
    ],
    ids=["at once", "later", "nearly", "never"],
)
def test_warm_up_ends_when_the_median_stops_falling(monkeypatch, times, runs, stable):
    now, left = [0], iter(times)
    monkeypatch.setattr(runner.time, "perf_counter_ns", lambda: now[0])

    def infer():
        now[0] += int(next(left) * 1e6)

    assert runner.warm(infer, 4, 0.0, 100.0) == (runs, stable)


def test_warm_up_has_a_limit(monkeypatch):
    now = [0]
    monkeypatch.setattr(runner.time, "perf_counter_ns", lambda: now[0])

    def infer():
        now[0] += 1_000_000_000

    assert runner.warm(infer, 100, 0.5, 3.0) == (3, False)


def test_node_times_are_medians_without_the_first_run():
    def event(name, dur, cat="Node", kind="Conv"):
        return {"name": name, "cat": cat, "dur": dur, "args": {"op_name": kind}}

    events = [event("session_run", 99, "Session")]
    for dur in (900, 10, 20, 30):
        events += [event("c_kernel_time", dur), event("c_fence_before", 1), event("r_kernel_time", 5, kind="Relu")]
    assert runner.node_times(events) == [["c", "Conv", 0.02], ["r", "Relu", 0.005]]


def test_a_board_with_clocks_settles_and_is_looked_at_around_each_round(tmp_path, onnx_file):
    folder = tmp_path / "sys/devices/system/cpu/cpufreq/policy0"
    folder.mkdir(parents=True)
    (folder / "scaling_cur_freq").write_text("600000")
    run = {"do": "run", "runs": 3, "seconds": 0, "limit": 9}
    (_, samples, _), _, _ = converse(
        SOURCE, json.dumps(job(onnx_file, "onnxruntime", root=str(tmp_path))), run, {"do": "end"}
    )
    assert samples["before"]["clocks"]["policy0"]["cur"] == samples["after"]["clocks"]["policy0"]["cur"] == 600_000
    assert samples["after"]["own_cpu_ms"] > samples["before"]["own_cpu_ms"]
    assert len(samples["samples_ms"]) == 3


def test_a_long_round_is_told_as_it_goes(monkeypatch):
    monkeypatch.setattr(runner, "TOLD_SECS", 0.02)
    said = []
    command = {"do": "run", "runs": 9, "seconds": 0.0, "limit": 9.0}
    whole = runner.measured(lambda: time.sleep(0.005), command, "/nowhere", lambda event, **more: said.append(more))
    assert 1 < len(said) <= 4
    assert [ms for some in said for ms in some["samples_ms"]] == whole["samples_ms"]
    assert len(whole["samples_ms"]) == 9
    for key in ("cpu_ms", "wall_ms"):
        assert sum(some[key] for some in said) == pytest.approx(whole[key])
    said.clear()
    runner.measured(lambda: None, command, "/nowhere", lambda event, **more: said.append(more))
    assert said == []


def test_the_peak_is_that_of_the_model_not_of_the_profile(onnx_file):
    profile = {"do": "operators", "runs": 5}
    (ready, operators, end), code, _ = converse(
        SOURCE, json.dumps(job(onnx_file, "onnxruntime")), profile, {"do": "end"}
    )
    assert (code, operators["reason"], [kind for _, kind, _ in operators["operators"]]) == (0, "", ["MatMul"])
    held = ready["memory"]
    assert held["before_load_bytes"] < held["after_first_bytes"] <= end["peak_rss_bytes"]
