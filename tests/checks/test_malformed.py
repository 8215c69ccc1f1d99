"""Configurations and baselines that are wrong in generated ways: exit 2 and one paragraph, never a traceback."""

import json
import random

import pytest
from projects import edgel0, paragraph

from edgel0.checks.source import tomllib

from .artefacts import model

CONFIG = """\
[[budget]]
name = "digits"
path = ["dist/*.onnx", "!dist/draft.onnx"]
max_size = "100 kB"
max_compressed = "90 kB"
max_macs = "2 M"
max_transposes = 0
instructions = { max = "4 M", core = "cortex-a72", runtime = "onnxruntime 1.32.0" }
min_accuracy = { min = "98 %", result = "runs/digits/result.json" }
latency = { max = "5 ms", board = "rpi4", stat = "p90" }
max_increase = { size = "1 %", latency = "10 %" }
max_decrease = { accuracy = "0.5 %" }
level = "warn"
message = "See docs/size.md."
"""
KEYS = [line.split(" = ")[0] for line in CONFIG.splitlines()[1:]]
WRONG = ["", "[]", "{}", "true", "nan", "-1", "'-1'", "'5 parsecs'", "1979-05-27", "[[]]", "{ mx = 1 }", "'\\u001b[2J'",
         '"\\u0000"', "0x" + "f" * 5000,
         "'" + "9" * 5000 + "'", '"""\n"""', "[1, 2]", "{ max = [] }", "'../x'", "'/etc/*'"]  # fmt: skip


def typo(random, word):
    """Drop, double or swap a letter."""
    at = random.randrange(1, len(word) - 1)
    return random.choice([word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:], word[:at] + "q" + word[at:]])


def wrong_value(random):
    key = random.choice(KEYS)
    value = random.choice(WRONG)
    return "\n".join(f"{key} = {value}" if line.startswith(f"{key} =") else line for line in CONFIG.splitlines())


def wrong_key(random):
    key = random.choice(KEYS)
    return CONFIG.replace(f"{key} =", f"{typo(random, key)} =")


def wrong_inner_key(random):
    key = random.choice(["core", "runtime", "min =", "result", "board", "stat", "{ size", "accuracy ="])
    return CONFIG.replace(key, typo(random, key))


def torn(random):
    cut = random.randrange(15, len(CONFIG) - 60)
    return (
        CONFIG[:cut]
        + random.choice(['"', "[", "{", "=", "]]", "\n= 3\n", "\x00", "\\"])
        + CONFIG[cut + random.randrange(9) :]
    )


def twice(random):
    return CONFIG + random.choice(
        [
            "[[budget]]\nname = 'digits'\npath = 'b'\nmax_size = 1\n",
            "level = 'off'\n",
            "[budget]\n",
            "[[bugdet]]\n",
            "x = 1\n",
        ]
    )


def configs(count):
    """(number, content) of configurations that are all wrong; a change that changes nothing is not among them."""
    found = random.Random(7)
    ways = [wrong_value, wrong_value, wrong_key, wrong_inner_key, torn, twice]
    number = 0
    while number < count:
        content = ways[number % len(ways)](found)
        if content.strip() != CONFIG.strip() and not harmless(content):
            yield number, content
            number += 1


def harmless(content):
    """Whether a change only changed words, as one inside a message does."""
    try:
        document = tomllib.loads(content)
    except ValueError:
        return False
    [entry] = document["budget"] if len(document.get("budget", [])) == 1 else [None]
    if entry is None or set(document) != {"budget"} or set(entry) != set(KEYS):
        return False
    words = {"name", "message"}
    good = tomllib.loads(CONFIG)["budget"][0]
    same = all(entry[key] == good[key] for key in set(KEYS) - words - {"path"})
    return same and all(
        isinstance(entry[key], str) and entry[key].strip() and entry[key].isprintable() for key in words
    )


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "a.onnx").write_bytes(model())
    return tmp_path


def test_the_configuration_that_is_broken_is_right(project):
    (project / "edgel0.toml").write_text(CONFIG)
    code, out, error = edgel0("check")
    assert (code, error) == (0, "") and "8 warnings." in out  # the model has no outputs, so its figures are unknown


