"""Boards as trees of /proc and /sys: what is read from them, and which rounds count as disturbed."""

import os
import shutil

import pytest

from edgel0.devices import runner
from edgel0.devices.disturbances import MARKS, marks

CPU = "sys/devices/system/cpu/cpufreq/policy0"
ZONE = "sys/class/thermal/thermal_zone0"
BOARD = {
    f"{CPU}/scaling_governor": "ondemand\n",
    f"{CPU}/scaling_cur_freq": "1800000\n",
    f"{CPU}/scaling_min_freq": "600000\n",
    f"{CPU}/scaling_max_freq": "1800000\n",
    f"{CPU}/related_cpus": "0 1 2 3\n",
    f"{CPU}/stats/time_in_state": "600000 5000\n1800000 900\n",
    f"{ZONE}/type": "cpu-thermal\n",
    f"{ZONE}/temp": "61200\n",
    f"{ZONE}/trip_point_0_temp": "80000\n",
    f"{ZONE}/trip_point_0_type": "passive\n",
    f"{ZONE}/trip_point_1_temp": "0\n",
    f"{ZONE}/trip_point_1_type": "hot\n",
    f"{ZONE}/trip_point_2_temp": "60000\n",
    f"{ZONE}/trip_point_2_type": "active\n",
    "sys/class/thermal/cooling_device0/type": "thermal-cpufreq-0\n",
    "sys/class/thermal/cooling_device0/cur_state": "0\n",
    "sys/class/thermal/cooling_device1/type": "gpio-fan\n",
    "sys/class/thermal/cooling_device1/cur_state": "3\n",
    "proc/loadavg": "0.15 0.10 0.05 1/100 999\n",
    "proc/pressure/cpu": "some avg10=1.00 avg60=0.00 avg300=0.00 total=5\nfull avg10=0\n",
    "proc/stat": "cpu  100 0 50 10000 30 0 5 0 0 0\ncpu0 1 1\nintr 5\n",
    "proc/self/status": "VmHWM:\t 900 kB\nVmRSS:\t 800 kB\n"
    "voluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t2\n",
}


def plant(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def vcgencmd(root, answer):
    program = root / "usr/bin/vcgencmd"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f'#!/bin/sh\n[ "$1" = get_throttled ] && echo "{answer}"\n')
    program.chmod(0o755)


@pytest.fixture
def board(tmp_path, monkeypatch):
    """A quiet board, and what it says of a round after which ``changes`` are found, ``ms`` of our own work later."""
    plant(tmp_path, BOARD)

    def round_of(changes, ms=0.0, first=None):
        plant(tmp_path, first or {})
        monkeypatch.setattr(runner.time, "process_time", lambda: 1.0)
        before = runner.snapshot(str(tmp_path))
        plant(tmp_path, changes)
        monkeypatch.setattr(runner.time, "process_time", lambda: 1.0 + ms / 1e3)
        return marks(before, runner.snapshot(str(tmp_path)))

    return round_of


def test_everything_that_may_change_is_read(tmp_path):
    plant(tmp_path, BOARD)
    vcgencmd(tmp_path, "throttled=0x50005")
    seen = runner.snapshot(str(tmp_path))
    assert seen.pop("own_cpu_ms") > 0
    assert seen.pop("ticks_per_second") == os.sysconf("SC_CLK_TCK")
    assert seen == {
        "clocks": {
            "policy0": {
                "governor": "ondemand",
                "cpus": [0, 1, 2, 3],
                **{"cur": 1_800_000, "min": 600_000, "max": 1_800_000},
                "ticks": {"600000": 5000, "1800000": 900},
            }
        },
        "heat": {"thermal_zone0": {"type": "cpu-thermal", "celsius": 61.2, "trips": [["passive", 80], ["active", 60]]}},
        "cooling": {"cooling_device0": ["thermal-cpufreq-0", 0], "cooling_device1": ["gpio-fan", 3]},
        "throttled": 0x50005,
        "ticks": {"all": 10185, "busy": 155},
        "load": [0.15, 0.10, 0.05],
        "pressure": {"cpu": "some avg10=1.00 avg60=0.00 avg300=0.00 total=5"},
        "switches": [7, 2],
        "rss_bytes": 800 * 1024,
    }


def test_what_is_absent_is_none_and_disturbs_nothing(tmp_path):
    seen = runner.snapshot(str(tmp_path))
    assert {key for key, value in seen.items() if value is not None} == {"own_cpu_ms", "ticks_per_second"}
    assert marks(seen, seen) == {}
    assert marks(None, seen) == marks({}, {}) == {}


