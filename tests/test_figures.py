import json
import logging
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from edgel0.errors import ExtraError, UsageError
from edgel0.report.canvas import styled
from edgel0.report.figures import charts, draw
from edgel0.report.lettering import apart, clean, inches, short, spread

NAMES = ["budget", "units", "polarisation", "channels"]
KEYS = {"macs": (2_293_000.0, 183_440.0)}
SIZES = {"conv1": 20, "conv2": 50, "fc1": 500}
STRANGE = [
    *("$x^2$ and $", "a_b__c", "<b>&\"'", "畳み込み.層", "😀", "x" * 300, "tab\t\0\x1b[31m\n", "\ud800alone", ""),
    *("عربي", "re\u0301sume\u0301", r"\frac{1}$", "_", "." * 50),
]


def result(dense=3, gating=5, settle=4, sizes=SIZES, keys=KEYS, name="lenet"):
    """A run as ``result.json`` tells it: costs fall on a line, groups close by half."""
    history, units = [], sum(sizes.values())
    for phase, epochs in (("dense", dense), ("gating", gating), ("settle", settle)):
        for epoch in range(1, epochs + 1):
            row = {"phase": phase, "epoch": epoch, "epochs": epochs}
            row |= {"loss": 2 / (1 + len(history)), "accuracy": 1 - 0.1 / (1 + len(history))}
            row |= {"cost": {}, "target": {}, "multiplier": {}, "open_units": None, "units": None}
            if phase != "dense":
                done = epoch / epochs if phase == "gating" else 1.0
                row["cost"] = {key: full + (limit - full) * done * 0.99 for key, (full, limit) in keys.items()}
                row["target"] = {key: full + (limit - full) * done for key, (full, limit) in keys.items()}
                row["groups"] = {group: round(size * (1 - done / 2)) for group, size in sizes.items()}
                row |= {"open_units": sum(row["groups"].values()), "units": units}
            if phase == "gating":
                row["multiplier"] = {key: 3 * done + n for n, key in enumerate(keys)}
                row["polarisation"] = 1 - 0.9 * done
            history.append(row)
    return {
        "name": name,
        "history": history,
        "mask": {"groups": {group: [round(size / 2), size] for group, size in sizes.items()}},
        "budget": {key: {"limit": limit, "dense": full, "slim": 0.97 * limit} for key, (full, limit) in keys.items()},
    }


def words(file):
    """All texts of an SVG."""
    texts = ElementTree.fromstring(file.read_bytes()).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(text.itertext()) for text in texts]


def pictures(*args, **kwargs):
    with styled():
        return charts(*args, **kwargs)


def lines(figure):
    """Lines by label, as numbers by epoch."""
    return {line.get_label(): line.get_xydata() for axes in figure.axes for line in axes.get_lines()}


def column(history, *path):
    found = []
    for row in history:
        value = row
        for key in path:
            value = None if value is None else value.get(key)
        found.append(math.nan if value is None else value)
    return found


# Files.


def test_files_have_the_names_and_words_of_a_run(tmp_path):
    files = draw(result(), tmp_path)
    assert files == [tmp_path / f"{name}.svg" for name in NAMES]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in files)
    budget, units, polarisation, channels = map(words, files)
    for text in (
        "lenet · cost against its budget",
        "MACs",
        "limit 183 k",
        "slim 178 k (97.0%)",
        "multiplier λ",
        "epoch",
    ):
        assert text in budget
    for found in (budget, units, polarisation):
        assert {"dense", "gating", "settle"} <= set(found)
    assert {"conv1 50%", "conv2 50%", "fc1 50%", "all units 50%"} <= set(units)
    assert {"training", "loss", "test", "accuracy", "10.0%"} <= set(polarisation)
    assert {"conv1", "10 of 20", "25 of 50", "250 of 500", "kept", "removed"} <= set(channels)


def test_png_files(tmp_path):
    files = draw(result(), tmp_path, "png")
    assert [file.name for file in files] == [f"{name}.png" for name in NAMES]
    for file in files:
        content = file.read_bytes()
        assert content.startswith(b"\x89PNG") and int.from_bytes(content[16:20], "big") == 1600


