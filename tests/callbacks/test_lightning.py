"""Lightning's own Trainer with the callback ends where the plain loop ends; it counts, resumes, logs and refuses."""

import functools
import sys
from types import SimpleNamespace

import pytest
import shim  # noqa: F401 - lightning imports torchvision where it is installed
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader

import edgel0
from callbacks.bench import DENSE, EXAMPLE, LIMITS, SHARES, STEPS, adam, batches, net, plain, readme, same
from edgel0 import redundancy
from edgel0.callbacks.lightning import L0Pruning
from edgel0.errors import BudgetError, ExtraError, UsageError

pytestmark = [
    # advice on speed, on loaders with no workers
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    # Lightning 2.6 asks torch 2.13 for its leaves in the old way
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
]


class Classifier(LightningModule):
    def __init__(self, make=adam):
        super().__init__()
        self.net, self.make = net(), make

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return self.make(self.parameters())


class Inner(Classifier):
    """Its own forward is not what training calls."""

    def training_step(self, batch, index):
        return F.cross_entropy(self.net(batch[0]), batch[1])


def pruning(**options):
    return L0Pruning(EXAMPLE, **(SHARES | LIMITS | options))


def trainer(tmp_path, *callbacks, **options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", "max_epochs": 1, "default_root_dir": tmp_path}
    return Trainer(callbacks=list(callbacks), **(quiet | options))


def loader(count=STEPS):
    return DataLoader(batches(count), batch_size=None)


@pytest.mark.parametrize("shrink", [True, False])
@pytest.mark.parametrize("module", [Classifier, Inner])
def test_ends_where_the_plain_loop_ends(tmp_path, module, shrink):
    model, callback = module(), pruning(shrink=shrink, module="net" if module is Inner else "")
    trainer(tmp_path, callback).fit(model, loader())
    wanted = plain(net(), batches(STEPS), shrink=shrink)
    assert wanted.masks_of_original.open.sum() < wanted.original.units
    assert callback.schedule.masks_of_original.open.tolist() == wanted.masks_of_original.open.tolist()
    prefix = "" if module is Inner else "net."
    found, expected = callback.run.model.state_dict(), wanted.model.state_dict()
    for key, value in expected.items():
        name = key if key.startswith("edgel0") else prefix + key
        assert torch.equal(found[name], value), key
    assert (model.net[0].out_features < 24) is shrink
    slim = callback.slim()
    assert slim.cost.macs <= 0.3 * DENSE
    x = batches(1)[0][0]
    model.eval()
    with torch.no_grad():
        assert torch.allclose(slim.program.module()(x[:1]), model(x[:1]), atol=1e-5)


@pytest.mark.parametrize("option", [{"noise": 0.5}, {"redundancy": False}, {"gate_lr": 0.2}])
def test_what_a_schedule_can_be_told_reaches_it(tmp_path, monkeypatch, option):
    monkeypatch.setattr(redundancy, "SOLVED", 1)  # else nothing is known of it in so few steps
    callback = pruning(**option)
    trainer(tmp_path, callback).fit(Classifier(), loader())
    wanted = plain(net(), batches(STEPS), **option)
    assert torch.equal(callback.run.model.net[4].bias, wanted.model[4].bias)
    assert not torch.equal(wanted.model[4].bias, plain(net(), batches(STEPS)).model[4].bias)


def test_accumulation_counts_steps_of_the_optimizer(tmp_path):
    callback, data = pruning(), batches(2 * STEPS)
    trainer(tmp_path, callback, accumulate_grad_batches=2).fit(Classifier(), DataLoader(data, batch_size=None))
    wanted = plain(net(), data, accumulate=2)
    assert callback.schedule.at == STEPS
    assert callback.schedule.masks_of_original.open.tolist() == wanted.masks_of_original.open.tolist()
    assert torch.equal(callback.run.model.net[4].bias, wanted.model[4].bias)


def test_an_epoch_that_ends_within_an_accumulation_steps_once_more(tmp_path):
    callback = pruning()
    trainer(tmp_path, callback, accumulate_grad_batches=2, max_epochs=4).fit(Classifier(), loader(19))
    assert callback.schedule.at == 40
    assert callback.masks.coupling is callback.schedule.gates.coupling


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_bfloat16_and_clipping_end_where_the_plain_loop_ends(tmp_path, clip):
    callback = pruning()
    options = {"precision": "bf16-mixed"} | ({"gradient_clip_val": clip} if clip else {})
    trainer(tmp_path, callback, **options).fit(Classifier(), loader())
    wanted = plain(net(), batches(STEPS), clip=clip, autocast=True)
    assert callback.schedule.masks_of_original.open.tolist() == wanted.masks_of_original.open.tolist()
    assert torch.equal(callback.run.model.net[4].bias, wanted.model[4].bias)
    assert callback.slim().cost.macs <= 0.3 * DENSE


def test_float16_ends_where_the_plain_loop_ends(tmp_path):
    """The gates' gradient is unscaled once: twice, and the budget's would be all that is left of it."""
    callback, scaled = pruning(), MixedPrecision("16-mixed", "cpu")  # by name Lightning allows it on a GPU only
    trainer(tmp_path, callback, plugins=[scaled], gradient_clip_val=0.05).fit(Classifier(), loader())
    scaler = torch.amp.GradScaler("cpu")
    wanted = plain(net(), batches(STEPS), clip=0.05, autocast=True, half=torch.float16, scaler=scaler)
    assert torch.equal(callback.run.gates.log_alpha, wanted.gates.log_alpha)
    assert torch.equal(callback.run.model.net[4].bias, wanted.model[4].bias)


class Overflowing(Callback):
    """Makes the gradient of one step infinite, as float16 does now and then."""

    def __init__(self, step):
        self.step = step
        self.before = self.after = None

    def on_after_backward(self, trainer, module):
        if trainer.global_step == self.step:
            self.before = module.edgel0_gates.log_alpha.detach().clone()
            module.edgel0_gates.log_alpha.grad[0] = float("inf")

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if trainer.global_step == self.step + 1:
            self.after = module.edgel0_gates.log_alpha.detach().clone()


def test_an_infinite_gradient_leaves_a_step_out(tmp_path):
    overflow, callback = Overflowing(12), pruning(shrink=False)
    scaled = MixedPrecision("16-mixed", "cpu")
    trainer(tmp_path, overflow, callback, plugins=[scaled], gradient_clip_val=1.0).fit(Classifier(), loader())
    assert scaled.scaler.get_scale() == 2.0**15  # halved, once
    assert torch.equal(overflow.before, overflow.after)
    assert callback.slim().cost.macs <= 0.3 * DENSE


class Interrupt(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(f"{trainer.default_root_dir}/now.ckpt")
            trainer.should_stop = True


class Resumable(DataLoader):
    """Lightning goes on within an epoch where the loader says that it does."""

    at = 0

    def __iter__(self):
        while self.at < len(self.dataset):
            yield self.dataset[self.at]
            self.at += 1
        self.at = 0

    def state_dict(self):
        return {"at": self.at + 1}

    def load_state_dict(self, state):
        self.at = state["at"]


@pytest.mark.parametrize("shrink", [True, False])
@pytest.mark.parametrize(("step", "phase"), [(5, "dense"), (20, "gating"), (28, "settle"), (33, "settle")])
def test_resumes_in_every_phase(tmp_path, step, phase, shrink):
    first = pruning(shrink=shrink)
    data = batches(STEPS)
    trainer(tmp_path, first, Interrupt(step)).fit(Classifier(), Resumable(data, batch_size=None))
    assert (first.schedule.at, first.schedule.phase) == (step, phase)
    torch.manual_seed(77)
    model, again = Classifier(), pruning(shrink=shrink)
    nn.init.zeros_(model.net[0].weight)  # everything has to come from the checkpoint
    trainer(tmp_path, again).fit(model, Resumable(data, batch_size=None), ckpt_path=tmp_path / "now.ckpt")
    whole = pruning(shrink=shrink)
    trainer(tmp_path, whole).fit(Classifier(), Resumable(data, batch_size=None))
    assert same(again.schedule, whole.schedule)
    assert (again.schedule.left.size < again.schedule.original.units + 1) is shrink


def test_a_module_that_shrank_is_rebuilt_from_its_checkpoint(tmp_path):
    first = pruning()
    trainer(tmp_path, first, Interrupt(28)).fit(Classifier(), Resumable(batches(STEPS), batch_size=None))
    weights = torch.load(tmp_path / "now.ckpt", weights_only=True)["state_dict"]
    assert weights["net.0.bias"].shape[0] < 24  # else the tests of resuming say little


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty")
def test_a_run_of_other_steps_does_not_resume(tmp_path):
    saving = ModelCheckpoint(tmp_path, save_last=True, every_n_epochs=1)
    options = {"enable_checkpointing": True}
    trainer(tmp_path, pruning(), saving, max_epochs=2, **options).fit(Classifier(), loader(20))
    with pytest.raises(UsageError, match=r"done 40 of .*the trainer 40 of \(16, "):
        trainer(tmp_path, pruning(), saving, max_epochs=4, **options).fit(
            Classifier(), loader(20), ckpt_path=tmp_path / "last.ckpt"
        )


def test_testing_a_checkpoint_of_a_larger_network_is_refused(tmp_path):
    callback = pruning()
    run = trainer(tmp_path, callback, Interrupt(9))
    run.fit(Classifier(), loader())
    model, again = Classifier(), pruning()
    run = trainer(tmp_path, again)
    run.fit(model, loader())
    with pytest.raises(UsageError, match="shrunk beyond the state"):
        model.load_state_dict(torch.load(tmp_path / "now.ckpt", weights_only=True)["state_dict"])


def test_a_checkpoint_without_gates_is_refused(tmp_path):
    run = trainer(tmp_path)
    run.fit(Classifier(), loader(4))
    run.save_checkpoint(tmp_path / "dense.ckpt")
    with pytest.raises(UsageError, match="saved without gates"):
        trainer(tmp_path, pruning()).fit(Classifier(), loader(), ckpt_path=tmp_path / "dense.ckpt")


def test_the_log_has_figures_and_histograms(tmp_path):
    callback = pruning()
    logger = TensorBoardLogger(tmp_path, name="", version="")
    trainer(tmp_path, callback, logger=logger, log_every_n_steps=10).fit(Classifier(), loader())
    events = EventAccumulator(str(tmp_path), {"histograms": 0}).Reload()
    tags = events.Tags()
    assert {"l0/phase", "l0/cost/macs", "l0/target/macs", "l0/multiplier/macs", "l0/polarisation"} <= set(
        tags["scalars"]
    )
    assert [(e.step, e.value) for e in events.Scalars("l0/phase")] == [(9, 1), (19, 1), (29, 2), (39, 2)]
    last = callback.schedule.figures()
    assert events.Scalars("l0/cost/macs")[-1].value == pytest.approx(last["cost/macs"])
    assert events.Scalars("l0/open_units")[-1].value == last["open_units"] == callback.masks.open[1:].sum()
    group = callback.schedule.original.groups[0].name
    assert [h.step for h in events.Histograms(f"l0/probability/{group}")] == [9, 19, 29, 39]


def test_the_example_is_the_modules_own_by_default(tmp_path):
    model, callback = Classifier(), L0Pruning(**SHARES, **LIMITS)
    model.example_input_array = EXAMPLE
    trainer(tmp_path, callback).fit(model, loader())
    assert callback.slim().cost.macs <= 0.3 * DENSE
    with pytest.raises(UsageError, match="give the callback an example"):
        trainer(tmp_path, L0Pruning(**SHARES, **LIMITS)).fit(Classifier(), loader())


# What it refuses.


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"automatic_optimization": False}, "optimizes manually"),
        ({"make": lambda p: torch.optim.LBFGS(p)}, "made LBFGS"),
    ],
)
def test_refuses_what_it_cannot_follow(tmp_path, change, says):
    model = Classifier()
    for key, value in change.items():
        setattr(model, key, value)
    with pytest.raises(UsageError, match=says):
        trainer(tmp_path, pruning()).fit(model, loader())


