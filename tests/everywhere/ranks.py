"""One rank of a distributed run: ``python ranks.py FOLDER SCENARIO...``, with the environment that torchrun makes.

What each scenario returns is saved as ``SCENARIO.RANK.pt``. ``launched`` starts the ranks and reads that.
"""

import os
import socket
import subprocess
import sys
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from workbench import BATCH, EXAMPLE, STEPS, TOTAL, batch, gated, plain, scheduled, state

import edgel0
from edgel0.errors import EdgeL0Error

WORLD, MINUTES = 2, 4
SAVED_AT = 9  # in the gating phase


def launched(folder, *scenarios):
    """Run scenarios in WORLD processes; returns {scenario: [what rank 0 found, what rank 1 found]}."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = os.environ | {"WORLD_SIZE": f"{WORLD}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    given |= {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(folder), *scenarios]
    logs = [Path(folder) / f"rank{rank}.log" for rank in range(WORLD)]
    ranks = []
    for rank, log in enumerate(logs):
        own = given | {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}"}
        with log.open("w") as out:
            ranks.append(subprocess.Popen(command, env=own, stdout=out, stderr=out))
    try:
        codes = [one.wait(60 * MINUTES) for one in ranks]
    finally:
        for one in ranks:
            one.kill()
            one.wait()
    assert codes == [0] * WORLD, "\n".join(log.read_text()[-3000:] for log in logs)
    return {
        name: [torch.load(Path(folder) / f"{name}.{rank}.pt", weights_only=False) for rank in range(WORLD)]
        for name in scenarios
    }


def mine(at, rank):
    """This rank's half of a batch."""
    x, y = batch(at)
    return x[rank * BATCH // WORLD :][: BATCH // WORLD], y[rank * BATCH // WORLD :][: BATCH // WORLD]


def told(error):
    return f"{type(error).__name__}: {error}"


def refusal(attempt):
    try:
        attempt()
    except EdgeL0Error as error:
        return told(error)
    return "nothing was raised"


def result(schedule, model):
    return {
        "state": state(model),
        "masks": schedule.masks_of_original.open,
        "multipliers": schedule.trace,
        "refused": schedule.refused,
        "units": schedule.gates.coupling.units,
        "schedule": schedule.state_dict(),
    }


def stepped(model, schedule, rank, first=0, last=TOTAL, micro=1, evaluate=False):
    """Train; a step's batch comes in ``micro`` parts, of which only the last one synchronizes."""
    schedule.trace = []
    for at in range(first, last):
        model.train()
        x, y = mine(at, rank)
        for part in range(micro):
            waits = part + 1 < micro and isinstance(model, DistributedDataParallel)
            with model.no_sync() if waits else nullcontext():
                (F.cross_entropy(model(x[part::micro]), y[part::micro]) / micro).backward()
        schedule.step()
        schedule.trace.append(dict(schedule.budget.multipliers))
        if evaluate:
            model.eval()
            with torch.no_grad():
                model(x)


def differently_seeded(rank):
    """The network, equal on all ranks, with gates whose seeds are not; rank 0 has that of ``gated()``."""
    model = plain()
    torch.manual_seed(rank)
    return model, edgel0.attach(model, EXAMPLE)


# DistributedDataParallel.


def ddp(rank, folder):
    model, gates = differently_seeded(rank)
    seed = int(gates.seed)
    wrapped = DistributedDataParallel(model)
    _, schedule = scheduled(model, gates, wrapped=wrapped, shrink=True)
    stepped(wrapped, schedule, rank)
    return result(schedule, model) | {"seed": seed}


def ddp_accumulating(rank, folder):
    model, gates = gated()
    wrapped = DistributedDataParallel(model)
    _, schedule = scheduled(model, gates, wrapped=wrapped)
    stepped(wrapped, schedule, rank, micro=2)
    return result(schedule, model)


def without_schedule(wrapped, model, gates, rank):
    """The ten lines of the README, and some steps at the mask."""
    budget = edgel0.Budget(gates, macs=0.5, steps=4, rate=2.0)
    optimizer = torch.optim.Adam(gates.parameter_groups(model, lr=3e-3, gate_lr=0.8))
    for at in range(6):
        x, y = mine(at, rank)
        (F.cross_entropy(wrapped(x), y) + budget.penalty()).backward()
        optimizer.step()
        budget.step()
        optimizer.zero_grad()
    opened = edgel0.stabilize(wrapped, budget).open
    for at in range(6, 9):
        F.cross_entropy(wrapped(mine(at, rank)[0]), mine(at, rank)[1]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return opened


def ddp_without_schedule(rank, folder):
    """Here DistributedDataParallel alone spreads seed and count of the draws."""
    model, gates = differently_seeded(rank)
    opened = without_schedule(DistributedDataParallel(model), model, gates, rank)
    return {"state": state(model), "masks": opened}


def ddp_where_held_gates_are_unused(rank, folder):
    """What the zero in Gates.draw is for: without it the second step waits for a gradient that never comes."""
    model, gates = gated()
    wrapped = DistributedDataParallel(model)
    gates.held = True
    gates.log_alpha.requires_grad_(False)  # as if it were no distributed run
    try:
        for at in range(2):
            F.cross_entropy(wrapped(mine(at, rank)[0]), mine(at, rank)[1]).backward()
    except RuntimeError as error:
        return told(error)
    return "it went on"


def ddp_saving(rank, folder):
    model, gates = gated()
    wrapped = DistributedDataParallel(model)
    optimizer, schedule = scheduled(model, gates, wrapped=wrapped)
    stepped(wrapped, schedule, rank, last=SAVED_AT)
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}


def ddp_resuming_what_shrank(rank, folder):
    """A run of one process that has shrunk goes on in two: loaded first, wrapped then."""
    saved = torch.load(folder / "shrunk.pt")
    model, gates = gated()
    optimizer, schedule = scheduled(model, gates, shrink=True)
    schedule.load_state_dict(saved["schedule"])
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    stepped(DistributedDataParallel(model), schedule, rank, first=schedule.at)
    return result(schedule, model)


# fully_shard.


def spread(model, children=("conv1", "conv2", "fc1"), **policy):
    mesh = init_device_mesh("cpu", (WORLD,))
    for name in children:
        fully_shard(getattr(model, name), mesh=mesh, **policy)
    fully_shard(model, mesh=mesh, **policy)


def gathered(model):
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(model, options=options)  # on rank 0; the others get an empty dict


def sharded_result(schedule, model):
    return {
        "state": {name: value.clone() for name, value in gathered(model).items()},
        "masks": schedule.masks_of_original.open,
        "multipliers": schedule.trace,
        "refused": schedule.refused,
        "schedule": schedule.state_dict(),
        "rows": {name: list(value.to_local().shape) for name, value in model.named_parameters()},
    }


def fsdp(rank, folder, children=("conv1", "conv2", "fc1"), evaluate=False):
    model, gates = differently_seeded(rank)
    spread(model, children)
    _, schedule = scheduled(model, gates, shrink=True)
    stepped(model, schedule, rank, last=SAVED_AT, evaluate=evaluate)
    halfway = sharded_result(schedule, model)
    expected = {metric: float(cost) for metric, cost in schedule.budget.expected().items()}
    stepped(model, schedule, rank, first=SAVED_AT, evaluate=evaluate)
    return sharded_result(schedule, model) | {"halfway": halfway, "expected": expected}


def fsdp_of_every_child(rank, folder):
    """The gates, too, are a sharded part of their own, which is gathered after the root's hooks have run."""
    return fsdp(rank, folder, ("conv1", "conv2", "fc1", "fc2", "edgel0_gates"))


def fsdp_evaluating(rank, folder):
    """An evaluation after each step leaves the root's parameters gathered."""
    return fsdp(rank, folder, evaluate=True)


def fsdp_without_schedule(rank, folder):
    """Here nobody but the user does."""
    model, gates = differently_seeded(rank)
    spread(model)
    gates.synchronize()
    opened = without_schedule(model, model, gates, rank)
    return {"state": gathered(model), "masks": opened}


def fsdp_resuming(rank, folder):
    """Another run's schedule, whole, goes on in parts."""
    saved = torch.load(folder / "plain.pt")
    model, gates = gated()
    model.load_state_dict(saved["model"])
    spread(model)
    _, schedule = scheduled(model, gates)
    schedule.load_state_dict(saved["schedule"])
    return {"schedule": schedule.state_dict(), "state": gathered(model), "phase": schedule.phase}


def fsdp_in_bfloat16(rank, folder):
    """With a policy for everything but the gates, which are a part of their own."""
    model, gates = gated()
    fully_shard(gates, mesh=init_device_mesh("cpu", (WORLD,)))
    spread(model, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32))
    _, schedule = scheduled(model, gates)
    kinds, tell = set(), type(gates).values
    type(gates).values = lambda gates: (kinds.add(tell(gates).dtype), tell(gates))[1]
    stepped(model, schedule, rank)
    type(gates).values = tell
    return sharded_result(schedule, model) | {"kinds": kinds, "log_alpha": gates.log_alpha.dtype}


