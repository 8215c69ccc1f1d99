"""Lines of keys: the scan finds what a person would point at."""

import pytest

from edgel0.checks.source import read_source
from edgel0.errors import RecipeError

TOML = '''\
# a comment with """ in it
title = "x"

[train]
lr = 0.1
text = """
[[budget]]
max_size = "not a key"
"""

[[budget]]          # the first
path = "a.onnx"
"max_size" = "1 kB"
latency = { max = "5 ms", stat = "p90" }

[[ budget ]]
path = "b.onnx"
[budget.latency]
max = "5 ms"

[tool.edgel0]
[[tool.edgel0.budget]]
latency.max = "5 ms"
'''


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("title", 2),
        ("train", 4),
        ("train.lr", 5),
        ("train.text", 6),
        ("budget", 11),
        ("budget[0]", 11),
        ("budget[0].path", 12),
        ("budget[0].max_size", 13),
        ("budget[0].latency", 14),
        ("budget[0].latency.stat", 14),
        ("budget[0].unheard_of", 11),
        ("budget[1]", 16),
        ("budget[1].latency", 18),
        ("budget[1].latency.max", 19),
        ("tool", 21),
        ("tool.edgel0", 21),
        ("tool.edgel0.budget[0]", 22),
        ("tool.edgel0.budget[0].latency", 23),
        ("tool.edgel0.budget[0].latency.max", 23),
        ("nothing", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_line_of_every_address(tmp_path, address, line, newline):
    path = tmp_path / "x.toml"
    path.write_bytes(TOML.replace("\n", newline).encode())
    assert read_source(path).line(address) == line


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xef\xbb\xbfa = 1\n")
    assert read_source(path).document == {"a": 1}


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"a = 1\nb = ]\n", ":2:5: this is not TOML: "),
        (b"a = 1\nb = [1,\n", ":3:1: this is not TOML: "),
        (b"a = 1\na = 2\n", ":2:"),
        (b"a = \xff", ": byte 4 is not UTF-8"),
        (b"a = " + b"9" * 5000, ": this is not TOML: "),
        (b"a = " + b"[" * 100_000, ": "),
    ],
)
def test_broken_toml_says_where(tmp_path, content, where):
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        read_source(path)
    assert str(caught.value).startswith(f"{path}{where}")


@pytest.mark.parametrize("name", ["absent.toml", "."])
def test_a_file_that_cannot_be_read(tmp_path, name):
    with pytest.raises(RecipeError, match="cannot be read"):
        read_source(tmp_path / name)
