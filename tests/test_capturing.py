"""Which models can be captured, how the others are refused (by name, with the user's line), and what is left alone."""

import copy
import dataclasses
import random
import re
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from projects import paragraph
from torch import nn
from torch.utils.checkpoint import checkpoint

from edgel0.attaching import attach
from edgel0.budget import Budget
from edgel0.capturing import capture, unwrap
from edgel0.errors import TraceError, UsageError
from edgel0.masks import masked, stabilize
from edgel0.preserving import muted
from edgel0.slimming import slim
from edgel0.tracing import trace
from edgel0.types import Masks

X = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Linear, something, linear; what the forward returns goes through ``end``."""

    def __init__(self, middle=torch.relu, end=lambda y: y):
        super().__init__()
        self.first, self.last, self.middle, self.end = nn.Linear(5, 6), nn.Linear(6, 2), middle, end
        self.seen = []
        self.register_buffer("count", torch.zeros(1))
        with torch.no_grad():  # the same weights everywhere, none of them small
            for p in self.parameters():
                p.copy_(torch.linspace(-1.3, 1.1, p.numel()).reshape(p.shape))

    def forward(self, x):
        return self.end(self.last(self.middle(self.first(x))))


def state(model):
    """Everything of a model, and of torch's random numbers, that a capture could change."""
    spaces = [
        {k: (id(v), [*v] if isinstance(v, list | dict) else 0) for k, v in vars(m).items()} for m in model.modules()
    ]
    owned = [*model.parameters(), *model.buffers()]
    tensors = [(t.requires_grad, id(t.grad), t.detach().to_dense().tolist()) for t in owned]
    return spaces, tensors, [m.training for m in model.modules()], torch.get_rng_state().tolist()


