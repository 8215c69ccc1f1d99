import json

import numpy as np
import pytest
import torch
from projects import edgel0, paragraph, project, run_until
from torch import nn

from edgel0 import checkpoints
from edgel0.errors import RecipeError, TrainingError
from edgel0.samples import as_data, check_fit

NEVER = ("never", 0, 0.0)
VARIANTS = {
    "shrinking": [],
    "a size written out": [("tiny:build", "tiny:build_fixed")],
    "sgd": [("learning_rate = 1e-2", 'learning_rate = 5e-2\noptimizer = "sgd"'), ("distill = true\n", "")],
}
LIMIT = "limit: macs 11,520 of 38,400 (30.0 %), smallest reachable 913"
MOMENTS = [  # phase, epoch, share of it, and what the second run says first
    ("dense", 1, 0.1, LIMIT),
    ("dense", 2, 0.5, "going on after dense epoch 1"),
    ("gating", 1, 0.1, "going on after dense epoch 2"),
    ("gating", 3, 1.0, "going on after gating epoch 2"),
    ("settle", 1, 0.6, "going on after gating epoch 4"),
    ("settle", 2, 0.1, "going on after settle epoch 1"),
    ("slimming", 0, 0.0, "going on after settle epoch 2"),
    ("exporting slim", 0, 0.0, "going on after settle epoch 2"),
]


