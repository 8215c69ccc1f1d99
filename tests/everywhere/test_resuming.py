"""A plain loop that was killed in any phase goes on and ends with the same bits; other states are told apart."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from looping import STEPS, run
from torch import nn
from workbench import EXAMPLE, differ, gated, scheduled, state, train

import edgel0
from edgel0.errors import UsageError

DIE = {"dense": 4, "gating": 23, "settle": 26}  # the last save is one or two steps earlier; by 21 it has shrunk


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole") / "checkpoint.pt")


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A folder for each phase, with what a process left there that was killed in it."""
    folders = {phase: tmp_path_factory.mktemp("killed") for phase in DIE}
    loop = str(Path(__file__).with_name("looping.py"))
    ended = {
        phase: subprocess.Popen(
            [sys.executable, loop, str(folder / "checkpoint.pt"), str(DIE[phase])],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for phase, folder in folders.items()
    }
    try:
        assert {process.wait(120) for process in ended.values()} == {-signal.SIGKILL}
    finally:
        for process in ended.values():
            process.kill()
            process.wait()
    return folders


def test_the_loop_shrinks_while_gating_and_again_at_the_mask(whole):
    *_, schedule, sizes = whole
    assert sizes[0] == 29
    assert sizes[sum(STEPS[:2]) - 2] < 29
    assert sizes[-1] < sizes[sum(STEPS[:2]) - 2]
    assert schedule.refused == ""


@pytest.mark.parametrize("phase", DIE)
def test_a_killed_loop_ends_with_the_same_bits(whole, killed, phase):
    model, optimizer, schedule, _ = whole
    file = killed[phase] / "checkpoint.pt"
    saved = torch.load(file, weights_only=True)["schedule"]
    assert DIE[phase] - 3 <= saved["at"] < DIE[phase]
    assert (len(saved["left"]) < 30) is (phase != "dense")
    again, other, resumed, _ = run(file)
    assert not differ(state(model), state(again))
    for one, two in zip(optimizer.state.values(), other.state.values(), strict=True):
        assert all(torch.equal(one[key], two[key]) for key in one)
    for attribute in ("open", "probability"):
        one, two = (getattr(s.masks_of_original, attribute) for s in (schedule, resumed))
        assert np.array_equal(one, two)
    assert schedule.budget.state_dict() == resumed.budget.state_dict()
    assert schedule.report == resumed.report


def test_a_state_of_other_steps_or_another_model_is_told_apart(whole):
    saved = whole[2].state_dict()
    model, gates = gated()
    _, schedule = scheduled(model, gates)
    before = state(model)
    with pytest.raises(UsageError, match=r"schedule of \(4, 20, 4\) steps.*this one has \(5, 12, 5\) steps"):
        schedule.load_state_dict(saved)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 13), nn.ReLU(), nn.Linear(13, 4))
    gates = edgel0.attach(other, EXAMPLE)  # 29 units as well, in other groups
    assert gates.coupling.units == 29
    _, schedule = scheduled(other, gates, steps=STEPS)
    with pytest.raises(UsageError, match=r"groups of 9, 7, 13 units; this one has .* groups of 16, 13 units"):
        schedule.load_state_dict(saved)
    assert not differ(before, state(model))


def test_a_model_that_has_shrunk_further_does_not_grow_back(whole):
    schedule = whole[2]
    early = scheduled(*gated(), steps=STEPS)[1].state_dict()
    with pytest.raises(UsageError, match="shrunk beyond the state that is loaded; build it anew"):
        schedule.load_state_dict(early)


def test_whoever_does_not_want_to_shrink_does_not_after_loading():
    model, gates = gated()
    _, schedule = scheduled(model, gates, shrink=True)
    train(model, schedule, last=7)
    again, others = gated()
    _, resumed = scheduled(again, others, shrink=False)
    resumed.load_state_dict(schedule.state_dict())
    again.load_state_dict(model.state_dict())
    train(again, resumed, 7)
    assert others.coupling.units == 29
    assert resumed.refused == "it was not asked for"
