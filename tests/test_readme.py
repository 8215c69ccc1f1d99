"""Are the README's examples true?"""

import re
from pathlib import Path

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from ai_edge_litert.interpreter import Interpreter
from torch import nn

import edgel0

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def namespace(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 4),
    )
    centres = torch.randn(4, 1, 8, 8)
    labels = torch.randint(4, (160, 16))
    loader = [(centres[y] + 0.3 * torch.randn(16, 1, 8, 8), y) for y in labels]
    return {
        "edgel0": edgel0,
        "torch": torch,
        "F": F,
        "model": model,
        "example": torch.randn(1, 1, 8, 8),
        "loader": loader,
        "samples": [(x[:1],) for x, _ in loader[:20]],
    }


def blocks():
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_ten_lines_train_to_the_budget_and_export(namespace):
    exec(blocks()[0], namespace)
    slim = namespace["slim"]
    assert slim.cost.macs <= 0.25 * slim.dense.macs
    x = namespace["example"]
    namespace["model"].eval()
    with torch.no_grad():
        wanted = namespace["model"](x).numpy()
    onnx = onnxruntime.InferenceSession("model.onnx")
    assert abs(onnx.run(None, {onnx.get_inputs()[0].name: x.numpy()})[0] - wanted).max() <= 1e-5
    lite = Interpreter("model.tflite")
    lite.allocate_tensors()
    lite.set_tensor(lite.get_input_details()[0]["index"], x.numpy())
    lite.invoke()
    assert abs(lite.get_tensor(lite.get_output_details()[0]["index"]) - wanted).max() <= 1e-5


def test_the_proof_needs_no_training(namespace):
    namespace["model"].eval()
    exec(blocks()[1], namespace)
    assert namespace["slim"].cost.macs < namespace["slim"].dense.macs


def test_masks_without_gates_are_within_the_budget(namespace):
    namespace["model"].eval()
    namespace["coupling"] = edgel0.trace(namespace["model"], namespace["example"])
    exec(next(block for block in blocks() if "Masks.rank" in block), namespace)
    assert edgel0.slim(
        namespace["small"], edgel0.Masks.random(edgel0.trace(namespace["small"], namespace["example"]), 0)
    )
    assert min(namespace["masks"].kept.values()) >= 2


def test_the_demo_and_the_exit_codes_are_named():
    for text in ("make demo", "make test", "edgel0 run export/mnist-lenet5.toml"):
        assert text in README


def test_the_operator_that_contributing_adds_is_there():
    root = Path(__file__).parent.parent
    shown = re.findall(r"```python\n(.*?)```", (root / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    files = ("edgel0/moving.py", "edgel0/flow.py", "tests/test_flow.py")
    assert len(shown) == len(files)
    for code, file in zip(shown, files, strict=True):
        assert code in (root / file).read_text(encoding="utf-8"), file
