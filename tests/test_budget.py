"""Budgets: targets, multipliers and penalties by hand."""

import copy
import inspect
import itertools
import json
import math

import pytest
import torch
from test_limits import Flat, two_layers

from edgel0.attaching import attach
from edgel0.budget import Budget
from edgel0.concrete import LIMIT, log_alpha_of
from edgel0.cost import sums
from edgel0.errors import BudgetError
from edgel0.limits import Limits
from edgel0.tracing import trace


def gated(*probabilities):
    gates = attach(two_layers(), torch.zeros(1, 3))
    if probabilities:
        gates.log_alpha.data.copy_(torch.tensor([log_alpha_of(p) for p in probabilities]))
    return gates


def advance(budget, count=1):
    for _ in range(count):
        budget.penalty()
        budget.step()


# Targets and multipliers.


@pytest.mark.parametrize("warmup", [0.5, 0.8, 1.0])
def test_targets_fall_by_equal_factors_and_stay(warmup):
    budget = Budget(gated(), macs=0.25, params=14, steps=20, warmup=warmup)
    for at in range(25):
        done = min(1, at / (20 * warmup))
        assert budget.targets() == pytest.approx({"macs": 20 * 0.25**done, "params": 26 * (14 / 26) ** done})
        advance(budget)


def test_without_warmup_the_target_is_the_limit_at_once():
    assert Budget(gated(), macs=0.25, warmup=0.0).targets() == {"macs": 5.0}


def test_a_limit_above_the_dense_model_asks_for_nothing():
    budget = Budget(gated(), macs="1 M", steps=10)
    advance(budget, 12)
    assert budget.targets() == {"macs": 20.0}
    assert budget.multipliers == {"macs": 0.0}


def test_multiplier_ascends_by_the_violation_and_restarts_at_zero():
    gates = gated(0.5, 0.5, 0.5, 0.5)  # 10 MACs expected
    budget = Budget(gates, macs=5, steps=100, warmup=0.0, rate=0.1)
    for count in range(1, 4):
        advance(budget)
        assert budget.multipliers["macs"] == pytest.approx(count * 0.1 * (10 / 5 - 1))
    gates.log_alpha.data.fill_(log_alpha_of(0.24))  # 4.8 MACs: feasible
    advance(budget)
    assert budget.multipliers == {"macs": 0.0}
    gates.log_alpha.data.fill_(log_alpha_of(0.3))  # 6 MACs
    advance(budget)
    assert budget.multipliers["macs"] == pytest.approx(0.1 * 0.2)


@pytest.mark.parametrize(("steps", "rate"), [(10, 0.5), (2000, 0.05), (10**6, 0.005)])
def test_default_rate(steps, rate):
    assert Budget(gated(), macs=0.5, steps=steps).rate == pytest.approx(rate)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"steps": math.nan}, {"warmup": -0.1}, {"warmup": 1.1}, {"rate": 0.0}, {"rate": math.inf}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(BudgetError, match="steps >= 1"):
        Budget(gated(), macs=0.5, **wrong)


# Penalty.


def test_expected_cost_by_hand():
    budget = Budget(gated(0.9, 0.8, 0.3, 0.1), macs=0.5, params=0.5, size=0.5)
    expected = {metric: float(cost.detach()) for metric, cost in budget.expected().items()}
    assert expected == pytest.approx(
        {"macs": 5 * 2.1, "params": 6 * 2.1 + 2, "weight_bytes": 4 * (6 * 2.1 + 2)}, rel=1e-6
    )


def test_expected_cost_is_the_mean_over_independent_masks():
    coupling = trace(Flat(), torch.zeros(1, 1, 4, 4))
    total = sums(coupling)["macs"]
    p = torch.linspace(0.2, 0.9, coupling.units, dtype=torch.float64)
    mean = 0.0
    for bits in itertools.product([0.0, 1.0], repeat=coupling.units):
        z = torch.tensor(bits, dtype=torch.float64)
        mean += float(torch.where(z > 0, p, 1 - p).prod() * total(torch.cat([torch.ones(1).double(), z])))
    assert float(total(torch.cat([torch.ones(1).double(), p]))) == pytest.approx(mean, rel=1e-12)


