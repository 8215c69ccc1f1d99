"""A plain loop's schedule, written with SummaryWriter, is read back from the event file."""

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

import edgel0
from callbacks.bench import STEPS, adam, batches, net, plain
from edgel0.callbacks.tensorboard import log


def written(tmp_path, schedule, **options):
    with SummaryWriter(tmp_path) as writer:
        log(writer, schedule, schedule.at, **options)
    return EventAccumulator(str(tmp_path)).Reload()


@pytest.mark.parametrize("shrink", [True, False])
def test_scalars_and_histograms(tmp_path, shrink):
    schedule = plain(net(), batches(STEPS), shrink=shrink)
    events = written(tmp_path, schedule)
    for name, value in schedule.figures().items():
        (event,) = events.Scalars(f"l0/{name}")
        assert (event.step, event.value) == (STEPS, pytest.approx(value))
    kept = schedule.masks_of_original.kept
    assert kept and set(kept) == {group.name for group in schedule.original.groups}
    for group in schedule.original.groups:
        (opened,), (histogram,) = (
            events.Scalars(f"l0/open/{group.name}"),
            events.Histograms(f"l0/probability/{group.name}"),
        )
        assert opened.value == kept[group.name]
        counts = histogram.histogram_value
        assert counts.num == group.size == 24  # those that were cut out, too
        assert counts.sum == pytest.approx(kept[group.name])  # at the mask P is 0 or 1


def test_figures_before_and_while_gates_move(tmp_path):
    model = net()
    gates = edgel0.attach(model, batches(1)[0][0][:1])
    schedule = edgel0.Schedule(model, edgel0.Budget(gates, params=0.5), adam(model.parameters()), steps=(1, 8, 1))
    figures = schedule.figures()
    assert figures["phase"] == 0
    assert figures["open_units"] == gates.coupling.units == 48
    assert figures["multiplier/params"] == 0
    dense = 8 * 24 + 24 + 24 * 24 + 24 + 24 * 4 + 4
    assert figures["target/params"] == dense
    assert 0.9 * dense < figures["cost/params"] < dense  # P(z != 0) is 0.99 at the start
    for x, y in batches(6):
        ((model(x).logsumexp(1) - model(x)[range(16), y]).mean()).backward()
        schedule.step()
    figures = schedule.figures()
    assert figures["phase"] == 1
    assert figures["target/params"] < dense
    probability = gates.probability().detach().numpy()
    assert figures["polarisation"] == pytest.approx(np.mean((probability > 0.05) & (probability < 0.95)))
    assert figures["multiplier/params"] == schedule.budget.multipliers["params"] > 0
    assert written(tmp_path, schedule, prefix="mine").Scalars("mine/phase")[0].value == 1
