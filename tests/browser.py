"""A headless Chromium, driven through its DevTools protocol over a pipe, without a driver or a library."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe")  # fmt: skip
PATIENCE = 60.0


def find_chromium() -> str | None:
    """PIXDLM_CHROMIUM, or the first of NAMES on the PATH."""
    return os.environ.get("PIXDLM_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page in a Chromium of its own.

    Attributes:
        requests: addresses that the page has asked for, its own among them.
        errors: what its console has been told as errors or warnings, exceptions and violations of its policy.
    """

    def __init__(self, program: str, profile: Path) -> None:
        to_it, self._write = os.pipe()
        self._read, from_it = os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (to_it, from_it)]  # clear of 3 and 4

        def place_pipes() -> None:
            for end, number in zip(high, (3, 4), strict=True):
                os.dup2(end, number)

        self.process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=place_pipes, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (to_it, from_it, *high):
            os.close(end)
        self._numbers, self._buffer = itertools.count(1), b""
        self._events: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.errors: list[str] = []
        targets = self.call("Target.getTargets", session=None)["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session: str | None = None
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True, session=None)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, session: str | None = "", **params: Any) -> Any:
        """The result of a command of the protocol."""
        message: dict[str, Any] = {"id": next(self._numbers), "method": method, "params": params}
        if session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (reply := self._message()).get("id") != message["id"]:
            self._note(reply)
        assert "error" not in reply, f"{method}: {reply['error']}"
        return reply["result"]

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._read], [], [], PATIENCE)[0], "the browser does not answer"
            data = os.read(self._read, 1 << 20)
            assert data, "the browser has ended"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        self._events.append(event)
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(params["args"]))

    def open(self, address: str) -> float:
        """Load a page; seconds until its scripts have run."""
        started = time.perf_counter()
        self._events.clear()
        self.call("Page.navigate", url=address)
        while not any(event.get("method") == "Page.loadEventFired" for event in self._events):
            self._note(self._message())
        return time.perf_counter() - started

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; what it promises is waited for."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 20.0) -> Any:
        """The value of an expression as soon as it is true."""
        ends = time.perf_counter() + seconds
        while not (value := self.run(expression)):
            assert time.perf_counter() < ends, f"never true: {expression}; errors: {self.errors}"
            time.sleep(0.1)
        return value

    def upload(self, selector: str, *files: Path) -> None:
        """Choose files in the file field that `selector` finds."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        field = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        assert field, f"no {selector}"
        self.call("DOM.setFileInputFiles", files=[str(file) for file in files], nodeId=field)

    def save_downloads(self, folder: Path) -> None:
        """Have downloads written to a folder."""
        self.call("Browser.setDownloadBehavior", session=None, behavior="allow", downloadPath=str(folder))

    def press(self, key: str) -> None:
        """Press a key that has a name, such as Escape."""
        code = {"Escape": 27, "ArrowLeft": 37, "ArrowRight": 39, "Enter": 13, "Tab": 9}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        """Show the page as a screen of that many CSS pixels does; a narrow one as a phone."""
        mobile = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale,
                  mobile=mobile)  # fmt: skip

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """A PNG of what is in view, or of the whole page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """End the browser."""
        for end in (self._write, self._read):
            os.close(end)
        self.process.kill()
        self.process.wait()