def test_another_kind_is_refused(tmp_path):
    with pytest.raises(UsageError, match="'gif'; choose one of svg, png"):
        draw(result(), tmp_path, "gif")


def test_without_matplotlib_the_error_names_the_extra(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ExtraError, match=r'pip install "edgel0\[figures\]"'):
        draw(result(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_only_what_there_are_data_for(tmp_path):
    whole = result()
    assert list(pictures({})) == list(pictures({"history": [], "mask": {"groups": {}}})) == []
    assert list(pictures({"mask": whole["mask"]})) == ["channels"]
    assert list(pictures(result(gating=0, settle=0))) == ["channels"]
    old = [{key: row[key] for key in row if key not in ("groups", "polarisation")} for row in whole["history"]]
    assert list(pictures(whole | {"history": old})) == ["budget", "units", "channels"]


# The same result gives the same file.


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_same_bytes_again(tmp_path, kind):
    first = [file.read_bytes() for file in draw(result(), tmp_path, kind)]
    assert [file.read_bytes() for file in draw(result(), tmp_path, kind)] == first
    for content in first:
        assert b"Matplotlib" not in content and b"<dc:date>" not in content


def test_the_same_bytes_in_another_process_with_another_matplotlibrc(tmp_path):
    first = [file.read_bytes() for file in draw(result(), tmp_path)]
    (tmp_path / "result.json").write_text(json.dumps(result()))
    (tmp_path / "matplotlibrc").write_text("font.size: 30\naxes.facecolor: red\nsvg.fonttype: path\nlines.marker: x\n")
    code = "import json, pathlib as p; from edgel0.report.figures import draw\n"
    code += "with open('result.json') as file: draw(json.load(file), p.Path())"
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=tmp_path, env=environment)
    assert [(tmp_path / f"{name}.svg").read_bytes() for name in NAMES] == first


def test_the_users_settings_stay(tmp_path):
    with matplotlib.rc_context({"font.size": 31.0, "text.parse_math": True}):
        before, level, filters = dict(matplotlib.rcParams), logging.getLogger("matplotlib").level, [*warnings.filters]
        draw(result(), tmp_path)
        assert dict(matplotlib.rcParams) == before and warnings.filters == filters
        assert logging.getLogger("matplotlib").level == level


def test_nothing_but_the_object_oriented_interface_is_loaded(tmp_path):
    code = (
        "import sys, pathlib as p; from edgel0.report.figures import draw; assert 'matplotlib' not in sys.modules;"
        "draw({'mask': {'groups': {'a': [1, 2]}}}, p.Path());"
        "assert not {'matplotlib.pyplot', 'torch'} & {*sys.modules}"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=tmp_path, env=environment)
    assert (tmp_path / "channels.svg").is_file()


# What is drawn is what the data say.


def test_lines_are_the_data():
    keys = KEYS | {"params of head": (4e5, 3e5)}
    whole = result(keys=keys)
    history = whole["history"]
    epochs = np.arange(1, 13)
    made = pictures(whole)
    drawn = lines(made["budget"])
    for key in keys:
        for what in ("cost", "target", "multiplier"):
            np.testing.assert_array_equal(drawn[f"{what} {key}"], np.c_[epochs, column(history, what, key)])
        np.testing.assert_array_equal(drawn[f"slim {key}"], [[12.5, whole["budget"][key]["slim"]]])
        np.testing.assert_array_equal(drawn[f"limit {key}"][:, 1], [keys[key][1]] * 2)
    assert [axes.get_yscale() for axes in made["budget"].axes] == ["log", "linear", "linear"]
    assert [axes.get_ylabel() for axes in made["budget"].axes] == ["MACs", "parameters of head", "multiplier λ"]
    drawn = lines(made["units"])
    for group, size in SIZES.items():
        np.testing.assert_array_equal(drawn[f"group {group}"][:, 1] * size, column(history, "groups", group))
    np.testing.assert_allclose(drawn["all units"][:, 1] * 570, column(history, "open_units"))
    drawn = lines(made["polarisation"])
    for key in ("polarisation", "loss", "accuracy"):
        np.testing.assert_array_equal(drawn[key], np.c_[epochs, column(history, key)])
    assert "step_ms" not in drawn


def test_step_times_are_drawn_where_they_are_known():
    whole = result()
    for n, row in enumerate(whole["history"]):
        row["step_ms"] = 5.0 + n
    np.testing.assert_array_equal(lines(pictures(whole)["polarisation"])["step_ms"][:, 1], np.arange(5.0, 17.0))


def test_a_heat_map_has_a_row_per_group_in_network_order():
    sizes = {f"block{n}": n + 1 for n in range(12)}
    whole = result(sizes=sizes)
    whole["history"][3]["groups"] = dict(reversed(whole["history"][3]["groups"].items()))
    figure = pictures(whole)["units"]
    [image] = [image for axes in figure.axes for image in axes.get_images()]
    expected = np.array([column(whole["history"], "groups", group) for group in sizes]) / np.c_[list(sizes.values())]
    np.testing.assert_array_equal(np.ma.filled(image.get_array(), math.nan), expected)
    left, right, bottom, top = image.get_extent()
    assert (left, right) == (0.5, 12.5) and bottom > top  # the first group on top
    assert [text.get_text() for text in image.axes.get_yticklabels()] == list(sizes)


def test_bars_are_what_is_kept():
    whole = result(sizes={f"g{n}": n + 2 for n in range(50)})
    for count in (50, 7):
        groups = dict([*whole["mask"]["groups"].items()][:count])
        figure = pictures({"mask": {"groups": groups}})["channels"]
        assert len(figure.axes) == (2 if count > 40 else 1)
        bars = {"kept": [], "size": []}
        for axes in figure.axes:
            for drawn in axes.containers:
                bars[drawn.get_label()] += [bar.get_width() for bar in drawn]
        assert [*zip(bars["kept"], bars["size"], strict=True)] == [tuple(row) for row in groups.values()]


def test_phases_are_shaded_where_they_are():
    for figure in (made for name, made in pictures(result()).items() if name != "channels"):
        axes = figure.axes[0]
        boxes = [axes.transData.inverted().transform_bbox(patch.get_window_extent()) for patch in axes.patches]
        edges = [edge for box in boxes for edge in (box.x0, box.x1)]
        assert edges == pytest.approx([0.5, 3.5, 3.5, 8.5, 8.5, 12.5])
        colors = [matplotlib.colors.to_hex(patch.get_facecolor()) for patch in axes.patches]
        assert colors == ["#f0f0f0", "#e4eef7", "#e5f3eb"]


# Extremes.

MANY = {f"blocks.{n // 8}.{n % 8}.conv_with_a_rather_long_name": 8 * (n + 1) for n in range(160)}
ALL_KEYS = {"macs": (4e9, 1e7), "params of a.b": (9.0, 8.0), "weight_bytes": (2e7, 5e6), "activation_bytes": (0.0, 0.0)}
EXTREMES = {
    "one epoch": result(0, 1, 0),
    "one epoch of each": result(1, 1, 1),
    "no dense epochs": result(0, 6, 2),
    "no settling": result(2, 3, 0),
    "200 epochs": result(10, 150, 40),
    "one group": result(sizes={"only": 1}),
    "one group of nothing": result(sizes={"only": 0}),
    "160 groups, 200 epochs": result(2, 190, 8, sizes=MANY, keys=ALL_KEYS),
    "160 groups, one epoch": result(0, 1, 0, sizes=MANY),
    "1000 groups": result(sizes={f"a{n}": n for n in range(1000)}),
    "strange names": result(sizes=dict.fromkeys(STRANGE, 9), name="".join(STRANGE)),
    "few strange names": result(
        sizes=dict.fromkeys(STRANGE[:8], 9), name="", keys={f"macs of {STRANGE[0]}": (9.0, 3.0)}
    ),
    "long names": result(sizes={f"{'backbone.' * 30}{n}.{'conv' * 30}": 4 for n in range(30)}, name="name" * 50),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_extremes(name, tmp_path):
    whole = EXTREMES[name]
    for kind in ("svg", "png") if len(whole["mask"]["groups"]) < 100 else ("svg",):
        files = draw(whole, tmp_path, kind)
        assert [file.stem for file in files] == NAMES
    for file in NAMES:
        assert words(tmp_path / f"{file}.svg")


def test_every_group_of_160_is_there(tmp_path):
    draw(EXTREMES["160 groups, 200 epochs"], tmp_path)
    found = words(tmp_path / "channels.svg")
    assert [text for text in found if text.endswith(" of 1,280")] == ["640 of 1,280"]
    assert sum(" of " in text for text in found) == 160
    assert len(set(found) & set(apart([*MANY], 20))) == 160


def test_no_text_leaves_the_picture():
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for name in ("one epoch", "160 groups, one epoch", "strange names", "few strange names", "long names"):
        with styled():
            for figure in charts(EXTREMES[name]).values():
                drawn = FigureCanvasAgg(figure).get_renderer()
                figure.draw(drawn)
                wide, tall = figure.bbox.width, figure.bbox.height
                texts = [text for axes in figure.axes for text in axes.texts] + figure.texts
                for axes in figure.axes:
                    low, high = sorted(axes.get_ylim())
                    seen = [tick.label1 for tick in axes.yaxis.get_major_ticks() if low <= tick.get_loc() <= high]
                    texts += [*seen, axes.yaxis.label, axes.xaxis.label]
                for text in texts:
                    box = text.get_window_extent(drawn)
                    inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= wide + 1 and box.y1 <= tall + 1
                    assert inside or not text.get_text(), (name, text.get_text(), box)


def test_strange_names_are_shown_as_they_are(tmp_path):
    draw(result(sizes=dict.fromkeys(STRANGE, 9)), tmp_path)
    found = words(tmp_path / "channels.svg")
    for name in ("$x^2$ and $", "a_b__c", "<b>&\"'", "畳み込み.層", "😀", "tab���[31m�", "�alone", r"\frac{1}$", "_"):
        assert name in found


# Letters.


def test_names_are_shortened():
    assert short("layer1.0.conv1", 14) == "layer1.0.conv1"
    assert short("layer1.0.conv1", 8) == "…0.conv1"
    assert short("layer1.0.conv1", 7) == "…conv1"
    assert short("畳み込み.層", 6) == "…み.層"
    assert short("", 5) == "" and clean("a\0\ud800b") == "a��b"


def test_shortened_names_stay_apart():
    assert apart(["a.conv1", "b.conv1"], 20) == ["a.conv1", "b.conv1"]
    assert apart([f"encoder.layer.{n}.attention.output" for n in range(3)], 12) == [f"…layer.{n}…" for n in range(3)]
    assert apart(["a.very_long_name", "b.very_long_name", "c_name"], 9) == ["a.ve…name", "b.ve…name", "c_name"]
    assert apart([], 5) == [] and apart(["x" * 9], 5) == ["…xxxx"] and apart(["a", "a"], 5) == ["a", "a"]


def test_labels_are_moved_apart_and_stay_inside():
    assert spread([1, 5, 9], [2, 2, 2], 0, 10) == [1, 5, 9]
    assert spread([5, 5, 5], [2, 2, 2], 0, 10) == [3, 5, 7]
    assert spread([9, 0, 9.5], [2, 2, 2], 0, 10) == [7, 1, 9]
    rng = np.random.default_rng(0)
    for _ in range(50):
        sizes = rng.uniform(0.5, 1.5, 6)
        found = np.array(spread(list(rng.uniform(-2, 12, 6)), list(sizes), 0, 10))
        order = np.argsort(found)
        assert (np.diff(found[order]) >= (sizes[order][1:] + sizes[order][:-1]) / 2 - 1e-9).all()
        assert (found - sizes / 2 >= -1e-9).all() and (found + sizes / 2 <= 10 + 1e-9).all()


def test_widths_grow_with_letters():
    with styled():
        assert 0 == inches("", 8) < inches("a", 8) < inches("ab", 8) < inches("ab", 16)
        assert inches("層", 72) >= 1.0  # as wide as it is high
