"""Hugging Face's own Trainer with the callback ends where the plain loop ends; it counts, resumes, logs and refuses."""

import sys

import pytest
import shim  # noqa: F401 - transformers imports torchvision where it finds it
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import Dataset
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from callbacks.bench import DENSE, EXAMPLE, LIMITS, SHARES, STEPS, adam, examples, net, plain, readme, same
from edgel0 import redundancy
from edgel0.callbacks.transformers import L0Pruning
from edgel0.errors import BudgetError, ExtraError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator is found")
SIZE = 16


class Classifier(nn.Sequential):
    """The network of the plain loop, called as Trainer calls models."""

    def forward(self, x, labels=None):
        for layer in self:
            x = layer(x)
        return x if labels is None else {"loss": F.cross_entropy(x, labels), "logits": x}


def model():
    return Classifier(*net())


class Data(Dataset):
    def __init__(self, count, name="x"):
        self.x, self.labels = examples(count)
        self.name = name

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, at):
        return {self.name: self.x[at], "labels": self.labels[at]}


def pruning(of, **options):
    return L0Pruning(of, EXAMPLE, **(SHARES | LIMITS | options))


def trainer(tmp_path, of, *callbacks, steps=STEPS, data=None, optimizer=adam, **options):
    quiet = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "max_grad_norm": 0.0}
    quiet |= {"per_device_train_batch_size": SIZE, "num_train_epochs": 1, "logging_strategy": "no"}
    quiet |= {"lr_scheduler_type": "constant", "train_sampling_strategy": "sequential"}
    arguments = TrainingArguments(str(tmp_path), **(quiet | options))
    data = Data(steps * SIZE * arguments.gradient_accumulation_steps) if data is None else data
    pair = (optimizer(of.parameters()) if optimizer else None, None)
    return Trainer(of, arguments, train_dataset=data, callbacks=list(callbacks), optimizers=pair)


def plainly(count, **options):
    x, labels = examples(count * SIZE)
    return plain(model(), list(zip(x.split(SIZE), labels.split(SIZE), strict=True)), **options)


@pytest.mark.parametrize("shrink", [True, False])
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_ends_where_the_plain_loop_ends(tmp_path, shrink, clip):
    of = model()
    callback = pruning(of, shrink=shrink)
    trainer(tmp_path, of, callback, max_grad_norm=clip).train()
    assert same(callback.schedule, plainly(STEPS, shrink=shrink, clip=clip))
    assert (of[0].out_features < 24) is shrink
    slim = callback.slim()
    assert slim.cost.macs <= 0.3 * DENSE
    x = examples(1)[0]
    of.eval()
    with torch.no_grad():
        assert torch.allclose(slim.program.module()(x), of(x), atol=1e-5)


@pytest.mark.parametrize("option", [{"noise": 0.5}, {"redundancy": False}, {"gate_lr": 0.2}])
def test_what_a_schedule_can_be_told_reaches_it(tmp_path, monkeypatch, option):
    monkeypatch.setattr(redundancy, "SOLVED", 1)  # else nothing is known of it in so few steps
    of = model()
    callback, wanted = pruning(of, **option), plainly(STEPS, **option)
    trainer(tmp_path, of, callback).train()
    assert same(callback.schedule, wanted)
    assert not torch.equal(wanted.model[4].bias, plainly(STEPS).model[4].bias)


def test_the_gates_gradient_has_no_part_in_clipping(tmp_path):
    """Else the weights' gradients are clipped the more, the more the gates move."""
    of, norms = model(), []

    class Norm(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
            norms.append(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))

    trainer(tmp_path, of, pruning(of, shrink=False), Norm(), max_grad_norm=0.001).train()
    torch.testing.assert_close(torch.stack(norms), torch.full((STEPS,), 0.001), rtol=0.01, atol=0)


@pytest.mark.parametrize("shrink", [True, False])
def test_accumulation_counts_steps_of_the_optimizer(tmp_path, shrink):
    of = model()
    callback = pruning(of, shrink=shrink)
    trainer(tmp_path, of, callback, gradient_accumulation_steps=2, max_grad_norm=0.05).train()
    assert callback.schedule.at == STEPS
    assert same(callback.schedule, plainly(2 * STEPS, accumulate=2, shrink=shrink, clip=0.05))


def test_bfloat16_ends_where_the_plain_loop_ends(tmp_path):
    of = model()
    callback = pruning(of)
    trainer(tmp_path, of, callback, bf16=True, max_grad_norm=0.05).train()
    assert same(callback.schedule, plainly(STEPS, autocast=True, clip=0.05))
    assert callback.slim().cost.macs <= 0.3 * DENSE


def test_an_optimizer_of_the_trainers_own(tmp_path):
    of = model()
    callback = pruning(of)
    trainer(tmp_path, of, callback, optimizer=None, weight_decay=0.1, learning_rate=0.01).train()
    assert callback.slim().cost.macs <= 0.3 * DENSE
    assert callback._hook is None


class Interrupt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


@pytest.mark.parametrize("shrink", [True, False])
@pytest.mark.parametrize(("step", "phase"), [(5, "dense"), (20, "gating"), (28, "settle"), (33, "settle")])
def test_resumes_in_every_phase(tmp_path, step, phase, shrink):
    of = model()
    first = pruning(of, shrink=shrink)
    trainer(tmp_path, of, first, Interrupt(step)).train()
    assert (first.schedule.at, first.schedule.phase) == (step, phase)
    anew = model()
    torch.manual_seed(77)
    nn.init.zeros_(anew[0].weight)  # everything has to come from the checkpoint
    again = pruning(anew, shrink=shrink)
    trainer(tmp_path, anew, again).train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert same(again.schedule, plainly(STEPS, shrink=shrink))
    assert (again.schedule.left.size < again.schedule.original.units + 1) is shrink


