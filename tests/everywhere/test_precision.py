"""Autocast and GradScaler: gates and multipliers stay float32, their gradient is unscaled once, overflow is skipped."""

import pytest
import torch
import torch.nn.functional as F
from workbench import STEPS, TOTAL, batch, furthest, gated, scheduled, state, train

SCALE = 2.0**10


def scaled_run(scaler, dtype=None, spoil=None):
    """Train with a scaler as users write it; the gradients of step ``spoil`` overflow."""
    model, gates = gated()
    optimizer, schedule = scheduled(model, gates)
    steps = []
    for at in range(TOTAL):
        x, y = batch(at)
        with torch.autocast("cpu", dtype or torch.float16, enabled=dtype is not None):
            out = model(x)
            loss = F.cross_entropy(out.float(), y)
        if at == spoil:
            loss = loss * float("inf")
        before = state(model)
        scaler.scale(loss).backward()
        schedule.before_step(scaler)
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        scaler.step(optimizer)
        scaler.update()
        schedule.after_step()
        optimizer.zero_grad(set_to_none=True)
        steps.append((out.dtype, before, state(model), dict(schedule.budget.multipliers), schedule.at))
    return model, schedule, steps


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_trains_gates_in_float32(dtype):
    _, schedule, steps = scaled_run(torch.amp.GradScaler("cpu", init_scale=SCALE), dtype)
    gates = schedule.gates
    assert {kind for kind, *_ in steps} == {torch.promote_types(dtype, torch.float32)}  # times a float32 scale
    assert gates.log_alpha.dtype == gates.values().dtype == gates.probability().dtype == torch.float32
    assert {type(m) for *_, multipliers, _ in steps for m in multipliers.values()} == {float}
    assert schedule.phase == "settle"
    assert schedule.budget.limits.fits(schedule.masks.open)
    exact, plain = gated()
    train(exact, scheduled(exact, plain)[1], last=STEPS[0] + 4)
    reduced = steps[STEPS[0] + 3][2]["edgel0_gates.log_alpha"]
    assert float((reduced - exact.edgel0_gates.log_alpha.detach()).abs().mean()) < 0.15  # of some 2 that they moved


def test_gradients_are_unscaled_once():
    """A power of two scales without rounding: the run is that without a scaler, to the bit."""
    model, schedule, _ = scaled_run(torch.amp.GradScaler("cpu", init_scale=SCALE))
    plain, gates = gated()
    reference = scheduled(plain, gates)[1]
    train(plain, reference)
    assert furthest(state(model), state(plain)) == 0
    assert schedule.budget.multipliers == reference.budget.multipliers


def test_a_disabled_scaler_is_none():
    model, _, _ = scaled_run(torch.amp.GradScaler("cpu", enabled=False))
    plain, gates = gated()
    train(plain, scheduled(plain, gates)[1])
    assert furthest(state(model), state(plain)) == 0


def test_an_overflow_skips_weights_and_gates_and_the_schedule_counts_it():
    spoil = STEPS[0] + 5
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    model, schedule, steps = scaled_run(scaler, spoil=spoil)
    assert scaler.get_scale() == SCALE / 2
    _, before, after, multipliers, at = steps[spoil]
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == []
    assert at == spoil + 1
    assert multipliers["macs"] > steps[spoil - 1][3]["macs"] > 0  # the gates are as far from the target as they were
    assert all(bool(torch.isfinite(value).all()) for value in state(model).values())
    assert schedule.budget.limits.fits(schedule.masks.open)