def test_penalty_and_its_gradient_by_hand():
    p = torch.tensor([0.9, 0.8, 0.3, 0.1])
    gates = gated(*p.tolist())
    budget = Budget(gates, macs=7, params=10, warmup=0.0, rate=0.2)
    assert float(budget.penalty()) == 0.0  # no multiplier has risen yet
    budget.multipliers = {"macs": 2.0, "params": 0.5}
    penalty = budget.penalty()
    value = 2.0 * (5 * 2.1 / 7 - 1) + 0.5 * ((6 * 2.1 + 2) / 10 - 1)
    assert float(penalty.detach()) == pytest.approx(value, rel=1e-6)
    assert penalty.dtype == torch.float32
    penalty.backward()
    gradient = (2.0 * 5 / 7 + 0.5 * 6 / 10) * p * (1 - p)
    torch.testing.assert_close(gates.log_alpha.grad, gradient, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(budget.pull(), gradient, rtol=1e-5, atol=1e-6)
    budget.multipliers = {"macs": 0.0, "params": 0.0}
    assert budget.pull() is None  # an optimizer with momentum would move at a gradient of zero, too


def test_only_the_exceeded_limit_pushes():
    gates = gated(0.5, 0.5, 0.5, 0.5)  # 10 MACs, 14 parameters
    budget = Budget(gates, macs=5, params=20, warmup=0.0, rate=0.1)
    advance(budget)
    assert budget.multipliers == {"macs": pytest.approx(0.1), "params": 0.0}
    budget.penalty().backward()
    torch.testing.assert_close(gates.log_alpha.grad, torch.full((4,), 0.1 * 5 / 5 * 0.25))


def test_ascent_and_restart_circle_at_the_limit():
    gates = gated()
    budget = Budget(gates, macs=0.5, steps=400)
    optimizer = torch.optim.SGD([gates.log_alpha], lr=0.5)
    costs = []
    for _ in range(400):
        loss = -0.1 * gates.probability().sum() + budget.penalty()  # something that wants units open
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        budget.step()
        costs.append(float(budget.expected()["macs"].detach()))
    assert min(costs) >= 10 * 0.9  # never rewarded for being smaller than asked
    assert min(costs[-100:]) <= 10
    assert max(costs[-80:]) <= 10 * 1.1


# Ranges and state.


def test_step_keeps_log_alpha_in_range_even_from_infinity():
    gates = gated()
    gates.log_alpha.data.copy_(torch.tensor([math.inf, -math.inf, 50.0, -50.0]))
    budget = Budget(gates, macs=0.5)
    assert float(budget.expected()["macs"].detach()) == pytest.approx(10)
    advance(budget)
    assert gates.log_alpha.tolist() == [LIMIT, -LIMIT, LIMIT, -LIMIT]


def test_a_value_that_is_no_number_is_told_and_changes_no_state():
    gates = gated()
    budget = Budget(gates, macs=0.5)
    advance(budget, 3)
    before = budget.state_dict()
    gates.log_alpha.data[1] = math.nan
    budget.penalty()
    with pytest.raises(BudgetError, match="expected macs is nan"):
        budget.step()
    assert {k: v for k, v in budget.state_dict().items() if k != "violations"} == {
        k: v for k, v in before.items() if k != "violations"
    }


def test_state_dict_goes_on_identically():
    def run(budget, steps):
        trail = []
        for _ in range(steps):
            penalty = budget.penalty()
            if penalty.requires_grad:
                (gradient,) = torch.autograd.grad(penalty, budget.gates.log_alpha)
                budget.gates.log_alpha.data -= 3 * gradient
            budget.step()
            trail.append((budget.at, dict(budget.multipliers), budget.targets(), budget.gates.log_alpha.tolist()))
        return trail

    def fresh():
        return Budget(gated(0.9, 0.8, 0.7, 0.6), macs=0.25, size=0.4, steps=30, warmup=0.8)

    whole = run(fresh(), 20)
    first = fresh()
    assert run(first, 9) == whole[:9]
    first.penalty()  # interrupted between penalty and step
    state = json.loads(json.dumps(first.state_dict()))
    second = fresh()
    second.gates.load_state_dict(copy.deepcopy(first.gates.state_dict()))
    second.load_state_dict(state)
    assert run(second, 11) == whole[9:]


def test_a_fixed_mask_is_charged_as_it_is():
    gates = gated(0.9, 0.8, 0.3, 0.1)
    gates.fix(torch.tensor([True, False, True, True]))
    assert float(Budget(gates, macs=0.9).expected()["macs"]) == 15.0


def test_a_budget_takes_every_keyword_of_limits():
    wanted, taken = (inspect.signature(kind).parameters for kind in (Limits, Budget))
    assert {name: p.default for name, p in wanted.items() if name != "coupling"} == {
        name: p.default for name, p in taken.items() if name in wanted
    }
