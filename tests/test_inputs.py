"""Which inputs does a network need? One that chooses its inputs by a list of positions can read fewer of them."""

import pytest
import torch
from oracle import agree, assert_equal
from torch import nn

import edgel0


class Chosen(nn.Module):
    """Reads the pixels that a buffer lists."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.register_buffer("pixels", torch.arange(20).flip(0))
        self.hidden = nn.Linear(20, 8)
        self.out = nn.Linear(8, 4)

    def forward(self, x):
        x = x.flatten(1)
        x = x[:, self.pixels] if self.how == "index" else x.index_select(1, self.pixels)
        return self.out(torch.relu(self.hidden(x)))


@pytest.fixture(params=["index", "index_select"])
def net(request):
    torch.manual_seed(0)
    return Chosen(request.param).double().eval()


X = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(0)).double()


def test_each_listed_input_is_a_unit_of_the_list(net):
    coupling = edgel0.trace(net, X)
    assert {group.name: (group.size, group.writers) for group in coupling.groups} == {
        "pixels": (20, ("pixels",)),
        "hidden": (8, ("hidden.weight",)),
    }
    assert [reader.parameter for reader in coupling.readers] == ["hidden.weight", "out.weight"]


@pytest.mark.parametrize("seed", range(3))
def test_the_list_gets_shorter(net, seed):
    coupling = edgel0.trace(net, X)
    masks = edgel0.Masks.random(coupling, 0.5, seed)
    reference, small = edgel0.masked(net, masks), edgel0.slim(net, masks, X)
    kept = masks.kept
    assert small.program.state_dict["pixels"].shape == (kept["pixels"],)
    assert small.cost.macs == kept["pixels"] * kept["hidden"] + kept["hidden"] * 4
    for x in (X, torch.randn(1, 4, 5).double()):
        agree(net, masks, x)
        assert_equal([edgel0.shrunk(net, masks)(x).detach()], [reference(x).detach()])
    unread = torch.ones(20, dtype=torch.bool).index_fill(0, small.program.state_dict["pixels"], False)
    changed = torch.where(unread.reshape(4, 5), X + 7, X)
    assert_equal([small.program.module()(changed).detach()], [reference(X).detach()])


def test_what_the_list_takes_from_units_stays_theirs():
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Reordered(), nn.Linear(5, 2)).double()
    coupling = edgel0.trace(net, torch.randn(1, 6).double())
    assert coupling.units == 8


class Reordered(nn.Module):
    def forward(self, x):
        return x[:, [4, 0, 2, 2, 1]]