def refused(error, model, example, capfd, *told):
    """The one paragraph of the error that tracing raises; nothing is printed, nothing is changed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = state(model) if isinstance(model, Net) else None
        capfd.readouterr()
        with pytest.raises(error) as caught:
            trace(model, example)
    assert capfd.readouterr() == ("", "")
    paragraph(f"edgel0: {caught.value}\n", *told)
    assert re.search(r"/torch/|0x[0-9a-f]{6}|github", str(caught.value)) is None
    if before is not None:
        assert state(model) == before
    return str(caught.value)


# What torch.export cannot capture. Each is the middle of a forward, and the comment marks the line to quote.


def branch(x):
    if x.sum() > 0:  # quoted
        return x
    return -x


def item_branch(x):
    flip = x.mean().item() < 0
    return -x if flip else x  # quoted


def asserting(x):
    assert (x < 1000).all(), "too large"  # quoted
    return x


def loop(x):
    for _ in range(int(x.abs().sum())):  # quoted
        x = x + 1
    return x


def while_loop(x):
    while x.norm() > 1:  # quoted
        x = x / 2
    return x


def size(x):
    count = int(x.abs().sum()) % 2 + 1  # quoted
    return x[:count]


def repeated(x):
    return x.repeat(int(x.argmax()) + 1, 1)  # quoted


class Chosen(nn.Module):
    def forward(self, x):
        return x[x[:, 0] < 1000]  # quoted


def nonzero(x):
    return x + x.nonzero().sum()  # quoted


def unique(x):
    return x * torch.unique(x).mean()  # quoted


def by_numpy(x):
    return torch.from_numpy(np.tanh(x.detach().numpy()))  # quoted


def packed(x):
    rows = nn.utils.rnn.pack_padded_sequence(x[:, None], x.sum(1).long().clamp(1, 1), batch_first=True)
    return nn.utils.rnn.pad_packed_sequence(rows, batch_first=True)[0][:, 0]  # quoted


def inference(x):
    with torch.inference_mode():
        x = x + 1
    return F.linear(x, torch.ones(6, 6).requires_grad_())  # quoted


@torch.library.custom_op("edgel0_capturing::secret", mutates_args=())
def secret(x: torch.Tensor) -> torch.Tensor:
    return x * 3


def without_fake(x):
    return torch.ops.edgel0_capturing.secret(x)  # quoted


@pytest.mark.parametrize(
    ("middle", "found", "advice"),
    [
        (branch, "a branch depends on the values of a tensor", "torch.where or torch.cond"),
        (item_branch, "a branch depends on", "torch.where or torch.cond"),
        (asserting, "a branch depends on", "torch.where or torch.cond"),
        (loop, "a loop runs as often as the values of a tensor say", "Loop a fixed number of times"),
        (while_loop, "a loop runs as often", "Loop a fixed number of times"),
        (size, "a size, or a number in Python, depends on the values", "make sizes follow from shapes"),
        (repeated, "a size, or a number in Python, depends", "without int(), .item()"),
        (Chosen, "depends on the values of a tensor (aten.index.Tensor)", "multiply by a mask instead of selecting"),
        (nonzero, "depends on the values of a tensor (aten.nonzero.default)", "make sizes follow from shapes"),
        (unique, "depends on the values of a tensor (aten._unique2.default)", "make sizes follow from shapes"),
        (by_numpy, "leaves torch for NumPy", "the functions of torch instead"),
        (packed, "depends on the values of a tensor", "pad to a fixed size"),
        (inference, "made in inference mode", "torch.no_grad() in place of torch.inference_mode()"),
        (without_fake, "cannot tell its output's shape", "torch.library.register_fake"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_line_is_quoted_and_the_advice_fits(middle, found, advice, capfd):
    source = Path(__file__).read_text()
    number, line = next(
        (number, line.strip())
        for number, line in enumerate(source.splitlines(), 1)
        if line.endswith("  # quoted") and number > getattr(middle, "forward", middle).__code__.co_firstlineno
    )
    model = Net(middle() if isinstance(middle, type) else middle)
    message = refused(TraceError, model, X, capfd, "torch.export cannot capture Net: ", found, advice)
    assert f"test_capturing.py:{number}: `{line}`." in message


class Differentiating(Net):
    def forward(self, x):
        x = x.clone().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(super().forward(x).sum(), x)[0]


class Counting(Net):
    def forward(self, x):
        self.count += 1
        return super().forward(x) * self.count


class Reassigning(Net):
    def forward(self, x):
        self.count = self.count + 1
        return super().forward(x) * self.count


class Clamping(Net):
    def forward(self, x):
        with torch.no_grad():
            self.first.weight.clamp_(-0.5, 0.5)
        return super().forward(x)


class Halving(Net):
    def forward(self, x):
        self.first.weight.data.mul_(0.5)
        return super().forward(x)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Differentiating, ["the forward differentiates", "without torch.autograd or .data"]),
        (Halving, ["writes to a tensor through .data", "without torch.autograd or .data"]),
        (Counting, ["the forward of Counting writes to 'count' in eval mode", "`if self.training:`"]),
        (Reassigning, ["the forward of Reassigning writes to 'count' in eval mode", "return it as an output"]),
        (Clamping, ["the forward of Clamping writes to 'first.weight' in eval mode", "`if self.training:`"]),
    ],
)
def test_where_no_single_line_is_to_blame_the_forward_is_named(kind, told, capfd):
    message = refused(TraceError, kind(), X, capfd, *told)
    assert re.search(r"The line is \S*test_capturing\.py:\d+: `def forward\(self, x\):`\.", message)


@dataclasses.dataclass
class Answer:
    y: torch.Tensor


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (lambda y: None, ["the forward of Net returns None and no tensor", "at least one tensor was expected"]),
        (lambda y: 3, ["returns 'int' and no tensor"]),
        (lambda y: float(y.sum()), ["returns 'float' and no tensor", "without .item() or float()"]),
        (lambda y: "cat", ["returns 'str' and no tensor"]),
        (lambda y: (), ["returns 'tuple' and no tensor"]),
        (Answer, ["returns 'Answer'; a tensor, or a tuple, list or dict", "torch.export.register_dataclass(Answer)"]),
        (lambda y: {y}, ["returns 'set'"]),
        (lambda y: (part for part in y), ["returns 'generator'"]),
    ],
)
def test_what_no_graph_can_return(end, told, capfd):
    refused(TraceError, Net(end=end), X, capfd, *told, "test_capturing.py:", "`def forward(self, x):`")


# What a model or an example cannot be.


def on_meta():
    with torch.device("meta"):
        return nn.Linear(5, 2)


def quiet(make):
    """What torch warns of is that quantisation and TorchScript are deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def sparse():
    model = Net()
    model.first.weight = nn.Parameter(quiet(model.first.weight.detach().to_sparse))
    return model


