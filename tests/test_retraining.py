import json

import numpy as np
import pytest
import torch
from projects import edgel0, project
from torch import nn

from edgel0 import slim, trace
from edgel0.exporters.rehearsing import hold_ranges, learned, rehearsal
from edgel0.types import Masks

# The signs of 0 to 1 share eight bits with numbers a hundred times as large.
UNEVEN = """
class Uneven(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 12, 3, padding=1), nn.Linear(13 * 16, 4)
        self.register_buffer("scale", torch.tensor([1.0] * 12 + [250.0]).view(1, 13, 1, 1))

    def forward(self, x):
        large = 250 * torch.sigmoid(torch.max_pool2d(x, 2))
        x = torch.cat([torch.max_pool2d(self.conv(x).relu(), 2), large], 1)
        return self.head((x / self.scale).flatten(1))


def build():
    return Uneven()
"""
WANTED = 'formats = ["onnx"]\nquantize = ["static_wi8_ai8"]\nmax_accuracy_drop = 0.005\nqat_epochs = 20'
# Slowly trained, the network leans on signs that eight bits round away.
CHANGES = (
    ("verify = 20", "verify = 80"),
    ('path = "slim.pt2"', 'path = "slim.onnx"'),
    ("learning_rate = 1e-2", "learning_rate = 3e-3"),
)


class Small(nn.Module):
    """A layer with batch norm and activation, a transposed one, one that is used twice, a recurrent one."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(3, 8, 3, padding=1), nn.BatchNorm1d(8)
        self.up = nn.ConvTranspose1d(8, 6, 2, stride=2)
        self.twice, self.rnn, self.head = nn.Linear(6, 6), nn.GRU(6, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, x):
        x = self.up(self.norm(self.conv(x)).relu()).transpose(1, 2)
        return self.head(self.rnn(self.twice(self.twice(x).relu()))[0][:, -1])


def program_of(model, batch, seed=0):
    coupling = trace(model, torch.randn(batch, 3, 10, generator=torch.Generator().manual_seed(seed)))
    opened = np.ones(coupling.units + 1, bool)
    opened[3] = False
    return slim(model, Masks(coupling, opened)).program


@pytest.fixture
def model():
    torch.manual_seed(1)
    made = Small()
    made.norm.running_var.uniform_(0.5, 2)
    made.norm.running_mean.uniform_(-1, 1)
    return made.eval()


def test_a_rehearsal_rounds_to_eight_bits_and_has_the_programs_parameters(model):
    program = program_of(model, 4)
    module, x = rehearsal(program), torch.randn(4, 3, 10)
    plain = program.module()(x)
    (first,) = module(x)
    assert 0 < (first - plain).abs().max() < 0.05 * plain.abs().max()
    parameters = dict(module.named_parameters(remove_duplicate=False))
    assert parameters.keys() <= program.state_dict.keys()
    assert all(torch.equal(value, program.state_dict[name]) for name, value in parameters.items())
    assert {name for name, _ in model.named_parameters()} == parameters.keys()
    module(100 * x)
    hold_ranges(module)
    held = module(x)[0]
    module(1e4 * x)
    assert torch.equal(module(x)[0], held)


def test_what_was_learned_moves_to_a_program_of_another_batch_size_and_leaves_the_old_one_alone(model):
    wide, one = program_of(model, 4), program_of(model, 1)
    module, x = rehearsal(wide), torch.randn(4, 3, 10)
    before = one.module()(x[:1])
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    for _ in range(20):
        loss = nn.functional.cross_entropy(module(x)[0], torch.tensor([0, 1, 2, 3]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(weight.grad is not None for weight in module.parameters())
    new = learned(one, module)
    assert torch.equal(one.module()(x[:1]), before)
    found, rounded = new.module()(x[:1]), module(x)[0][:1]
    assert (found - rounded).abs().max() < 0.1 * rounded.abs().max() < (found - before).abs().max() * 10
    assert not torch.equal(found, before)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uneven")
    recipe = project(folder, ('formats = ["pt2"]', WANTED), *CHANGES, extra=UNEVEN)
    code, out, error = edgel0("run", recipe, "--out", folder / "runs")
    assert (code, error) == (0, ""), error
    return folder / "runs" / "tiny", out


def test_where_integers_cost_too_much_the_network_is_trained_on_with_their_rounding(run):
    folder, out = run
    result = json.loads((folder / "result.json").read_text())
    row = result["quantized"]["slim.static_wi8_ai8.onnx"]
    assert "fewer, where 0.50% is allowed" in out
    assert "training with integers' rounding: epoch 20/20" in out
    assert row["accuracy"] >= result["slim"]["accuracy"] - 0.005
    assert row["kept_layers"] is None
    told = json.loads((folder / "slim.static_wi8_ai8.onnx.json").read_text())["provenance"]
    assert told["quantization_aware_training"]["epochs"] == 20
    assert told["quantization_aware_training"]["before"] == result["slim"]["accuracy"]
    assert not list(folder.glob("*.rejected"))


def test_float_files_have_the_weights_of_before(run):
    folder, _ = run
    parity = json.loads((folder / "result.json").read_text())["parity"]
    assert parity["slim.onnx"]["reference"] == "the masked model"
    assert parity["slim.static_wi8_ai8.onnx"]["reference"].startswith("the slim network, trained on")


@pytest.mark.parametrize("rate", ["1e-9", "1e9"])
def test_what_training_cannot_mend_keeps_layers_in_float(tmp_path, rate):
    wanted = WANTED.replace("qat_epochs = 20", f"qat_epochs = 1\nqat_learning_rate = {rate}")
    recipe = project(tmp_path, ('formats = ["pt2"]', wanted), *CHANGES[:2], extra=UNEVEN.replace("250", "500"))
    code, out, error = edgel0("run", recipe, "--out", tmp_path / "runs")
    assert (code, error) == (0, ""), error
    result = json.loads((tmp_path / "runs/tiny/result.json").read_text())
    row = result["quantized"]["slim.static_wi8_ai8.onnx"]
    assert "epoch 1/1" in out and row["kept_layers"]
    assert ("lower export.qat_learning_rate" in out) is (rate == "1e9")
    assert row["accuracy"] >= result["slim"]["accuracy"] - 0.005
    assert not list((tmp_path / "runs/tiny").glob("*.rejected"))
