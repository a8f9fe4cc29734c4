"""A Chromium without a window, driven over its debugging pipe."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# The browser reads commands from descriptor 3 and answers on 4.
START = """
import fcntl, os, sys
orders, answers = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(orders, 3), os.dup2(answers, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """A browser that opens pages and evaluates expressions in them."""

    def __init__(self, profile: Path, *flags: str) -> None:
        assert CHROMIUM
        orders, self._orders = os.pipe()
        answers, theirs = os.pipe()
        chromium = [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, str(orders), str(theirs), *chromium],
            pass_fds=(orders, theirs),
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(profile)},
        )
        os.close(orders)
        os.close(theirs)
        self._answers = os.fdopen(answers, "rb")
        self._rest = b""
        self._count = 0
        self._loaded: set[str] = set()
        self._session: dict[str, str] = {}
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        self._ask("Page.enable")
        self._ask("Page.setLifecycleEventsEnabled", enabled=True)

    def close(self) -> None:
        os.close(self._orders)
        self._answers.close()
        self._process.terminate()
        self._process.wait(60)

    def visit(self, url: str, width: int, scheme: str = "light") -> None:
        """Open a page in a window of this width in CSS pixels."""
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self._ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        document = self._ask("Page.navigate", url=url)["loaderId"]
        while document not in self._loaded:
            self._message()

    def press(self, selector: str) -> None:
        """Click an element that leads to another page, and wait for that page."""
        before = len(self._loaded)
        self.value(f"document.querySelector({json.dumps(selector)}).click()")
        while len(self._loaded) == before:
            self._message()

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page, whatever scripts its policy allows."""
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def _ask(self, method: str, **parameters: Any) -> Any:
        self._count += 1
        order = {"id": self._count, "method": method, "params": parameters, **self._session}
        os.write(self._orders, json.dumps(order).encode() + b"\0")
        while (answer := self._message()).get("id") != self._count:
            pass
        return answer["result"]

    def _message(self) -> Any:
        while b"\0" not in self._rest:
            part = os.read(self._answers.fileno(), 65536)
            assert part, "the browser ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        told = json.loads(message)
        if told.get("method") == "Page.lifecycleEvent" and told["params"]["name"] == "load":
            self._loaded.add(told["params"]["loaderId"])
        return told
