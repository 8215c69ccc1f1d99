"""``torch.compile``: the same gradients as eager in each phase, one graph per phase, and again after shrinking."""

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend
from workbench import STEPS, TOTAL, batch, gated, scheduled

import edgel0

# Dynamo looks at .grad of all that goes into a graph, and Inductor still loads torch.jit; users see neither warning.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
]

QUICK = "aot_eager"  # traces and differentiates as Inductor does, without generating code
PHASES = {"dense": range(STEPS[0]), "gating": range(STEPS[0], sum(STEPS[:2])), "settle": range(sum(STEPS[:2]), TOTAL)}


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def gradients(model, inner, at):
    x, y = batch(at)
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    found = {name: p.grad.clone() for name, p in inner.named_parameters() if p.grad is not None}
    return loss.detach(), found


def same(one, two, atol):
    assert torch.allclose(one[0], two[0], rtol=0, atol=atol)
    assert one[1].keys() == two[1].keys()
    for name, gradient in one[1].items():
        assert torch.allclose(gradient, two[1][name], rtol=1e-4, atol=atol), name


def side_by_side(compile, shrink):
    """Train an eager and a compiled model; returns the graphs that were made by the end of each step."""
    eager, eager_gates = gated()
    inner, gates = gated()
    counter = CompileCounterWithBackend(compile.pop("backend"))
    model = torch.compile(inner, backend=counter, **compile)
    _, by_eager = scheduled(eager, eager_gates, shrink=shrink)
    _, by_model = scheduled(inner, gates, wrapped=model, shrink=shrink)
    counts = []
    for at in range(TOTAL):
        eager.train()
        model.train()
        same(gradients(eager, eager, at), gradients(model, inner, at), 2e-5)
        by_eager.step()
        by_model.step()
        inner.load_state_dict(eager.state_dict())  # so that each step is compared by itself
        counts.append(counter.frame_count)
    assert gates.coupling.units == eager_gates.coupling.units
    assert int(gates.draws) == STEPS[1]
    return counts, gates.coupling.units


@pytest.mark.parametrize("shrink", [False, True], ids=["", "shrinking"])
def test_each_phase_is_one_graph_and_its_gradients_are_those_of_eager(shrink):
    counts, units = side_by_side({"backend": QUICK, "fullgraph": True}, shrink)
    for steps in PHASES.values():
        assert len({counts[at] for at in steps}) == 1
    # The hook that draws is a graph, the forward another; where all gates are 1 there is nothing to draw.
    assert [counts[steps[0]] for steps in PHASES.values()] == [1, 3, 4 if shrink else 5]
    assert (units < 29) is shrink


def test_inductor_differentiates_the_noise_of_the_forward():
    """Inductor's backward repeats cheap arithmetic, when the count of the draws is another one already."""
    found = []
    for compiled in (False, True):
        gates = gated()[1]
        draw = torch.compile(gates.draw, fullgraph=True) if compiled else gates.draw
        for _ in range(3):
            draw()
            gates.values().square().sum().backward()
        found.append((gates.values().detach(), gates.log_alpha.grad))
    for eager, inductor in zip(*found, strict=True):
        assert torch.allclose(eager, inductor, rtol=0, atol=1e-5)
    assert float(found[0][1].abs().max()) > 0.1


@pytest.mark.slow
def test_inductor_as_users_have_it():
    counts, units = side_by_side({"backend": "inductor"}, True)
    # Without fullgraph the hook, which has nothing to do at first, is compiled piece by piece: noise, sample, gates.
    assert [counts[steps[-1]] for steps in PHASES.values()] == [1, 5, 6]
    assert units < 29


def test_the_noise_of_each_step_is_another_one():
    inner, gates = gated()
    model = torch.compile(inner, backend=QUICK, fullgraph=True)
    drawn = []
    for _ in range(4):
        model(batch(0)[0])
        drawn.append(gates.values().detach().clone())
    assert len({tuple(z.tolist()) for z in drawn}) == 4


def test_evaluation_between_steps_adds_one_graph():
    inner, gates = gated()
    counter = CompileCounterWithBackend(QUICK)
    model = torch.compile(inner, backend=counter, fullgraph=True)
    _, schedule = scheduled(inner, gates, wrapped=model, steps=(0, 6, 2))
    counts = []
    for at in range(6):
        model.train()
        x, y = batch(at)
        F.cross_entropy(model(x), y).backward()
        schedule.step()
        model.eval()
        with torch.no_grad():
            compiled, eager = model(x), inner(x)
        assert torch.allclose(compiled, eager, rtol=0, atol=1e-5)
        counts.append(counter.frame_count)
    assert counts == [counts[0]] * 5 + [counts[5]]  # the mask is fixed by the last of these steps
    assert isinstance(edgel0.masked(model, schedule.masks), type(inner))
