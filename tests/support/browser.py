"""Headless Chromium over the DevTools protocol: a page at a size, its errors, scripts, a screenshot."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESKTOP, PHONE = (1200, 900), (390, 844)


def browser_path() -> str | None:
    """Return Chromium's path; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One page that is open."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._number = socket, 0
        self.problems: list[str] = []
        """What the console and the network said that is an error, and requests that left the file."""

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            said = json.loads(self._socket.recv())
            if said.get("id") == self._number:
                if "error" in said:
                    raise RuntimeError(f"{method}: {said['error']}")
                return said["result"]  # type: ignore[no-any-return]
            self._note(said)

    def _note(self, said: dict[str, Any]) -> None:
        method, params = said.get("method", ""), said.get("params", {})
        if method == "Runtime.exceptionThrown" or (
            method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning")
        ):
            self.problems.append(json.dumps(params)[:500])
        if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])
        if method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("file:", "data:")):
            self.problems.append(f"loads {params['request']['url']}")

    def open(self, path: Path, size: tuple[int, int], *, dark: bool = False) -> None:
        """Open a file at a size, in light or dark."""
        width, height = size
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        )
        self.call("Page.navigate", url=path.absolute().as_uri())
        for _ in range(100):
            if self.run("document.readyState") == "complete":
                return
            time.sleep(0.05)
        raise TimeoutError(f"{path} does not load")

    def run(self, script: str) -> Any:
        """Return what an expression is, awaited if it is a promise."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(json.dumps(found["exceptionDetails"])[:1000])
        return found["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write the whole page as PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))


class Browser:
    """A running Chromium, which ends with the block."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--remote-allow-origins=*")
        process = subprocess.Popen(
            [self._path, *options, f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        port = Path(folder) / "DevToolsActivePort"
        end = time.monotonic() + 60
        while not (port.exists() and port.read_text().count("\n")):
            if time.monotonic() > end or process.poll() is not None:
                raise RuntimeError("Chromium does not start")
            time.sleep(0.05)
        self._port = port.read_text().splitlines()[0]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def page(self) -> Iterator[Page]:
        """Give a new page, within the block."""
        import websocket

        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request, timeout=30) as answer:
            address = json.load(answer)["webSocketDebuggerUrl"]
        socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
        page = Page(socket)
        try:
            for domain in ("Page", "Runtime", "Log", "Network"):
                page.call(f"{domain}.enable")
            yield page
        finally:
            socket.close()
