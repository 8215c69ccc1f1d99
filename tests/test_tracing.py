"""What a trace reports, and which models and examples it refuses, in words that say what to do."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from oracle import check, randomise
from torch import nn

from edgel0.capturing import capture
from edgel0.errors import TraceError, UsageError
from edgel0.flow import FLOW
from edgel0.masks import masked
from edgel0.rules import pointwise
from edgel0.slimming import slim
from edgel0.tracing import trace
from edgel0.types import Masks

LIBRARY = torch.library.Library("edgel0_tests", "DEF")
LIBRARY.define("doubled(Tensor x) -> Tensor")
LIBRARY.impl("doubled", lambda x: x * 2, "CompositeExplicitAutograd")
LIBRARY.impl("doubled", lambda x: torch.empty_like(x), "Meta")
EXAMPLE = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)).double()


@torch.library.custom_op("edgel0_tests::tripled", mutates_args=())
def tripled(x: torch.Tensor) -> torch.Tensor:
    return x * 3


@tripled.register_fake
def _(x):
    return torch.empty_like(x)


class Net(nn.Module):
    def __init__(self, middle=lambda x: x):
        super().__init__()
        self.first, self.last, self.middle = nn.Linear(5, 6), nn.Linear(6, 2), middle

    def forward(self, x):
        return self.last(self.middle(self.first(x)))


def test_groups_and_readers_have_the_names_of_parameters():
    coupling = trace(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.Linear(4, 2)), EXAMPLE.float())
    assert [(g.name, g.start, g.stop, g.writers) for g in coupling.groups] == [
        ("0", 1, 7, ("0.weight",)),
        ("2", 7, 11, ("2.weight",)),
    ]
    assert [(r.parameter, r.axis, r.units.tolist()) for r in coupling.readers] == [
        ("2.weight", 1, [1, 2, 3, 4, 5, 6]),
        ("3.weight", 1, [7, 8, 9, 10]),
    ]


def test_writers_that_share_units_make_one_group():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.c(self.a(x) + self.b(x))

    (group,) = trace(Residual(), EXAMPLE.float()).groups
    assert (group.name, group.size, group.writers) == ("a", 6, ("a.weight", "b.weight"))


def test_a_pin_names_operator_module_and_reason():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6))
            self.last = nn.Linear(6, 2)

        def forward(self, x):
            return self.last(self.inner(x))

    coupling = trace(Normed(), EXAMPLE.float())
    pin, output = coupling.pins
    assert (pin.operator, pin.module, pin.reason, pin.labels) == (
        "aten.layer_norm.default",
        "inner.1",
        "normalised across units",
        6,
    )
    assert (output.operator, output.reason, output.labels) == ("output", "an output of the model", 2)
    assert not pin.unknown
    assert re.fullmatch(r".*test_tracing\.py:\d+: return self\.last\(self\.inner\(x\)\)", pin.source)
    assert (coupling.units, coupling.unknown) == (0, ())


@pytest.mark.parametrize("name", ["doubled", "tripled"])
def test_an_unknown_operator_pins_and_a_row_of_the_user_frees(name):
    model = randomise(Net(lambda x: getattr(torch.ops.edgel0_tests, name)(x)))
    packet = getattr(torch.ops.edgel0_tests, name)
    coupling = trace(model, EXAMPLE)
    assert coupling.unknown == (str(packet.default),)
    assert coupling.units == 0
    pin = next(p for p in coupling.pins if p.unknown)
    assert (pin.reason, pin.labels) == ("no rule for this operator", 6)
    assert re.fullmatch(r".*test_tracing\.py:\d+: return self\.last\(self\.middle\(self\.first\(x\)\)\)", pin.source)
    for key in (packet, packet.default):
        freed = trace(model, EXAMPLE, flow=FLOW | {key: pointwise})
        assert (freed.units, freed.unknown) == (6, ())
        masks = Masks.random(freed)
        difference = masked(model, masks)(EXAMPLE) - slim(model, masks).program.module()(EXAMPLE)
        assert float(difference.detach().abs().max()) < 1e-12
    assert packet not in FLOW


def test_what_reaches_no_output_pins_nothing():
    check(Net(lambda x: (x.mean(1), x)[1]), EXAMPLE, 6)


def test_reducing_across_units_pins_only_where_nothing_else_could_be_kept():
    assert trace(Net(lambda x: x - x.mean(1, keepdim=True)), EXAMPLE.float()).units == 0
    check(Net(lambda x: torch.stack([x, x.roll(1, 0)]).mean(0)), EXAMPLE, 6)


def test_data_dependent_control_flow_quotes_the_line():
    def middle(x):
        if x.sum() > 0:  # this line is quoted
            return x
        return -x

    with pytest.raises(
        TraceError, match=r"(?s)cannot capture Net.*test_tracing.py.*`if x.sum.. > 0:.*torch.where or torch.cond"
    ):
        trace(Net(middle), EXAMPLE.float())


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (torch.zeros(2, 7), r"Net does not run on the example input \(\(2, 7\) float32\): mat1 and mat2"),
        (torch.zeros(2, 5).double(), r"does not run on the example input \(\(2, 5\) float64\)"),
        ({"y": torch.zeros(2, 5)}, r"does not run on the example input \(y=\(2, 5\) float32\): .*unexpected keyword"),
        ((torch.zeros(2, 5), torch.zeros(1)), r"takes 2 positional arguments but 3 were given"),
        ((), r"the example input is 'tuple'; a tensor, a non-empty tuple"),
        (None, r"the example input is 'NoneType'"),
        (3.0, r"the example input is 'float'"),
        (torch.zeros(2, 5, device="meta"), r"the example input is on meta and 'first.weight' on cpu"),
    ],
)
def test_an_example_that_does_not_fit(example, message):
    with pytest.raises(UsageError, match=message):
        trace(Net(), example)


def test_a_model_on_the_meta_device():
    with pytest.raises(UsageError, match=r"'first.weight' is on the meta device and has no values; materialise"):
        trace(Net().to("meta"), EXAMPLE.float())


@pytest.mark.parametrize("thing", [torch.relu, "resnet18", nn.Linear])
def test_no_module(thing):
    with pytest.raises(UsageError, match=r"a torch.nn.Module was expected, but '\w+' was given"):
        trace(thing, EXAMPLE)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 2))
    model[1].eval()
    state = copy.deepcopy(model.state_dict())
    example = EXAMPLE.float()
    trace(model, example)
    assert [m.training for m in model.modules()] == [True, True, False, True, True]
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(UsageError):
        trace(model, torch.zeros(2, 7))
    assert model.training
    assert not model[1].training


def test_an_example_is_not_written_to():
    example = EXAMPLE.float().clone()
    capture(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 2)), example)
    assert torch.equal(example, EXAMPLE.float())


@pytest.mark.parametrize(
    "wrap", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel], ids=["compile", "parallel"]
)
def test_wrappers_are_taken_off(wrap):
    model = randomise(Net(F.relu))
    plain, wrapped = trace(model, EXAMPLE), trace(wrap(model), EXAMPLE)
    assert wrapped.digest == plain.digest
    masks = Masks.random(wrapped)
    assert torch.equal(slim(wrap(model), masks).program.module()(EXAMPLE), slim(model, masks).program.module()(EXAMPLE))


def test_tracing_twice_gives_the_same():
    first, second = (trace(Net(F.relu), EXAMPLE.float()) for _ in range(2))
    assert first.digest == second.digest
    assert first.groups == second.groups


def test_another_model_is_refused_by_name():
    masks = Masks.random(trace(Net(), EXAMPLE.float()))
    other = Net()
    other.last = nn.Linear(7, 2)
    with pytest.raises(UsageError, match=r"'last.weight' is \(2, 7\) in this Net, but \(2, 6\)"):
        slim(other, masks)
