"""Other interpreters: their runtimes must answer as the model does, or say clearly why they cannot."""

import json
import os
import stat
import sys

import pytest

from edgel0.errors import DeviceError, ExtraError, ParityError
from edgel0.exporters.writing import export

from .test_precision import FORMATS, drawn, swish  # noqa: F401 - a fixture

OLD = os.environ.get("EDGEL0_OLD_TFLITE", "")  # the python of an environment with tflite-runtime 2.14.0 and numpy<2


def python(folder, name, code):
    """A program that stands for another Python: it runs ``code`` with the job in ``job``."""
    path = folder / name
    path.write_text(
        f"#!{sys.executable}\nimport json, os, subprocess, sys, time\njob = json.loads(sys.argv[-1])\n{code}\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("precision", ["float32", "static_wi8_ai8"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_the_same_runtime_elsewhere_answers_the_same(swish, tmp_path, suffix, precision, layout):  # noqa: F811
    if suffix == ".onnx" and layout == "nhwc":
        pytest.skip("ONNX files have one layout")
    data = drawn(swish, 5)
    options = {"precision": precision, "calibrate": data, "inputs": data, "layout": layout}
    made = export(swish, tmp_path / f"m{suffix}", interpreters=[sys.executable], **options)
    (row,) = made.elsewhere
    assert row.max_abs == made.parity.max_abs
    assert row.runtime.endswith(sys.executable)
    (told,) = json.loads((tmp_path / f"m{suffix}.json").read_text())["elsewhere"]
    assert told["samples"] == 5


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        ("print('hello'); sys.exit(3)", DeviceError, r"cannot run .* \(exit code 3\): it left no words"),
        ("os.kill(os.getpid(), 11)", DeviceError, r"exit code -11"),
        (
            "print(json.dumps({'error': 'missing', 'message': 'no tflite'}))",
            ExtraError,
            r"has no runtime for .*no tflite",
        ),
        (
            "print(json.dumps({'error': 'failed', 'message': 'op 12'}))",
            DeviceError,
            r"op 12; write it in another precision",
        ),
        ("time.sleep(60)", DeviceError, r"did not answer within 1 s"),
    ],
    ids=["garbage", "crash", "missing", "failed", "hang"],
)
def test_a_runtime_that_cannot(swish, tmp_path, code, error, words, monkeypatch):  # noqa: F811
    monkeypatch.setattr("edgel0.exporters.elsewhere.PATIENCE", 1.0)
    other = python(tmp_path, "python", code)
    with pytest.raises(error, match=words):
        export(swish, tmp_path / "m.tflite", interpreters=[other])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["python"]


def test_a_python_that_is_not_there(swish, tmp_path):  # noqa: F811
    with pytest.raises(DeviceError, match=r"cannot be started \(No such file or directory\); name the python"):
        export(swish, tmp_path / "m.onnx", interpreters=[str(tmp_path / "none")])


def test_a_runtime_that_answers_wrongly_is_named(swish, tmp_path):  # noqa: F811
    """As tflite-runtime 2.14 does with dynamic int8: no error, other numbers."""
    code = (
        f"subprocess.run([{sys.executable!r}, *sys.argv[1:]], check=True)\n"
        "import numpy as np\n"
        "made = dict(np.load(job['made']))\n"
        "np.savez(job['made'], **{key: 1.5 * value + 1 for key, value in made.items()})"
    )
    other = python(tmp_path, "python", code)
    with pytest.raises(ParityError, match=rf"ai-edge-litert [\d.]+ of {other} ") as caught:
        export(swish, tmp_path / "m.tflite", interpreters=[other])
    assert "The file is kept as" in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.tflite.rejected", "python"]


@pytest.mark.skipif(not OLD, reason="EDGEL0_OLD_TFLITE names no python with tflite-runtime 2.14.0")
def test_the_old_runtime_is_right_but_for_dynamic_integers(swish, tmp_path):  # noqa: F811
    data = drawn(swish, 16)
    for precision in ("float32", "float16", "weight_only_wi8_afp32", "static_wi8_ai8"):
        made = export(swish, tmp_path / "m.tflite", precision=precision, calibrate=data, interpreters=[OLD])
        assert "tflite-runtime 2.14.0" in made.elsewhere[0].runtime
    with pytest.raises(ParityError, match=r"tflite-runtime 2\.14\.0"):
        export(swish, tmp_path / "m.tflite", precision="dynamic_wi8_afp32", interpreters=[OLD])
