"""DistributedDataParallel: two processes, each with half of a batch, end as one process with the whole batch does."""

import copy

import numpy as np
import pytest
import torch
from ranks import SAVED_AT, launched
from workbench import STEPS, TOTAL, batch, differ, furthest, gated, scheduled, state, train

import edgel0

SCENARIOS = (
    "ddp",
    "ddp_accumulating",
    "ddp_without_schedule",
    "ddp_where_held_gates_are_unused",
    "ddp_saving",
    "ddp_resuming_what_shrank",
)


def alone(micro=1, shrink=False, last=TOTAL):
    """The run of one process on whole batches."""
    model, gates = gated()
    optimizer, schedule = scheduled(model, gates, shrink=shrink)
    if micro == 1:
        train(model, schedule, last=last)
    for at in range(last if micro > 1 else 0):
        x, y = batch(at)
        for part in range(micro):
            (torch.nn.functional.cross_entropy(model(x[part::micro]), y[part::micro]) / micro).backward()
        schedule.step()
    return model, optimizer, schedule


@pytest.fixture(scope="module")
def shrunk():
    """A run of one process in its last phase, which has shrunk, and how it went on."""
    model, optimizer, schedule = alone(shrink=True, last=TOTAL - 3)
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    saved = copy.deepcopy(saved)
    train(model, schedule, TOTAL - 3)
    return saved, model


@pytest.fixture(scope="module")
def found(tmp_path_factory, shrunk):
    folder = tmp_path_factory.mktemp("ddp")
    torch.save(shrunk[0], folder / "shrunk.pt")
    return launched(folder, *SCENARIOS)


@pytest.mark.parametrize("name", ["ddp", "ddp_accumulating", "ddp_without_schedule", "ddp_resuming_what_shrank"])
def test_ranks_stay_equal_to_the_bit(found, name):
    one, two = found[name]
    assert not differ(one["state"], two["state"])
    assert np.array_equal(one["masks"], two["masks"])
    assert one.get("multipliers") == two.get("multipliers")


@pytest.mark.parametrize(("name", "micro"), [("ddp", 1), ("ddp_accumulating", 2)])
def test_it_is_the_run_of_one_process(found, name, micro):
    model, _, schedule = alone(micro)
    one = found[name][0]
    assert np.array_equal(one["masks"], schedule.masks_of_original.open)
    assert not one["masks"].all()
    assert furthest(one["state"], state(model)) < 1e-4


def test_ranks_that_are_seeded_differently_have_the_noise_of_rank_0(found):
    one, two = found["ddp"]
    assert one["seed"] != two["seed"]
    assert int(one["state"]["edgel0_gates.seed"]) == int(two["state"]["edgel0_gates.seed"]) == one["seed"]
    assert int(one["state"]["edgel0_gates.draws"]) == STEPS[1]


def test_shrinking_is_refused_by_name_and_the_model_keeps_its_size(found):
    one = found["ddp"][0]
    assert "DistributedDataParallel" in one["refused"]
    assert "slim the model after training" in one["refused"]
    assert one["units"] == 29


def test_without_the_zero_gradient_a_phase_without_gates_would_not_go_on(found):
    for told in found["ddp_where_held_gates_are_unused"]:
        assert "RuntimeError: Expected to have finished reduction" in told


def test_one_process_goes_on_where_two_were(found):
    saved = found["ddp_saving"][0]
    model, gates = gated(seed=5)
    optimizer, schedule = scheduled(model, gates)
    schedule.load_state_dict(saved["schedule"])
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    assert schedule.at == SAVED_AT
    train(model, schedule, SAVED_AT)
    wanted, _, reference = alone()
    assert np.array_equal(schedule.masks.open, reference.masks.open)
    assert furthest(state(model), state(wanted)) < 1e-4


def test_two_processes_go_on_where_one_had_shrunk(found, shrunk):
    one = found["ddp_resuming_what_shrank"][0]
    assert one["units"] < 29
    assert furthest(one["state"], state(shrunk[1])) < 1e-4


def test_what_two_processes_trained_can_be_slimmed(found):
    model, gates = gated()
    model.load_state_dict(found["ddp"][0]["state"])
    masks = edgel0.Masks(gates.coupling, found["ddp"][0]["masks"])
    x = batch(0)[0][:1]
    with torch.no_grad():
        slim, masked = edgel0.slim(model, masks).program.module()(x), edgel0.masked(model, masks).eval()(x)
        assert float((slim - masked).abs().max()) < 1e-5
        assert float((masked - model.eval()(x)).abs().max()) < 1e-5
