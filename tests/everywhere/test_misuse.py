"""What goes wrong in training: said by name, before anything is damaged, or survived as documented."""

import pytest
import torch
import torch.nn.functional as F
from workbench import EXAMPLE, STEPS, TOTAL, batch, differ, gated, plain, scheduled, state, train

import edgel0
from edgel0.errors import TrainingError, UsageError


def backward(model, at, factor=1.0):
    x, y = batch(at)
    (F.cross_entropy(model(x), y) * factor).backward()


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_an_exploding_loss_is_told_before_the_gates_are_touched(factor):
    model, gates = gated()
    _, schedule = scheduled(model, gates)
    train(model, schedule, last=8)
    backward(model, 8, factor)
    before, moments = state(model), gates.log_alpha.detach().clone()
    multipliers = dict(schedule.budget.multipliers)
    with pytest.raises(TrainingError, match=r"of 29 gates is not a finite number in step 9 \(gating\)"):
        schedule.step()
    assert not differ(before, state(model))
    assert torch.equal(gates.log_alpha.detach(), moments)
    assert (schedule.at, schedule.budget.multipliers) == (8, multipliers)
    model.zero_grad()
    train(model, schedule, 8)  # who leaves such a step out can go on
    assert schedule.budget.limits.fits(schedule.masks.open)


@pytest.mark.parametrize("shrink", [False, True])
def test_gates_that_all_close_leave_a_connected_network_within_the_budget(shrink):
    model, gates = gated()
    smallest = edgel0.Budget(gates, macs=0.5).limits
    floor = smallest.cost(smallest.smallest)["macs"]
    budget = edgel0.Budget(gates, macs=floor, warmup=0.0, rate=50.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = edgel0.Schedule(model, budget, optimizer, steps=STEPS, gate_lr=20.0, shrink=shrink)
    losses = train(model, schedule)
    assert budget.limits.cost(schedule.masks.open)["macs"] == floor
    assert all(map(torch.isfinite, torch.tensor(losses)))
    x = batch(0)[0]
    with torch.no_grad():
        slim = edgel0.slim(model, schedule.masks, x).program.module()(x)
        assert float((slim - model.eval()(x)).abs().max()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_that_is_cast_trains_on(dtype):
    """Cast after attach: the traced example follows, gates stay float32."""
    model, gates = gated()
    model.to(dtype)
    _, schedule = scheduled(model, gates, shrink=True)
    train(model, schedule, dtype=dtype)
    assert gates.log_alpha.dtype == torch.float32
    assert model.fc1.weight.dtype == dtype
    assert schedule.refused == ""
    assert gates.coupling.units < 29
    assert gates.coupling.program.state_dict["fc1.weight"].dtype == dtype


def test_a_forgotten_train_mode_is_told_at_the_first_step():
    model, gates = gated()
    _, schedule = scheduled(model, gates)
    model.eval()
    backward(model, 0)
    with pytest.raises(UsageError, match=r"eval mode in step 1.*call model\.train\(\)"):
        schedule.step()
    gates.train()  # a frozen network: its gates alone have noise
    for at in range(TOTAL):
        backward(model, at)
        schedule.step()
    model.eval()
    backward(model, 0)
    schedule.step()  # at the mask it is the user's business
    assert int(gates.draws) == STEPS[1]


def test_an_optimizer_of_another_model_is_told():
    model, gates = gated()
    with pytest.raises(UsageError, match="this Adam holds none of the parameters of this Net"):
        scheduled(model, gates, optimizer=torch.optim.Adam(plain().parameters()))


def test_without_an_optimizer_nothing_shrinks_and_it_is_told():
    model, gates = gated()
    optimizer, schedule = scheduled(model, gates, shrink=True)
    schedule.optimizer = None
    for at in range(TOTAL):
        backward(model, at)
        schedule.before_step()
        optimizer.step()
        schedule.after_step()
        optimizer.zero_grad()
    assert "was given no optimizer" in schedule.refused
    assert gates.coupling.units == 29
    with pytest.raises(UsageError, match="no optimizer to step"):
        schedule.step()


def test_an_optimizer_of_some_parameters_shrinks_with_all():
    """What is frozen is cut as well, and has no state to lose."""
    model, gates = gated()
    optimizer = torch.optim.Adam([*model.fc1.parameters(), *model.fc2.parameters()], lr=3e-3)
    _, schedule = scheduled(model, gates, shrink=True, optimizer=optimizer)
    frozen = model.conv1.weight.detach().clone()
    train(model, schedule)
    kept = torch.from_numpy(schedule.masks_of_original.open[1:10])
    assert gates.coupling.units < 29
    assert torch.equal(model.conv1.weight, frozen[kept])


def test_steps_past_the_end_keep_settling():
    model, gates = gated()
    _, schedule = scheduled(model, gates, shrink=True)
    train(model, schedule)
    opened, before = schedule.masks_of_original.open, state(model)
    train(model, schedule, TOTAL, TOTAL + 3)
    assert (schedule.phase, schedule.at) == ("settle", TOTAL + 3)
    assert (schedule.masks_of_original.open == opened).all()
    assert not torch.equal(before["scale"], model.scale)


def test_the_last_loss_may_be_kept_while_the_model_shrinks():
    """In a plain loop the graph of the last step is alive when the next one is built."""
    model, gates = gated()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    seen = []
    model.conv1.weight.register_hook(lambda gradient: seen.append(gradient.shape))
    gates.held = True
    x, y = batch(0)
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    masks = edgel0.Masks.random(gates.coupling, share=0.5, seed=0)
    edgel0.shrink_(model, optimizer, masks)
    optimizer.zero_grad()
    again = F.cross_entropy(model(x), y)  # while the graph of the first loss is there
    again.backward()
    optimizer.step()
    raw = model.fc2.parametrizations.weight.original
    assert raw.grad.shape == raw.shape == model.fc2.weight.shape
    assert seen == [torch.Size([9, 1, 3, 3]), model.conv1.weight.shape]
    assert loss.requires_grad


def test_a_schedule_whose_gates_were_replaced_says_so():
    model, gates = gated()
    _, schedule = scheduled(model, gates)
    gates.log_alpha = torch.nn.Parameter(gates.log_alpha.detach().clone())
    backward(model, 0)
    with pytest.raises(UsageError, match="make the optimizer and the schedule after that"):
        schedule.step()
    assert EXAMPLE.shape == (1, 1, 8, 8)
