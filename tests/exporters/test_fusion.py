import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgel0.exporters.fusion import FOLDS, fuse_batch_norm

from .small_nets import randomised

aten = torch.ops.aten


def pair(layer, norm, *shape):
    """A layer and its batch norm in float64, and an example."""
    torch.manual_seed(0)
    return randomised(nn.Sequential(layer, norm)).double(), torch.randn(*shape, dtype=torch.float64)


CASES = {
    aten.linear.default: lambda: pair(nn.Linear(6, 4), nn.BatchNorm1d(4), 3, 6),
    aten.conv1d.default: lambda: pair(nn.Conv1d(4, 6, 3, groups=2), nn.BatchNorm1d(6), 2, 4, 9),
    aten.conv1d.padding: lambda: pair(nn.Conv1d(4, 6, 3, padding="same"), nn.BatchNorm1d(6), 2, 4, 9),
    aten.conv2d.default: lambda: pair(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), 2, 4, 7, 5),
    aten.conv2d.padding: lambda: pair(
        nn.Conv2d(4, 4, 3, groups=4, padding="same"), nn.BatchNorm2d(4, affine=False), 2, 4, 7, 5
    ),
    aten.conv3d.default: lambda: pair(nn.Conv3d(2, 3, 2, bias=False), nn.BatchNorm3d(3), 1, 2, 4, 4, 4),
    aten.conv3d.padding: lambda: pair(nn.Conv3d(2, 3, 3, padding="same"), nn.BatchNorm3d(3), 1, 2, 4, 4, 4),
    aten.conv_transpose1d.default: lambda: pair(nn.ConvTranspose1d(4, 6, 3, groups=2), nn.BatchNorm1d(6), 2, 4, 9),
    aten.conv_transpose2d.input: lambda: pair(
        nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, bias=False), nn.BatchNorm2d(6), 2, 4, 5, 5
    ),
    aten.conv_transpose3d.input: lambda: pair(nn.ConvTranspose3d(2, 3, 2), nn.BatchNorm3d(3), 1, 2, 4, 4, 4),
}


DECOMPOSED = {
    aten.batch_norm.default: lambda *given: aten._native_batch_norm_legit_no_training(*given[:5], *given[6:8])[0]
}


def norms(module):
    return len(module.graph.find_nodes(op="call_function", target=aten.batch_norm.default))


def fused(model, *example):
    program = torch.export.export(model.eval(), example, strict=False)
    return program, fuse_batch_norm(program)


def test_every_row_of_folds_has_a_case():
    assert set(CASES) == set(FOLDS)


@pytest.mark.parametrize("operator", FOLDS, ids=str)
def test_folding_is_exact(operator):
    model, x = CASES[operator]()
    program, module = fused(model, x)
    assert {node.target for node in program.graph.nodes} >= {operator, aten.batch_norm.default}
    assert norms(module) == 0
    with torch.no_grad():
        torch.testing.assert_close(module(x)[0], model(x), rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's own
@pytest.mark.parametrize("operator", FOLDS, ids=str)
def test_folding_is_exact_in_a_decomposed_program(operator):
    model, x = CASES[operator]()
    program = torch.export.export(model.eval(), (x,), strict=False).run_decompositions(DECOMPOSED)
    assert any("_no_training" in str(node.target) for node in program.graph.nodes)
    module = fuse_batch_norm(program)
    assert not any("norm" in str(node.target) for node in module.graph.nodes)
    with torch.no_grad():
        torch.testing.assert_close(module(x)[0], model(x), rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's own
@pytest.mark.parametrize("decomposed", [False, True])
def test_two_batch_norms_in_a_row_both_fold(decomposed):
    torch.manual_seed(0)
    model = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4))).double().eval()
    x = torch.randn(1, 3, 5, 5, dtype=torch.float64)
    program = torch.export.export(model, (x,), strict=False)
    if decomposed:
        program = program.run_decompositions(DECOMPOSED)
    module = fuse_batch_norm(program)
    assert not any("norm" in str(node.target) for node in module.graph.nodes)
    torch.testing.assert_close(module(x)[0], model(x), rtol=0, atol=1e-12)


