"""Which cores can be emulated? Each with the files of a board that must go with it.

Runtimes choose their kernels by the features that Linux announces (HWCAP, which qemu sets from ``-cpu``) *and* by the
part number in ``/proc/cpuinfo``, so a core without its board's files counts kernels that no board runs. Under qemu
7.2 the real ``/proc/cpuinfo`` is the host's, on which the runtimes' detection of processors crashes.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgel0.errors import UsageError, nearest

ASIMDHP, ASIMDDP, SVE = 1 << 10, 1 << 20, 1 << 22  # bits of HWCAP that choose kernels: float16, dot products, SVE
CHOOSING = ASIMDHP | ASIMDDP | SVE
CLUSTER = 4  # processors, on all boards below
EVERYONE = f"0-{CLUSTER - 1}"
CPU = "sys/devices/system/cpu"


@dataclass(frozen=True)
class Cache:
    """One cache of a processor; runtimes cut their work to fit the second level."""

    level: int
    kind: str
    kib: int
    ways: int
    shared: bool = False


@dataclass(frozen=True)
class Core:
    """A core and the board it stands for: the part number, variant and revision are those of ``/proc/cpuinfo``."""

    board: str
    part: str
    variant: str
    revision: int
    features: str
    hwcap: int
    bogomips: str
    min_khz: int
    max_khz: int
    memory_kib: int
    caches: tuple[Cache, ...]


def core_of(name: str) -> Core:
    """Return a core by its name.

    Raises UsageError when it is not in :data:`CORES`.
    """
    if name not in CORES:
        raise UsageError(
            f"the core {name!r} is not known; instructions can be counted on {', '.join(CORES)}{nearest(name, CORES)}."
        )
    return CORES[name]


def board_files(core: Core) -> dict[str, str]:
    """Return what its board's kernel tells, by path below the root; a path that ends in a slash is an empty folder.

    It is all that the runtimes ask for: of what is not here, they would see the host's.
    """
    processor = (
        f"BogoMIPS\t: {core.bogomips}\nFeatures\t: {core.features}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        f"CPU variant\t: {core.variant}\nCPU part\t: {core.part}\nCPU revision\t: {core.revision}\n\n"
    )
    files = {
        "proc/cpuinfo": "".join(f"processor\t: {i}\n{processor}" for i in range(CLUSTER))
        + f"Model\t\t: {core.board}\n",
        "proc/meminfo": f"MemTotal: {core.memory_kib} kB\nMemFree: {core.memory_kib * 3 // 4} kB\n",
        "proc/device-tree/model": f"{core.board}\0",
        "proc/sys/vm/overcommit_memory": "0\n",
        "sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]\n",
        **dict.fromkeys(("sys/bus/pci/devices/", "sys/class/drm/", "sys/class/accel/"), ""),
        f"{CPU}/kernel_max": "255\n",
        **{f"{CPU}/{which}": f"{EVERYONE}\n" for which in ("possible", "present", "online")},
    }
    for i in range(CLUSTER):
        files |= {f"{CPU}/cpu{i}/{path}": f"{value}\n" for path, value in _processor(core, i).items()}
    return files


def _processor(core: Core, number: int) -> dict[str, object]:
    """Return one processor's files below its folder."""
    facts: dict[str, object] = {
        "cpu_capacity": 1024,
        "cpufreq/cpuinfo_min_freq": core.min_khz,
        "cpufreq/cpuinfo_max_freq": core.max_khz,
        "topology/core_id": number,
        "topology/cluster_id": 0,
        "topology/physical_package_id": 0,
        "topology/thread_siblings_list": number,
        "topology/core_cpus_list": number,
        **{f"topology/{which}_list": EVERYONE for which in ("core_siblings", "package_cpus", "cluster_cpus")},
    }
    for index, cache in enumerate(core.caches):
        facts |= {
            f"cache/index{index}/{name}": value
            for name, value in {
                "level": cache.level,
                "type": cache.kind,
                "size": f"{cache.kib}K",
                "ways_of_associativity": cache.ways,
                "coherency_line_size": 64,
                "number_of_sets": cache.kib * 1024 // 64 // cache.ways,
                "shared_cpu_list": EVERYONE if cache.shared else number,
            }.items()
        }
    return facts


def _caches(data: tuple[int, int], code: tuple[int, int], *outer: Cache) -> tuple[Cache, ...]:
    return (Cache(1, "Data", *data), Cache(1, "Instruction", *code), *outer)


ARMV8 = "fp asimd evtstrm crc32 cpuid"
ARMV82 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"

CORES = {
    "cortex-a53": Core(
        board="Raspberry Pi 3 Model B Plus Rev 1.3",
        part="0xd03",
        variant="0x0",
        revision=4,
        features=ARMV8,
        hwcap=0,
        bogomips="38.40",
        min_khz=600_000,
        max_khz=1_400_000,
        memory_kib=949_448,
        caches=_caches((32, 4), (32, 2), Cache(2, "Unified", 512, 16, shared=True)),
    ),
    "cortex-a72": Core(
        board="Raspberry Pi 4 Model B Rev 1.4",
        part="0xd08",
        variant="0x0",
        revision=3,
        features=ARMV8,
        hwcap=0,
        bogomips="108.00",
        min_khz=600_000,
        max_khz=1_800_000,
        memory_kib=7_998_976,
        caches=_caches((32, 2), (48, 3), Cache(2, "Unified", 1024, 16, shared=True)),
    ),
    "cortex-a76": Core(
        board="Raspberry Pi 5 Model B Rev 1.0",
        part="0xd0b",
        variant="0x4",
        revision=1,
        features=ARMV82,
        hwcap=ASIMDHP | ASIMDDP,
        bogomips="108.00",
        min_khz=1_500_000,
        max_khz=2_400_000,
        memory_kib=8_245_248,
        caches=_caches((64, 4), (64, 4), Cache(2, "Unified", 512, 8), Cache(3, "Unified", 2048, 16, shared=True)),
    ),
}