def test_several_optimizers_are_refused_by_lightning_and_by_us(tmp_path):
    class Several(Classifier):
        def configure_optimizers(self):
            return [adam(self.net[0].parameters()), adam(self.net[2].parameters())]

    with pytest.raises(RuntimeError, match="multiple optimizers is only supported with manual optimization"):
        trainer(tmp_path, pruning()).fit(Several(), loader())
    model = Several()
    model.automatic_optimization = False
    with pytest.raises(UsageError, match="Several optimizes manually"):
        trainer(tmp_path, pruning()).fit(model, loader())


def test_refuses_an_unknown_number_of_steps(tmp_path):
    with pytest.raises(UsageError, match="expects inf optimizer steps"):
        trainer(tmp_path, pruning(), max_epochs=-1).fit(Classifier(), loader())


def test_refuses_a_module_that_training_does_not_call(tmp_path):
    with pytest.raises(UsageError, match="did not call it"):
        trainer(tmp_path, pruning()).fit(Inner(), loader())


def test_refuses_another_model_and_a_second_run(tmp_path):
    callback, model = pruning(), Classifier()
    trainer(tmp_path, callback).fit(model, loader())
    with pytest.raises(UsageError, match="on another Classifier already"):
        trainer(tmp_path, callback).fit(Classifier(), loader())
    with pytest.raises(UsageError, match="done 40 of"):
        trainer(tmp_path, callback).fit(model, loader())


