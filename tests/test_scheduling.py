"""Does every run land on its budget? Within each limit, and as near to one as whole units allow."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import edgel0


class Residual(nn.Module):
    """A trunk of 24 channels, two blocks, a head: one unit is at most 3 % of any limit below."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(24, 40, 1), nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 24, 1)) for _ in range(2)
        )
        self.hidden, self.out = nn.Linear(24, 64), nn.Linear(64, 4)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for block in self.blocks:
            x = F.relu(x + block(x))
        return self.out(F.relu(self.hidden(x.mean((2, 3)))))


def trained(limits, steps, shrink, seed=0):
    torch.manual_seed(seed)
    net = Residual()
    centres = torch.randn(4, 3, 6, 6)
    gates = edgel0.attach(net, centres[:1])
    budget = edgel0.Budget(gates, **limits)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    schedule = edgel0.Schedule(net, budget, optimizer, steps=steps, shrink=shrink)
    sizes = []
    for _ in range(steps):
        y = torch.randint(4, (16,))
        F.cross_entropy(net.train()(centres[y] + 0.5 * torch.randn(16, 3, 6, 6)), y).backward()
        schedule.step()
        sizes.append(gates.coupling.units)
    return net.eval(), schedule, sizes, centres


@pytest.mark.parametrize("shrink", [True, False])
@pytest.mark.parametrize(
    "limits",
    [
        {"macs": 0.5},
        {"macs": "20 %"},
        {"params": 0.3},
        {"size": "8 kB"},
        {"activations": 0.5},
        {"macs": 0.4, "params": 0.3, "activations": 0.9},
        {"macs": 0.3, "within": {"blocks.1": {"params": 0.2}}},
        {"macs": 0.3, "keep_at_least": 0.25},
    ],
    ids=str,
)
def test_every_run_is_within_its_limits_and_near_one(limits, shrink):
    net, schedule, sizes, x = trained(limits, 120, shrink)
    limit = schedule.budget.limits
    cost = limit.cost(schedule.masks.open)
    shares = {key: cost[key] / limit.maximum[key] for key in cost}
    assert max(shares.values()) <= 1
    assert max(shares.values()) >= 0.97, shares
    floors = limits.get("keep_at_least", 0)
    dense = {group.name: group.size for group in schedule.original.groups}
    assert all(kept >= floors * dense[name] for name, kept in schedule.masks_of_original.kept.items())
    small = edgel0.slim(net, schedule.masks)
    assert (small.program.module()(x[:1]) - net(x[:1])).abs().max() <= 1e-5
    assert small.provenance["groups"] == {
        name: [kept, dense[name]] for name, kept in schedule.masks_of_original.kept.items()
    }
    assert (sizes[-1] == int(schedule.masks_of_original.open[1:].sum())) is shrink


def test_the_model_shrinks_while_its_gates_train():
    _, schedule, sizes, _ = trained({"macs": 0.2}, 200, True)
    first, last = schedule.steps[0], sum(schedule.steps[:2])
    assert sizes[first] == schedule.original.units
    assert sizes[last - 2] < schedule.original.units
    assert all(later <= sooner for sooner, later in itertools.pairwise(sizes))
    assert not schedule.refused


def test_a_branch_that_dies_leaves_one_closed_unit_in_the_module():
    torch.manual_seed(0)
    net = Residual()
    gates = edgel0.attach(net, torch.randn(1, 3, 6, 6))
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    schedule = edgel0.Schedule(net, edgel0.Budget(gates, macs=0.6), optimizer, steps=(0, 1, 2))
    (block,) = (group for group in gates.coupling.groups if group.name.startswith("blocks.1"))
    with torch.no_grad():
        gates.log_alpha.fill_(9)
        gates.log_alpha[block.start - 1 : block.stop - 1] = -9
    x = torch.randn(4, 3, 6, 6)
    for _ in range(2):
        net.train()(x).square().sum().backward()
        schedule.step()
    assert not schedule.refused
    assert schedule.masks_of_original.kept[block.name] == 0
    assert net.blocks[1][0].weight.shape[0] == 1
    small = edgel0.slim(net.eval(), schedule.masks)
    assert small.provenance["groups"][block.name] == [0, 40]
    assert (small.program.module()(x[:1]) - net(x[:1])).abs().max() <= 1e-5


@pytest.mark.parametrize("steps", [3, 10, 40])
def test_few_steps_land_on_the_budget_too(steps):
    _, schedule, _, _ = trained({"macs": 0.3}, steps, True)
    cost, limit = schedule.budget.limits.cost(schedule.masks.open)["macs"], schedule.budget.limits.maximum["macs"]
    assert 0.97 * limit <= cost <= limit
