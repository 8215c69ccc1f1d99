"""Limits from TOML: what is read, and that every mistake is told in one paragraph with its line."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgel0.checks.config import find_config, read_limits
from edgel0.checks.formats import FORMATS
from edgel0.checks.rules import LIMITS, METRIC_OF
from edgel0.errors import RecipeError
from edgel0.quantities import METRICS
from edgel0.types import Limit

GOOD = """\
[[budget]]
name = "keyword spotting"
path = "dist/kws.onnx"
max_size = "120 kB"
max_macs = "2.29 M"
max_params = 80_000
latency = { max = "5 ms", board = "rpi4" }

[[budget]]
path = "dist/kws.tflite"
latency = { max = "350 us", board = "rpi4", stat = "p90", runtime = "onnxruntime" }
"""


def write(folder, text, name="edgel0.toml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path, **options):
    with pytest.raises(RecipeError) as caught:
        read_limits(path, **options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return str(caught.value).removeprefix(str(path))


def test_every_limit_has_a_metric():
    assert set(METRIC_OF.values()) == set(METRICS)
    assert set(LIMITS) == {*METRIC_OF, "max_increase", "max_decrease"}


def test_limits_with_their_lines(tmp_path):
    path = write(tmp_path, GOOD)
    config = {"config": str(path)}
    timed = config | {"board": "rpi4", "absolute": True}
    first = ("keyword spotting", "dist/kws.onnx")
    assert read_limits(path) == [
        Limit(*first, "size", 120_000, "120 kB", config, 4),
        Limit(*first, "macs", 2_290_000, "2.29 M", config, 5),
        Limit(*first, "params", 80_000, "80000", config, 6),
        Limit(*first, "latency", 5.0, "5 ms", timed | {"stat": "p50"}, 7),
        Limit("dist/kws.tflite", "dist/kws.tflite", "latency", 0.35, "350 us",
              timed | {"stat": "p90", "runtime": "onnxruntime"}, 11),
    ]  # fmt: skip


def test_pyproject_keeps_them_under_tool_edgel0(tmp_path):
    text = '[project]\nname = "x"\n' + GOOD.replace("[[budget]]", "[[tool.edgel0.budget]]")
    path = write(tmp_path, text, "pyproject.toml")
    assert [(limit.metric, limit.line) for limit in read_limits(path)][:2] == [("size", 6), ("macs", 7)]


def test_a_recipe_holds_them_beside_its_own_tables(tmp_path):
    recipe = write(tmp_path, "[train]\nepochs = 3\n" + GOOD, "recipe.toml")
    assert len(read_limits(recipe)) == 5
    assert refusal(recipe, strict=True).startswith(":1: unknown key 'train'; known are budget")


def test_our_own_file_is_strict_and_can_be_told_not_to_be(tmp_path):
    path = write(tmp_path, GOOD + '[[bugdet]]\npath = "a"\n')
    assert refusal(path).startswith(":12: unknown key 'bugdet'; known are budget; did you mean 'budget'?")
    assert len(read_limits(path, strict=False)) == 5


def test_pyproject_is_strict_in_our_table_only(tmp_path):
    text = "[tool.other]\na = 1\n" + GOOD.replace("[[budget]]", "[[tool.edgel0.budget]]") + "[tool.edgel0.bugdet]\n"
    assert refusal(write(tmp_path, text, "pyproject.toml")).startswith(":14: unknown key 'bugdet'")


def test_the_file_of_a_folder(tmp_path):
    with pytest.raises(RecipeError, match=r"there is no edgel0\.toml or pyproject\.toml"):
        find_config(tmp_path)
    pyproject = write(tmp_path, "", "pyproject.toml")
    assert find_config(tmp_path) == pyproject
    assert find_config(write(tmp_path, "").parent).name == "edgel0.toml"


def entry(*lines):
    return "\n".join(["[[budget]]", *lines]) + "\n"


MISTAKES = [
    ("", ": found no budget; write [[budget]] with a path and a limit."),
    ("budget = []", ":1: found a budget that is not a list of tables; write [[budget]]"),
    ("[budget]\nmacs = 0.25", ":1: found a budget that is not a list of tables; write [[budget]]"),
    ("budget = 3", ":1: found a budget that is not"),
    ("budget = [1]", ":1: found a budget that is not"),
    (
        "[[budgets]]\npath = 'a'",
        ": found no budget; write [[budget]] with a path and a limit; did you mean that by 'budgets'?",
    ),
    ("[[budget]]", ":1: a budget without a path"),
    (entry("max_size = '1 kB'"), ":1: a budget without a path"),
    (
        entry("path = 'a'"),
        ":1: the budget 'a' sets no limit; write one of max_size, max_compressed, max_weight_bytes, max_macs, ",
    ),
    (entry("path = 'a'", "name = 'n'"), ":1: the budget 'n' sets no limit"),
    (entry("path = 'a'", "max_siz = '1 kB'"), ":3: unknown key 'max_siz'; known are name, path, max_size, "),
    (entry("path = 'a'", "max_siz = '1 kB'"), "; did you mean 'max_size'?"),
    (entry("path = 3", "max_size = '1 kB'"), ":2: path is of type int; write a string"),
    (entry("path = ''", "max_size = '1 kB'"), ":2: path is ''; write a string"),
    (entry("path = []", "max_size = '1 kB'"), ":2: path is []; write a string, or a list with one at least"),
    (entry("path = '!a'", "max_size = '1 kB'"), ":2: path is '!a'; write a string, or a list with one at least"),
    (entry("path = ['!a']", "max_size = '1 kB'"), ":2: path is ['!a']; write a string, or a list with one at least"),
    (entry("path = ['a', 3]", "max_size = '1 kB'"), ":2: path is of type int; write a string"),
    (entry("path = ['a', '!/etc/*']", "max_size = '1 kB'"), ":2: the path '/etc/*' is not inside the folder"),
    (
        entry("path = 'a'", "level = 'eror'", "max_size = 9"),
        ":3: unknown level 'eror'; known are error, warn, off; did",
    ),
    (entry("path = 'a'", "message = 3", "max_size = 9"), ":3: message is of type int"),
    (entry("path = 'a'", "max_transposes = -1"), ":3: max_transposes: -1 is not a count"),
    (entry("path = 'a'", "max_transpose = 0"), "; did you mean 'max_transposes'?"),
    (entry("path = 'a'", "max_increase = 0.01"), ":3: max_increase is 0.01; write a percentage such as"),
    (entry("path = 'a'", "max_increase = '5 kB'"), ":3: max_increase is '5 kB'; write a percentage such as"),
    (entry("path = 'a'", "max_increase = '-1 %'"), ":3: max_increase: '-1 %' is not a size"),
    (entry("path = 'a'", "max_increase = {}"), ":3: max_increase is empty"),
    (entry("path = 'a'", "max_increase = {macs = '1 kB'}"), ":3: macs: the unit 'kB' in '1 kB' is not a count"),
    (entry("path = 'a'", "max_increase = {mac = '1 %'}"), ":3: unknown key 'mac'; known are size, "),
    (entry("path = 'a'", "max_increase = {instructions = '1 %'}"), ":3: instructions of which core? write"),
    (entry("path = 'a'", "max_decrease = {size = '1 %'}"), ":3: unknown key 'size'; known are accuracy"),
    (entry("path = 'a'", "max_decrease = '1 point'"), ":3: max_decrease is '1 point'; write"),
    (entry("path = 'a'", "min_accuracy = '101 %'"), ":3: min_accuracy: '101 %' is more than all"),
    (entry("path = 'a'", "min_accuracy = {of = 'x'}"), ":3: min_accuracy without a limit; write min"),
    (entry("path = 'a'", "min_accuracy = {min = 1, result = '../r.json'}"), ":3: the path '../r.json' is not inside"),
    (entry("path = 'a'", "instructions = '4 M'"), ":3: instructions is '4 M'; write a table such as {max"),
    (entry("path = 'a'", "instructions = {max = '4 M'}"), ":3: instructions without a core; write core"),
    (entry("path = 'a'", "instructions = {core = 'x'}"), ":3: instructions without a limit; write max"),
    (entry("path = 'a'", "latency = '5 ms'"), ":3: a time without a board says nothing; write latency = {max"),
    (entry("path = 'a'", "latency = {max = '5 ms'}"), ":3: a latency without a board; write board"),
    (entry("path = 'a'", "name = ''", "max_size = '1 kB'"), ":3: name is ''"),
    (entry("path = 'a'", 'name = "a\\nb"', "max_size = '1 kB'"), ":3: name is 'a\\nb'"),
    (entry("path = 'a'", 'name = "\\u001b[31m"', "max_size = '1 kB'"), ":3: name is "),
    (entry("path = 'a'", "name = true", "max_size = '1 kB'"), ":3: name is of type bool"),
    (entry("path = 'a'", "max_size = '120 KB'"), ":3: max_size: '120 KB' may mean 1000 or 1024 bytes"),
    (entry("path = 'a'", "max_size = true"), ":3: max_size: a bool is not a size"),
    (entry("path = 'a'", "max_size = nan"), ":3: max_size: nan is not a size"),
    (entry("path = 'a'", "max_size = inf"), ":3: max_size: inf is not a size"),
    (entry("path = 'a'", "max_size = -1"), ":3: max_size: -1 is not a size"),
    (entry("path = 'a'", "max_size = 0"), ":3: max_size: 0 is a limit that nothing can keep"),
    (entry("path = 'a'", "max_size = '25 %'"), ":3: '25 %' is a share, and a check knows no dense model"),
    (entry("path = 'a'", "max_macs = 0.25"), ":3: 0.25 is a share"),
    (entry("path = 'a'", "max_macs = '6 MB'"), ":3: max_macs: the unit 'MB' in '6 MB' is not a count"),
    (entry("path = 'a'", "max_params = 1979-05-27"), ":3: max_params: a date is not a count"),
    (entry("path = 'a'", "max_params = 0x" + "f" * 9000), ":3: max_params: an enormous number is not a count"),
    (entry("path = 'a'", "latency = 5"), ":3: latency is int; write a table such as {max = "),
    (entry("path = 'a'", "latency = {board = 'b', max = '5'}"), ":3: max: '5' without a unit is not a time"),
    (entry("path = 'a'", "latency = {}"), ":3: latency is {}; write a table such as"),
    (entry("path = 'a'", "latency = {board = 'b', max = 5}"), ":3: max is of type int; write a string such as"),
    (
        entry("path = 'a'", "latency = {max = '5 ms', board = 'b', stat = 'p95'}"),
        ":3: unknown statistic 'p95'; known are p10, p50, p90",
    ),
    (entry("path = 'a'", "latency = {max = '5 ms', board = 'b', stat = 50}"), ":3: stat is of type int"),
    (entry("path = 'a'", "latency = {max = '5 ms', board = 'b', runtime = ''}"), ":3: runtime is ''"),
    (entry("path = 'a'", "latency = {max = '5 ms', rumtime = 'x'}"), ":3: unknown key 'rumtime'"),
    (entry("path = 'a'", "[budget.latency]", "max = '5 ms'", "stats = 'p50'"), ":5: unknown key 'stats'"),
    (2 * entry("path = 'a'", "max_size = 9"), ":4: two budgets are called 'a'; give each a name"),
    (entry("path = 'a'", "max_size = 9") + entry("path = 'b'", "name = 'a'", "max_size = 9"), ":6: two budgets are"),
    ("[[budget]\n", ":1:"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_a_mistake_is_told_with_its_line(tmp_path, text, message):
    found = refusal(write(tmp_path, text), strict=False)
    assert message in found
    if message.startswith(":"):
        assert found.startswith(message)


ESCAPES = [
    "/etc/passwd", "../a.onnx", "dist/../../a.onnx", "dist/../a.onnx", "..", ".", "./", "..\\a.onnx", "dist\\..\\..\\a",
    "C:\\a.onnx", "C:a.onnx", "c:/a.onnx", "\\a.onnx", "\\\\server\\share\\a.onnx", "//server/share/a", "out/a.onnx",
    "out", "leak.onnx", "chain", "out/*.onnx", "../**", "**/../../*", "/**/*.onnx", "out/**/a.onnx", "C:/*",
    "loop/a.onnx" if os.name == "posix" else "../a",
]  # fmt: skip


@pytest.fixture
def links(tmp_path):
    """A project folder with symbolic links that lead out of it, around in it, and in a circle."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "a.onnx").write_bytes(b"1")
    folder = tmp_path / "project"
    (folder / "dist").mkdir(parents=True)
    (folder / "dist" / "a.onnx").write_bytes(b"1")
    for name, target in [("out", "../secret"), ("leak.onnx", "../secret/a.onnx"), ("chain", "out"), ("in", "dist")]:
        (folder / name).symlink_to(target)
    return folder


