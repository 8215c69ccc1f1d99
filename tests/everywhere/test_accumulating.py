"""Gradient accumulation and clipping: what one optimizer step sees, however many backwards it took."""

import pytest
import torch
import torch.nn.functional as F
from workbench import BATCH, STEPS, TOTAL, batch, furthest, gated, scheduled, state, train


@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_with_one_noise_are_the_whole_batch(parts):
    """Every forward draws anew; with the count of the draws set back, micro-batches share the noise of the batch."""
    model, gates = gated()
    _, schedule = scheduled(model, gates)
    for at in range(TOTAL):
        x, y = batch(at)
        draws = int(gates.draws)
        for part in range(parts):
            gates.draws.fill_(draws)
            (F.cross_entropy(model(x[part::parts]), y[part::parts]) / parts).backward()
        schedule.step()
    plain, others = gated()
    reference = scheduled(plain, others)[1]
    train(plain, reference)
    assert furthest(state(model), state(plain)) < 1e-4
    assert (schedule.masks.open == reference.masks.open).all()
    assert not schedule.masks.open.all()


def test_micro_batches_have_noise_of_their_own():
    model, gates = gated()
    drawn = []
    for _ in range(3):
        model(batch(0)[0])
        drawn.append(gates.values().detach().clone())
    assert int(gates.draws) == 3
    assert len({tuple(z.tolist()) for z in drawn}) == 3


@pytest.mark.parametrize("parts", [1, 4])
def test_the_pull_of_the_budget_is_added_once_per_step(parts):
    """A loss without a gradient leaves the budget's alone, however often it is accumulated."""
    model, gates = gated()
    _, schedule = scheduled(model, gates, steps=(0, 10, 2))
    schedule.budget.at, schedule.budget.multipliers = 10, {"macs": 3.0}
    wanted = schedule.budget.pull()
    for _ in range(parts):
        (0 * model(batch(0)[0]).sum()).backward()
    seen = []
    schedule.gate_optimizer.step = lambda: seen.append(gates.log_alpha.grad.clone())
    schedule.before_step()
    assert torch.equal(seen[0], wanted)
    assert float(wanted.abs().max()) > 0
    assert gates.log_alpha.grad is None


def test_clipping_sees_no_gate():
    """The norm is that of the weights, in each phase, with gates in ``model.parameters()``."""
    model, gates = gated()
    optimizer, schedule = scheduled(model, gates)
    for at in range(TOTAL):
        x, y = batch(at)
        F.cross_entropy(model(x), y).backward()
        weights = [p for p in model.parameters() if p is not gates.log_alpha]
        wanted = torch.nn.utils.get_total_norm([p.grad for p in weights])
        schedule.before_step()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        assert torch.equal(norm, wanted)
        optimizer.step()
        schedule.after_step()
        optimizer.zero_grad(set_to_none=True)
    assert schedule.at == TOTAL == sum(STEPS)
    assert len(batch(0)[0]) == BATCH
