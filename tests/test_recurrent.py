"""LSTM, GRU and RNN: place j of every layer and direction is one unit, and it goes exactly, down to ONNX."""

import numpy as np
import onnxruntime
import pytest
import torch
from oracle import check, outputs, randomise
from torch import nn

import edgel0

LAYERS = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "tanh": nn.RNN,
    "relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
}
HIDDEN = 7
STEPS = torch.randn(4, 2, 5, generator=torch.Generator().manual_seed(0)).double()  # (time, batch, features)


def runs_in_onnxruntime(model, example, path, seed=0):
    """Slim a float32 model at a random mask and assert that its ONNX file equals the masked model to 1e-5."""
    masks = edgel0.Masks.random(edgel0.trace(model, example), 0.5, seed)
    assert not masks.open.all()
    reference = edgel0.masked(model, masks)
    edgel0.export(edgel0.slim(model, masks), path, reference=reference)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    tensors = [t for t in torch.utils._pytree.tree_leaves(example) if isinstance(t, torch.Tensor)]
    feeds = {put.name: tensor.numpy() for put, tensor in zip(session.get_inputs(), tensors, strict=True)}
    for wanted, got in zip(outputs(reference, example), session.run(None, feeds), strict=True):
        np.testing.assert_allclose(got, wanted.numpy(), rtol=0, atol=1e-5 * float(wanted.abs().max()))


class Recurrent(nn.Module):
    """A recurrent layer between linear layers: 6 units before it, those of the layer, none after it."""

    def __init__(self, kind, use="both", state=None, **options):
        super().__init__()
        self.before, self.use = nn.Linear(5, 6), use
        self.layer = LAYERS[kind](6, HIDDEN, **options)
        directions, wide = 1 + self.layer.bidirectional, self.layer.proj_size or HIDDEN
        self.slots = directions * self.layer.num_layers
        self.reader, self.last = nn.Linear(directions * wide, 3), nn.Linear(wide, 2)
        if state == "parameter":
            self.starts = nn.ParameterList(torch.zeros(self.slots, 1, HIDDEN) for _ in range(1 + (kind == "lstm")))
        if state == "computed":
            self.starts = nn.ModuleList(nn.Linear(5, HIDDEN) for _ in range(1 + (kind == "lstm")))

    def start(self, x, given):
        if given:
            return given[0] if len(given) == 1 else given
        if not hasattr(self, "starts"):
            return None
        if isinstance(self.starts, nn.ParameterList):
            made = [start.expand(-1, 2, -1).contiguous() for start in self.starts]
        else:
            made = [start(x.mean(0)).unsqueeze(0).repeat(self.slots, 1, 1) for start in self.starts]
        return made[0] if len(made) == 1 else tuple(made)

    def forward(self, x, *given):
        sequence, state = self.layer(torch.tanh(self.before(x)), self.start(x, given))
        hidden = state[0] if isinstance(state, tuple) else state
        return {
            "sequence": lambda: self.reader(sequence),
            "last": lambda: self.last(hidden[-1]),
            "ends": lambda: self.reader(torch.cat([hidden[-2], hidden[-1]], -1)),
            "both": lambda: (self.reader(sequence), self.last(hidden)),
            "cell": lambda: (self.reader(sequence), self.last(state[1])),
        }[self.use]()


