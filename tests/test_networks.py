"""300 random networks of all blocks: nothing unknown, masked == slim, closed units reach nothing, costs as foretold."""

import itertools
import random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from networks import BLOCKS, EXPECTED, KINDS, Pick, examine, network, seeded

PER_KIND = -(-(300 - len(BLOCKS)) // len(KINDS))
pytestmark = [pytest.mark.filterwarnings(f"ignore:{warning}") for warning in EXPECTED]


@pytest.mark.parametrize("name", BLOCKS)
def test_each_block(name):
    """The first network that holds the block, among the seeded ones of the soak."""
    pick, drawn = next(found for found in map(seeded, itertools.count()) if name in found[1].blocks)
    examine(pick, drawn)


@st.composite
def of_kind(draw, kind):
    return network(Pick(draw(st.randoms(use_true_random=False)).randint), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_random_networks(kind):
    @settings(
        max_examples=PER_KIND,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(of_kind(kind), st.integers(0, 2**20))
    def each(drawn, seed):
        examine(Pick(random.Random(seed).randint), drawn)

    each()
