"""The page: one file that needs nothing, says the same every time, shows hostile names, and is fit for every reader."""

import itertools
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from projects import edgel0, paragraph

from edgel0.report.page import css
from edgel0.report.writing import render
from report.runs import HOSTILE, STORED, changed, folder, result, samples

VOID = {"meta", "link"}


class Tree(HTMLParser):
    """What a strict reader makes of a page: elements with their attributes and texts; every element is closed."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.found, self.ids = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), (tag, names)
        element = {"tag": tag, "text": "", "above": [e["tag"] for e in self.open], **dict(attributes)}
        self.found.append(element)
        self.ids += [element["id"]] if "id" in element else []
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.found.append({"tag": tag, "text": "", "above": [e["tag"] for e in self.open], **dict(attributes)})

    def handle_endtag(self, tag):
        assert self.open and self.open[-1]["tag"] == tag, (tag, self.open[-1:])
        self.open.pop()

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, *tags):
        return [element for element in self.found if element["tag"] in tags]


def full(tmp_path, **more):
    found = result(**more)
    return folder(tmp_path / "run", found, samples(found))


@pytest.fixture(scope="module")
def stored():
    return render([STORED])["--output"]


def test_it_opens_with_the_sentence_and_has_every_figure(stored):
    tree = Tree(stored)
    [head] = tree.all("h1")
    assert head["text"].replace("\xa0", " ").startswith("mnist-lenet5: 12.5 × fewer MACs, 8.7 × smaller, ")  # noqa: RUF001
    assert [h["text"] for h in tree.all("h2")] == [
        *("In figures", "Budget", "What is kept", "Training to the budget", "Accuracy and cost", "Latency"),
        *("Where the MACs go", "In fewer bits", "Compared at every step", "Where these figures come from"),
    ]
    drawn = [svg for svg in tree.all("svg") if svg["class"] in ("wide", "narrow")]
    assert len(drawn) == 2 * len(tree.all("figure")) == 12
    assert len([d for d in tree.all("details") if "figure" not in d["above"]]) == 6  # a table behind each


def test_it_needs_nothing_else(stored):
    tree = Tree(stored)
    assert not tree.all("script", "img", "iframe", "object", "embed", "form", "base", "video", "audio")
    for element in tree.found:
        assert not any(name.startswith("on") or name == "style" for name in element), element
        assert element.get("href", "data:,") == "data:," and "src" not in element
    assert "http://" not in stored.replace("http-equiv", "") and "https://" not in stored
    assert "url(" not in stored and "@import" not in stored
    [policy] = [m["content"] for m in tree.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy


def test_the_same_run_gives_the_same_bytes(tmp_path):
    run, other = full(tmp_path), full(tmp_path / "elsewhere")
    code = "import sys; from pathlib import Path; from edgel0.report.writing import render; "
    code += "sys.stdout.buffer.write(str(sorted(render([Path(sys.argv[1])]).items())).encode())"
    made = [
        subprocess.run(
            [sys.executable, "-c", code, path],
            capture_output=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "TZ": zone},
        ).stdout
        for path, seed, zone in ((run, "1", "UTC"), (other, "2", "Asia/Tokyo"))
    ]
    assert made[0] == made[1] and len(made[0]) > 20_000
    assert str(tmp_path).encode() not in made[0]
    assert not re.search(rb"\b20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d", made[0])


def test_it_is_made_without_torch_and_without_matplotlib(tmp_path):
    code = (
        "import sys\n"
        "class Gone:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'matplotlib', 'onnx', 'onnxruntime', 'scipy', 'jinja2'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Gone())\n"
        "from edgel0.cli import main\n"
        "main()"
    )
    command = [sys.executable, "-W", "error", "-c", code, "report", full(tmp_path), "-o", tmp_path / "a.html"]
    done = subprocess.run([*command, "--markdown", tmp_path / "a.md"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "a.html").stat().st_size > 20_000 and (tmp_path / "a.md").stat().st_size > 1_000


def test_hostile_names_are_shown_and_do_nothing(tmp_path):
    found = result(name=HOSTILE)
    for path in ("mask.rule", "mask.digest", "profile.board", "data.digest"):
        found = changed(found, path, HOSTILE)
    found["mask"]["groups"] = {f"{HOSTILE}{n}": [n, 9] for n in range(5)}
    found["versions"] = {HOSTILE: HOSTILE}
    found["parity"] = {HOSTILE: {"reference": HOSTILE}}
    found["history"][0]["phase"] = found["history"][1]["phase"] = HOSTILE
    found["budget"] = {HOSTILE: {"limit": 1, "slim": 2}}
    for which in ("dense", "slim"):
        found[which]["latency_ms"][HOSTILE] = found[which]["latency_ms"].pop("onnxruntime") | {"notes": [HOSTILE]}
        found[which]["latency_ms"][HOSTILE]["operators"] = [{"name": HOSTILE, "kind": HOSTILE, "ms": 1}]
        found[which]["files"][HOSTILE] = 3
    found["history"][1]["cost"] = found["history"][2]["cost"] = {HOSTILE: 5}
    tree = Tree(render([folder(tmp_path, found)])["--output"])
    assert not tree.all("script", "a", "b", "img")
    assert len(tree.all("title")) == 1 + 2 * len(tree.all("figure"))
    assert tree.all("h1")[0]["text"].startswith("<script>alert(1)</script>")
    for element in tree.found:
        assert not set(element) - {
            *(
                "tag",
                "text",
                "above",
                "class",
                "id",
                "scope",
                "role",
                "aria-label",
                "aria-labelledby",
                "lang",
                "charset",
            ),
            *("http-equiv", "content", "name", "rel", "href", "tabindex", "viewbox", "width", "height", "x", "y", "rx"),
            *("x1", "x2", "y1", "y2", "cx", "cy", "r", "d", "text-anchor"),
        }


def test_it_can_be_read_by_everybody(stored, tmp_path):
    pages = [stored, render([STORED, full(tmp_path)])["--output"], render([full(tmp_path)])["--output"]]
    for text in pages:
        tree = Tree(text)
        assert tree.all("html")[0]["lang"] == "en" and len(tree.all("main")) == len(tree.all("h1")) == 1
        assert len(tree.ids) == len(set(tree.ids))
        levels = [int(h["tag"][1]) for h in tree.all("h1", "h2", "h3", "h4")]
        assert levels[0] == 1 and all(b <= a + 1 for a, b in itertools.pairwise(levels))
        for svg in tree.all("svg"):
            assert svg["role"] == "img"
            assert svg.get("aria-label") or all(name in tree.ids for name in svg["aria-labelledby"].split())
        for title in tree.all("title", "desc"):
            assert title["text"].strip()
        for table in tree.all("table"):
            assert table["text"]
        assert all(head["scope"] in ("row", "col") for head in tree.all("th"))
        assert len(tree.all("caption")) == len(tree.all("table"))
        for element in tree.found:
            named = element.get("aria-labelledby", "").split()
            assert all(name in tree.ids for name in named)
        for scroll in (e for e in tree.found if e.get("class") == "scroll"):
            assert scroll["tabindex"] == "0" and scroll["role"] == "region" and scroll["aria-label"]
    assert ":focus-visible" in css() and "@media print" in css()


# Contrast.

TEXTS = ("ink", "quiet", "slim", "small", "target", "good", "bad")
SHAPES = ("dense", "slim", "small", "target", "edge", "bad", "focus", "ink")


def schemes():
    """The colours of each scheme, by name."""
    found = [
        dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", block)) for block in re.findall(r":root \{(.*?)\}", css(), re.S)
    ]
    assert [len(colors) for colors in found] == [13, 13, 12]
    return {"light": found[0], "dark": found[1], "print": found[2]}


def luminance(color):
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_the_standard():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_contrast_is_aa(scheme):
    colors = schemes()[scheme]
    for name in TEXTS:
        assert contrast(colors[name], colors["paper"]) >= 4.5, name
    for name in SHAPES:
        if name in colors:
            assert contrast(colors[name], colors["paper"]) >= 3, name
    assert contrast(colors["slim"], colors["track"]) >= 3
    assert contrast(colors["bad"], colors["good"]) > 1  # told apart by words as well


def test_print_is_light():
    assert schemes()["print"].items() <= schemes()["light"].items()


def test_every_colour_has_a_name():
    rest = re.sub(r":root \{.*?\}", "", css(), flags=re.S)
    assert not re.search(r"#[0-9a-fA-F]{3,8}\b|rgb\(|hsl\(", rest)
    used, known = set(re.findall(r"var\(--([a-z]+)\)", rest)), set(schemes()["light"])
    assert used == known


def test_every_class_has_a_style_and_every_style_a_class(stored, tmp_path):
    found = result(macs=200_000)
    found["mask"]["groups"] = {f"g{n}": [n % 3, 3] for n in range(40)}
    pages = stored + render([folder(tmp_path / "a", found, samples(found))])["--output"]
    pages += render([STORED, full(tmp_path), folder(tmp_path / "c", result(macs=300_000, accuracy=0.9))])["--output"]
    pages += render([full(tmp_path), folder(tmp_path / "c", result(macs=300_000, accuracy=0.99))])["--output"]
    used = {name for names in re.findall(r'class="([^"]*)"', pages) for name in names.split()}
    styled = set(re.findall(r"\.([a-z][a-z-]*)", re.sub(r"\{[^{}]*\}", "{}", css())))
    assert styled - used <= {"small-line", "leader", "good", "course-dot", "target-dot", "note"}
    assert used - styled <= {"wide", "shown", "ink", "span", "dominated", "dense-line", "kicker", "words", "figures"}


# The command.


def test_the_command(tmp_path, monkeypatch):
    run = full(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert edgel0("report", run) == (0, "report in report.html\n", "")
    assert edgel0("report", run / "result.json", "-o", "a.htm")[0] == 0
    assert Path("a.htm").read_bytes() == Path("report.html").read_bytes()
    code, out, error = edgel0("report", run, "--markdown", "-")
    assert (
        (code, error) == (0, "")
        and out.startswith("## tiny: **10.0")
        and sorted(p.name for p in tmp_path.iterdir())
        == [
            "a.htm",
            "report.html",
            "run",
        ]
    )


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["-o", "run/result.json"], 2, "does not end in .html or .htm"),
        (["-o", "slim.onnx"], 2, "does not end in .html"),
        (["--markdown", "a.html"], 2, "does not end in .md"),
        (["-o", "-", "--markdown", "-"], 2, "give one of them a file's name"),
        (["-o", "nowhere/a.html"], 3, "cannot be written"),
        (["--cost", "mac"], 2, "did you mean 'macs'?"),
    ],
)
def test_what_cannot_be_written(tmp_path, monkeypatch, arguments, code, told):
    run = full(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = (run / "result.json").read_bytes()
    found, out, error = edgel0("report", "run", *arguments)
    paragraph(error, told)
    assert (found, out) == (code, "") and (run / "result.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_operators_take_the_place_of_layers_where_they_were_profiled(tmp_path):
    found = result()
    for which, ms in (("dense", 1.5), ("slim", 0.25)):
        rows = [{"name": "/conv1/Conv", "kind": "Conv", "ms": ms}, {"name": "/fc/Gemm", "kind": "Gemm", "ms": 0.1}]
        found[which]["latency_ms"]["onnxruntime"]["operators"] = rows
    page = render([folder(tmp_path, found)])["--output"]
    assert "Where the time goes" in page and "Where the MACs go" not in page
    assert "/conv1/Conv takes 71% of the slim network&#x27;s time" in page and "1.5 ms → 250 µs" in page
