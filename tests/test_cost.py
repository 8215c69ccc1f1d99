"""MACs, parameters and bytes by hand; expectations by enumeration; gradients by differences."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_flow import operators, row_of
from torch import nn

from edgel0.cost import COST, cost_of, program_cost, sums
from edgel0.slimming import slim
from edgel0.tracing import trace
from edgel0.types import Masks


class Call(nn.Module):
    """A function of the input and of parameters."""

    def __init__(self, function, *shapes):
        super().__init__()
        self.function = function
        self.held = nn.ParameterList(nn.Parameter(torch.ones(shape)) for shape in shapes)

    def forward(self, *given):
        return self.function(*given, *self.held)


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )


def test_lenet5_caffe():
    cost = cost_of(trace(lenet(), torch.zeros(1, 1, 28, 28)))
    assert (cost.macs, cost.params, cost.weight_bytes) == (2_293_000, 431_080, 4 * 431_080)
    assert cost.activation_bytes == 4 * (20 * 24 * 24 + 20 * 12 * 12)


def test_lenet5_caffe_under_a_mask():
    model = lenet()
    coupling = trace(model, torch.zeros(1, 1, 28, 28))
    opened = np.ones(coupling.units + 1, bool)
    for group, kept in zip(coupling.groups, (5, 10, 45), strict=True):
        opened[group.start + kept : group.stop] = False
    cost = cost_of(coupling, Masks(coupling, opened))
    assert cost.macs == 5 * 25 * 576 + 10 * 5 * 25 * 64 + 160 * 45 + 450
    assert cost.params == 5 * 26 + 10 * (5 * 25 + 1) + 45 * 161 + 10 * 46
    assert cost == slim(model, Masks(coupling, opened)).cost


# Row: (module, shapes of the inputs, MACs by hand).
ROWS = {
    "conv1d": (nn.Conv1d(3, 4, 3), [(1, 3, 10)], 4 * 8 * 3 * 3),
    "conv2d": (nn.Conv2d(4, 6, (3, 2), stride=2, groups=2), [(1, 4, 9, 8)], 6 * 4 * 4 * 2 * 6),
    "conv3d": (nn.Conv3d(2, 3, 2), [(1, 2, 4, 4, 4)], 3 * 27 * 2 * 8),
    "conv_transpose1d": (nn.ConvTranspose1d(3, 4, 2, stride=2), [(1, 3, 5)], 3 * 5 * 4 * 2),
    "conv_transpose2d": (nn.ConvTranspose2d(4, 6, 3, groups=2), [(1, 4, 5, 5)], 4 * 25 * 3 * 9),
    "conv_transpose3d": (nn.ConvTranspose3d(2, 3, 2), [(1, 2, 2, 2, 2)], 2 * 8 * 3 * 8),
    "convolution": (
        Call(lambda x, w: torch.convolution(x, w, None, [1], [0], [1], True, [0], 1), (3, 4, 2)),
        [(1, 3, 5)],
        3 * 5 * 4 * 2,
    ),
    "linear": (nn.Linear(5, 7), [(1, 3, 5)], 3 * 5 * 7),
    "addmm": (Call(lambda x, b, w: torch.addmm(b, x, w), (7,), (5, 7)), [(3, 5)], 3 * 5 * 7),
    "baddbmm": (Call(lambda x, b, w: torch.baddbmm(b, x, w), (2, 3, 7), (2, 5, 7)), [(2, 3, 5)], 2 * 3 * 5 * 7),
    "bmm": (Call(torch.bmm), [(2, 3, 5), (2, 5, 7)], 2 * 3 * 5 * 7),
    "matmul": (Call(torch.matmul), [(2, 4, 3, 5), (2, 4, 5, 7)], 8 * 3 * 5 * 7),
    "mm": (Call(torch.mm, (5, 7)), [(3, 5)], 3 * 5 * 7),
    "lstm.input": (nn.LSTM(5, 7, num_layers=2), [(3, 2, 5)], 6 * 28 * (5 + 7 + 7 + 7)),
    "gru.input": (nn.GRU(5, 7, bidirectional=True), [(3, 2, 5)], 6 * 2 * 21 * (5 + 7)),
    "rnn_tanh.input": (nn.RNN(5, 7), [(3, 2, 5)], 6 * 7 * (5 + 7)),
    "rnn_relu.input": (nn.RNN(5, 7, nonlinearity="relu"), [(3, 2, 5)], 6 * 7 * (5 + 7)),
    "scaled_dot_product_attention": (
        Call(F.scaled_dot_product_attention),
        [(1, 2, 3, 4), (1, 2, 6, 4), (1, 2, 6, 5)],
        2 * 3 * 6 * 4 + 2 * 3 * 6 * 5,
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_row(name):
    model, shapes, macs = ROWS[name]
    coupling = trace(model, tuple(torch.zeros(shape) for shape in shapes))
    assert row_of(name) in operators(coupling)
    assert cost_of(coupling).macs == macs == program_cost(coupling.program).macs
    assert cost_of(coupling).params == sum(p.numel() for p in model.parameters())


def test_each_row_has_a_case_and_each_case_a_row():
    assert set(COST) == {row_of(name) for name in ROWS}


def test_attention_of_a_mask_is_the_attention_of_the_program():
    class Values(nn.Module):
        def __init__(self):
            super().__init__()
            self.value, self.out = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.out(F.scaled_dot_product_attention(x, x, self.value(x)))

    model = Values()
    coupling = trace(model, torch.randn(1, 3, 4))
    masks = Masks.random(coupling, 0.5, seed=1)
    assert coupling.units == 6
    assert 0 < masks.open[1:].sum() < 6
    assert cost_of(coupling, masks) == slim(model, masks).cost


def tiny():
    return trace(
        nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.Flatten(), nn.Linear(8, 2)),
        torch.zeros(1, 1, 4, 4),
    )


def test_expected_cost_is_the_mean_over_all_masks():
    coupling = tiny()
    assert coupling.units == 5
    p = np.array([1, 0.9, 0.2, 0.55, 0.7, 0.35])
    mean = {"macs": 0.0, "params": 0.0, "weight_bytes": 0.0}
    for chosen in itertools.product([False, True], repeat=5):
        opened = np.array([True, *chosen])
        weight = float(np.prod(np.where(opened, p, 1 - p)[1:]))
        cost = cost_of(coupling, Masks(coupling, opened)).as_dict()
        mean = {metric: value + weight * cost[metric] for metric, value in mean.items()}
    for metric, total in sums(coupling).items():
        assert float(total(torch.from_numpy(p))) == pytest.approx(mean[metric], rel=1e-12)


def test_gradient_of_the_expected_cost_is_the_difference():
    total = sums(tiny())["macs"]
    p = torch.tensor([1, 0.9, 0.2, 0.55, 0.7, 0.35], dtype=torch.float64, requires_grad=True)
    total(p).backward()
    for i in range(6):
        step = torch.zeros(6, dtype=torch.float64)
        step[i] = 1e-4
        slope = (total(p.detach() + step) - total(p.detach() - step)) / 2e-4
        assert float(p.grad[i]) == pytest.approx(float(slope), rel=1e-8)


def test_peak_of_a_chain():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    assert cost_of(trace(model, torch.zeros(1, 4))).activation_bytes == 4 * (8 + 8)
    assert cost_of(trace(model, torch.zeros(3, 4))).activation_bytes == 3 * 4 * (8 + 8)
    assert cost_of(trace(model.double(), torch.zeros(1, 4).double())).activation_bytes == 8 * (8 + 8)


def test_peak_of_a_residual_keeps_the_shortcut():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.wide, self.narrow = nn.Linear(4, 4), nn.Linear(4, 8), nn.Linear(8, 4)
            self.last = nn.Linear(4, 2)

        def forward(self, x):
            x = self.first(x)
            return self.last(x + self.narrow(torch.relu(self.wide(x))))

    model = Residual()
    coupling = trace(model, torch.zeros(1, 4))
    assert cost_of(coupling).activation_bytes == 4 * (4 + 8 + 8)
    opened = np.ones(coupling.units + 1, bool)
    for group in coupling.groups:
        opened[group.start + group.size // 2 : group.stop] = False
    assert cost_of(coupling, Masks(coupling, opened)).activation_bytes == 4 * (2 + 4 + 4)


def test_views_share_memory():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(8, 2))
    assert cost_of(trace(model, torch.zeros(1, 2, 4))).activation_bytes == 4 * (8 + 2)


def test_a_shared_parameter_counts_once():
    layer = nn.Linear(4, 4)
    cost = cost_of(trace(nn.Sequential(layer, nn.ReLU(), layer), torch.zeros(1, 4)))
    assert (cost.params, cost.macs) == (20, 32)


def test_buffers_are_bytes_but_no_parameters():
    cost = cost_of(trace(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)), torch.zeros(1, 1, 2, 2)))
    assert (cost.params, cost.weight_bytes) == (4 + 4, 4 * (8 + 4))
