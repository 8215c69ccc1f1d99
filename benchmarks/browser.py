"""How does a page behave in a real browser? Chromium, headless, spoken to over two pipes in its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE = 60.0  # seconds that an answer may take on a busy machine
# Nothing of it may use the network, and pictures of one page are the same on every screen.
FLAGS = (
    *("--headless", "--no-sandbox", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *(
        "--force-color-profile=srgb",
        "--font-render-hinting=none",
        "--hide-scrollbars",
        "--disable-dev-shm-usage",
    ),
)
# Chromium reads descriptor 3 and writes descriptor 4; a shell can move no descriptor above 9 there.
PLACED = """
import fcntl, os, sys
for into, descriptor in zip((3, 4), [fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3]]):
    os.dup2(descriptor, into)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find() -> str | None:
    """Return a Chromium of this machine: that of the variable CHROMIUM, or one on the path."""
    named = os.environ.get("CHROMIUM")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """A browser that lives as long as its ``with``; ``messages`` holds what its console and its network complain of."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.messages: list[str] = []
        self.requests: list[str] = []

    def __enter__(self) -> Browser:
        """Start it and open an empty page."""
        self.folder = tempfile.TemporaryDirectory(prefix="edgel0-browser-", ignore_cleanup_errors=True)
        theirs_in, self.out = os.pipe()
        self.into, theirs_out = os.pipe()
        command = [sys.executable, "-c", PLACED, str(theirs_in), str(theirs_out), self.program, *FLAGS]
        command += [f"--user-data-dir={self.folder.name}", "about:blank"]
        quiet: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, pass_fds=(theirs_in, theirs_out), start_new_session=True, **quiet)
        os.close(theirs_in)
        os.close(theirs_out)
        self.count, self.rest, self.session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        try:
            self._begin()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _begin(self) -> None:
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End it and remove what it left."""
        with contextlib.suppress(OSError, RuntimeError):
            self.session = ""
            self.ask("Browser.close")
        os.close(self.out)
        os.close(self.into)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._hear()
            if answer.get("id") == self.count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            self._note(answer)

    def _hear(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.into], [], [], max(0.0, end - time.monotonic()))
            found = os.read(self.into, 1 << 20) if ready else b""
            if not found:
                raise RuntimeError(f"{self.program} {'said nothing more' if ready else 'did not answer in time'}")
            self.rest += found
        line, _, self.rest = self.rest.partition(b"\0")
        return dict(json.loads(line))

    def _note(self, event: dict[str, Any]) -> None:
        """Keep what a page should not do: complain, throw, or ask for anything beside itself."""
        params = event.get("params", {})
        self.events.append(event)
        if event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.messages.append(f"{params['type']}: {[a.get('value') for a in params['args']]}")
        elif event["method"] == "Runtime.exceptionThrown":
            self.messages.append(f"exception: {params['exceptionDetails']['text']}")
        elif event["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.messages.append(f"{params['entry']['level']}: {params['entry']['text']}")
        elif event["method"] == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def open(self, page: Path, width: int, height: int = 900, scheme: str = "light", scale: float = 1.0) -> None:
        """Show a file in a window of so many CSS pixels, in the ``light`` or ``dark`` colour scheme."""
        self.messages.clear()
        self.requests.clear()
        self.events.clear()
        screen = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **screen)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.ask("Page.navigate", url=page.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._note(self._hear())
        self.run("document.fonts.ready.then(() => true)")

    def run(self, code: str) -> Any:
        """Evaluate JavaScript in the page and return its value, plain JSON; a promise is waited for."""
        answer = self.ask("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def picture(self, clip: dict[str, float] | None = None) -> bytes:
        """Return a PNG of the whole page, or of a box of it in CSS pixels."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        box = clip or {"x": 0, "y": 0, "width": size["width"], "height": size["height"]}
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip={**box, "scale": 1})
        return base64.b64decode(shot["data"])

    def pdf(self) -> bytes:
        """Return the page as it is printed on A4."""
        size = {"paperWidth": 8.27, "paperHeight": 11.69}
        return base64.b64decode(
            self.ask("Page.printToPDF", printBackground=True, preferCSSPageSize=True, **size)["data"]
        )
