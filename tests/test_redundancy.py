"""Is a unit's share what regression says, whatever reads it, and does it go on through shrinking and checkpoints?"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import edgel0
from edgel0 import redundancy
from edgel0.concrete import median_gate, sample
from edgel0.gates import gates_of
from edgel0.redundancy import MEMORY, RIDGE, SOLVED, WATCHED, Redundancy

WINDOW = WATCHED * SOLVED


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(2)


class Flat(nn.Module):
    """Channels that a linear layer reads at four places each, beside two inputs that cannot go."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 5, 1)
        self.out = nn.Linear(5 * 4 + 2, 3)

    def forward(self, x):
        return self.out(torch.cat([x[:, :, 0, 0], F.relu(self.conv(x)).flatten(1)], 1))


class Stack(nn.Module):
    """Two layers of hidden units, read by a linear layer each."""

    def __init__(self, width=6):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(4, width), nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.second(torch.tanh(self.first(x)))))


def watched(net, example, steps, seed=0, before=lambda step: None):
    """A net whose gates are open, what saw its gradients, and these by weight and step."""
    gates = edgel0.attach(net, example)
    gates.held = True
    seen, found = Redundancy(net, gates), []
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        x = torch.randn(16, *example.shape[1:], generator=generator)
        y = torch.randint(3, (16,), generator=generator)
        net.zero_grad()
        F.cross_entropy(net.train()(x), y).backward()
        before(step)
        found.append({name: p.grad.clone().numpy() for name, p in net.named_parameters() if p.grad is not None})
        seen.watch()
    return seen, found


def expected(rows_of_looks):
    """1 - R² of each column, by least squares, of rows that fade from look to look."""
    weight = MEMORY ** np.arange(len(rows_of_looks))[::-1]
    grams = [rows.T @ rows / (rows**2).sum() for rows in rows_of_looks]
    gram = sum(w * g for w, g in zip(weight, grams, strict=True))
    count = len(gram)
    seen = sum(w * len(rows) for w, rows in zip(weight, rows_of_looks, strict=True))
    correlation = gram / np.sqrt(np.outer(np.diag(gram), np.diag(gram))) * seen / (seen + count)
    np.fill_diagonal(correlation, 1 + RIDGE)
    shares = []
    for i in range(count):
        others = np.arange(count) != i
        explained = correlation[i, others] @ np.linalg.solve(
            correlation[np.ix_(others, others)], correlation[others, i]
        )
        shares.append(1 - explained / (1 + RIDGE))
    return np.array(shares)


def looks(found, name):
    return [one[name].astype(np.float64) for one in found[WATCHED - 1 :: WATCHED]]


def places(gradients):
    """Rows of the gradients of ``Flat.out``: one per output and place, a column per unit."""
    return [g[:, 2:].reshape(3, 5, 4).transpose(0, 2, 1).reshape(12, 5) for g in gradients]


def test_the_share_is_what_a_regression_leaves_unexplained():
    seen, found = watched(Stack(), torch.randn(1, 4), WINDOW)
    for name, part in (("second", seen.share[:6]), ("out", seen.share[6:])):
        want = expected(looks(found, f"{name}.parametrizations.weight.original"))
        np.testing.assert_allclose(part.numpy(), want, rtol=1e-3)
        assert (want > 0).all()
        assert (want < 0.99).any()


def test_before_anything_was_seen_every_unit_counts_whole():
    seen, _ = watched(Stack(), torch.randn(1, 4), WINDOW - 1)
    assert (seen.share == 1).all()


def test_a_unit_that_says_the_same_as_another_counts_little():
    net = Stack(8)
    with torch.no_grad():
        net.first.weight *= 4  # else eight units are nearly linear in four inputs
        net.first.weight[1] = net.first.weight[0]
        net.first.bias[1] = net.first.bias[0]
    seen, _ = watched(net, torch.randn(1, 4), 20 * WINDOW)
    twins, others = seen.share[:2], seen.share[2:8]
    assert float(twins.max()) < 0.06 < 0.12 < float(others.min())


def test_a_unit_that_is_read_at_several_places_is_compared_place_by_place():
    seen, found = watched(Flat(), torch.randn(1, 2, 2, 2), WINDOW)
    rows = places(looks(found, "out.parametrizations.weight.original"))
    np.testing.assert_allclose(seen.share.numpy(), expected(rows), rtol=1e-3)


def test_wide_readers_are_compared_in_blocks(monkeypatch):
    monkeypatch.setattr(redundancy, "BLOCK", 4)
    seen, found = watched(Stack(), torch.randn(1, 4), WINDOW)
    rows = looks(found, "second.parametrizations.weight.original")
    want = np.concatenate([expected([r[:, :3] for r in rows]), expected([r[:, 3:] for r in rows])])
    np.testing.assert_allclose(seen.share[:6].numpy(), want, rtol=1e-3)