def fsdp_refusing(rank, folder):
    """Whatever cannot work says so, by name, and leaves everything as it was."""
    model, gates = gated()
    early, before = scheduled(model, gates)[1], scheduled(model, gates)[0]
    spread(model)
    x, y = mine(0, rank)
    F.cross_entropy(model(x), y).backward()
    masks = edgel0.Masks.random(gates.coupling, share=0.5, seed=0)
    untouched = {name: value.clone() for name, value in gathered(model).items()}
    sharded = plain()
    spread(sharded)
    attempts = {
        "attach": lambda: edgel0.attach(sharded, EXAMPLE),
        "shrink_": lambda: edgel0.shrink_(model, before, masks),
        "masked": lambda: edgel0.masked(model, masks),
        "slim": lambda: edgel0.slim(model, masks),
        "early schedule": early.before_step,
        "early optimizer": lambda: edgel0.Schedule(model, early.budget, before, steps=STEPS),
    }
    messages = {name: refusal(attempt) for name, attempt in attempts.items()}
    return {"messages": messages, "before": untouched, "after": gathered(model), "units": gates.coupling.units}


def main():
    folder, scenarios, rank = Path(sys.argv[1]), sys.argv[2:], int(os.environ["RANK"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    for name in scenarios:
        torch.save(globals()[name](rank, folder), folder / f"{name}.{rank}.pt")
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
