"""A headless browser, if one is installed, driven through a pipe: how pages look, what they complain of."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
DEADLINE_S = 90.0
_COMPLAINTS = (
    "Runtime.exceptionThrown",
    "Runtime.consoleAPICalled",
    "Log.entryAdded",
    "Network.requestWillBeSent",
)


def installed() -> str | None:
    """The program, if there is one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """A context manager; one page."""

    def __init__(self, program: str, folder: Path) -> None:
        """`folder`: for its profile and what it logs."""
        self._folder = folder
        self._last = 0
        self._input = b""
        self.complaints: list[str] = []
        """What the page wrote to its console, and everything that it asked the network for."""
        to_read, self._to_browser = os.pipe()
        self._from_browser, to_write = os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
        options += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        options += [
            "--disable-dev-shm-usage",
            "--remote-debugging-pipe",
            f"--user-data-dir={folder / 'profile'}",
        ]
        with open(folder / "browser.log", "wb") as log:
            self._process = subprocess.Popen(
                # The pipe is on descriptors 3 and 4; not every shell knows larger ones, as these are here.
                ["bash", "-c", f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}', program, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(to_read, to_write),
                start_new_session=True,
                # What it keeps beside the profile is not to end up in the home of who runs the tests.
                env={**os.environ, "HOME": str(folder)},
            )
        os.close(to_read)
        os.close(to_write)
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def show(self, page: Path, width: int, scheme: Literal["light", "dark"]) -> None:
        """Load a file into a window so many CSS pixels wide."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", features=features)
        self.ask("Page.navigate", url=page.as_uri())
        deadline = time.monotonic() + DEADLINE_S
        while self.value("document.readyState + location.protocol") != "completefile:":
            assert time.monotonic() < deadline, "the page was not loaded"

    def value(self, expression: str) -> Any:
        """What a JavaScript expression says in the page."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self) -> bytes:
        """The whole page, as PNG."""
        size = self.value("[document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
        answer = self.ask("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, to the page."""
        return self._ask(method, self._session, **params)

    def _ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._to_browser, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._last:
            if answer.get("method") in _COMPLAINTS:
                self.complaints.append(json.dumps(answer["params"]))
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._input:
            data = os.read(self._from_browser, 1 << 16)
            assert data, (self._folder / "browser.log").read_text(encoding="utf-8", errors="replace")
            self._input += data
        message, _, self._input = self._input.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._to_browser)
        os.close(self._from_browser)
        # It has children of its own, all in its session.
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(DEADLINE_S)
