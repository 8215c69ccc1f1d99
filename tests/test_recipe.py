import dataclasses
import json
import sys

import pytest
from projects import HERE, edgel0, paragraph, project

from edgel0.errors import RecipeError
from edgel0.importing import load_function, load_object
from edgel0.recipe import Exports, Gating, Limits, Profile, Training, read_recipe

# What stands in the recipe, what is written instead, the line of the mistake, and what must be told.
MISTAKES = {
    "unknown table": ("[train]\n", "[trian]\n", 11, ["unknown key 'trian'", "did you mean 'train'"]),
    "unknown key": ("batch_size", "bach_size", 13, ["unknown key 'bach_size'", "did you mean 'batch_size'"]),
    "unknown key of model": ('build = "tiny', 'bild = "tiny', 6, ["unknown key 'bild'", "did you mean 'build'"]),
    "unknown limit": ('macs = "30 %"', 'mac = "30 %"', 21, ["unknown key 'mac'", "did you mean 'macs'"]),
    "a word for a number": ("1e-2", '"fast"', 12, ["'fast' is str", "int or float is needed"]),
    "a float for an integer": ("batch_size = 60", "batch_size = 6.5", 13, ["6.5 is float", "int is needed"]),
    "a bool for an integer": ("batch_size = 60", "batch_size = true", 13, ["True is bool"]),
    "zero": ("batch_size = 60", "batch_size = 0", 13, ["0 was found", "at least 1"]),
    "above only": ("1e-2", "0.0", 12, ["0.0 was found", "above 0"]),
    "too much": ("distill = true", "distill_weight = 1.5", 17, ["1.5 was found", "at most 1 "]),
    "a number for a switch": ("distill = true", "distill = 1", 17, ["1 is int", "true or false is needed"]),
    "a teacher that is no function": ("distill = true", 'teacher = "big"', 17, ['"module:function" is needed']),
    "an augmentation of another kind": ('load = "tiny:load"', 'load = "tiny:load"\naugment = 3', 10, ["3 is int"]),
    "nan": ("1e-2", "nan", 12, ["nan was found"]),
    "infinity": ("1e-2", "inf", 12, ["inf was found", "at most 1,000,000,000"]),
    "more seconds than measuring has": ("min_secs = 0.0", "min_secs = 200", 29, ["200 was found", "at most 150"]),
    "negative seed": ("seed = 3", "seed = -1", 3, ["-1 was found"]),
    "huge seed": ("seed = 3", f"seed = {2**70}", 3, ["at most 4,294,967,295"]),
    "unknown format": ('"pt2"]', '"tflit"]', 24, ["'tflit' was found", "did you mean 'tflite'"]),
    "no list": ('["pt2"]', '"pt2"', 24, ["a list of onnx, tflite, pt2"]),
    "unknown optimizer": ("[train]", '[train]\noptimizer = "adm"', 12, ["did you mean 'adam'"]),
    "limit without sense": ('macs = "30 %"', 'macs = "30 kB"', 21, ["the unit 'kB' in '30 kB' is not a count"]),
    "a share above all": ('macs = "30 %"', 'macs = "130 %"', 21, ["more than 0 and at most 100 %"]),
    "a limit of zero": ('macs = "30 %"', "macs = 0", 21, ["an amount above 0"]),
    "a limit that is a list": ('macs = "30 %"', "macs = [1]", 21, ["[1] is list"]),
    "another storage": (
        'macs = "30 %"',
        'size = 0.3\nstorage = "int4"',
        22,
        ["'int4' was found", "did you mean 'int8'"],
    ),
    "peak as a count": ('macs = "30 %"', 'activations = "3 M"', 21, ["the unit 'M' in '3 M' is not a size"]),
    "a multiple of zero": ('macs = "30 %"', "macs = 0.3\nround_to = 0", 22, ["0 was found", "at least 1"]),
    "a multiple among the gates": ("[limits]", "[gates]\nround_to = 8\n\n[limits]", 21, ["unknown key 'round_to'"]),
    "a name for a list": ('macs = "30 %"', 'macs = 0.3\nexclude = "stem"', 22, ["'stem' was found", "a list of names"]),
    "a number for a name": ('macs = "30 %"', "macs = 0.3\nexclude = [3]", 22, ["[3] was found", "a list of names"]),
    "no floor": ('macs = "30 %"', "macs = 0.3\nkeep_at_least = 0", 22, ["an amount above 0"]),
    "a floor of words": (
        *('macs = "30 %"', 'macs = 0.3\n[limits.keep_at_least]\n"a.*" = 2\nb = "many"', 24),
        ["'many' is not a count"],
    ),
    "a list of floors": (
        'macs = "30 %"',
        "macs = 0.3\nkeep_at_least = [2]",
        22,
        ["[2] is list", "str or int or float"],
    ),
    "parts that are no table": ('macs = "30 %"', "macs = 0.3\nwithin = 3", 22, ["3 was found", "a table"]),
    "a part that is no table": (
        'macs = "30 %"',
        "[limits.within]\na = 3",
        22,
        ["3 was found", "one of macs, params, size"],
    ),
    "a part without a limit": ('macs = "30 %"', '[limits.within."a"]', 21, ["{} was found"]),
    "an unknown limit of a part": (
        *('macs = "30 %"', '[limits.within."layer1.0"]\nmacs = 0.5\nparam = 3', 23),
        ["unknown key 'param'", "did you mean 'params'"],
    ),
    "the peak of a part": (
        *('macs = "30 %"', 'macs = 0.5\n[limits.within."a.*"]\nactivations = 0.5', 23),
        ["alive across modules", "in [limits] alone"],
    ),
    "a limit of a part without sense": (
        *('macs = "30 %"', '[limits.within."a.*"]\nparams = 4\nmacs = "5 kB"', 23),
        ["the unit 'kB' in '5 kB'"],
    ),
    "no limit": ('macs = "30 %"\n', "", 20, ["no limit was found", "macs, params, size"]),
    "other schema": ("schema = 1", "schema = 9", 1, ["schema 9 was found and 1"]),
    "a bool for the schema": ("schema = 1", "schema = true", 1, ["True is bool"]),
    "a path for a name": ('name = "tiny"', 'name = "../tiny"', 2, ["cannot be a folder's name"]),
    "a hidden name": ('name = "tiny"', 'name = "."', 2, ["cannot be a folder's name"]),
    "an unprintable name": ('name = "tiny"', 'name = "a\\u001bb"', 2, ["cannot be a folder's name"]),
    "no function": ('"tiny:build"', '"tiny"', 6, ['"module:function" is needed']),
    "no build": ('[model]\nbuild = "tiny:build"', "[model]", 5, ['"module:function" is needed']),
    "no model": ('[model]\nbuild = "tiny:build"', "", None, ['[model] with build = "module:function" is needed']),
    "a budget on what is not made": ('"slim.pt2"', '"slim.onnx"', 33, ["does not make 'slim.onnx'", "slim.pt2"]),
    "a budget with a wrong key": ("max_macs", "max_mac", 34, ["did you mean 'max_macs'"]),
    "a budget without a limit": ('max_macs = "100 k"\n', "", 31, ["sets no limit"]),
    "syntax": ("seed = 3", "seed = = 3", None, ["tiny.toml:3:8: this is not TOML"]),
    "two of a key": ("seed = 3", "seed = 3\nseed = 4", None, ["tiny.toml:4", "this is not TOML"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_its_line(tmp_path, name):
    old, new, line, told = MISTAKES[name]
    recipe = project(tmp_path, (old, new))
    code, out, error = edgel0("run", recipe, "--out", tmp_path / "runs")
    paragraph(error, *told, *([f"{recipe}:{line}: "] if line else [str(recipe)]))
    assert (code, out) == (2, "")
    assert not (tmp_path / "runs").exists()


def test_a_table_where_a_number_stands(tmp_path):
    recipe = project(tmp_path, ("[profile]\nnum_runs = 5\nmin_secs = 0.0", ""), ("seed = 3", "seed = 3\nprofile = 3"))
    code, _, error = edgel0("run", recipe)
    paragraph(error, f"{recipe}:4: [profile] must be a table")
    assert code == 2


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b""])
def test_a_file_that_is_no_recipe(tmp_path, content):
    recipe = tmp_path / "some.toml"
    if content is not None:
        recipe.write_bytes(content)
    code, _, error = edgel0("run", recipe)
    paragraph(error, str(recipe))
    assert code == 2


def test_every_field_of_a_table_is_read(tmp_path):
    recipe = read_recipe(project(tmp_path, ('formats = ["pt2"]', 'formats = ["pt2", "onnx", "pt2"]\nlayout = "nhwc"')))
    assert recipe.train == Training(
        learning_rate=1e-2, batch_size=60, dense_epochs=2, gating_epochs=4, settle_epochs=2, distill=True, threads=1
    )
    assert recipe.gates == Gating()
    assert recipe.export == Exports(("pt2", "onnx"), "nhwc", 20)
    assert recipe.profile == Profile(num_runs=5, min_secs=0.0)
    assert (recipe.limits.macs, recipe.limits.params, recipe.limits.size) == ("30 %", None, None)
    assert [limit.path for limit in recipe.budgets] == ["slim.pt2"]
    assert recipe.text == recipe.path.read_text()


def test_defaults_are_within_their_own_bounds(tmp_path):
    tables = {"train": Training(), "gates": Gating(), "export": Exports(), "profile": Profile()}
    text = 'limits.macs = 0.5\nmodel.build = "a:b"\ndata.load = "a:b"\n'
    for table, defaults in tables.items():
        text += f"[{table}]\n"
        for key, value in dataclasses.asdict(defaults).items():
            if value is not None:
                text += f"{key} = {json.dumps(list(value) if isinstance(value, tuple) else value)}\n"
    (tmp_path / "all.toml").write_text(text)
    recipe = read_recipe(tmp_path / "all.toml")
    assert {"train": recipe.train, "gates": recipe.gates, "export": recipe.export, "profile": recipe.profile} == tables
    assert recipe.name == "all"


@pytest.mark.parametrize(
    ("given", "phases"),
    [
        ({}, (9, 11, 15)),
        ({"epochs": 100}, (25, 33, 42)),
        ({"epochs": 1}, (0, 1, 0)),
        ({"epochs": 20, "dense_epochs": 0}, (0, 7, 8)),
        ({"dense_epochs": 3, "gating_epochs": 4, "settle_epochs": 5}, (3, 4, 5)),
    ],
)
def test_epochs_of_the_phases(given, phases):
    assert Training(**given).phases == phases


def test_every_limit_is_read(tmp_path):
    text = """
activations = "64 KiB"
size = "30 %"
storage = "int8"
round_to = 8
exclude = ["stem", "blocks.0.*"]
keep_at_least = { "*" = 2, head = "25 %" }

[limits.within."layer1.0"]
macs = "50 %"
params = 2_000

[limits.within.rest]
size = 0.5
"""
    limits = read_recipe(project(tmp_path, ('macs = "30 %"\n', text))).limits
    assert limits == Limits(
        size="30 %",
        activations="64 KiB",
        storage="int8",
        round_to=8,
        exclude=("stem", "blocks.0.*"),
        keep_at_least={"*": 2, "head": "25 %"},
        within={"layer1.0": {"macs": "50 %", "params": 2000}, "rest": {"size": 0.5}},
    )
    part = 'keep_at_least = "25 %"\n[limits.within.a]\nmacs = 3\n'
    limits = read_recipe(project(tmp_path / "part", ('macs = "30 %"\n', part))).limits  # a limit of a part is enough
    assert limits == Limits(keep_at_least="25 %", within={"a": {"macs": 3}})


def test_a_recipe_saved_on_windows(tmp_path):
    path = project(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_recipe(path).text == (HERE / "tiny.toml").read_text()


# Functions that a reference names.


def test_a_module_is_executed_once_and_again_when_it_changes(tmp_path):
    file = tmp_path / "counted.py"
    file.write_text("import dataclasses\n@dataclasses.dataclass\nclass A:\n    n: int = 1\ndef f(): return A\n")
    assert load_object("counted:A", tmp_path) is load_function("counted:f", tmp_path)()
    file.write_text("def f(): return 'another'\n")
    assert load_function("counted.py:f", tmp_path)() == "another"


def test_a_module_may_bear_the_name_of_a_library(tmp_path):
    (tmp_path / "json.py").write_text("import json as real\ndef f(): return real.dumps([1])\n")
    assert load_function("json:f", tmp_path)() == "[1]"
    assert load_function("json:dumps", tmp_path / "elsewhere")([1]) == "[1]"


def test_a_module_imports_its_neighbour_and_a_package_its_parts(tmp_path):
    (tmp_path / "first_of_two.py").write_text("from second_of_two import two\ndef f(): return two\n")
    (tmp_path / "second_of_two.py").write_text("two = 2\n")
    package = tmp_path / "package_of_two"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("from .other import three\ndef f(): return three\n")
    (package / "other.py").write_text("three = 3\n")
    assert load_function("first_of_two:f", tmp_path)() == 2
    assert load_function("package_of_two.one:f", tmp_path)() == 3


def test_a_file_in_a_folder_below_imports_its_neighbour(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = tmp_path / "below"
    folder.mkdir()
    (folder / "first_below.py").write_text("from second_below import two\ndef f(): return two\n")
    (folder / "second_below.py").write_text("two = 2\n")
    assert load_function("below/first_below.py:f", tmp_path)() == 2


@pytest.mark.parametrize(
    ("content", "reference", "told"),
    [
        ("", "nowhere:f", ["neither a file", "nowhere.py", "nor a Python module 'nowhere'"]),
        ("", "nowhere.py:f", ["there is no file", "nowhere.py"]),
        ("", "folder.nowhere:f", ["neither a file"]),
        ("", "theirs", ["module:function"]),
        ("", "theirs:", ["module:function"]),
        ("def build(): ...", "theirs:bild", ["'theirs' has no 'bild'", "did you mean 'build'"]),
        ("build = 3", "theirs:build", ["int, and a function is needed"]),
        ("\n\nx = 1 / 0", "theirs:f", ["theirs.py:3", "ZeroDivisionError: division by zero"]),
        ("\ndef f(:", "theirs:f", ["theirs.py:2", "SyntaxError"]),
        ("\nimport not_there", "theirs:f", ["theirs.py:2", "ModuleNotFoundError", "not_there"]),
        ("import sys\nsys.exit('done')", "theirs:f", ["theirs.py:2", "SystemExit: done"]),
        ("class E(Exception): ...\nraise E('a\\nb')", "theirs:f", ["theirs.py:2 with E: a."]),
        ("raise StopIteration", "theirs:f", ["theirs.py:1 with StopIteration."]),
    ],
)
def test_a_reference_that_gives_nothing(tmp_path, content, reference, told):
    (tmp_path / "theirs.py").write_text(content)
    with pytest.raises(RecipeError) as caught:
        load_function(reference, tmp_path)
    for part in told:
        assert part in str(caught.value), caught.value
    assert "\n" not in str(caught.value)


def test_a_failing_module_is_tried_again(tmp_path):
    file = tmp_path / "repaired.py"
    file.write_text("1 / 0")
    with pytest.raises(RecipeError):
        load_function("repaired:f", tmp_path)
    file.write_text("def f(): return 1")
    assert load_function("repaired:f", tmp_path)() == 1


def test_a_failing_call_names_the_users_line_and_not_the_librarys(tmp_path):
    (tmp_path / "calls.py").write_text("import json\n\ndef f(text):\n    return json.loads(text)\n")
    with pytest.raises(RecipeError, match=r"calls:f\('x'\) failed at .*calls\.py:4 with JSONDecodeError: Expecting"):
        load_function("calls:f", tmp_path)("x")


def test_a_run_with_every_limit_tells_each_in_its_result(tmp_path):
    text = """
params = "60 %"
size = "50 %"
activations = "70 %"
storage = "int8"
round_to = 2
exclude = ["fc1"]
keep_at_least = { conv2 = 5 }

[limits.within.conv2]
macs = "70 %"
"""
    code, _, error = edgel0("run", project(tmp_path, ('macs = "30 %"\n', text)), "--out", tmp_path / "runs")
    assert (code, error) == (0, "")
    result = json.loads((tmp_path / "runs" / "tiny" / "result.json").read_text())
    assert list(result["budget"]) == ["params", "weight_bytes", "activation_bytes", "macs of conv2"]
    for row in result["budget"].values():
        assert 0 < row["slim"] <= row["limit"] < row["dense"]
    kept = {name: left for name, (left, _) in result["mask"]["groups"].items()}
    assert list(kept) == ["conv1", "conv2"]
    assert kept["conv2"] >= 6 and not any(count % 2 for count in kept.values())
    part = result["budget"]["macs of conv2"]  # 12 channels of 8 kernels at 6 x 6 places
    assert part == {
        "limit": 0.7 * part["dense"],
        "dense": 12 * 8 * 9 * 36,
        "slim": kept["conv2"] * kept["conv1"] * 9 * 36,
    }
    size = result["budget"]["weight_bytes"]  # bytes of int8 weights, and vectors of four bytes
    assert size["dense"] == (72 + 864 + 2592 + 96) + 4 * (8 * 5 + 12 + 24 + 4)
    assert size["slim"] < result["slim"]["weight_bytes"]
    assert result["slim"]["activation_bytes"] == result["budget"]["activation_bytes"]["slim"]