def test_refuses_strategies_that_spread_parameters():
    module = SimpleNamespace(automatic_optimization=True)
    with pytest.raises(UsageError, match="the strategy is SimpleNamespace"):
        pruning().setup(SimpleNamespace(strategy=SimpleNamespace()), module, "fit")


def test_limits_are_read_before_training(tmp_path):
    with pytest.raises(BudgetError):
        trainer(tmp_path, pruning(macs="3 parsecs")).fit(Classifier(), loader())


def test_there_is_no_mask_before_it_is_made(tmp_path):
    callback = pruning()
    with pytest.raises(UsageError, match="no model yet"):
        _ = callback.masks
    trainer(tmp_path, callback, Interrupt(20)).fit(Classifier(), loader())
    with pytest.raises(UsageError, match="stopped at step 20 of 40, in the phase 'gating'"):
        callback.slim()


def test_gates_that_were_attached_before_are_taken(tmp_path):
    model, callback = Classifier(), L0Pruning(**SHARES, **LIMITS)
    gates = edgel0.attach(model, EXAMPLE, exclude=("net.0",))
    trainer(tmp_path, callback).fit(model, loader())
    assert callback.schedule.gates is gates
    assert model.net[0].out_features == 24


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, "edgel0.callbacks.lightning")
    with pytest.raises(ExtraError, match=r'pip install "edgel0\[lightning\]"'):
        __import__("edgel0.callbacks.lightning")


def test_the_readmes_lines(tmp_path):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    names = {"example": EXAMPLE, "module": Classifier(), "loader": loader(20)}
    names["Trainer"] = functools.partial(Trainer, enable_model_summary=False, default_root_dir=tmp_path, **quiet)
    exec(readme("edgel0.callbacks.lightning"), names)
    assert names["slim"].cost.macs <= 0.25 * DENSE
