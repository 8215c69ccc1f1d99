"""What `edgel0 inspect` finds and prints: stages, groups, pins and their reasons, in 80 columns or as JSON."""

import inspect as python_inspect
import io
import json
import re

import pytest
import shim  # noqa: F401
import torch
import torchvision
from projects import edgel0, paragraph
from projects.tiny import Tiny
from rich.console import Console
from torch import nn

from edgel0.errors import RecipeError, UsageError
from edgel0.inspecting import COARSE, ROWS, divide, examine, example_of, model_of
from edgel0.report.text import inspection

MODULE = '''
import torch
from torch import nn

print("imported")
LIBRARY = torch.library.Library("edgel0_inspecting", "FRAGMENT")
if not hasattr(torch.ops.edgel0_inspecting, "twice"):
    LIBRARY.define("twice(Tensor x) -> Tensor")
    LIBRARY.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
    LIBRARY.impl("twice", lambda x: torch.empty_like(x), "Meta")


class Odd(nn.Module):
    """Two operators without a rule, then two layers of which the first can shrink."""

    def __init__(self, width=16):
        super().__init__()
        self.a, self.b = nn.Linear(5, width), nn.Linear(width, 8)
        self.c, self.d = nn.Linear(8, 40), nn.Linear(40, 2)

    def forward(self, x):
        print("forward")
        x = torch.ops.edgel0_inspecting.twice(self.a(x))
        x = torch.special.bessel_j0(self.b(x))
        return self.d(self.c(x).relu())


class Needy(nn.Module):
    def __init__(self, width):
        super().__init__()


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lstm, self.out = nn.Embedding(9, 8), nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, ids, mask=None):
        x = self.lstm(self.embed(ids))[0]
        return self.out(x if mask is None else x * mask[..., None])


class Branching(Odd):
    def forward(self, x):
        if self.a(x).sum() > 0:
            return x
        return -x


def with_example():
    print("built")
    return Odd(), torch.randn(2, 5)


def half():
    return nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 2)).half()


def on_meta():
    return nn.Linear(5, 2, device="meta")


def word():
    return "w", 3


def raising():
    raise KeyError("no weights")


odd, number = Odd(), 3
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with odd.py as the working folder."""
    (tmp_path / "odd.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def at(code):
    """The place of a line of odd.py."""
    return f"odd.py:{MODULE[: MODULE.index(code)].count(chr(10)) + 1}"


# Inputs.


@pytest.mark.parametrize(
    ("text", "shape", "dtype"),
    [
        ("1x3x4", (1, 3, 4), torch.float32),
        ("7", (7,), torch.float32),
        ("2x3:float16", (2, 3), torch.float16),
        ("2x3:bfloat16", (2, 3), torch.bfloat16),
        ("2x3:complex64", (2, 3), torch.complex64),
        ("2x3:int64", (2, 3), torch.int64),
        ("2x3:uint8", (2, 3), torch.uint8),
        ("2x3:bool", (2, 3), torch.bool),
        ("200:int64:3", (200,), torch.int64),
        ("200:int32:1", (200,), torch.int32),
    ],
)
def test_an_input(text, shape, dtype):
    (made,) = example_of([text], nn.Linear(1, 1))
    assert (made.shape, made.dtype) == (shape, dtype)
    if dtype == torch.bool:
        assert made.all()
    elif text.count(":") == 2:
        assert sorted(set(made.tolist())) == list(range(int(text[-1])))
    elif dtype in (torch.int64, torch.uint8):
        assert not made.any()  # a valid id of every embedding
    else:
        assert made.abs().sum() > 0
        assert torch.equal(made, example_of([text], nn.Linear(1, 1))[0])


def test_floats_are_of_the_type_of_the_model():
    assert example_of(["2x3"], nn.Linear(1, 1).half())[0].dtype == torch.float16
    assert example_of(["2x3"], nn.Embedding(3, 2).double())[0].dtype == torch.float64
    assert example_of(["2x3"], nn.ReLU())[0].dtype == torch.float32


def test_several_inputs_in_order_and_by_name():
    first, second = example_of(["1x2", "3:int64"], nn.ReLU())
    assert (first.shape, second.shape) == ((1, 2), (3,))
    named = example_of(["ids=1x2:int64", "mask=1x2:bool"], nn.ReLU())
    assert {name: tensor.dtype for name, tensor in named.items()} == {"ids": torch.int64, "mask": torch.bool}


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["1x0x8"], ["--input '1x0x8' is no shape", "ids=1x12:int64:99"]),
        ([""], ["--input '' is no shape"]),
        (["2x3:"], ["is no shape"]),
        (["2X3"], ["is no shape"]),
        (["2x3:flaot32"], ["asks for the dtype 'flaot32'; known are float32", "did you mean 'float32'?"]),
        (["2x3:float32:4"], ["has a bound; one from 1 for whole numbers"]),
        (["2x3:int64:0"], ["has a bound; one from 1"]),
        (["2x3:int64:" + "9" * 30], ["has a bound; one from 1"]),
        (["a=2x3", "2x3"], ["name each of them, or none"]),
        (["a=2x3", "a=2x3"], ["two the same"]),
        (["9999999999x9999999999"], ["cannot be made; give a smaller one"]),
        (["9" * 30 + ":int64"], ["cannot be made"]),
    ],
)
def test_inputs_that_make_no_sense(texts, told):
    with pytest.raises(UsageError) as caught:
        example_of(texts, nn.ReLU())
    paragraph(f"edgel0: {caught.value}\n", *told)


# Models.


def test_a_model_is_an_object_a_class_or_what_a_function_returns(here):
    for name, kind in (("odd", "Odd"), ("Odd", "Odd"), ("Tagger", "Tagger"), ("half", "Sequential")):
        model, example = model_of(f"odd.py:{name}", here)
        assert (type(model).__name__, example) == (kind, None)
    model, example = model_of("odd.py:with_example", here)
    assert (type(model).__name__, example.shape) == ("Odd", (2, 5))


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("word", UsageError, ["'odd.py:word' gives str", "(module, example)"]),
        ("number", RecipeError, ["'odd.py:number' is int"]),
        ("Needy", RecipeError, ["odd.py:Needy() failed", "missing 1 required positional argument: 'width'"]),
        ("raising", RecipeError, ["odd.py:raising() failed", f"{at('raise KeyError')} with KeyError: 'no weights'"]),
        ("Tager", RecipeError, ["did you mean 'Tagger'"]),
    ],
)
def test_what_is_no_model(here, name, error, told):
    with pytest.raises(error) as caught:
        model_of(f"odd.py:{name}", here)
    paragraph(f"edgel0: {caught.value}\n", *told)


# What is found.


def test_stages_by_hand():
    found = examine(Tiny(), torch.randn(1, 1, 8, 8))
    macs = {"conv1": 8 * 9 * 64, "conv2": 12 * 8 * 9 * 36, "fc1": 108 * 24, "fc2": 24 * 4}
    params = {"conv1": 80, "norm": 16, "conv2": 12 * 72 + 12, "fc1": 109 * 24, "fc2": 100}
    macs = {name: macs.get(name, 0) for name in params}
    assert found["cost"]["macs"] == sum(macs.values()) == 38_400
    assert found["cost"]["params"] == sum(params.values()) == 3_688
    stages = {stage["name"]: stage for stage in found["stages"]}
    assert [*stages] == ["conv1", "norm", "conv2", "fc1", "fc2"]
    assert [stage["units"] for stage in stages.values()] == [8, 0, 12, 24, 0]
    # One unit of each group is left: 1 channel of 9 weights, 1 of 9, 1 neuron of 9, which 4 outputs read.
    least = {"conv1": (9 * 64, 10), "norm": (0, 2), "conv2": (9 * 36, 10), "fc1": (9, 10), "fc2": (4, 8)}
    for name, (macs_left, params_left) in least.items():
        assert stages[name]["macs"] == pytest.approx(macs[name] / 38_400)
        assert stages[name]["params"] == pytest.approx(params[name] / 3_688)
        assert stages[name]["removable"]["macs"] == pytest.approx((macs[name] - macs_left) / 38_400)
        assert stages[name]["removable"]["params"] == pytest.approx((params[name] - params_left) / 3_688)
    assert found["least"]["macs"] == pytest.approx(sum(left for left, _ in least.values()) / 38_400)
    assert found["least"]["params"] == pytest.approx(sum(left for _, left in least.values()) / 3_688)
    groups = {group["name"]: group for group in found["groups"]}
    assert [(group["units"], group["writers"]) for group in groups.values()] == [
        (8, ["conv1.weight"]),
        (12, ["conv2.weight"]),
        (24, ["fc1.weight"]),
    ]
    assert groups["fc1"]["macs"] == pytest.approx(23 * (108 + 4) / 38_400)
    assert groups["fc1"]["params"] == pytest.approx(23 * (109 + 4) / 3_688)


def vit():
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=12, num_heads=2, hidden_dim=16, mlp_dim=32
    )


def deep():
    return nn.Sequential(*(nn.Sequential(nn.Linear(5, 5), nn.ReLU()) for _ in range(70)))


@pytest.mark.parametrize(
    ("make", "example", "names"),
    [
        (
            torchvision.models.resnet18,
            torch.randn(1, 3, 64, 64),
            ["conv1", "bn1", *(f"layer{n}" for n in (1, 2, 3, 4)), "fc"],
        ),
        (vit, torch.randn(1, 3, 32, 32), [f"encoder.layers.encoder_layer_{n}" for n in range(12)]),
        (deep, torch.randn(2, 5), ["0 … 3", "68 … 69"]),
    ],
    ids=["resnet18", "vit", "deep"],
)
def test_large_models_have_few_stages_that_add_up(make, example, names):
    found = examine(make(), example)
    stages = [stage["name"] for stage in found["stages"]]
    assert len(stages) <= ROWS
    assert [name for name in stages if name in names] == names
    for metric in ("macs", "params"):
        assert sum(stage[metric] for stage in found["stages"]) == pytest.approx(1)
        removable = sum(stage["removable"][metric] for stage in found["stages"])
        assert removable == pytest.approx(1 - found["least"][metric])
        assert all(0 <= stage["removable"][metric] <= stage[metric] for stage in found["stages"])
    assert sum(stage["units"] for stage in found["stages"]) == found["units"]
    text = rendered(found)
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) < 40
    if make is vit:
        assert len(re.findall(r"^….*encoder_layer_\d+ ", text, re.MULTILINE)) == 12


def rendered(found, **settings):
    console = Console(file=io.StringIO(), width=80, highlight=False, markup=False)
    console.print(inspection(found, **settings))
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("size", "names"),
    [
        ({"a": 0.5, "b": 0.5}, ["a", "b"]),
        ({"": 1.0}, ["(model)"]),
        ({"net.a": 0.3, "net.b.c": 0.3, "net.b.d": 0.4}, ["net.a", "net.b.c", "net.b.d"]),
        ({"a.0": 0.2, "a.1": 0.2, "b.0": 0.3, "b.1": 0.3}, ["a", "b.0", "b.1"]),
        ({"a": 0.1, "a.x": 0.6, "a.y": 0.3}, ["a", "a.x", "a.y"]),
        ({f"deep.{i}.lin": 0.01 for i in range(100)}, [f"deep.{5 * i} … {5 * i + 4}" for i in range(20)]),
        ({}, []),
    ],
)
def test_dividing(size, names):
    stages = divide(size)
    assert [*stages] == names or (not names and [*stages] == ["(model)"])
    assert sorted(path for paths in stages.values() for path in paths) == sorted(size)
    assert len(stages) <= ROWS
    assert COARSE < 0.5


# What is printed.


def test_a_model_with_unknown_operators(here):
    code, out, error = edgel0("inspect", "odd.py:odd", "--input", "2x5")
    assert code == 0, error
    assert error == "imported\nforward\n"  # what the user's code prints is kept from the answer
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "Odd on 2x5 float32"
    rows = {line.split()[0]: line.split() for line in lines if line[:2] in ("a ", "b ", "c ", "d ")}
    # 2 * 5 * 16, 2 * 16 * 8, 2 * 8 * 40 and 2 * 40 * 2 of 1,216 MACs; 96, 136, 360 and 82 of 674 parameters
    assert [row[1:3] + row[4:5] for row in rows.values()] == [
        ["0", "13.2%", "14.2%"],
        ["0", "21.1%", "20.2%"],
        ["40", "52.6%", "53.4%"],
        ["0", "13.2%", "12.2%"],
    ]
    assert [row[3] for row in rows.values()] == ["░░░░", "░░░░░░", "██████████████", "████"]
    text = " ".join(out.split())
    assert "40 units in 1 group; MACs 1,216, parameters 674, weights 2,696 B (2.6 KiB)." in text
    assert "Removable: 64.1% of the MACs and 63.6% of the parameters" in text
    assert (
        f"pinned: 16 by edgel0_inspecting.twice.default: no rule for this operator ({at('x = torch.ops')}: x = "
        "torch.ops.edgel0_inspecting.twice(self.a(x)))"
    ) in text
    second = f"pinned: 8 by aten.special_bessel_j0.default: no rule for this operator ({at('x = torch.special')}: x ="
    assert second in text
    assert "pinned: 2 by output: an output of the model" in text
    assert "unknown: aten.special_bessel_j0.default, edgel0_inspecting.twice.default; a row in FLOW" in text


def test_bars_and_small_parts():
    def stage(name, macs, goes, units=0):
        return {"name": name, "units": units, "macs": macs, "params": macs, "removable": {"macs": goes, "params": goes}}

    found = examine(nn.Linear(2, 2), torch.zeros(1, 2))
    found["stages"] = [
        stage("stem", 0.004, 0.0),
        stage("body", 0.7, 0.7, units=1_024),
        stage("neck", 0.35, 0.175, units=64),
        stage("tiny", 0.0001, 0.0001, units=1),
        stage("norm", 0.005, 0.005),
        stage("none", 0.0, 0.0),
    ]
    rows = [line.split() for line in rendered(found).splitlines()[4:8]]
    assert rows == [
        ["body", "1,024", "70.0%", "█" * 14, "70.0%", "█" * 14],
        ["neck", "64", "35.0%", "████░░░", "35.0%", "████░░░"],
        ["tiny", "1", "<0.1%", "█", "<0.1%", "█"],
        ["3", "small", "parts", "0", "0.9%", "█", "0.9%", "█"],
    ]


def test_all_lists_every_group():
    found = examine(torchvision.models.resnet18(), torch.randn(1, 3, 64, 64))
    text = rendered(found, groups=True)
    for group in found["groups"]:
        assert re.search(rf"^{re.escape(group['name'])} +{group['units']} ", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 80


def test_pins_of_one_reason_are_told_once():
    pin = {"operator": "aten.sort.default", "reason": "no rule", "labels": 3, "source": "net.py:3: x.sort()"}
    found = examine(nn.Linear(2, 2), torch.zeros(1, 2))
    found["pins"] = [{**pin, "module": f"layer{n}"} for n in range(400)] + [{**pin, "module": "", "reason": "other"}]
    found["pins"].append({**pin, "module": "", "operator": "cond", "labels": 0, "source": ""})
    lines = " ".join(rendered(found).split())
    assert "pinned: 1,200 by aten.sort.default at 400 places, first in layer0: no rule (net.py:3: x.sort())" in lines
    assert lines.endswith("pinned: nothing more by cond: no rule")
    assert lines.count("pinned: ") == 3


def test_json_is_one_documented_object(here):
    code, out, error = edgel0("inspect", "odd.py:with_example", "--json")
    assert (code, error) == (0, "imported\nbuilt\nforward\n")
    found = json.loads(out)
    assert found["schema"] == 1 and found["model"] == "Odd"
    assert found["inputs"] == [{"name": None, "shape": [2, 5], "dtype": "float32"}]
    assert found["unknown"] == ["aten.special_bessel_j0.default", "edgel0_inspecting.twice.default"]
    documented = set(re.findall(r"``(\w+)``", python_inspect.getdoc(examine)))
    shown = [found, *found["stages"], *found["groups"], *found["pins"], found["cost"], found["least"], *found["inputs"]]
    for entry in shown:
        assert set(entry) - {"shape", "dtype"} <= documented
    assert set(found) == {
        *("schema", "model", "inputs", "units", "cost", "least", "unknown", "stages", "groups", "pins")
    }
    assert {tuple(pin) for pin in found["pins"]} == {
        ("operator", "module", "reason", "labels", "source", "unknown"),
    }


def test_ids_by_position_and_by_name(here):
    code, out, _ = edgel0("inspect", "odd.py:Tagger", "--input", "1x7:int64:9")
    assert code == 0 and out.startswith("Tagger on 1x7 int64\n")
    code, out, _ = edgel0("inspect", "odd.py:Tagger", "--input", "mask=1x7:bool", "--input", "ids=1x7:int64", "--json")
    assert code == 0
    assert [(one["name"], one["dtype"]) for one in json.loads(out)["inputs"]] == [("mask", "bool"), ("ids", "int64")]


def test_half_precision_needs_no_words(here):
    code, out, _ = edgel0("inspect", "odd.py:half", "--input", "2x5")
    assert code == 0 and "Sequential on 2x5 float16" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["odd.py:odd"], ["Odd does not run on the example input", "No --input was given, and 1x3x224x224 was tried"]),
        (
            ["odd.py:Tagger", "--input", "1x7"],
            ["Tagger does not run", "(1, 7) float32", f"{at('x = self.lstm')}: `x = self.lstm("],
        ),
        (["odd.py:Tagger", "--input", "1x7:int64:99"], ["Tagger does not run", "index out of range"]),
        (["odd.py:Tagger", "--input", "idz=1x7:int64"], ["unexpected keyword argument 'idz'"]),
        (
            ["odd.py:Branching", "--input", "2x5"],
            [f"{at('if self.a')}: `if self.a(x).sum() > 0:`", "torch.where or torch.cond"],
        ),
        (["odd.py:on_meta"], ["'weight' is on the meta device", "load_state_dict.\n"]),
        (["odd.py:raising"], [f"odd.py:raising() failed at {at('raise KeyError')} with KeyError"]),
    ],
)
@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_failures_are_one_paragraph_and_exit_with_2(here, arguments, told, form):
    code, out, error = edgel0("inspect", *arguments, *form)
    assert (code, out) == (2, "")
    printed = re.match(r"(imported\n)?(forward\n)?", error)
    paragraph(error[printed.end() :], *told)


def test_the_help_explains_inputs():
    code, out, _ = edgel0("inspect", "--help")
    text = " ".join(out.split())
    assert code == 0
    for part in ("[NAME=]SHAPE[:DTYPE[:BELOW]]", "1x12:int64 zeros", "--all", "--json", "PATH:OBJECT"):
        assert part in text