@pytest.mark.parametrize(
    ("number", "content"), list(configs(150)), ids=lambda value: str(value)[:3] if isinstance(value, int) else ""
)
def test_a_malformed_configuration(project, number, content):
    path = project / "edgel0.toml"
    path.write_text(content, encoding="utf-8")
    code, out, error = edgel0("check")
    assert (code, out) == (2, ""), content
    paragraph(error, "edgel0.toml")
    assert error.isprintable() or error.strip().isprintable()
    assert len(error) < 700
    for verb in (["baseline", "update"], ["check", "--format", "json"]):
        assert edgel0(*verb)[0] == 2


BYTES = [
    b"",
    b"\xff\xfe",
    b"\x00",
    b"[" * 100_000,
    b"{" * 9,
    b'{"schema": ' + b"9" * 5000 + b"}",
    b"PK\x03\x04",
    b"\xef\xbb\xbf{",
]


def changed(random, document):
    """Change a baseline in one place: another type, a wrong number, an unknown or an empty key, or nothing there."""
    entry = document["artifacts"]["dist/a.onnx"]
    place = random.choice(
        [document, document["artifacts"], entry, entry["figures"], entry["layers"], entry["layers"]["fc1"]]
    )
    key = random.choice(list(place))
    wrong = random.choice(
        [None, "x", [], True, -1, float("nan"), float("inf"), 2**63, {"": 1}, {"a\n": {}}, {"siez": 1}]
    )
    if random.random() < 0.3:
        place[typo(random, key + "xx") if len(key) < 3 else typo(random, key)] = place.pop(key)
        place["\x1b[31m"] = 1
    else:
        place[key] = wrong
    return json.dumps(document).encode()


def baselines(count):
    found = random.Random(3)
    for number in range(count):
        if number < len(BYTES):
            yield number, BYTES[number]
            continue
        figures = {"size": 15, "macs": 1, "latency p50 on rpi4, onnxruntime 1.32.0, 1 threads": 2.5}
        layers = {"fc1": {"macs": 1, "params": 1, "weight_bytes": 4}}
        document = {"schema": 1, "artifacts": {"dist/a.onnx": {"figures": figures, "layers": layers}}}
        text = json.dumps(document).encode()
        if number % 4 == 0:
            cut = found.randrange(len(text) - 3)
            yield number, text[:cut] + b"<<<<<<< HEAD\n" + text[cut + 1 :]
        elif number % 4 == 1:
            yield number, text.replace(b'"macs": 1', b'"macs": 1, "macs": 2')
        else:
            yield number, changed(found, document)


@pytest.mark.parametrize(
    ("number", "content"), list(baselines(60)), ids=lambda value: str(value) if isinstance(value, int) else ""
)
def test_a_malformed_baseline(project, number, content):
    (project / "edgel0.toml").write_text('[[budget]]\npath = "dist/a.onnx"\nmax_increase = { size = "1 %" }\n')
    path = project / "edgel0-baseline.json"
    path.write_bytes(content)
    for verb in (["check"], ["baseline", "update"]):
        code, out, error = edgel0(*verb)
        assert (code, out) == (2, ""), (verb, content[:300])
        paragraph(error, "edgel0-baseline.json", "Take it from git again")
        assert error.strip().isprintable() and len(error) < 700
    assert path.read_bytes() == content


def test_the_nearest_key_of_a_baseline_is_told(project):
    (project / "edgel0.toml").write_text('[[budget]]\npath = "dist/a.onnx"\nmax_size = "1 kB"\n')
    entry = {"figures": {"macz": 1}}
    (project / "edgel0-baseline.json").write_text(json.dumps({"schema": 1, "artifacts": {"dist/a.onnx": entry}}))
    code, _, error = edgel0("check")
    paragraph(error, "unknown metric 'macz'", "did you mean 'macs'?")
    assert code == 2


@pytest.mark.parametrize("content", [None, "folder"])
def test_a_baseline_that_was_named_and_is_no_file(project, content):
    (project / "edgel0.toml").write_text('[[budget]]\npath = "dist/a.onnx"\nmax_size = "1 kB"\n')
    if content:
        (project / "there.json").mkdir()
    code, _, error = edgel0("check", "--baseline", "there.json")
    paragraph(error, "there.json", "cannot be read")
    assert code == 2
