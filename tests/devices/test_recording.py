import hashlib
import json

import pytest

from edgel0.devices import recording
from edgel0.devices.recording import record
from edgel0.errors import DeviceError, UsageError
from edgel0.types import Count


@pytest.fixture
def file(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"model")
    digest = hashlib.sha256(b"model").hexdigest()
    (tmp_path / "m.onnx.json").write_text(json.dumps({"schema": 1, "sha256": digest, "cost": {"macs": 7}}))
    return tmp_path / "m.onnx"


def counted(file, core="cortex-a72", instructions=100):
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Count(str(file), digest, core, "onnxruntime 1.32.0", instructions, 40, 0.0, (instructions,))


def told(file):
    return json.loads(file.with_name(f"{file.name}.json").read_text())


def test_counts_are_added_by_core_and_the_rest_stays(file):
    assert record(file, [counted(file), counted(file, "cortex-a53")]) == file.with_name("m.onnx.json")
    record(file, [counted(file, instructions=90)])
    assert told(file)["cost"] == {"macs": 7}
    row = {"runtime": "onnxruntime 1.32.0", "count": 100, "accesses": 40}
    assert told(file)["instructions"] == {"cortex-a72": {**row, "count": 90}, "cortex-a53": row}


def test_a_file_of_somebody_else_gets_a_json(tmp_path):
    (tmp_path / "theirs.tflite").write_bytes(b"theirs")
    record(tmp_path / "theirs.tflite", [counted(tmp_path / "theirs.tflite")])
    new = told(tmp_path / "theirs.tflite")
    assert (new["schema"], new["file"], new["bytes"]) == (1, "theirs.tflite", 6)
    assert new["sha256"] == hashlib.sha256(b"theirs").hexdigest()


def test_a_check_reads_what_was_recorded(file):
    from edgel0.checks.figures import read_sidecar

    record(file, [counted(file)])
    assert read_sidecar(file)["instructions"]["cortex-a72"]["count"] == 100


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"schema": 1, "sha256": "0"}', "describes another file"),
        ("[]", "no JSON that edgel0 wrote"),
        ("{", "no JSON that edgel0 wrote"),
        ('{"schema": 2}', "no JSON that edgel0 wrote"),
    ],
)
def test_a_json_of_something_else_is_left_alone(file, text, why):
    beside = file.with_name("m.onnx.json")
    beside.write_text(text)
    with pytest.raises(UsageError, match=why):
        record(file, [counted(file)])
    assert beside.read_text() == text


def test_a_count_of_what_the_file_was_before_is_refused(file):
    old = counted(file)
    file.write_bytes(b"trained on")
    file.with_name("m.onnx.json").unlink()
    with pytest.raises(UsageError, match="count it again"):
        record(file, [old])
    assert not file.with_name("m.onnx.json").exists()


def test_what_cannot_be_written_leaves_the_old(file, monkeypatch):
    before = told(file)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recording.Path, "replace", full)
    with pytest.raises(DeviceError, match="No space left"):
        record(file, [counted(file)])
    assert told(file) == before
    assert sorted(path.name for path in file.parent.iterdir()) == ["m.onnx", "m.onnx.json"]


def test_a_missing_file(tmp_path):
    with pytest.raises(DeviceError, match="no count is recorded"):
        record(tmp_path / "none.onnx", [])
