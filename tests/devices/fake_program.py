"""ssh and adb that pretend: the command goes to a real ``sh`` here, as a board's login would run it.

Beside this file's copy lie ``how`` (what goes wrong) and ``argv`` (a JSON line per call).
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

here = Path(sys.argv[0]).parent
how = (here / "how").read_text() if (here / "how").exists() else ""
arguments = sys.argv[1:]
with (here / "argv").open("a") as file:
    file.write(json.dumps(arguments) + "\n")

SAYS = {
    "refused": "ssh: connect to host board port 22: Connection refused",
    "key": "pi@board: Permission denied (publickey).",
    "changed": "WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!\nHost key verification failed.",
    "unauthorized": "adb: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set",
    "offline": "adb: device offline",
    "silent": "",
    "several": "adb: more than one device/emulator",
}
if how in SAYS:
    sys.exit(SAYS[how])


def cut():
    """End as the real ones do when their link breaks, for good."""
    (here / "how").write_text("refused")
    if Path(sys.argv[0]).name == "adb":
        os._exit(0)
    os.write(2, b"client_loop: send disconnect: Connection reset by peer")
    os._exit(255)


command = arguments[-1]
running = "mkdir -m 700" in command
if how == "full" and running:
    sys.exit("mkdir: cannot create directory: No space left on device")
if how == "greeting":
    print("Welcome to this board!")
if how == "architecture" and running:
    print("sh: 1: python3: Exec format error", file=sys.stderr)
    sys.exit(126)
if how == "endless" and running:
    while True:
        sys.stdout.write("x" * 65536)
if how == "halfway" and running:  # the link dies while files are sent
    sent = sys.stdin.buffer.read(5_000)
    process = subprocess.Popen(["/bin/sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(sent)
    process.stdin.flush()
    process.stdout.readline(), process.stdout.readline()  # it is there
    cut()
process = subprocess.Popen(
    ["/bin/sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
)


def carry():
    """Pass on what comes, so that it ends when this does; ``damaged`` changes a byte of the first file, and no size."""
    stdin = sys.stdin.buffer
    with contextlib.suppress(BrokenPipeError), process.stdin:
        if how == "damaged" and running:
            for data in (stdin.readline(), stdin.readline(), bytes([stdin.read(1)[0] ^ 1])):
                process.stdin.write(data)
        while data := stdin.read1(65536):
            process.stdin.write(data)
            process.stdin.flush()


threading.Thread(target=carry, daemon=True).start()
said = b""
while line := process.stdout.read1(1 << 20):
    said = said[-1_000_000:] + line if how == "cut" else b""
    sys.stdout.buffer.write(line)
    sys.stdout.flush()
    if how == "cut" and running and b'"samples"' in said and said.endswith(b"\n"):
        cut()
code = process.wait()
sys.stdout.flush()
os._exit(code if code >= 0 else 255)  # a thread may still hold stdin
