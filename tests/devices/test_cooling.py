"""When a board is waited for, and for how long; the clock is a fake one."""

import pytest

from edgel0.devices import cooling
from edgel0.devices.cooling import Heat, Pause

HOT = {"hot": "cpu-thermal passed its passive point of 80 °C (81 °C)"}


def board(celsius=50.0, throttled=0, state=0, most=1_800_000, kind="passive"):
    """What is seen of a board with one zone, one policy and one cooling device."""
    return {
        "throttled": throttled,
        "heat": {"thermal_zone0": {"type": "cpu-thermal", "celsius": celsius, "trips": [[kind, 80.0]]}},
        "cooling": {"cooling_device0": ["thermal-cpufreq-0", state]},
        "clocks": {"policy0": {"max": most, "cur": 600_000}},
    }


@pytest.fixture
def waited(monkeypatch):
    """Let a board be waited for; return the pause and how often it was looked at."""
    now = [0.0]

    def sleep(secs):
        now[0] += secs

    monkeypatch.setattr(cooling.time, "sleep", sleep)
    monkeypatch.setattr(cooling.time, "monotonic", lambda: now[0])

    def wait(heat, later):
        looks = iter(later)
        told = []
        pause = heat.pause(lambda: next(looks), told.append)
        return pause, len(told)

    return wait


def seen(last, disturbed=None, first=None):
    heat = Heat()
    heat.see(first or board())
    heat.see(last, disturbed)
    return heat


@pytest.mark.parametrize(
    ("last", "disturbed"),
    [
        ({}, HOT),  # tells nothing
        (board(), {}),
        (board(), HOT),  # cool again already
        (board(90.0), {}),  # above its trip point, and nothing came of it
        (board(90.0), {"busy": "others"}),
        (board(90.0, kind="active"), HOT),  # a fan
        (board(throttled=0xF0001), HOT),  # under-voltage now, the rest since boot
    ],
)
def test_a_board_that_need_not_be_waited_for(waited, last, disturbed):
    assert waited(seen(last, disturbed), []) == (None, 0)


@pytest.mark.parametrize(
    ("last", "disturbed", "reason"),
    [
        (board(throttled=0x2), {}, "the firmware says frequency capped"),
        (board(throttled=0x8), {}, "the firmware says soft temperature limit"),
        (board(state=1), {}, "cooling_device0 (thermal-cpufreq-0) holds the processor back, step 1"),
        (board(most=1_200_000), {}, "policy0 capped at 1,200 of 1,800 MHz"),
        (board(76.0), HOT, "cpu-thermal at 76 °C, its passive point is 80 °C"),
    ],
)
def test_a_hot_board_is_waited_for_until_it_is_cool(waited, last, disturbed, reason):
    heat = seen(last, disturbed)
    later = [last | {"heat": board(celsius)["heat"]} for celsius in (79.0, 77.0)] + [board(74.0)]
    assert waited(heat, later) == (Pause(6.0, reason, True), 3)
    assert heat.left == cooling.COOL_SECS - 6.0
    assert waited(heat, []) == (None, 0)


def test_a_temperature_that_stays_is_given_up_for_good(waited):
    heat = seen(board(90.0), HOT)
    pause, looks = waited(heat, [board(90.0)] * 99)
    assert (looks, pause.cool, heat.left) == (cooling.PATIENCE, False, 0.0)
    heat.see(board(95.0), HOT)
    assert waited(heat, []) == (None, 0)


def test_the_pauses_of_a_measurement_have_a_limit(waited):
    heat = seen(board(500.0), HOT)
    pause, _ = waited(heat, [board(500.0 - i) for i in range(999)])
    assert (pause.secs, pause.cool, heat.left) == (cooling.COOL_SECS, False, 0.0)
    assert waited(Heat(0.0, last=board(state=1)), []) == (None, 0)
