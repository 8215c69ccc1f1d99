"""``AveragedModel``: an average of a gated model has its mask, and can be slimmed as the model itself can."""

import copy

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from workbench import STEPS, TOTAL, batch, gated, scheduled, train

import edgel0

SETTLE = sum(STEPS[:2])


def average(model):
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))


def trained(start, shrink):
    """Train, with an average from step ``start`` on."""
    model, gates = gated()
    _, schedule = scheduled(model, gates, shrink=shrink)
    averaged = None
    for at in range(TOTAL):
        if at == start:
            averaged = average(model)
        train(model, schedule, at, at + 1)
        if averaged is not None:
            averaged.update_parameters(model)
    return model, schedule, averaged


@pytest.mark.parametrize(
    ("start", "shrink"), [(0, False), (SETTLE, False), (SETTLE, True)], ids=["from the start", "settling", "shrunk"]
)
def test_an_average_has_the_mask_and_can_be_slimmed(start, shrink):
    model, schedule, averaged = trained(start, shrink)
    own = averaged.module
    assert (schedule.gates.coupling.units < 29) is shrink
    assert not schedule.masks_of_original.open.all()
    x = batch(0)[0][:1]
    masks = schedule.masks
    with torch.no_grad():
        slim, masked = edgel0.slim(own, masks).program.module()(x), edgel0.masked(own, masks).eval()(x)
        gates_alone = averaged.eval()(x)
        assert float((slim - masked).abs().max()) < 1e-5
        assert float((gates_alone - masked).abs().max()) < 1e-5  # its gates are the mask, not their medians
        assert float((masked - model.eval()(x)).abs().max()) > 1e-4  # and it is an average


def test_an_average_from_the_dense_phase_has_gates_as_the_model_has_them():
    model, gates = gated()
    _, schedule = scheduled(model, gates)
    averaged = average(model)
    assert averaged.module.edgel0_gates.held
    train(model, schedule, last=SETTLE - 2)
    averaged.update_parameters(model)  # the first is a copy
    x = batch(0)[0]
    with torch.no_grad():
        assert torch.equal(averaged.eval()(x), model.eval()(x))
        assert float(averaged.module.edgel0_gates.values().min()) < 1


def test_averaging_across_a_shrink_fails_and_the_average_can_be_shrunk_alike():
    model, gates = gated()
    _, schedule = scheduled(model, gates)
    train(model, schedule)
    averaged = average(model)
    averaged.update_parameters(model)
    masks = schedule.masks
    edgel0.shrink_(model, None, masks)
    with pytest.raises(RuntimeError, match="size"):
        copy.deepcopy(averaged).update_parameters(model)
    edgel0.shrink_(averaged.module, None, masks)
    averaged.update_parameters(model)
    x = batch(0)[0]
    with torch.no_grad():
        assert float((averaged.eval()(x) - model.eval()(x)).abs().max()) < 1e-5
