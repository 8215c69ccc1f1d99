"""What the tests of callbacks share: a small network, batches of a task that it can learn, and the plain loop."""

import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import edgel0

EXAMPLE = torch.zeros(1, 8)
DENSE = 8 * 24 + 24 * 24 + 24 * 4  # MACs of the network on that
LIMITS = {"macs": 0.3}
SHARES = {"dense": 0.2, "settle": 0.3, "gate_lr": 0.3}
STEPS = 40


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4))


def examples(count):
    """(inputs, labels) of a task of four classes, the same at each call."""
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(4, 8, generator=generator)
    labels = torch.randint(4, (count,), generator=generator)
    return centres[labels] + 0.3 * torch.randn(count, 8, generator=generator), labels


def batches(count, size=16):
    inputs, labels = examples(count * size)
    return list(zip(inputs.split(size), labels.split(size), strict=True))


def plain(model, data, *, accumulate=1, clip=0.0, autocast=False, half=torch.bfloat16, scaler=None, **options):
    """Train as the callbacks must, by hand: once through ``data``."""
    gates = edgel0.attach(model, EXAMPLE)
    optimizer, steps = adam(model.parameters()), len(data) // accumulate
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    schedule = edgel0.Schedule(model, edgel0.Budget(gates, **LIMITS), optimizer, steps=steps, **(SHARES | options))
    model.train()
    for at, (x, y) in enumerate(data, 1):
        with torch.autocast("cpu", half, enabled=autocast):
            loss = F.cross_entropy(model(x), y)
        scaler.scale(loss / accumulate).backward()
        if at % accumulate == 0:
            schedule.before_step(scaler)
            scaler.unscale_(optimizer)
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            scaler.step(optimizer)
            scaler.update()
            schedule.after_step()
            optimizer.zero_grad()
    assert schedule.at == steps
    return schedule


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01, foreach=False)


def same(one, other):
    """Whether two schedules came to the same mask and the same weights, to the bit."""
    assert one.at == other.at
    assert (one.masks_of_original.open == other.masks_of_original.open).all()
    mine, theirs = one.model.state_dict(), other.model.state_dict()
    mine, theirs = ({k: v for k, v in state.items() if k != "edgel0_schedule"} for state in (mine, theirs))
    assert mine.keys() == theirs.keys()
    for key, value in mine.items():
        assert torch.equal(value, theirs[key]), key
    return True


def readme(module):
    """The README's example that imports ``module``."""
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (found,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if module in block)
    return found
