"""The house: who may import whom, who imports no torch, what the package calls its own, what no file may name."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import edgel0

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "edgel0"
ORDER = """
    errors heap types quantities naming importing staging refusing explaining preserving capturing units rules moving
    mixing flow excluding tracing totals cost reaching floors closing limits noise concrete sharding gates attaching
    redundancy budget masks ranking resizing slimming fitting shrinking scheduling callbacks files exporters checks
    devices samples checkpoints recipe inspecting distilling training retraining delivering results report running cli
""".split()  # noqa: SIM905  a list of words reads best as words
AGAINST = {("types", "ranking")}  # Masks.rank, a way to make masks, stands beside Masks.random and needs the stages
PUBLIC = {
    *("attach", "detach", "Budget", "stabilize", "slim", "export", "trace", "masked", "Masks", "measure"),
    *("shrink_", "shrunk", "Schedule", "check", "load", "save", "FLOW", "COST", "__version__"),
}
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part(path):
    """The module or sub-package of edgel0 that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree, inside_functions=True):
    """Names that a module imports; what stands under ``if TYPE_CHECKING`` is for type checkers alone."""
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not inside_functions:
            continue
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{'.' * node.level}{node.module or ''}:{alias.name}", node.lineno) for alias in node.names)
        else:
            waiting += list(ast.iter_child_nodes(node))


def targets(path):
    """(part of edgel0, line) for each import that a file makes of the package."""
    for name, line in imports(ast.parse(path.read_text("utf-8")), inside_functions=part(path) != "cli"):
        module, _, attribute = name.partition(":")
        assert not module.startswith("."), f"{path.name}:{line}: a relative import; write edgel0.{attribute}"
        if module == "edgel0":
            if attribute and attribute != "__version__":
                yield attribute, line
        elif module.startswith("edgel0."):
            yield module.split(".")[1], line


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_what_stands_before(path):
    mine = part(path)
    assert mine in ORDER or mine == "__main__", f"{mine} has no place in the order of modules yet"
    before = ORDER[: ORDER.index(mine)] if mine in ORDER else ORDER
    allowed = {*before, mine, *(later for this, later in AGAINST if this == mine)}
    wrong = [f"{path.name}:{line} imports {other}" for other, line in targets(path) if other not in allowed]
    assert not wrong


@pytest.mark.parametrize(("earlier", "later"), AGAINST)
def test_an_import_against_the_order_stands_inside_a_function(earlier, later):
    tree = ast.parse((PACKAGE / f"{earlier}.py").read_text("utf-8"))
    inside, outside = (" ".join(name for name, _ in imports(tree, every)) for every in (True, False))
    assert f"edgel0.{later}" in inside, "no exception is needed"
    assert f"edgel0.{later}" not in outside


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parent != PACKAGE], ids=lambda path: path.name)
def test_no_cycle_inside_a_sub_package(path):
    def neighbours(file):
        for name, _ in imports(ast.parse(file.read_text("utf-8"))):
            module, _, attribute = name.partition(":")
            for candidate in (module, f"{module}.{attribute}"):
                found = ROOT.joinpath(*candidate.split(".")).with_suffix(".py")
                if candidate.startswith("edgel0.") and found.is_file() and found.parent == path.parent:
                    yield found

    seen, waiting = set(), list(neighbours(path))
    while waiting:
        file = waiting.pop()
        assert file != path, f"{path.name} imports itself by way of its neighbours"
        if file not in seen:
            seen.add(file)
            waiting += neighbours(file)


def modules_after(code):
    """Names in sys.modules after running some code in a fresh interpreter."""
    code += "\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_what_a_board_or_a_check_needs_imports_no_torch():
    light = [p for p in SOURCES if part(p) in ("devices", "checks", "files", "types", "errors", "quantities")]
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in light]
    assert {"edgel0.types", "edgel0.devices", "edgel0.checks"} <= set(names)
    loaded = modules_after("\n".join(f"import {name}" for name in names))
    assert set(names) <= loaded
    heavy = ("torch", "onnx", "onnxruntime", "litert_torch", "ai_edge_litert")
    assert not loaded & set(heavy)


def test_importing_edgel0_imports_no_torch():
    assert "torch" not in modules_after("import edgel0")


def test_public_names():
    assert set(edgel0.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(edgel0, name) is not None
    assert set(edgel0.__all__) <= set(dir(edgel0))


def test_public_names_resolve_in_a_fresh_interpreter_one_by_one():
    for name in ("Masks", "check", "measure"):
        assert "torch" not in modules_after(f"from edgel0 import {name}")
    assert "torch" in modules_after("from edgel0 import slim")


def test_no_module_bears_the_name_of_a_public_function():
    files = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or p.is_dir()}
    assert not files & PUBLIC
    for path in SOURCES:  # importing a module never replaces a public name by it
        if path.parent == PACKAGE and path.stem not in ("__main__", "cli"):
            importlib.import_module(f"edgel0.{path.stem}")
    assert all(not isinstance(getattr(edgel0, name), type(sys)) for name in PUBLIC)


def test_every_module_says_first_what_it_is_for():
    for path in SOURCES:
        assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), path


# Folders of somebody's machine; the placeholders of documentation (/home/you, /tmp/...) name none.
MACHINE = re.compile(
    r"(?<![\w.:/-])(?:/(?:root|srv|tmp|work)/[\w.]|/Users/(?!you\b)\w+/|/home/(?!you\b|user\b|pi\b|me\b|runner\b)\w+/)"
)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("see /srv/build/x", True),
        ('"/srv/.cache"', True),
        ("cd /home/ada/src", True),
        ("open('/tmp/a.py')", True),
        ("/home/you/src", False),
        ("https://example.org/srv/build", False),
        ("framework/srv/x", False),
        ("/tmp", False),
    ],
)
def test_the_pattern_finds_paths(text, named):
    assert bool(MACHINE.search(text)) is named


def test_no_tracked_file_names_a_machine():
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    found = []
    for name in filter(None, listed.decode().split("\0")):
        path = ROOT / name
        data = path.read_bytes() if path.is_file() and path != Path(__file__) else b""
        if b"\0" in data:
            continue
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            if MACHINE.search(line):
                found.append(f"{name}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)
