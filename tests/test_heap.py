"""Keeping freed memory: what is freed and wanted again costs no page fault, and other systems are left alone."""

import subprocess
import sys

import pytest

from edgel0 import heap

FAULTS = """
import resource, sys
from edgel0.heap import keep
import torch
print(keep() if sys.argv[1] == "keep" else None)
def step():
    made = [torch.ones(1 << 18) for _ in range(20)]
    del made
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_what_is_freed_is_there_again_without_a_page_fault():
    found = {}
    for how in ("keep", "leave"):
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        said, faults = done.stdout.split()
        found[how] = int(faults)
        if said == "False":
            pytest.skip("the C library has no mallopt")
    if found["leave"] < 100:
        pytest.skip("this allocator keeps its memory by itself")
    assert found["keep"] < found["leave"] / 10


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_are_left_alone(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    assert heap.keep() is False


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    assert heap.keep() is False
