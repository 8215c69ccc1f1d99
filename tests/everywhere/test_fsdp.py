"""``fully_shard``: two processes, each with half of the parameters, end as one process with the whole network does."""

import copy

import numpy as np
import pytest
import torch
from ranks import SAVED_AT, launched
from workbench import batch, differ, furthest, gated, scheduled, state, train

import edgel0

LAYOUTS = ("fsdp", "fsdp_of_every_child", "fsdp_evaluating")
OTHERS = ("fsdp_without_schedule", "ddp_without_schedule", "fsdp_resuming", "fsdp_in_bfloat16", "fsdp_refusing")


@pytest.fixture(scope="module")
def alone():
    """The run of one process on whole batches: as saved on the way, and at its end."""
    model, gates = gated()
    optimizer, schedule = scheduled(model, gates)
    train(model, schedule, last=SAVED_AT)
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    saved = copy.deepcopy(saved)
    expected = {metric: float(cost.detach()) for metric, cost in schedule.budget.expected().items()}
    train(model, schedule, SAVED_AT)
    return {"saved": saved, "state": state(model), "masks": schedule.masks.open, "expected": expected}


@pytest.fixture(scope="module")
def found(tmp_path_factory, alone):
    folder = tmp_path_factory.mktemp("fsdp")
    torch.save(alone["saved"], folder / "plain.pt")
    return launched(folder, *LAYOUTS, *OTHERS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_ranks_have_the_same_multipliers_and_masks(found, name):
    one, two = found[name]
    assert one["multipliers"] == two["multipliers"]
    assert one["expected"] == two["expected"]
    assert np.array_equal(one["masks"], two["masks"])
    moments = [found["schedule"]["gates"]["state"][0]["exp_avg"] for found in (one, two)]
    assert torch.equal(*moments)


@pytest.mark.parametrize("name", LAYOUTS)
def test_gathered_it_is_the_run_of_one_process(found, alone, name):
    one = found[name][0]
    assert not one["masks"].all()
    assert np.array_equal(one["masks"], alone["masks"])
    assert furthest(one["halfway"]["state"], alone["saved"]["model"]) < 1e-4
    assert furthest(one["state"], alone["state"]) < 1e-4
    assert one["expected"] == pytest.approx(alone["expected"], rel=1e-5)


def test_a_plain_loop_ends_as_under_distributed_data_parallel(found):
    one, two = found["fsdp_without_schedule"]
    wanted = found["ddp_without_schedule"][0]
    assert not wanted["masks"].all()
    assert np.array_equal(one["masks"], wanted["masks"])
    assert np.array_equal(two["masks"], wanted["masks"])
    assert furthest(one["state"], wanted["state"]) < 1e-4


def test_the_parts_are_uneven(found):
    one, two = (rank["rows"] for rank in found["fsdp"])
    assert (one["edgel0_gates.log_alpha"], two["edgel0_gates.log_alpha"]) == ([15], [14])
    assert (one["conv1.bias"], two["conv1.bias"]) == ([5], [4])
    assert (one["scale"], two["scale"]) == ([1, 4], [0, 4])


@pytest.mark.parametrize("name", LAYOUTS)
def test_gathered_it_can_be_slimmed(found, name):
    model, gates = gated()
    model.load_state_dict(found[name][0]["state"])
    masks = edgel0.Masks(gates.coupling, found[name][0]["masks"])
    x = batch(0)[0][:1]
    with torch.no_grad():
        slim, masked = edgel0.slim(model, masks).program.module()(x), edgel0.masked(model, masks).eval()(x)
        assert float((slim - masked).abs().max()) < 1e-5
        assert float((masked - model.eval()(x)).abs().max()) < 1e-5


def test_one_process_goes_on_where_two_were(found, alone):
    halfway = found["fsdp"][0]["halfway"]
    model, gates = gated(seed=5)
    optimizer, schedule = scheduled(model, gates)
    schedule.load_state_dict(halfway["schedule"])
    model.load_state_dict(halfway["state"])
    optimizer.load_state_dict(alone["saved"]["optimizer"])
    train(model, schedule, SAVED_AT)
    assert np.array_equal(schedule.masks.open, alone["masks"])
    assert furthest(state(model), alone["state"]) < 1e-4


def test_two_processes_go_on_where_one_was(found, alone):
    one, two = found["fsdp_resuming"]
    saved = alone["saved"]["schedule"]
    for rank in (one, two):
        assert rank["phase"] == "gating"
        for moment, value in saved["gates"]["state"][0].items():
            assert torch.equal(rank["schedule"]["gates"]["state"][0][moment], value)
    assert not differ(one["state"], alone["saved"]["model"])


def test_a_policy_of_bfloat16_leaves_gates_that_are_a_part_of_their_own_in_float32(found):
    one, two = found["fsdp_in_bfloat16"]
    for rank in (one, two):
        assert rank["kinds"] == {torch.float32}
        assert rank["log_alpha"] == torch.float32
    assert np.array_equal(one["masks"], two["masks"])
    assert not one["masks"].all()


def test_shrinking_is_refused_by_name(found):
    for rank in found["fsdp"]:
        assert "fully_shard" in rank["refused"]


def test_what_cannot_work_says_what_to_do_and_changes_nothing(found):
    wanted = {
        "attach": "attach gates first, then call fully_shard",
        "shrink_": "fully_shard has spread over ranks",
        "masked": "Gather them with torch.distributed.checkpoint.state_dict.get_model_state_dict",
        "slim": "Gather them with torch.distributed.checkpoint.state_dict.get_model_state_dict",
        "early schedule": "make the optimizer and the schedule after that",
        "early optimizer": "holds none of the parameters of this",
    }
    for rank in found["fsdp_refusing"]:
        assert rank["messages"].keys() == wanted.keys()
        assert not [name for name, text in wanted.items() if text not in rank["messages"][name]]
        assert rank["units"] == 29
        assert not differ(rank["before"], rank["after"])