def results(folder):
    """All that must be the same for the same recipe, as bytes."""
    return {name: (folder / "tiny" / name).read_bytes() for name in ("result.json", "slim.pt2", "dense.pt2")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Variant -> (recipe, results of a run that nobody interrupted)."""
    made = {}
    for name, changes in VARIANTS.items():
        folder = tmp_path_factory.mktemp("whole")
        recipe = project(folder, *changes)
        run_until(recipe, folder / "runs", *NEVER)
        made[name] = recipe, results(folder / "runs")
    return made


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("phase", "epoch", "done", "first"), MOMENTS)
def test_a_killed_run_ends_with_the_same_bits(tmp_path, whole, variant, phase, epoch, done, first):
    recipe, expected = whole[variant]
    assert run_until(recipe, tmp_path, phase, epoch, done)[-1] == "killed"
    assert not (tmp_path / "tiny").exists()
    said = run_until(recipe, tmp_path, *NEVER)
    assert said[0] == first
    assert results(tmp_path) == expected


def test_a_run_killed_in_every_epoch_comes_to_an_end(tmp_path, whole):
    recipe, expected = whole["shrinking"]
    epochs = [
        (phase, epoch) for phase, count in (("dense", 2), ("gating", 4), ("settle", 2)) for epoch in range(1, count + 1)
    ]
    begun = [LIMIT, LIMIT, *(f"going on after {phase} epoch {epoch}" for phase, epoch in epochs)]
    for (phase, epoch), first in zip(epochs, begun[: len(epochs)], strict=True):
        said = run_until(recipe, tmp_path, phase, epoch, 0.3)
        assert (said[0], said[-1]) == (first, "killed")
    run_until(recipe, tmp_path, *NEVER)
    assert results(tmp_path) == expected


def test_two_runs_of_one_recipe_are_equal(tmp_path, whole):
    recipe, expected = whole["shrinking"]
    run_until(recipe, tmp_path, *NEVER)
    assert results(tmp_path) == expected


def test_where_the_forward_writes_sizes_out_training_settles_at_full_size(whole):
    (_, small), (_, full) = whole["shrinking"], whole["a size written out"]
    assert json.loads(small["result.json"])["shrunk"] is True
    result = json.loads(full["result.json"])
    assert result["shrunk"] is False
    assert result["slim"]["macs"] <= result["budget"]["macs"]["limit"]
    assert result["slim"]["accuracy"] > 0.8


def test_training_reaches_the_budget_and_keeps_the_accuracy(whole):
    for variant in VARIANTS:
        result = json.loads(whole[variant][1]["result.json"])
        assert result["budget"]["macs"]["slim"] == result["slim"]["macs"] <= result["budget"]["macs"]["limit"]
        assert result["slim"]["accuracy"] > 0.8
        rows = [(row["phase"], row["epoch"]) for row in result["history"]]
        assert rows == [
            *[("dense", n) for n in (1, 2)],
            *[("gating", n) for n in range(1, 5)],
            ("settle", 1),
            ("settle", 2),
        ]


def test_phases_without_epochs(tmp_path):
    recipe = project(tmp_path, ("dense_epochs = 2", "dense_epochs = 0"), ("settle_epochs = 2", "settle_epochs = 0"))
    run_until(recipe, tmp_path / "whole", *NEVER)
    run_until(recipe, tmp_path / "cut", "gating", 4, 0.5)
    run_until(recipe, tmp_path / "cut", *NEVER)
    assert results(tmp_path / "whole") == results(tmp_path / "cut")


# Checkpoints that are no good.


def _halved(content):
    return content[: len(content) // 2]


def _flipped(content):
    at = 3 * len(content) // 4
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("damage", [_halved, _flipped, lambda _: b"", lambda _: b"cos\nsystem\n(S'true'\ntR."])
def test_a_damaged_checkpoint_is_told_and_not_used(tmp_path, whole, damage):
    recipe, expected = whole["shrinking"]
    run_until(recipe, tmp_path, "gating", 2, 0.5)
    file = tmp_path / ".tiny.partial" / "checkpoint.pt"
    file.write_bytes(damage(file.read_bytes()))
    said = run_until(recipe, tmp_path, *NEVER)
    assert said[:2] == ["the checkpoint is damaged; training begins anew", "dense 1"]
    assert results(tmp_path) == expected


def test_a_folder_in_the_place_of_the_checkpoint(tmp_path, whole):
    recipe, expected = whole["shrinking"]
    (tmp_path / ".tiny.partial" / "checkpoint.pt" / "inner").mkdir(parents=True)
    assert run_until(recipe, tmp_path, *NEVER)[0] == LIMIT
    assert results(tmp_path) == expected


@pytest.mark.parametrize("what", ["recipe", "model", "weights", "data"])
def test_a_checkpoint_of_another_run_is_not_used(tmp_path, what):
    recipe = project(tmp_path)
    run_until(recipe, tmp_path, "gating", 2, 0.5)
    changes = {
        "model": "\n_build = build\ndef build():\n    model = Tiny()\n    model.dropout.p = 0.2\n    return model\n",
        "weights": "\n_build = build\ndef build():\n    torch.rand(1)\n    return _build()\n",
        "data": "\n_load = load\ndef load():\n    a, b, c, d = _load()\n    return a + 1e-3, b, c, d\n",
    }
    project(tmp_path, *([("1e-2", "2e-2")] if what == "recipe" else []), extra=changes.get(what, ""))
    said = run_until(recipe, tmp_path, "dense", 1, 0.0)
    assert said[:2] == ["the checkpoint is of another recipe, model, data or version; training begins anew", "dense 1"]


def test_a_checkpoint_holds_what_was_saved_and_never_a_pickle(tmp_path):
    file, key = tmp_path / "a", b"k" * 32
    checkpoints.save(file, key, {"x": torch.arange(3), "y": [1.5, "z"]})
    found = checkpoints.load(file, key)
    assert torch.equal(found["x"], torch.arange(3)) and found["y"] == [1.5, "z"]
    assert checkpoints.load(tmp_path / "absent", key) == ""
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# Runs that diverge.

BREAKING = """
class Breaking(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, forward, backward):
        ctx.factor = backward
        return x * forward

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None, None


class Fragile(Tiny):
    calls = 0

    def forward(self, x):
        x = super().forward(x)
        if not self.training:
            return x
        Fragile.calls += 1
        return Breaking.apply(x, *(FACTORS if Fragile.calls == 25 else (1.0, 1.0)))


def build():
    Fragile.calls = 0
    return Fragile()
"""


@pytest.mark.parametrize(
    ("factors", "told"),
    [
        ("float('nan'), 1.0", "the loss became nan in gating epoch 2, batch 4"),
        ("1.0, float('nan')", "gates is not a finite number in step 25 (gating)"),
    ],
)
def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_good_state(tmp_path, factors, told):
    recipe = project(tmp_path, extra=BREAKING + f"\nFACTORS = {factors}\n")
    code, _, error = edgel0("run", recipe, "--out", tmp_path)
    paragraph(error, told, "The last good state is kept in", "Lower train.learning_rate (0.01)")
    assert code == 2
    assert run_until(recipe, tmp_path, "gating", 2, 0.1)[0] == "going on after gating epoch 1"


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    recipe = project(tmp_path, extra=BREAKING.replace("== 25", "== 14") + "\nFACTORS = 1.0, float('nan')\n")
    code, _, error = edgel0("run", recipe, "--out", tmp_path)
    paragraph(error, "holds values that are not finite numbers after dense epoch 2")
    assert code == 2
    assert run_until(recipe, tmp_path, "dense", 2, 0.1)[0] == "going on after dense epoch 1"


def test_a_run_that_diverges_at_once_has_nothing_to_keep(tmp_path):
    recipe = project(tmp_path, ("learning_rate = 1e-2", 'learning_rate = 1e9\noptimizer = "sgd"'))
    code, _, error = edgel0("run", recipe, "--out", tmp_path)
    paragraph(error, "in dense epoch 1", "Lower train.learning_rate (1e+09)")
    assert code == 2 and "is kept" not in error


# Data, and models that do not fit them.

X, Y = np.zeros((4, 1, 8, 8), np.float32), np.array([0, 1, 2, 3])


def _with(value):
    x = X.copy()
    x[1, 0, 2, 3] = value
    return x


@pytest.mark.parametrize(
    ("loaded", "told"),
    [
        (None, "returned NoneType"),
        ((X, Y), "returned 2 things; four arrays are needed"),
        ({"a": 1, "b": 2, "c": 3, "d": 4}, "returned dict"),
        ((X, Y[:3], X, Y), "4 train samples and 3 labels"),
        ((X, Y, X[:0], Y[:0]), "0 test samples"),
        ((X, Y.astype(float), X, Y), "train labels are float64"),
        ((X, Y, X, np.eye(4, dtype=int)), "test labels are int64 of shape (4, 4)"),
        ((_with(np.nan), Y, X, Y), "1 of 4 train samples hold values that are not finite"),
        ((X, Y, _with(-np.inf), Y), "1 of 4 test samples"),
        ((_with(1).astype(float) * 1e300, Y, X.astype(float), Y), "finite float32"),
        ((X, Y, X[..., :7], Y), "of shape (1, 8, 7)"),
        ((X, Y, X.astype(int), Y), "test samples int64"),
        (([["a"]] * 4, Y, X, Y), "x_train is list of type <U1"),
        ((X, [None] * 4, X, Y), "y_train is list of type object"),
        ((X, Y, 3.0, Y), "x_test is float of type float64 and shape ()"),
        ((X + 1j, Y, X, Y), "complex"),
    ],
)
def test_data_that_cannot_be_learned_from(loaded, told):
    with pytest.raises(TrainingError) as caught:
        as_data(loaded)
    assert told in str(caught.value)


def test_data_in_every_usual_form():
    wanted = as_data((X, Y, X, Y))
    frozen = X.copy()
    frozen.flags.writeable = False
    forms = [
        (X.astype(np.float64), Y.astype(np.uint8), X.astype(np.float16), Y.astype(np.int32)),
        (X.astype(">f4"), Y.astype(">i8"), frozen, list(map(int, Y))),
        (X[::-1], Y[::-1][::-1], torch.from_numpy(X).requires_grad_(), torch.from_numpy(Y)),
    ]
    for form in forms:
        data = as_data(form)
        assert data.digest == wanted.digest
        assert data.x_train.dtype == torch.float32 and data.y_train.dtype == torch.int64
    assert as_data((X.astype(np.uint8), Y, X.astype(np.uint8), Y)).x_train.dtype == torch.int64


class Answering(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer, self.weight = answer, nn.Parameter(torch.zeros(64, 4))

    def forward(self, x):
        return self.answer(x, x.flatten(1) @ self.weight)


@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        (lambda x, y: y[:, :3], TrainingError, "the train labels run from 0 to 3, and the model has 3 outputs"),
        (lambda x, y: (y, y), TrainingError, "(2, 1, 8, 8) gives tuple"),
        (lambda x, y: y[:1], TrainingError, "gives float32 of shape (1, 4)"),
        (lambda x, y: y.argmax(1), TrainingError, "gives int64 of shape (2,)"),
        (lambda x, y: y.long(), TrainingError, "gives int64 of shape (2, 4)"),
        (lambda x, y: y @ y, RecipeError, "RuntimeError"),
        (lambda x, y: {}["weight"], RecipeError, "KeyError: 'weight'"),
    ],
)
def test_a_model_that_does_not_fit_the_data(tmp_path, answer, kind, told):
    with pytest.raises(kind) as caught:
        check_fit(Answering(answer), as_data((X, Y, X, Y)), tmp_path)
    assert told in str(caught.value)


def test_labels_below_zero_and_a_model_without_weights(tmp_path):
    with pytest.raises(TrainingError, match="test labels run from -1 to 2"):
        check_fit(Answering(lambda x, y: y), as_data((X, Y, X, Y - 1)), tmp_path)
    with pytest.raises(TrainingError, match="nothing to train"):
        check_fit(Answering(lambda x, y: y).requires_grad_(False), as_data((X, Y, X, Y)), tmp_path)


def test_a_last_batch_of_one_sample_is_left_out(tmp_path):
    recipe = project(tmp_path, ("batch_size = 60", "batch_size = 57"))  # 400 = 7 * 57 + 1
    said = run_until(recipe, tmp_path, "dense", 2, 0.0)
    assert said.count("dense 1") == 7 + 1  # one tick each, and the epoch's
