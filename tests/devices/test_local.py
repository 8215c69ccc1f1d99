import json

from edgel0.devices import local, runner

PI = {
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    "proc/cpuinfo": "".join(
        f"processor\t: {i}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU part\t: 0xd08\n\n"
        for i in range(4)
    ),
    "proc/meminfo": "MemTotal:        3884528 kB\nMemFree:          100000 kB\n",
    "proc/sys/kernel/osrelease": "6.6.20+rpt-rpi-v8\n",
    "proc/self/status": "Name:\tpython3\nVmPeak:\t  300000 kB\nVmHWM:\t  123456 kB\n",
    "sys/devices/system/cpu/cpu0/cpu_capacity": "1024\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
    "sys/devices/system/cpu/cpu3/cpufreq/scaling_governor": "ondemand\n",
}


def plant(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_board_facts_of_a_raspberry_pi(tmp_path):
    plant(tmp_path, PI)
    facts = local.describe_local(tmp_path)
    del facts["machine"], facts["python"]
    assert facts == {
        "board": "Raspberry Pi 4 Model B Rev 1.4",
        "capacities": {"0": 1024},
        "cpu": "Cortex-A72",
        "cores": 4,
        "features": ["asimd"],
        "governor": "ondemand",
        "kernel": "6.6.20+rpt-rpi-v8",
        "memory_bytes": 3884528 * 1024,
    }
    assert runner.peak_rss(str(tmp_path)) == 123456 * 1024


def test_clusters_with_different_governors_are_both_named(tmp_path):
    plant(tmp_path, PI | {"sys/devices/system/cpu/cpu10/cpufreq/scaling_governor": "performance\n"})
    assert runner.governor(str(tmp_path)) == "ondemand/performance"


def test_pc_and_unknown_part(tmp_path):
    plant(tmp_path, {"proc/cpuinfo": "processor : 0\nmodel name : Thing 3000\nflags : sse avx2 fma\n"})
    assert (runner.cpu(str(tmp_path)), runner.features(str(tmp_path))) == ("Thing 3000", ["avx2", "fma"])
    plant(tmp_path, {"proc/cpuinfo": "processor : 0\nCPU part : 0xabc\n"})
    assert (runner.cpu(str(tmp_path)), runner.features(str(tmp_path))) == ("0xabc", None)


def test_absent_facts_are_none(tmp_path):
    facts = local.describe_local(tmp_path)
    assert facts.pop("machine")
    assert facts.pop("python")
    assert set(facts.values()) == {None}
    assert runner.peak_rss(str(tmp_path)) > 10e6  # the fallback asks the operating system


def test_this_computer_can_be_described_in_json():
    assert json.loads(json.dumps(local.describe_local())) == local.describe_local()
