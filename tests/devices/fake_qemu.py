"""A qemu-aarch64 that emulates nothing: it writes the marks that the model's content asks for, or dies of it.

The model is JSON: ``{"runs": [[instructions, accesses], ...]}`` are the inferences, warm-ups first; ``{"how": "kill"}``
and so on misbehave. Its arguments, environment, working folder and what it sees of its root are logged beside the
plugin.
"""

import json
import os
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path

VERSION = os.environ.get("FAKE_QEMU_VERSION", "7.2.22 (Debian)")
if sys.argv[1:] == ["--version"]:
    print(f"qemu-aarch64 version {VERSION}")
    sys.exit(0)
if sys.argv[1:] == ["--help"]:
    print(
        "usage: qemu-aarch64 [options] program" + ("" if "FAKE_QEMU_STATIC" in os.environ else "\n-plugin QEMU_PLUGIN")
    )
    sys.exit(0)

options = dict(pairwise(sys.argv))
root = Path(options["-L"])
if "/job/compiling.py" in sys.argv:
    print(json.dumps({"python": "3.11.2", "libc": "2.36"}))
    sys.exit(0)

plugin, _, out = options["-plugin"].replace(",,", "\0").partition(",out=")
job = json.loads((root / "job/job.json").read_text())
model = json.loads((root / job["model"].lstrip("/")).read_text(), strict=False)
seen = {
    "pid": os.getpid(),
    "arguments": sys.argv[1:],
    "environment": dict(os.environ),
    "cwd": str(Path.cwd()),
    "job": sorted(str(path.relative_to(root / "job")) for path in (root / "job").rglob("*") if path.is_file()),
    "root": str(root),
    "cpuinfo": (root / "proc/cpuinfo").read_text(),
}
Path(plugin.replace("\0", ",")).with_name("log").write_text(json.dumps(seen))
how = model.get("how", "")
runs = iter(model.get("runs") or [[1000, 500]] * (job["warmups"] + job["repeats"]))
WARM, EMPTY, BEGIN, END = range(1, 5)
totals = [10_000, 5_000]
with Path(out.replace("\0", ",")).open("w") as marks:

    def between(begin, instructions, accesses):
        marks.write(f"{begin} {totals[0]} {totals[1]}\n")
        totals[0] += instructions
        totals[1] += accesses
        marks.write(f"{END} {totals[0]} {totals[1]}\n")
        marks.flush()

    for i in range(32):
        between(WARM, 90 - i, 40)
    for _ in range(job["warmups"]):
        between(WARM, *next(runs))
    if how == "hang":
        time.sleep(600)
    if how == "slow":
        time.sleep(0.3)
    if how in signal.Signals.__members__:
        print("its last words", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.Signals[how])
    if how == "exit":
        sys.exit("no plugin today")
    for _ in range(0 if how == "short" else job["repeats"]):
        between(EMPTY, 50, 20)
        between(BEGIN, *next(runs))
if how == "failed":
    print(json.dumps({"error": "failed", "message": "NotImplemented: no kernel\nfor MyOp(1)"}))
    sys.exit(1)
if how == "memory":
    print(json.dumps({"error": "memory", "message": "MemoryError: std::bad_alloc"}))
    sys.exit(1)
dotprod = 0x119FFB if options["-cpu"] == "cortex-a76" else 0x8FB
print(json.dumps({"runtime": "fake 1.0", "hwcap": dotprod | (1 << 22 if how == "sve" else 0)}))
