"""What the tests of this folder train: one small network on one small set of batches, one step after the other."""

import torch
import torch.nn.functional as F
from torch import nn

import edgel0

STEPS = (5, 12, 5)  # dense, gating, settle
TOTAL = sum(STEPS)
BATCH = 8


class Net(nn.Module):
    """Odd sizes, which no number of ranks divides, and a parameter of one row, of which most ranks have none."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 9, 3)
        self.conv2 = nn.Conv2d(9, 7, 3)
        self.fc1 = nn.Linear(7 * 16, 13)
        self.fc2 = nn.Linear(13, 4)
        self.scale = nn.Parameter(torch.ones(1, 4))

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.fc2(torch.tanh(self.fc1(x.flatten(1)))) * self.scale


def seeded(seed):
    return torch.Generator().manual_seed(seed)


CENTRES = torch.randn(4, 1, 8, 8, generator=seeded(1))
EXAMPLE = torch.randn(1, 1, 8, 8, generator=seeded(2))


def batch(at, dtype=torch.float32):
    """Images and labels of one step."""
    noise = seeded(100 + at)
    y = torch.randint(4, (BATCH,), generator=noise)
    return (CENTRES[y] + 0.3 * torch.randn(BATCH, 1, 8, 8, generator=noise)).to(dtype), y


def plain(seed=0, dtype=torch.float32):
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return Net().to(dtype)


def gated(seed=0, dtype=torch.float32):
    """The network with gates, whose noise is the same in every process unless torch is seeded otherwise there."""
    model = plain(seed, dtype)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        gates = edgel0.attach(model, EXAMPLE.to(dtype))
    return model, gates


def scheduled(model, gates, *, wrapped=None, shrink=False, steps=STEPS, limit=0.5, optimizer=None):
    """An optimizer and a schedule that closes about half of the network within a few steps."""
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=3e-3)
    budget = edgel0.Budget(gates, macs=limit, warmup=0.5, rate=2.0, steps=steps[1])
    schedule = edgel0.Schedule(
        model if wrapped is None else wrapped, budget, optimizer, steps=steps, gate_lr=0.8, shrink=shrink
    )
    return optimizer, schedule


def train(model, schedule, first=0, last=TOTAL, dtype=torch.float32):
    """Plain steps; returns the losses."""
    losses = []
    for at in range(first, last):
        model.train()
        x, y = batch(at, dtype)
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        schedule.step()
        losses.append(loss.item())
    return losses


def state(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def differ(first, second):
    """Names of what two state dicts do not have in common, to the bit."""
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


def furthest(first, second):
    """The largest difference of any two floats of two state dicts; what is no float has to be equal."""
    assert first.keys() == second.keys()
    assert not [n for n in first if not first[n].is_floating_point() and not torch.equal(first[n], second[n])]
    return max(float((first[n].double() - second[n].double()).abs().max()) for n in first)