@pytest.mark.parametrize("text", ["", "no number\n", "\0\0", "-\n"])
def test_nonsense_is_no_finding(tmp_path, text):
    plant(tmp_path, dict.fromkeys(BOARD, text))
    vcgencmd(tmp_path, text.strip("\0\n") or "?")
    seen = runner.snapshot(str(tmp_path))
    assert (seen["throttled"], seen["ticks"], seen["heat"], seen["switches"]) == (None, None, None, None)
    assert marks(seen, seen) == {}


ROUNDS = {
    "nothing changed": ({}, 0, {}),
    "steady in its usual clock": ({f"{CPU}/stats/time_in_state": "600000 5001\n1800000 999\n"}, 0, {}),
    "slowed down for a part": (
        {f"{CPU}/stats/time_in_state": "600000 5030\n1800000 970\n"},
        0,
        {"frequency": "policy0 spent 30% of the round in other frequencies than 1,800 MHz"},
    ),
    "the clock is another afterwards": (
        {f"{CPU}/scaling_cur_freq": "1500000\n"},
        0,
        {"frequency": "policy0 went from 1,800 MHz to 1,500 MHz"},
    ),
    "passed its passive trip point": (
        {f"{ZONE}/temp": "80500\n"},
        0,
        {"hot": "cpu-thermal passed its passive point of 80 °C (80.5 °C)"},
    ),
    "warmer, below every trip point": ({f"{ZONE}/temp": "79900\n"}, 0, {}),
    "the kernel holds the processor back": (
        {"sys/class/thermal/cooling_device0/cur_state": "2\n"},
        0,
        {"throttled": "cooling_device0 (thermal-cpufreq-0) holds the processor back, step 2"},
    ),
    "others worked": (
        {"proc/stat": "cpu  160 0 50 10040 30 0 5 0 0 0\n"},
        0,
        {"busy": "other processes took 60% of the processors' time"},
    ),
    "stolen by another virtual machine": (
        {"proc/stat": "cpu  100 0 50 10050 30 0 5 50 0 0\n"},
        0,
        {"busy": "other processes took 50% of the processors' time"},
    ),
    "we worked ourselves": ({"proc/stat": "cpu  160 0 50 10040 30 0 5 0 0 0\n"}, 500, {}),
    "too short to tell": ({"proc/stat": "cpu  104 0 50 10000 30 0 5 0 0 0\n"}, 0, {}),
}


@pytest.mark.skipif(os.sysconf("SC_CLK_TCK") != 100, reason="the trees count in ticks of 10 ms")
@pytest.mark.parametrize(("changes", "ms", "expected"), ROUNDS.values(), ids=ROUNDS)
def test_a_round_is_marked_with_its_reason(board, tmp_path, changes, ms, expected):
    if f"{CPU}/scaling_cur_freq" in changes:
        (tmp_path / CPU / "stats/time_in_state").unlink()  # many kernels leave it out
    assert board(changes, ms) == expected


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (0x0, 0x0, ""),
        (0x50000, 0x50000, ""),  # since boot, not now
        (0x0, 0x50005, "the firmware says under-voltage; the firmware says throttled"),
        (0x50000, 0xD0000, "the firmware says soft temperature limit"),  # came and went within the round
        (0x2, 0x20000, "the firmware says frequency capped"),
    ],
)
def test_the_firmwares_bits(tmp_path, before, after, reason):
    vcgencmd(tmp_path, f"throttled={before:#x}")
    first = runner.snapshot(str(tmp_path))
    vcgencmd(tmp_path, f"throttled={after:#x}")
    assert marks(first, runner.snapshot(str(tmp_path))) == ({"throttled": reason} if reason else {})


def test_the_kernel_tells_the_firmwares_bits_where_vcgencmd_may_not(tmp_path):
    vcgencmd(tmp_path, "VCHI initialization failed")
    assert runner.throttled(str(tmp_path)) is None
    plant(tmp_path, {"sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n"})  # without 0x
    assert runner.throttled(str(tmp_path)) == 0x50005


def test_every_mark_has_a_case():
    seen = {mark for _, _, expected in ROUNDS.values() for mark in expected}
    assert seen == set(MARKS)


def test_the_peak_is_forgotten_where_the_kernel_can(tmp_path):
    assert not runner.forget_peak(str(tmp_path))
    assert not (tmp_path / "proc").exists()
    plant(tmp_path, {"proc/self/clear_refs": "0"})
    assert runner.forget_peak(str(tmp_path))
    assert (tmp_path / "proc/self/clear_refs").read_text() == "5"
    shutil.rmtree(tmp_path / "proc")
