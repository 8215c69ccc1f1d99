"""A plain training loop that saves as it goes and can be killed: ``python looping.py FILE [STEP TO DIE BEFORE]``."""

import os
import signal
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from workbench import batch, gated, scheduled

STEPS = (4, 20, 4)
EVERY = 3


def run(file, die=None):
    """Train from the last save to the end; returns model, optimizer, schedule and the units at each step."""
    model, gates = gated(seed=0 if not file.exists() else 5)  # the noise is that of the checkpoint
    optimizer, schedule = scheduled(model, gates, shrink=True, steps=STEPS, limit=0.2)
    sizes = []
    if file.exists():
        saved = torch.load(file, weights_only=True)
        schedule.load_state_dict(saved["schedule"])  # first: it cuts the model to size
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    for at in range(schedule.at, sum(STEPS)):
        if at == die:
            os.kill(os.getpid(), signal.SIGKILL)
        model.train()
        x, y = batch(at)
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        schedule.step()
        sizes.append(gates.coupling.units)
        if schedule.at % EVERY == 0:
            state = {
                "schedule": schedule.state_dict(),
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            torch.save(state, file.with_suffix(".part"))
            file.with_suffix(".part").replace(file)
    return model, optimizer, schedule, sizes


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), int(sys.argv[2]))