# Models of transformers, which save themselves.


class Tokens(Dataset):
    """A sum of tokens to be told odd from even, or the tokens themselves to be continued."""

    def __init__(self, count, classes):
        generator = torch.Generator().manual_seed(2)
        self.ids, self.classes = torch.randint(32, (count, 6), generator=generator), classes

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, at):
        ids = self.ids[at]
        return {"input_ids": ids, "labels": ids[0] % 2 if self.classes else ids}


def bert():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    return BertForSequenceClassification(BertConfig(vocab_size=32, max_position_embeddings=8, **sizes))


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=8, n_embd=16, n_layer=2, n_head=4, use_cache=False))


@pytest.mark.parametrize(
    ("make", "why_not"),
    [(bert, ""), (gpt2, "attn.c_proj': its forward does not run at the smaller size")],
)
def test_a_pretrained_model_saves_shrinks_and_resumes(tmp_path, make, why_not):
    def run(*others, **options):
        of = make()
        example = {"input_ids": torch.zeros(1, 6, dtype=torch.long)}
        callback = L0Pruning(of, example, macs=0.6, keep_at_least=2, dense=0.1, settle=0.3, gate_lr=0.3)
        made = trainer(tmp_path, of, callback, *others, data=Tokens(20 * SIZE, make is bert), logging_strategy="no")
        made.train(**options)
        return callback

    run(Interrupt(15))
    again = run(resume_from_checkpoint=str(tmp_path / "checkpoint-15"))
    whole = run()
    assert same(again.schedule, whole.schedule)
    assert (whole.schedule.left.size < whole.schedule.original.units + 1) is (not why_not)
    assert why_not in whole.schedule.refused
    slim = again.slim()
    assert slim.cost.macs <= 0.6 * whole.schedule.budget.limits.dense["macs"]


# The log.


def test_the_log_has_figures_and_tensorboard_what_it_shows(tmp_path):
    of = model()
    with SummaryWriter(tmp_path / "events") as writer:
        callback = pruning(of, writer=writer)
        made = trainer(tmp_path, of, callback, logging_strategy="steps", logging_steps=10)
        made.train()
    history = [entry for entry in made.state.log_history if "loss" in entry]
    assert [(e["step"], e["l0/phase"]) for e in history] == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0)]
    assert history[-1]["l0/cost/macs"] == callback.schedule.figures()["cost/macs"] <= 0.3 * DENSE
    events = EventAccumulator(str(tmp_path / "events"), {"histograms": 0}).Reload()
    shown = {e.step: e.value for e in events.Scalars("l0/cost/macs")}
    assert shown == {e["step"]: pytest.approx(e["l0/cost/macs"]) for e in history}


# What it refuses.


def test_refuses_another_model(tmp_path):
    of = model()
    with pytest.raises(UsageError, match="gates on another model than the Trainer's Classifier"):
        trainer(tmp_path, model(), pruning(of)).train()


def test_refuses_to_load_the_best_model_at_the_end(tmp_path):
    of = model()
    made = trainer(tmp_path, of, pruning(of))
    made.args.load_best_model_at_end = True
    with pytest.raises(UsageError, match="load_best_model_at_end"):
        made.train()


def test_refuses_a_second_run_and_one_of_other_steps(tmp_path):
    of = model()
    callback = pruning(of)
    made = trainer(tmp_path, of, callback, Interrupt(20))
    made.train()
    with pytest.raises(UsageError, match=r"done 20 of \(8, 20, 12\) steps .*the trainer 0 of"):
        made.train()
    anew = model()
    with pytest.raises(UsageError, match=r"done 20 of \(8, 20, 12\) steps .*the trainer 20 of \(16, "):
        trainer(tmp_path, anew, pruning(anew), steps=80).train(resume_from_checkpoint=str(tmp_path / "checkpoint-20"))


def test_refuses_a_checkpoint_without_gates(tmp_path):
    of = model()
    trainer(tmp_path, of, Interrupt(4)).train()
    anew = model()
    with pytest.raises(UsageError, match="saved without gates"):
        trainer(tmp_path, anew, pruning(anew)).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_limits_and_shares_are_read_at_once():
    with pytest.raises(BudgetError):
        pruning(model(), macs="3 parsecs")
    with pytest.raises(UsageError, match="below 1 together"):
        pruning(model(), dense=0.7)
    with pytest.raises(UsageError, match="training has not begun"):
        pruning(model()).slim()


@pytest.mark.parametrize("name", ["transformers", "accelerate"])
def test_a_missing_library_is_named(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "edgel0.callbacks.transformers")
    with pytest.raises(ExtraError, match=rf"'{name}' could not .*pip install \"edgel0\[transformers\]\""):
        __import__("edgel0.callbacks.transformers")


def test_the_readmes_lines(tmp_path):
    of = Classifier(*net())
    arguments = TrainingArguments(
        str(tmp_path), report_to="none", use_cpu=True, disable_tqdm=True, per_device_train_batch_size=SIZE
    )
    names = {"model": of, "example": EXAMPLE, "arguments": arguments, "data": Data(40 * SIZE), "Trainer": Trainer}
    exec(readme("edgel0.callbacks.transformers"), names)
    assert names["slim"].cost.macs <= 0.25 * DENSE
