"""A real Chromium without a window, driven through a pipe with the DevTools protocol.

It is the system's or, like Redis and Prometheus, unpacked from Debian's packages into the user's cache; so no test has to be skipped.
"""

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from keyahead.engine.store import RichProgress
from keyahead.stack import debs

_OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # it shows only our own pages, and needs rights that a container may lack
    "--disable-gpu",
    "--disable-dev-shm-usage",
    # Nothing but what the test opens: no updates, no reports, no default applications.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",  # so that a page has the width of the window
    "--remote-debugging-pipe",
)
ANSWER_S = 30.0
CONTRAST = """
(() => {
  const channel = value => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const weighed = (sum, value, i) => sum + channel(value) * [0.2126, 0.7152, 0.0722][i];
  const light = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number).reduce(weighed, 0);
  const ground = node => {
    const own = getComputedStyle(node).backgroundColor;
    return own === "rgba(0, 0, 0, 0)" ? ground(node.parentElement) : own;
  };
  const hasText = node => [...node.childNodes].some(each => each.nodeType === 3 && each.data.trim());
  return [...document.querySelectorAll("main *")].filter(each => each.getClientRects().length && hasText(each)).map(each => {
    const {color, fill} = getComputedStyle(each), [one, other] = [light(each instanceof SVGElement ? fill : color), light(ground(each))];
    return [(Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05), each.textContent];
  }).sort((a, b) => a[0] - b[0])[0];
})()
"""
"""Contrast and text of the element that is hardest to read, by WCAG 2's formula."""
_FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>/usr/share/fonts</dir><dir>{folder}</dir><cachedir>{cache}</cachedir></fontconfig>
"""


@dataclass(frozen=True, slots=True)
class Chromium:
    """Where it is, and the libraries that came with it."""

    program: Path
    environment: dict[str, str]


def install() -> Chromium:
    """The system's, or the one in the user's cache, fetched if need be (120 MB and more). Raises SetupError."""
    if path := shutil.which("chromium"):
        return Chromium(Path(path), {})
    cure = "install Debian's package chromium, or go online once"
    packages = ("chromium", "fonts-liberation")
    folder = debs.unpacked(*packages, alone=False, offline=False, cure=cure, progress=RichProgress())
    libraries = {str(path.parent) for path in (folder / "usr" / "lib").glob("*-linux-gnu*/**/*.so*")}
    fonts = folder / "fonts.conf"
    fonts.write_text(_FONTS.format(folder=folder / "usr" / "share" / "fonts", cache=folder / "font-cache"))
    environment = {"LD_LIBRARY_PATH": ":".join(sorted(libraries)), "FONTCONFIG_FILE": str(fonts)}
    return Chromium(folder / "usr" / "lib" / "chromium" / "chromium", environment)


class Browser:
    """One page. Use it as a context manager."""

    def __init__(self, chromium: Chromium, profile: Path) -> None:
        # Chromium reads commands from 3 and writes answers to 4; ours are moved out of the way of these first.
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for pipe in (os.pipe(), os.pipe()) for fd in _closing(pipe)]
        theirs_in, self._out, self._in, theirs_out = ends

        def connect() -> None:
            os.dup2(theirs_in, 3)
            os.dup2(theirs_out, 4)

        command = [str(chromium.program), *_OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **chromium.environment},
            pass_fds=(3, 4),
            preexec_fn=connect,  # noqa: PLW1509  # dup2 needs no lock that a thread may hold
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._ids = itertools.count(1)
        self._unread = b""
        self.errors: list[str] = []
        """What the page wrote to the console as an error, and exceptions nobody caught."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    _session: dict[str, str] = {}  # noqa: RUF012  # of the browser itself, until there is a page

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session = {}
        self.call("Browser.close")  # with all of its processes, and done with its profile
        self._process.wait(ANSWER_S)
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command and its result."""
        number = next(self._ids)
        os.write(self._out, json.dumps({"id": number, "method": method, "params": parameters, **self._session}).encode() + b"\0")
        until = time.monotonic() + ANSWER_S
        while True:
            message = self._message(until)
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._notice(message)

    def look(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Change the window's size and the scheme that its user prefers."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        """Go there, and forget what went wrong before."""
        self.errors.clear()
        assert "errorText" not in self.call("Page.navigate", url=url)

    def value(self, script: str) -> Any:
        """What an expression of JavaScript comes to, as JSON; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, script: str, seconds: float = 20) -> None:
        """Until an expression is true."""
        until = time.monotonic() + seconds
        while not self.value(script):
            assert time.monotonic() < until, f"never true: {script}"
            time.sleep(0.05)

    def screenshot(self, path: Path) -> None:
        """The whole page, as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def _message(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            assert ready, "Chromium does not answer"
            received = os.read(self._in, 1 << 16)
            assert received, f"Chromium ended with {self._process.wait()}"
            self._unread += received
        raw, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        return message

    def _notice(self, message: dict[str, Any]) -> None:
        details = message.get("params", {})
        if message["method"] == "Runtime.exceptionThrown":
            self.errors.append(details["exceptionDetails"]["text"])
        elif message["method"] == "Log.entryAdded" and details["entry"]["level"] == "error":
            self.errors.append(details["entry"]["text"])


def _closing(pipe: tuple[int, int]) -> Any:
    """Both ends, each closed once it has been used."""
    for fd in pipe:
        yield fd
        os.close(fd)