@pytest.mark.parametrize("path", ESCAPES[:-1])
def test_a_path_that_leaves_the_folder_is_refused(links, path):
    found = refusal(write(links, entry(f"path = '{path}'", "max_size = 9")))
    assert re.match(r":2: the path '.*' is not inside the folder of this file; write a relative path", found)


def test_a_circle_of_links_is_refused_or_missing(links):
    (links / "loop").symlink_to("loop")
    config = write(links, entry("path = 'loop/a.onnx'", "max_size = 9"))
    try:
        assert len(read_limits(config)) == 1  # Python 3.13 resolves it to itself; the check then finds no file
    except RecipeError as error:
        assert "leads nowhere" in str(error)


@pytest.mark.parametrize(
    "path",
    ["dist/a.onnx", "in/a.onnx", "**/*.onnx", "in/*", "*.onnx", "./dist/a.onnx", "not/there.onnx", "a b/ü.onnx", "..a"],
)
def test_a_path_inside_is_kept_as_written(links, path):
    assert read_limits(write(links, entry(f"path = '{path}'", "max_size = 9")))[0].path == path


def test_the_folder_itself_may_be_reached_through_a_link(links):
    write(links / "dist", entry("path = 'a.onnx'", "max_size = 9"))
    assert len(read_limits(links / "in" / "edgel0.toml")) == 1