OPTIONS = {
    "one layer": {},
    "two layers": {"num_layers": 2},
    "both directions": {"bidirectional": True},
    "two layers, both directions": {"num_layers": 2, "bidirectional": True},
    "batch first": {"batch_first": True},
    "no bias": {"bias": False, "num_layers": 2},
    "dropout": {"dropout": 0.5, "num_layers": 2},
    "only the sequence": {"use": "sequence", "bidirectional": True},
    "only the last state": {"use": "last", "num_layers": 2},
    "the last state of both directions": {"use": "ends", "num_layers": 2, "bidirectional": True},
    "a learnt initial state": {"state": "parameter", "num_layers": 2, "bidirectional": True},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", LAYERS)
def test_hidden_units(kind, options):
    coupling = check(Recurrent(kind, **OPTIONS[options]), STEPS, 6 + HIDDEN)
    assert [(group.name, group.size) for group in coupling.groups] == [("before", 6), ("layer.weight_ih_l0", HIDDEN)]
    assert {pin.reason for pin in coupling.pins} == {"an output of the model"}


@pytest.mark.parametrize("kind", LAYERS)
def test_an_initial_state_that_is_computed_goes_with_the_hidden_units(kind):
    coupling = check(Recurrent(kind, state="computed", num_layers=2), STEPS, 6 + HIDDEN)
    group = next(group for group in coupling.groups if group.size == HIDDEN)
    assert "layer.weight_ih_l0" in group.writers
    assert "starts.0.weight" in group.writers


@pytest.mark.parametrize("kind", LAYERS)
def test_an_initial_state_from_the_input_pins_the_hidden_units(kind):
    states = torch.randn(1 + (kind == "lstm"), 1, 2, HIDDEN, generator=torch.Generator().manual_seed(1)).double()
    coupling = check(Recurrent(kind), (STEPS, *states), 6)
    assert "layer" in {pin.module for pin in coupling.pins}


def test_the_cell_state_of_an_lstm_is_an_output_like_any_other():
    check(Recurrent("lstm", use="cell"), STEPS, 6 + HIDDEN)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_sequence_without_a_batch(kind):
    check(Recurrent(kind, bidirectional=True), STEPS[:, 0], 6 + HIDDEN)


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_of_their_own_have_units_of_their_own(kind):
    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = LAYERS[kind](5, HIDDEN), LAYERS[kind](HIDDEN, 4, bidirectional=True)
            self.reader = nn.Linear(8, 3)

        def forward(self, x):
            return self.reader(self.second(self.first(x)[0])[0])

    check(Stack(), STEPS, HIDDEN + 4)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_that_runs_twice_reads_its_own_units(kind):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.layer, self.reader = nn.Linear(5, 6), LAYERS[kind](6, 6), nn.Linear(6, 3)

        def forward(self, x):
            sequence, state = self.layer(self.before(x))
            return self.reader(self.layer(sequence, state)[0])

    check(Twice(), STEPS, 6)  # what it writes is what it reads: one set


@pytest.mark.parametrize("kind", LAYERS)
def test_a_sequence_that_is_written_to_in_place(kind):
    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Recurrent(kind, num_layers=2)

        def forward(self, x):
            x = x.clone()
            x[1:, :, 2:] *= 0.5
            return self.inner(x)

    check(Written(), STEPS, 6 + HIDDEN)


@pytest.mark.parametrize("kind", LAYERS)
def test_hidden_states_that_are_outputs_are_pinned(kind):
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.layer = nn.Linear(5, 6), LAYERS[kind](6, HIDDEN)

        def forward(self, x):
            return self.layer(self.before(x))

    check(Bare(), STEPS, 6)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}], ids=str)
def test_a_projection_is_pinned_and_told_and_the_rest_goes(options):
    class Projected(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.after = Recurrent("lstm", use="sequence", proj_size=4, **options), nn.Linear(3, 8)
            self.reader = nn.Linear(8, 2)

        def forward(self, x):
            return self.reader(torch.relu(self.after(self.net(x))))

    coupling = check(Projected(), STEPS, 3 + 8)  # what reads the layer, and what reads that
    (pin,) = [pin for pin in coupling.pins if pin.operator != "output"]
    assert (pin.module, pin.reason, pin.labels) == ("net.layer", "a recurrent layer with a projection", 6)


# Cells, unrolled by the user's own loop: linear and elementwise operators.

CELLS = {
    "lstm": nn.LSTMCell,
    "gru": nn.GRUCell,
    "tanh": nn.RNNCell,
    "relu": lambda *sizes, **options: nn.RNNCell(*sizes, nonlinearity="relu", **options),
}


class Unrolled(nn.Module):
    def __init__(self, kind, bias):
        super().__init__()
        self.before, self.cell, self.reader = nn.Linear(5, 6), CELLS[kind](6, HIDDEN, bias=bias), nn.Linear(HIDDEN, 3)

    def forward(self, x):
        state, seen = None, []
        for step in torch.tanh(self.before(x)).unbind(0):
            state = self.cell(step, state)
            seen.append(state[0] if isinstance(state, tuple) else state)
        return self.reader(torch.stack(seen))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", CELLS)
def test_unrolled_cells(kind, bias):
    check(Unrolled(kind, bias), STEPS, 6 + HIDDEN)


# Files.


@pytest.mark.parametrize("options", ["one layer", "two layers", "both directions", "two layers, both directions"])
@pytest.mark.parametrize("kind", LAYERS)
def test_onnx(kind, options, tmp_path):
    model = randomise(Recurrent(kind, **OPTIONS[options])).float()
    runs_in_onnxruntime(model, STEPS.float(), tmp_path / "slim.onnx")


@pytest.mark.parametrize("kind", CELLS)
def test_onnx_of_unrolled_cells(kind, tmp_path):
    runs_in_onnxruntime(randomise(Unrolled(kind, True)).float(), STEPS.float(), tmp_path / "slim.onnx")
