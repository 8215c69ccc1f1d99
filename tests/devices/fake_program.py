"""ssh and adb that pretend: the command goes to a real ``sh`` here, as a board's login would run it.

Beside this file's copy lie ``how`` (what goes wrong) and ``argv`` (a JSON line per call).
"""

import json
import subprocess
import sys
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
    "several": "adb: more than one device/emulator",
}
if how in SAYS:
    sys.exit(SAYS[how])
command = arguments[-1]
if how == "full" and "wc -c" in command:
    sys.exit("sh: 1: cannot create: No space left on device")
if how == "greeting":
    print("Welcome to this board!")
running = "edgel0-runner.py" in command and "wc -c" not in command
if how == "architecture" and running:
    print("sh: 1: python3: Exec format error", file=sys.stderr)
    sys.exit(126)
if how == "garbage" and running:
    print("Welcome to this board!", flush=True)
process = subprocess.Popen(["/bin/sh", "-c", command], stdout=subprocess.PIPE, start_new_session=True)
for line in process.stdout:
    sys.stdout.buffer.write(line)
    sys.stdout.flush()
    if how == "cut" and running and b'"samples"' in line:
        (here / "how").write_text("refused")  # and it does not come back
        sys.exit("client_loop: send disconnect: Connection reset by peer")
code = process.wait()
sys.exit(code if code >= 0 else 255)
