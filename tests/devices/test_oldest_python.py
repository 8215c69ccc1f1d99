"""What is copied to a board must run on Python 3.9: its calls by a checker, and the real one where it is installed."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edgel0

PACKAGE = Path(edgel0.__file__).parent
TRAVELLERS = ("devices/runner.py", "devices/receiver.py", "exporters/answering.py")

NUMPY = """
class Array:
    def __init__(self, shape, dtype):
        self.shape, self.dtype = tuple(shape), type("dtype", (), {"name": dtype})

    def astype(self, dtype):
        return Array(self.shape, dtype)

    def tolist(self):
        return list(self.shape)

class Generator:
    def standard_normal(self, shape):
        return Array(shape, "float64")

class random:
    def default_rng(seed):
        return Generator()
"""

INTERPRETER = """
import numpy as np

class Interpreter:
    def __init__(self, model_path, num_threads):
        pass

    def allocate_tensors(self):
        pass

    def get_input_details(self):
        return [{"name": "x", "index": 0, "shape": np.Array([1, 8], "int32"), "dtype": type("float32", (), {})}]

    def set_tensor(self, index, value):
        pass

    def invoke(self):
        pass
"""


def python39():
    """Return a Python 3.9 that runs, None where there is none."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for path in [shutil.which("python3.9"), *root.glob("versions/3.9.*/bin/python3.9")]:
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return path
    return None


def test_whatever_says_that_it_runs_there_is_checked():
    said = [path for path in PACKAGE.rglob("*.py") if "Python 3.9" in path.read_text("utf-8").partition("\n")[0]]
    assert sorted(path.relative_to(PACKAGE).as_posix() for path in said) == sorted(TRAVELLERS)


@pytest.mark.parametrize("name", TRAVELLERS)
def test_syntax_and_calls_are_of_python_3_9(name, tmp_path):
    ast.parse((PACKAGE / name).read_text("utf-8"), feature_version=(3, 9))
    pytest.importorskip("vermin")
    asked = ["--no-tips", "--target=3.9-", "--violations", "--eval-annotations", PACKAGE / name]
    program = [sys.executable, "-c", "import vermin; vermin.main()"]
    done = subprocess.run([*program, *asked], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(python39() is None, reason="there is no python3.9 on the PATH or in pyenv")
def test_a_job_runs_in_python_3_9(tmp_path):
    for module, source in {"numpy": NUMPY, "tflite_runtime": "", "tflite_runtime/interpreter": INTERPRETER}.items():
        path = tmp_path / (f"{module}.py" if "/" in module else f"{module}/__init__.py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
    job = {"model": "model.tflite", "runtimes": ["tflite_runtime"], "threads": 1, "seed": 0}
    batch = {"runs": 5, "seconds": 0.01, "limit": 9.0}
    commands = [{"do": "warmup", **batch}, {"do": "look"}, {"do": "run", **batch}, {"do": "operators", "runs": 2}]
    done = subprocess.run(
        [python39(), "-W", "error", PACKAGE / "devices/runner.py", json.dumps(job)],
        input="".join(json.dumps(command) + "\n" for command in [*commands, {"do": "end"}]),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == ["ready", "warm", "look", "samples", "operators", "end"], events
    assert events[0]["board"]["python"].startswith("3.9.")
    assert events[0]["inputs"] == [{"name": "x", "shape": [1, 8], "dtype": "float32"}]
    assert len(events[3]["samples_ms"]) >= 5 and set(events[2]["after"]) == set(events[3]["after"])
    assert done.returncode == 0, done.stderr