ANY = st.recursive(
    st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=6) | st.sampled_from(["5 ms", "1 kB", "p50"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["max", "stat", "x"]), inner, max_size=3)
    ),
    max_leaves=4,
)


def toml(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(letter):08x}" for letter in value) + '"'
    return repr(value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(st.dictionaries(st.sampled_from(["name", "path", *LIMITS, "x"]), ANY, max_size=5))
def test_any_values_are_read_or_refused(tmp_path, values):
    text = entry(*(f"{key} = {toml(value)}" for key, value in values.items()))
    try:
        assert read_limits(write(tmp_path, text))
    except RecipeError as error:
        assert str(error).startswith(str(tmp_path / "edgel0.toml"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(
    st.integers(0, len(GOOD) - 1), st.integers(0, 12), st.text(alphabet="[]{}=\"'.#\n\\ _ax0-\x00\u00e9", max_size=3)
)
def test_any_edit_of_a_good_file_is_read_or_refused(tmp_path, at, cut, insertion):
    path = write(tmp_path, GOOD[:at] + insertion + GOOD[at + cut :])
    try:
        assert read_limits(path)
    except RecipeError as error:
        assert str(error).startswith(str(path))


BREAKING = [("= ", "= ="), ("[[budget]]", "[[budget]"), ("path", "pth"), ('"', ""), ("max_", "mx_"), ("kB", "KB"),
            ("5 ms", "5 m"), ("2.29 M", "-2.29 M"), ("80_000", "false"), ("350 us", "350"), ("p90", "p99"),
            ("stat", "static"), ("{ max", "{ mx"), ('"dist', '"/dist'), ('"dist/', '"../'),
            ("latency = ", "latency = 1#"), ("120 kB", ""), ("80_000", "[]"), ("80_000", "{}"),
            ("budget]]", "budgie]]")]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), BREAKING)
@pytest.mark.parametrize("name", ["edgel0.toml", "recipe.toml", "pyproject.toml"])
def test_a_broken_file_is_refused_under_every_name(tmp_path, old, new, name):
    text = GOOD.replace(old, new)
    assert text != GOOD
    if name == "pyproject.toml":
        text = text.replace("[[budg", "[[tool.edgel0.budg")
    refusal(write(tmp_path, text, name))


DOCS = (Path(__file__).parents[2] / "docs" / "budgets.md").read_text("utf-8")


def test_the_page_on_budgets_knows_every_key_and_format():
    rows = {word for row in re.findall(r"^\| (`.*?) \|", DOCS, re.M) for word in re.findall(r"`([\w-]+)`", row)}
    assert rows >= {*METRIC_OF, *FORMATS}
    assert all(f"`{key}" in DOCS or f"{key} = " in DOCS for key in (*LIMITS, "level", "message"))


def test_the_examples_of_the_page_are_read(tmp_path):
    whole, tables = re.findall(r"```toml\n(.*?)```", DOCS, re.S)
    limits = read_limits(write(tmp_path, whole + tables))
    found = {(limit.metric, limit.bound) for limit in limits}
    assert {
        ("size", "max"),
        ("size", "increase%"),
        ("instructions", "max"),
        ("accuracy", "min"),
        ("latency", "max"),
    } <= found
