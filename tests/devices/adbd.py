"""What does the real adb talk to, where no phone is? A device of ours: a folder, sh, and adbd's side of the protocol.

A packet is six little-endian words (command, two arguments, length, sum of the bytes, command inverted) and its data;
a shell's stream holds packets of its own (kind, length, data). Both are described in the Android sources, in
packages/modules/adb: docs/dev/protocol.md and shell_protocol.h. The phone's own place for files is a folder here.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shlex
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

CNXN, AUTH, OPEN, OKAY, CLSE, WRTE = (struct.unpack("<I", word)[0] for word in b"CNXN AUTH OPEN OKAY CLSE WRTE".split())
VERSION, PAYLOAD, TOKEN, SIGNATURE = 0x01000001, 1 << 18, 1, 2
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
BANNER = b"device::ro.product.name=folder;ro.product.model=Folder;ro.product.device=folder;features=shell_v2,cmd"
TMP = b"/data/local/tmp"


class Device:
    """A device that is plugged in while the ``with`` block lasts.

    ``shell`` runs a command that is its last argument, ``python`` is the device's python3. One that is not ``trusting``
    never accepts this computer's key. ``said`` is all that the commands wrote; ``cut_at`` is what of it, and how often,
    pulls the cable.
    """

    def __init__(self, folder, shell=("sh", "-c"), python=(sys.executable,), trusting=True, cut_at=None):
        self.folder, self.shell, self.trusting, self.cut_at = folder, shell, trusting, cut_at
        self.tmp = folder / "tmp"
        (folder / "bin").mkdir(parents=True)
        self.tmp.mkdir()
        program = folder / "bin" / "python3"
        program.write_text(f'#!/bin/sh\nexec {shlex.join(python)} "$@"\n')
        program.chmod(0o755)
        self.env = {"PATH": f"{program.parent}:{os.defpath}", "HOME": str(folder)}
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.serial = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.cables, self.threads, self.processes = [], [], []
        self.said = b""

    def __enter__(self):
        self.spawn(self.accept)
        return self

    def __exit__(self, *error):
        self.cut()
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for thread in self.threads:
            thread.join()

    def spawn(self, do, *arguments):
        self.threads.append(threading.Thread(target=do, args=arguments, daemon=True))
        self.threads[-1].start()
        return self.threads[-1]

    def accept(self):
        with self.listener, contextlib.suppress(OSError):  # cut
            while True:
                self.cables.append(Cable(self, self.listener.accept()[0]))
                self.spawn(self.cables[-1].listen)

    def cut(self):
        """Pull the cable: whoever is connected is cut off, and nobody gets through any more."""
        for end in (self.listener, *(cable.end for cable in self.cables)):
            with contextlib.suppress(OSError):  # closed already
                end.shutdown(socket.SHUT_RDWR)

    def left(self, seconds=10.0):
        """Return the files and processes that are still there when the commands had the time to end."""
        end = time.monotonic() + seconds
        while (found := [*self.tmp.iterdir(), *self.running()]) and time.monotonic() < end:
            time.sleep(0.02)
        return found

    def running(self):
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has ended
                if int(path.parent.name) != os.getpid() and os.fsencode(self.tmp) in (words := path.read_bytes()):
                    yield words


class Cable:
    """One connection of an adb server: packets in, each to its stream."""

    def __init__(self, device, end):
        self.device, self.end, self.lock, self.streams = device, end, threading.Lock(), {}

    def send(self, command, first, second, data=b""):
        head = struct.pack("<6I", command, first, second, len(data), sum(data), command ^ 0xFFFFFFFF)
        with self.lock:
            self.end.sendall(head + data)

    def listen(self):
        with self.end, self.end.makefile("rb") as packets:
            with contextlib.suppress(OSError):  # cut
                while len(head := packets.read(24)) == 24:
                    command, first, second, size = struct.unpack("<4I", head[:16])
                    self.take(command, first, second, packets.read(size))
            for stream in list(self.streams.values()):
                stream.hang_up()

    def take(self, command, remote, local, data):
        """Answer a packet."""
        stream = self.streams.get(local)
        if command == CNXN or (command == AUTH and remote == SIGNATURE):  # a key that comes waits for its user
            self.greet()
        elif command == OPEN and data.startswith(b"shell,v2"):
            number = len(self.streams) + 1
            self.streams[number] = Shell(self, number, remote, data.rstrip(b"\0").partition(b":")[2])
        elif command == OPEN:
            self.send(CLSE, 0, remote)
        elif stream and command == OKAY:
            stream.turn.release()
        elif stream and command == WRTE:
            stream.inbox.put(data)
        elif stream and command == CLSE:
            stream.hang_up()

    def greet(self):
        """Let the computer in, or ask for a signature by yet another key; one without more sends a key to accept."""
        if self.device.trusting:
            self.send(CNXN, VERSION, PAYLOAD, BANNER)
        else:
            self.send(AUTH, TOKEN, 0, bytes(20))


class Shell:
    """A stream and its command, on socket pairs as adbd has them: stdin and stdout share one, stderr has its own.

    When the caller goes away the command is told as by adbd: SIGHUP for the shell alone, and both pairs are closed.
    """

    def __init__(self, cable, local, remote, command):
        self.cable, self.device, self.local, self.remote = cable, cable.device, local, remote
        self.gone, self.turn, self.inbox = False, threading.Semaphore(1), queue.SimpleQueue()
        (self.inout, theirs), (self.errors, their_errors) = socket.socketpair(), socket.socketpair()
        with theirs, their_errors:
            self.process = subprocess.Popen(
                [*self.device.shell, command.replace(TMP, os.fsencode(self.device.tmp))],
                stdin=theirs,
                stdout=theirs,
                stderr=their_errors,
                env=self.device.env,
                cwd=self.device.folder,
                start_new_session=True,
            )
        self.device.processes.append(self.process)
        cable.send(OKAY, local, remote)
        self.device.spawn(self.serve)

    def hang_up(self):
        if self.gone:
            return
        self.gone = True
        self.process.send_signal(signal.SIGHUP)
        for end in (self.inout, self.errors):
            with contextlib.suppress(OSError):  # the command has ended, and serve() has closed it
                end.shutdown(socket.SHUT_RDWR)
        self.inbox.put(None)
        self.turn.release()

    def serve(self):
        """Hand on what comes and what the command writes, then say how it ended."""
        feeding = self.device.spawn(self.feed)
        with self.inout, self.errors:
            pumps = [self.device.spawn(self.pump, *each) for each in ((self.inout, STDOUT), (self.errors, STDERR))]
            for pump in pumps:
                pump.join()
            self.inbox.put(None)
            feeding.join()
        code = self.process.wait()
        with contextlib.suppress(OSError):  # nobody is there to hear it
            self.write(EXIT, bytes([code if code >= 0 else 128 - code]))
            self.cable.send(CLSE, self.local, self.remote)

    def feed(self):
        """Hand stdin on; who sends waits until it is taken."""
        pending = b""
        while (data := self.inbox.get()) is not None:
            pending += data
            while len(pending) >= 5 and len(pending) >= 5 + (size := struct.unpack("<I", pending[1:5])[0]):
                kind, content, pending = pending[0], pending[5 : 5 + size], pending[5 + size :]
                with contextlib.suppress(OSError):  # the command reads no more
                    self.inout.shutdown(socket.SHUT_WR) if kind == CLOSE_STDIN else self.inout.sendall(content)
            with contextlib.suppress(OSError):  # cut
                self.cable.send(OKAY, self.local, self.remote)

    def pump(self, end, kind):
        with contextlib.suppress(OSError):  # nobody is there to hear it
            while data := end.recv(1 << 15):
                self.write(kind, data)
                self.device.said += data
                if self.device.cut_at and self.device.said.count(self.device.cut_at[0]) >= self.device.cut_at[1]:
                    self.device.cut()

    def write(self, kind, data):
        """Send one packet when the one before it was taken."""
        self.turn.acquire()
        if self.gone:
            self.turn.release()  # for whoever else waits
            raise BrokenPipeError
        self.cable.send(WRTE, self.local, self.remote, struct.pack("<BI", kind, len(data)) + data)