def test_gradients_that_are_not_finite_are_passed_over():
    net = Stack()

    def broken(step):
        if step == WATCHED:
            net.second.parametrizations.weight.original.grad[0, 0] = torch.inf
            net.out.parametrizations.weight.original.grad.fill_(torch.nan)

    seen, _ = watched(net, torch.randn(1, 4), WINDOW, before=broken)
    assert torch.isfinite(seen.share).all()
    assert (seen.share < 1).any()


def test_units_that_only_frozen_weights_read_count_whole():
    net = Stack()
    net.out.weight.requires_grad_(False)
    seen, _ = watched(net, torch.randn(1, 4), WINDOW)
    assert (seen.share[6:] == 1).all()
    assert (seen.share[:6] < 1).any()


def test_units_that_a_frozen_reader_shares_with_another_count_whole():
    class Twice(Stack):
        def __init__(self):
            super().__init__()
            self.beside = nn.Linear(6, 3)

        def forward(self, x):
            hidden = torch.tanh(self.first(x))
            return self.out(torch.tanh(self.second(hidden))) + self.beside(hidden)

    for name in ("second", "beside"):
        net = Twice()
        getattr(net, name).weight.requires_grad_(False)
        seen, _ = watched(net, torch.randn(1, 4), WINDOW)
        assert (seen.share[:6] == 1).all(), name
        assert (seen.share[6:] < 1).any(), name


def test_shrinking_keeps_what_was_seen_of_the_units_that_stay():
    net = Flat()
    seen, found = watched(net, torch.randn(1, 2, 2, 2), WINDOW)
    share, gates = seen.share.clone(), gates_of(net)
    opened = np.array([True, True, False, True, True, False])
    edgel0.shrink_(net, None, edgel0.Masks(gates.coupling, opened))
    seen.follow(opened)
    assert torch.equal(seen.share, share[torch.from_numpy(opened[1:])])
    rows = places(looks(found, "out.parametrizations.weight.original"))
    gram = sum(MEMORY**i * r.T @ r / (r**2).sum() for i, r in enumerate(rows[::-1]))
    np.testing.assert_allclose(seen.blocks[0][0].gram.numpy(), gram[np.ix_([0, 2, 3], [0, 2, 3])], rtol=1e-4)
    F.cross_entropy(net(torch.randn(16, 2, 2, 2)), torch.randint(3, (16,))).backward()
    for _ in range(WINDOW):
        seen.watch()
    assert seen.share.shape == (3,)


def test_its_state_goes_on_alike():
    example = torch.randn(1, 4)
    net = Stack()
    first, _ = watched(net, example, WINDOW + WATCHED)
    edgel0.detach(net)
    second = Redundancy(net, edgel0.attach(net, example))
    second.load_state_dict(first.state_dict())
    for seen in (first, second):
        for block in (b for blocks in seen.blocks for b in blocks):
            assert block.rows > 0
        seen.solve()
    assert second.at == first.at
    assert torch.equal(second.share, first.share)


# The schedule.


def scheduled(steps=(2 * WINDOW, 40, 4), **options):
    net = Stack()
    gates = edgel0.attach(net, torch.randn(1, 4), open_probability=0.9)
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    schedule = edgel0.Schedule(net, edgel0.Budget(gates, params=0.9), optimizer, steps=steps, **options)
    return net, gates, schedule


def test_a_gate_learns_by_the_share_that_counts(monkeypatch):
    gradients = {}
    for redundant in (True, False):
        net, gates, schedule = scheduled(redundancy=redundant)
        for _ in range(2 * WINDOW + 1):
            F.cross_entropy(net.train()(torch.randn(16, 4)), torch.randint(3, (16,))).backward()
            plain = gates.log_alpha.grad
            plain = None if plain is None else plain.clone()
            monkeypatch.setattr(
                schedule.gate_optimizer, "step", lambda gates=gates: gradients.update(now=gates.log_alpha.grad.clone())
            )
            schedule.step()
        assert plain is not None
        assert (plain != 0).any()
        share = schedule.redundancy.share if redundant else torch.ones(12)
        assert bool((share < 0.99).any()) is redundant
        torch.testing.assert_close(gradients["now"], plain * share)  # nothing pulls in the first step


@pytest.mark.parametrize("noise", [1.0, 0.5])
def test_the_noise_falls_to_none_over_the_gating_phase(noise):
    net, gates, schedule = scheduled(steps=(2, 5, 2), noise=noise)
    scales = []
    for _ in range(9):
        scales.append(float(gates.noise))
        F.cross_entropy(net.train()(torch.randn(16, 4)), torch.randint(3, (16,))).backward()
        schedule.step()
    assert scales[2:7] == pytest.approx([noise * share for share in (1, 0.8, 0.6, 0.4, 0.2)])


@pytest.mark.parametrize("noise", [0.0, -1.0, 1.5, float("nan")])
def test_a_noise_out_of_range_is_refused(noise):
    with pytest.raises(edgel0.errors.UsageError, match="noise is"):
        scheduled(noise=noise)


def test_without_noise_a_draw_is_the_median():
    log_alpha, u = torch.linspace(-4, 4, 101), torch.rand(101)
    torch.testing.assert_close(sample(log_alpha, u, noise=0.0), median_gate(log_alpha))
