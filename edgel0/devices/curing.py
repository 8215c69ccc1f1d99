"""Why did a board not answer, and what mends it? The words of ssh, adb and the kernel, and advice for each."""

from __future__ import annotations


def cure(words: str) -> str:
    """Return what is wrong and what to do, as one clause, or "" for words that are not known."""
    return next((advice for sign, advice in CURES.items() if sign in words), "")


def explained(code: int, stderr: bytes) -> str:
    """Say in one line what a command that failed on the board means."""
    words = stderr.decode("utf-8", errors="replace").strip()
    advice = cure(words)
    return (f"{advice}; " if advice else f"a command there ended with exit code {code}; ") + f"it said {words[-300:]!r}"


CURES = {
    "REMOTE HOST IDENTIFICATION HAS CHANGED": "its host key is not the one that ssh knows: find out why (a new system "
    "on the board?), then forget the old one with  ssh-keygen -R HOST",
    "Host key verification failed": "its host key is not known yet: log in once with ssh and compare the fingerprint",
    "Connection refused": "nothing listens there: is the board up, sshd started, the port right?",
    "Permission denied (": "it refused the key: add yours to the board with  ssh-copy-id, or start the ssh agent",
    "Could not resolve hostname": "the name of the host is not known: correct it, or give the board's IP address",
    "No route to host": "no way leads to it: is the board on this network?",
    "timed out": "the link fell silent: is the board up and on this network?",
    "Connection closed": "the link was cut: is the board still up? Run it again",
    "Connection reset": "the link was cut: is the board still up? Run it again",
    "Broken pipe": "the link was cut: is the board still up? Run it again",
    "not responding": "the link was cut: is the board still up? Run it again",
    "Read-only file system": "the folder there cannot be written: name another in the board's file (folder = ...)",
    "damaged on the way": "a file did not arrive whole: run it again, and look at the board's card if it happens again",
    "No space left on device": "the board has no space left: remove files there, or name another folder in its file",
    "Exec format error": "its Python was built for another architecture: name one that runs there (python = ...)",
    "unauthorized": "the phone has not allowed this computer: unlock it and accept the question about USB debugging",
    "device still": "adb is still greeting it: unlock it, accept what it asks, and run this again",
    "device offline": "adb lists it as offline: replug it, or run  adb reconnect",
    "device '": "adb knows no device of this serial: adb devices lists them, and one on the network is reached after  "
    "adb connect HOST:PORT",
    "no devices/emulators found": "adb sees no device: plug one in and allow USB debugging (adb devices lists them)",
    "more than one device": "adb sees several devices: choose one with adb:SERIAL (adb devices lists them)",
    "device closed": "the link was cut: is the device still plugged in?",
    "Permission denied": "the folder or the interpreter may not be used there: name others in the board's file",
    "not found": "it has no such program or device: correct its address, or name its Python (python = ...); one "
    "without any can run LiteRT's binary (--benchmark-model)",
}