def test_the_fused_module_can_be_traced_again():
    model, x = CASES[aten.conv2d.default]()
    again = torch.export.export(fused(model, x)[1], (x,), strict=False)
    assert sorted(again.state_dict) == ["0.bias", "0.weight"]
    torch.testing.assert_close(again.module()(x)[0], model(x), rtol=0, atol=1e-12)


def test_the_program_is_not_changed():
    model, x = CASES[aten.conv2d.padding]()
    program = torch.export.export(model, (x,), strict=False)
    before, code = copy.deepcopy(program.state_dict), program.graph_module.code
    fuse_batch_norm(program)
    assert program.graph_module.code == code
    assert list(program.state_dict) == list(before)
    assert all(torch.equal(program.state_dict[name], before[name]) for name in before)
    torch.export.save(program, io.BytesIO())


def test_weights_are_folded_in_float64_and_stored_as_they_were():
    model, x = CASES[aten.linear.default]()
    _, module = fused(model.float(), x.float())
    want = (
        model[0].weight.double() * (model[1].weight.double() / (model[1].running_var.double() + 1e-5).sqrt())[:, None]
    )
    assert torch.equal(module.get_parameter("0.weight"), want.float())


class Net(nn.Module):
    def __init__(self, forward, **modules):
        super().__init__()
        self.call = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.call(self, x)


def tied():
    net = Net(lambda m, x: m.norm(m.first(x)) + m.second(x), first=nn.Conv2d(3, 3, 1), second=nn.Conv2d(3, 3, 1))
    net.norm = nn.BatchNorm2d(3)
    net.second.weight = net.first.weight
    return net


UNFOLDABLE = {
    "the layer is called twice": (
        lambda: Net(lambda m, x: m.norm(m.conv(m.conv(x))), conv=nn.Conv2d(3, 3, 1), norm=nn.BatchNorm2d(3)),
        (1, 3, 4, 4),
    ),
    "another layer has the same weight": (tied, (1, 3, 4, 4)),
    "somebody else reads the layer": (
        lambda: Net(lambda m, x: m.norm(y := m.conv(x)) + y, conv=nn.Conv2d(3, 3, 1), norm=nn.BatchNorm2d(3)),
        (1, 3, 4, 4),
    ),
    "the norm comes first": (
        lambda: Net(lambda m, x: m.conv(m.norm(x)), conv=nn.Conv2d(3, 3, 1), norm=nn.BatchNorm2d(3)),
        (1, 3, 4, 4),
    ),
    "the norm is over the middle axis of a linear layer": (
        lambda: Net(lambda m, x: m.norm(m.line(x)), line=nn.Linear(5, 5), norm=nn.BatchNorm1d(5)),
        (2, 5, 5),
    ),
    "the norm has no statistics of its own": (
        lambda: Net(
            lambda m, x: m.norm(m.conv(x)), conv=nn.Conv2d(3, 3, 1), norm=nn.BatchNorm2d(3, track_running_stats=False)
        ),
        (2, 3, 4, 4),
    ),
    "the weight is computed": (
        lambda: Net(
            lambda m, x: m.norm(F.conv2d(x, m.conv.weight * 2)), conv=nn.Conv2d(3, 3, 1), norm=nn.BatchNorm2d(3)
        ),
        (1, 3, 4, 4),
    ),
}


@pytest.mark.parametrize("reason", UNFOLDABLE)
def test_what_cannot_fold_stays_and_stays_right(reason):
    make, shape = UNFOLDABLE[reason]
    torch.manual_seed(0)
    x = torch.randn(*shape, dtype=torch.float64)
    model = make()
    if reason != "the norm has no statistics of its own":
        randomised(model)
    _, module = fused(model.double(), x)
    assert norms(module) == 1
    torch.testing.assert_close(module(x)[0], model(x), rtol=0, atol=1e-12)