def quantised():
    engine = torch.backends.quantized.engine
    try:
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(5, 6)), {nn.Linear})
    finally:
        torch.backends.quantized.engine = engine


class Other(nn.Module):
    def forward(self, *args):
        return args


@pytest.mark.parametrize(
    ("make", "example", "told"),
    [
        (on_meta, X, ["'weight' is on the meta device and has no values", 'to_empty(device="cpu")', "torch.device("]),
        (on_meta, X.to("meta"), ["'weight' is on the meta device"]),
        (Net, X.to("meta"), ["the example input is on meta and 'first.weight' on cpu", ".to('cpu')"]),
        (lambda: nn.Sequential(nn.LazyLinear(6)), X, ["'0.weight' belongs to a lazy module", "run the model once"]),
        (sparse, X, ["'first.weight' is a sparse tensor (torch.sparse_coo)", ".to_dense()"]),
        (lambda: quiet(quantised), X, ["Linear '0'", "is quantised", "slim the float model first"]),
        (
            lambda: quiet(lambda: torch.jit.script(nn.Linear(5, 2))),
            X,
            ["is a TorchScript module"],
        ),
        (lambda: nn.Sequential(quiet(lambda: torch.jit.script(nn.Linear(5, 2)))), X, ["RecursiveScriptModule '0'"]),
        (
            lambda: nn.Linear,
            X,
            ["Module was expected, but 'type' was given. Make an instance first: Linear(...)"],
        ),
        (lambda: torch.relu, X, ["'builtin_function_or_method' was given. Give what it makes"]),
        (lambda: nn.Linear(5, 2).state_dict(), X, ["'OrderedDict' was given", "load_state_dict"]),
        (lambda: 3, X, ["'int' was given"]),
        (Other, (3, "a"), ["the example input (3, 'a') holds no tensor"]),
        (Other, (), ["the example input is 'tuple'; a tensor, a non-empty tuple"]),
        (nn.Module, X, ["Module does not run on the example input", 'missing the required "forward"']),
        (Net, X.double(), ["Net does not run on the example input ((2, 5) float64)", "(its parameters are float32)"]),
        (lambda: Net().half(), X, ["mat1 and mat2 must have the same dtype", "(its parameters are float16)"]),
    ],
)
def test_models_and_examples_that_cannot_work_are_refused_by_name(make, example, told, capfd):
    refused(UsageError, make(), example, capfd, *told)


def deeper(x):
    return deeper(x)  # quoted


def divided(x):
    return x * (1 / 0)  # quoted


def leaving(x):
    sys.exit("no more")  # quoted


def one_at_a_time(x):
    assert len(x) == 1, "one at a time"  # quoted
    return x


def elsewhere(x):
    return x + torch.ones(6, device="meta")  # quoted


