"""Excluded modules stay whole: what is pinned, by which name, and that the rest still goes exactly."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import seeded
from oracle import agree, assert_equal, outputs, randomise
from torch import nn

from edgel0.attaching import attach
from edgel0.budget import Budget
from edgel0.cost import cost_of
from edgel0.errors import BudgetError, TraceError, UsageError
from edgel0.gates import gates_of
from edgel0.inspecting import examine
from edgel0.limits import Limits
from edgel0.masks import masked, stabilize
from edgel0.shrinking import shrink_
from edgel0.slimming import slim
from edgel0.tracing import trace
from edgel0.types import Masks

X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()


class Net(nn.Module):
    """Groups: stem (tied to block.b by the residual), block.a, wide (through a depthwise layer), fc."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.block = nn.ModuleDict({"a": nn.Conv2d(6, 5, 3, padding=1), "b": nn.Conv2d(5, 6, 1)})
        self.wide, self.depthwise = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 8, 3, groups=8)
        self.fc, self.out = nn.Linear(8, 7), nn.Linear(7, 3)

    def forward(self, x):
        h = F.relu(self.bn(self.stem(x)))
        h = h + self.block["b"](F.relu(self.block["a"](h)))
        h = F.relu(self.depthwise(self.wide(h))).mean((2, 3))
        return self.out(F.relu(self.fc(h)))


def net():
    return randomise(Net())


ALL = {"stem": 6, "block.a": 5, "wide": 8, "fc": 7}


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ((), ["stem", "block.a", "wide", "fc"]),
        (["stem"], ["block.a", "wide", "fc"]),
        (["stem.weight"], ["block.a", "wide", "fc"]),
        (["block.b"], ["block.a", "wide", "fc"]),  # what it makes is added to the stem's
        (["block"], ["wide", "fc"]),
        (["block.*"], ["wide", "fc"]),
        (["bn"], ["block.a", "wide", "fc"]),  # it carries the stem's channels
        (["depthwise"], ["stem", "block.a", "fc"]),
        (["out"], ["stem", "block.a", "wide", "fc"]),  # its channels are the outputs; what it reads is free
        (["f?", "wid*"], ["stem", "block.a"]),
    ],
)
def test_the_groups_that_are_left(exclude, left):
    model = net()
    coupling = trace(model, X, exclude=exclude)
    assert {g.name: g.size for g in coupling.groups} == {name: ALL[name] for name in left}
    assert [g.start for g in coupling.groups] == list(np.cumsum([1, *(ALL[name] for name in left)])[:-1])
    assert coupling.units == sum(ALL[name] for name in left)
    assert coupling.excluded == tuple(exclude)
    assert cost_of(coupling) == cost_of(trace(model, X))
    pinned = {pin.module: pin.labels for pin in coupling.pins if pin.reason == "excluded"}
    assert sum(pinned.values()) == sum(ALL.values()) - coupling.units
    assert set(pinned) <= set(exclude)
    for seed in range(3):
        agree(model, Masks.random(coupling, 0.6, seed), X)


def test_nothing_of_an_excluded_module_is_closed():
    model = net()
    gates = attach(model, X, exclude=("block.a", "fc"))
    gates.log_alpha.data.fill_(-9.0)
    masks = stabilize(model)
    state = slim(model, masks).program.state_dict
    assert masks.kept == {"stem": 1, "wide": 1}
    assert state["block.a.weight"].shape == (5, 1, 3, 3)
    assert state["fc.weight"].shape == (7, 1)
    assert state["block.b.weight"].shape == (1, 5, 1, 1)


@pytest.mark.parametrize("seed", range(30))
def test_random_networks_without_one_of_their_modules(seed):
    drawn = seeded(seed)[1]
    model, example = randomise(drawn.model), drawn.example
    free = trace(model, example)
    if not free.units:
        return
    name = free.groups[seed % len(free.groups)].writers[0]
    coupling = trace(model, example, exclude=[name])
    assert 0 <= coupling.units < free.units
    masks = Masks.random(coupling, 0.5, seed)
    small = slim(model, masks)
    assert_equal(outputs(masked(model, masks), example), outputs(small.program.module(), example))
    if name in small.program.state_dict:
        made = [x for x in free.tensors.get(name, ()) if x.axis == 0 and (name, 0) not in read(free)]
        assert all(small.program.state_dict[name].shape[0] == x.units.size for x in made)


def read(coupling):
    return {(reader.parameter, reader.axis) for reader in coupling.readers}


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        (["steam"], "exclude names 'steam', which is no module or parameter of this model; did you mean 'stem'?"),
        (["stem", "blocks.*"], r"exclude names 'blocks.\*'.*did you mean"),
        (["stem.wait"], "did you mean 'stem.weight'"),
        ([""], "exclude names ''"),
        ("stem", r"exclude is the string 'stem'; .* exclude=\['stem'\]"),
    ],
)
def test_names_of_nothing_are_refused(exclude, message):
    with pytest.raises(UsageError, match=message):
        trace(net(), X, exclude=exclude)


def test_what_makes_a_weight_is_excluded_by_its_name():
    class Summed(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(5, 3))
            self.out = nn.Linear(5, 2)

        def forward(self, x):
            return self.out(F.relu(F.linear(x, self.one + self.two)))

    assert trace(Summed(), torch.zeros(1, 3)).units == 5
    assert trace(Summed(), torch.zeros(1, 3), exclude=["one"]).units == 0


def test_attach_tells_that_all_is_excluded():
    model = net()
    with pytest.raises(TraceError, match=r"nothing in Net can be removed: excluded \(exclude in \*\)"):
        attach(model, X, exclude=["*"])
    assert attach(model, X, exclude=["stem"]).coupling.units == 20


def test_inspect_tells_what_is_excluded():
    pins = examine(net(), X, exclude=["wide"])["pins"]
    assert [(pin["module"], pin["labels"]) for pin in pins if pin["reason"] == "excluded"] == [("wide", 8)]


def test_limits_that_an_excluded_module_keeps_out_of_reach_say_so():
    coupling = trace(net(), X, exclude=["stem", "block.a"])
    with pytest.raises(BudgetError, match=r"cannot be reached.*What is excluded stays whole: 'stem', 'block\.a'\."):
        Limits(coupling, params=100)
    assert Limits(trace(net(), X), params=100).reachable["params"] < 100


def test_another_batch_and_a_shrunk_model_keep_what_is_excluded():
    model = net()
    gates = attach(model, X, exclude=["stem"])
    masks = Masks.random(gates.coupling, 0.5, 1)
    other = torch.randn(3, 1, 8, 8).double()
    wanted = outputs(masked(model, masks), other)
    assert_equal(wanted, outputs(slim(model, masks, other).program.module(), other))
    budget = Budget(gates, params=0.9)
    coupling = shrink_(model, None, masks)
    assert coupling.excluded == ("stem",)
    assert_equal(wanted, outputs(slim(model, Masks.random(coupling, 0.0), other).program.module(), other))
    gates_of(model).log_alpha.data.fill_(-9.0)
    slimmed = slim(model, stabilize(model, budget))
    assert slimmed.program.state_dict["stem.weight"].shape[0] == 6
