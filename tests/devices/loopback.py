"""A real sshd on the loopback with keys of its own, and an ``ssh`` on the PATH that knows them."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SSHD, SSH = shutil.which("sshd") or "/usr/sbin/sshd", shutil.which("ssh")
missing = [name for name in (SSHD, "ssh", "ssh-keygen") if not shutil.which(name)]
NEEDS = [
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"),
    pytest.mark.skipif(hasattr(os, "getuid") and os.getuid() != 0, reason="this sshd needs root to log users in"),
]
SERVER = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
PidFile {folder}/pid
AuthorizedKeysFile {folder}/user.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
"""
CLIENT = """
Host *
  IdentityFile {folder}/{key}
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/{known}
  StrictHostKeyChecking yes
"""


@contextmanager
def sshd(folder: Path, more: str = "") -> Iterator[int]:
    """Start an sshd whose files are in a folder, yield its port, and end it; ``more`` is added to its configuration."""
    for name in ("host", "user", "stranger", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "server").write_text(SERVER.format(port=port, folder=folder) + more)
    for name, key in (("known", "host"), ("changed", "other")):
        key = (folder / f"{key}.pub").read_text().split()[:2]
        (folder / name).write_text(f"[127.0.0.1]:{port} {' '.join(key)}\n")
    Path("/run/sshd").mkdir(exist_ok=True)
    daemon = subprocess.Popen([SSHD, "-D", "-f", folder / "server", "-E", folder / "log"])
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield port
    daemon.terminate()
    daemon.wait(timeout=10)


def ssh_wrapper(place: Path, folder: Path, key: str = "user", known: str = "known") -> Path:
    """Write a folder, for the PATH, with an ``ssh`` that takes its keys from an sshd's folder; return it."""
    config = place / "config"
    config.write_text(CLIENT.format(folder=folder, key=key, known=known))
    wrapper = place / "bin" / "ssh"
    wrapper.parent.mkdir(exist_ok=True)
    wrapper.write_text(f'#!/bin/sh\nexec {SSH} -F "{config}" "$@"\n')
    wrapper.chmod(0o755)
    return wrapper.parent


def empty(folder: Path, seconds: float = 10.0) -> bool:
    """Tell whether nothing is left in a folder, or soon will be."""
    end = time.monotonic() + seconds
    while any(folder.iterdir()) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(folder.iterdir())