@pytest.mark.parametrize(
    ("middle", "told"),
    [
        (deeper, "RecursionError: maximum recursion depth exceeded"),
        (divided, "ZeroDivisionError: division by zero"),
        (leaving, "SystemExit: no more"),
        (one_at_a_time, "AssertionError: one at a time"),
        (elsewhere, "Tensor on device meta is not on the expected device cpu"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_forward_that_raises_is_quoted(middle, told, capfd):
    message = refused(UsageError, Net(middle), X, capfd, "Net does not run on the example input", told)
    assert re.search(r"The line is \S*test_capturing\.py:\d+: `[^`]+`\.", message)
    assert "# quoted`." in message


# What is captured, exactly.


class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def in_no_grad(x):
    with torch.no_grad():
        return x * 2


def in_autocast(x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return (x @ torch.eye(6)).float()


def recursive(x, depth=3):
    return recursive(x + 1, depth - 1) if depth else x


def by_shape(x):
    return x + 1 if x.shape[0] > 1 else x


def printing(x):
    print("hello", x.shape)
    return x


def hooked(register, hook, **settings):
    def make():
        model = Net()
        getattr(model.first, register)(hook, **settings)
        getattr(model, register)(hook, **settings)
        return model

    return make


def compiled_in_place():
    model = Net()
    model.compile()
    model.first.compile(backend="eager")
    return model


def compiled_inside():
    model = Net()
    model.first = torch.compile(model.first)
    return model


def parallel_inside():
    model = Net()
    model.first = nn.DataParallel(model.first)
    return model


HANDLED = {
    "plain": (Net, X, 6),
    "frozen": (lambda: Net().requires_grad_(False), X, 6),
    "float16": (lambda: Net().half(), X.half(), 6),
    "bfloat16": (lambda: Net().bfloat16(), X.bfloat16(), 6),
    "float64": (lambda: Net().double(), X.double(), 6),
    "complex64": (lambda: Net(lambda x: x * 2).to(torch.complex64), X.to(torch.complex64), 6),
    "no parameters": (nn.ReLU, X, 0),
    "by name": (Net, {"x": X}, 6),
    "requires grad": (Net, X.clone().requires_grad_(), 6),
    "dict of outputs": (lambda: Net(end=lambda y: {f"out{i}": y + i for i in range(len(y))}), X, 6),
    "outputs beside tensors": (lambda: Net(end=lambda y: (y, None, 3, "a")), X, 6),
    "shape": (lambda: Net(by_shape), X, 6),
    "recursive": (lambda: Net(recursive), X, 6),
    "no_grad": (lambda: Net(in_no_grad), X, 6),
    "autocast": (lambda: Net(in_autocast), X, 0),
    "autograd.Function": (lambda: Net(Doubling.apply), X, 6),
    "vmap": (lambda: Net(torch.vmap(lambda row: row * 2)), X, 6),
    "checkpoint": (lambda: Net(lambda x: checkpoint(torch.relu, x, use_reentrant=False)), X, 6),
    "hook": (hooked("register_forward_hook", lambda m, args, y: y * 2 + 1), X, 6),
    "hook with kwargs": (hooked("register_forward_hook", lambda m, args, kw, y: -y, with_kwargs=True), X, 6),
    "hook that watches": (hooked("register_forward_hook", lambda m, args, y: None), X, 6),
    "pre-hook": (hooked("register_forward_pre_hook", lambda m, args: (args[0] * 2 + 1,)), X, 6),
    "backward hook": (hooked("register_full_backward_hook", lambda m, inner, outer: None), X, 6),
    "backward pre-hook": (hooked("register_full_backward_pre_hook", lambda m, outer: None), X, 6),
    "compiled": (lambda: torch.compile(Net()), X, 6),
    "compiled in place": (compiled_in_place, X, 6),
    "compiled inside": (compiled_inside, X, 6),
    "parallel": (lambda: nn.DataParallel(Net()), X, 6),
    "parallel inside": (parallel_inside, X, 6),
}


@pytest.mark.parametrize("name", HANDLED)
def test_captured_exactly(name, capfd):
    make, example, units = HANDLED[name]
    model = quiet(make)
    inner = unwrap(model)
    before = state(inner)
    coupling = trace(model, example)
    assert state(inner) == before
    assert capfd.readouterr() == ("", "")
    assert coupling.units == units
    masks = Masks.random(coupling, seed=3)
    if units:
        assert 0 < masks.open[1:].sum() < units
    args, kwargs = ((), example) if isinstance(example, dict) else ((example,), {})
    with torch.compiler.set_stance("force_eager"), torch.no_grad():  # not the compiler is tested here
        pairs = [
            (inner.eval()(*args, **kwargs), coupling.program.module()(*args, **kwargs)),
            (masked(model, masks).eval()(*args, **kwargs), slim(model, masks).program.module()(*args, **kwargs)),
        ]
    for wanted, found in pairs:
        for a, b in zip(*map(torch.utils._pytree.tree_leaves, (wanted, found)), strict=True):
            if not isinstance(a, torch.Tensor):
                assert a == b
                continue
            assert a.dtype == b.dtype
            assert float((a - b).abs().max()) <= 8 * torch.finfo(a.dtype).eps * float(a.abs().max())


@pytest.mark.parametrize("name", ["hook", "pre-hook"])
def test_a_hook_that_changes_the_output_is_part_of_the_graph(name):
    plain, changed = trace(Net(), X), trace(HANDLED[name][0](), X)
    assert not torch.allclose(plain.program.module()(X), changed.program.module()(X))


@pytest.mark.parametrize("name", ["float16", "bfloat16", "hook", "pre-hook", "compiled in place"])
def test_the_whole_way(name):
    make, example, _ = HANDLED[name]
    torch.manual_seed(0)
    model = quiet(make).train()
    with torch.compiler.set_stance("force_eager"):
        gates = attach(model, example)
        budget = Budget(gates, macs=0.7, steps=5)
        optimizer = torch.optim.SGD(gates.parameter_groups(model, lr=1e-3, gate_lr=1.0))
        for _ in range(5):
            (model(example).float().square().mean() + budget.penalty()).backward()
            optimizer.step()
            budget.step()
            optimizer.zero_grad()
        masks = stabilize(model, budget)
        wanted, found = masked(model, masks).eval()(example), slim(model, masks, example).program.module()(example)
    wanted, found = wanted.detach(), found.detach()
    assert 0 < masks.open[1:].sum() < 6
    assert wanted.dtype == found.dtype == example.dtype
    assert float((wanted - found).abs().max()) <= 8 * torch.finfo(example.dtype).eps * float(wanted.abs().max())


def test_distributed_data_parallel(tmp_path, capfd):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = Net()
        wrapped = nn.parallel.DistributedDataParallel(model)
        coupling = trace(wrapped, X)
        assert coupling.digest == trace(model, X).digest
        masks = Masks.random(coupling, seed=3)
        assert torch.allclose(slim(wrapped, masks).program.module()(X), masked(wrapped, masks)(X), atol=1e-6)
        inside = nn.Sequential(nn.parallel.DistributedDataParallel(nn.Linear(5, 6)), nn.Linear(6, 2))
        told = ["DistributedDataParallel '0' is a wrapper inside of the model", "model.0 = model.0.module"]
        capfd.readouterr()
        refused(UsageError, inside, X, capfd, *told)
    finally:
        dist.destroy_process_group()


def test_three_hundred_layers():
    model = nn.Sequential(*(nn.Sequential(nn.Linear(5, 5), nn.ReLU()) for _ in range(300)))
    coupling = trace(model, X)
    assert (coupling.units, len(coupling.groups)) == (299 * 5, 299)


# What is left as it was.


class Careless(Net):
    """A forward that changes all that it can reach."""

    def forward(self, x):
        self.seen.append(x)
        self.calls = getattr(self, "calls", 0) + 1
        self.cache = x
        self.count += 1
        self.first.bias.data.add_(1)
        self.first.requires_grad_(False)
        self.first.register_forward_hook(lambda module, args, y: y)
        self.train()
        torch.manual_seed(3)
        torch.rand(3)
        if self.end == "raise":
            raise RuntimeError("enough")
        return self.last(self.first(x))


@pytest.mark.parametrize("end", ["raise", "fail in export"])
def test_a_careless_forward_changes_nothing(end, capfd):
    model = Careless(end=end)
    model.last.eval()
    model.first.weight.grad = torch.ones(6, 5)
    before = state(model)
    with pytest.raises(UsageError if end == "raise" else TraceError):
        trace(model, X)
    assert state(model) == before
    assert not hasattr(model, "cache")
    assert capfd.readouterr() == ("", "")


def test_batch_norm_in_training_keeps_its_statistics_and_modes():
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 2)).train()
    model[1].eval()
    model(X)
    before = state(model)
    example = X.clone()
    trace(model, example)
    assert state(model) == before
    assert [m.training for m in model] == [True, False, True, True]
    assert torch.equal(example, X)


def test_a_forward_prints_once(capfd):
    trace(Net(printing), X)
    assert capfd.readouterr() == ("hello torch.Size([2, 6])\n", "")


def test_streams_and_loggers_are_given_back():
    streams = sys.stdout, sys.stderr
    before = list(warnings.filters)
    for _ in range(2):
        with pytest.raises(TraceError):
            trace(Net(branch), X)
    assert (sys.stdout, sys.stderr) == streams
    assert warnings.filters == before


def test_only_the_thread_that_captures_is_muted(capsys):
    with muted():
        print("mine")
        thread = threading.Thread(target=lambda: print("of another", file=sys.stderr))
        thread.start()
        thread.join()
    print("again mine")
    assert capsys.readouterr() == ("again mine\n", "of another\n")


def test_threads_capture_in_turn():
    found, model = [], Net()
    threads = [threading.Thread(target=lambda: found.append(trace(model, X).digest)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [trace(model, X).digest] * 3


def test_random_branches_of_python_leave_torch_deterministic():
    model = Net(lambda x: x + torch.rand(()) if random.random() < 2 else x)
    torch.manual_seed(1)
    capture(model, X)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))


def test_tensors_that_share_memory_or_come_from_inference_mode():
    model = Careless(end="raise")
    model.register_buffer("ones", torch.ones(1, 1).expand(4, 5))
    model.register_buffer("nothing", None)
    model.register_buffer("number", torch.tensor(float("nan")))
    with pytest.raises(UsageError, match="enough"):
        trace(model, X)
    assert model.ones.stride() == (0, 0)
    assert torch.equal(model.ones, torch.ones(4, 5))
    plain = Net()
    with torch.inference_mode():
        assert trace(plain, X).units == 6
        made = Net()
        example = torch.ones(2, 5)
    with pytest.raises(UsageError, match=r"'first\.weight' was made in inference mode"):
        trace(made, X)
    with pytest.raises(TraceError, match="made in inference mode"):
        trace(plain, example)


def test_a_copy_of_a_traced_model_is_traced_the_same():
    model = Net()
    assert trace(model, X).digest == trace(copy.deepcopy(model), X).digest


class Filling(nn.Module):
    """Computes a table at its first forward, in place or anew; the size that it begins with may be another."""

    def __init__(self, size, in_place, buffer):
        super().__init__()
        self.first, self.last, self.in_place, self.ready = nn.Linear(5, 6), nn.Linear(6, 3), in_place, False
        if buffer:
            self.register_buffer("table", torch.zeros(size, dtype=torch.float64))
        else:
            self.table = torch.zeros(size, dtype=torch.float64)

    def forward(self, x):
        if not self.ready:
            table = torch.linspace(0.5, 2, 6, dtype=x.dtype)
            if self.in_place:
                self.table.copy_(table)
            else:
                self.table = table
            self.ready = True
        return self.last(self.first(x) * self.table)


@pytest.mark.parametrize("buffer", [True, False])
@pytest.mark.parametrize(("size", "in_place"), [(6, True), (6, False), (1, False)])
def test_a_table_that_the_forward_fills_is_as_it_was_filled(size, in_place, buffer):
    model = Filling(size, in_place, buffer).double()
    x = torch.randn(4, 5, dtype=torch.float64)
    coupling = trace(model, x)
    assert coupling.units == 6
    assert (model.ready, model.table.tolist()) == (False, [0.0] * size)
    masks = Masks.random(coupling, 0.5, 1)
    small = slim(model, masks).program.module()(x).detach()
    torch.testing.assert_close(small, masked(model, masks)(x).detach(), rtol=0, atol=1e-12)
    assert float(small.std()) > 0
