"""Chromium for tests of the console, driven over its own protocol (CDP)."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from attrs import define, field
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from .programs import chromium

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-sync",
    "--no-first-run",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    "--disable-dev-shm-usage",
    "--disable-component-update",
    "--force-color-profile=srgb",
)
PATIENCE = 60.0  # seconds, for whatever the browser is asked
MESSAGE_MAX = 64 << 20  # bytes: a screenshot of a long page


@define(eq=False)
class Page:
    """One page.

    Attributes:
        problems: What the console of the browser said: errors, exceptions, what the policy refused.
        bytes: What the page has loaded since it was opened last, without headers.
    """

    _socket: WebSocketConnection
    problems: list[str] = field(factory=list)
    bytes: int = 0
    _number: int = 0
    _answers: dict[int, Any] = field(factory=dict)
    _bells: dict[int, trio.Event] = field(factory=dict)

    async def listen(self) -> None:
        """Take what the browser says, until it ends."""
        while True:
            try:
                said = json.loads(await self._socket.get_message())
            except ConnectionClosed:
                return
            if "id" in said:
                self._answers[said["id"]] = said
                self._bells.pop(said["id"]).set()
            else:
                self._noted(said["method"], said["params"])

    def _noted(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in {"error", "warning"}:
            self.problems.append(str([one.get("value") for one in params["args"]]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            entry = params["entry"]
            self.problems.append(f"{entry['text']} {entry.get('url', '')}")
        elif method == "Network.dataReceived":
            self.bytes += params["dataLength"]

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the protocol; return its result."""
        self._number += 1
        number = self._number
        bell = self._bells[number] = trio.Event()
        with trio.fail_after(PATIENCE):
            await self._socket.send_message(
                json.dumps({"id": number, "method": method, "params": params})
            )
            await bell.wait()
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    async def do(self, script: str) -> Any:
        """Run JavaScript in the page; return what it makes, or what its promise does."""
        given = await self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True,
            userGesture=True,
        )  # fmt: skip
        assert "exceptionDetails" not in given, given["exceptionDetails"]
        return given["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until JavaScript makes something true."""
        with trio.move_on_after(PATIENCE):
            while not await self.do(f"!!({script})"):
                await trio.sleep(0.05)
            return
        text = await self.do("document.body.innerText")
        raise AssertionError(f"never true: {script}; the page says:\n{text}\n{self.problems}")

    async def open(self, url: str) -> None:
        """Go to an address, and wait until the page is loaded."""
        self.bytes = 0
        await self.do("window.isOld = true")
        await self.send("Page.navigate", url=url)
        await self.until("!window.isOld && document.readyState === 'complete'")

    async def shape(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Give the window a size in CSS pixels, and the user's wish for dark or light."""
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.send("Emulation.setEmulatedMedia", features=[scheme])

    async def press(self, key: str, code: int) -> None:
        """Press and release a key that makes no text."""
        for kind in ("rawKeyDown", "keyUp"):
            await self.send(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code
            )

    async def picture(self, file: Path) -> None:
        """Write a PNG of the whole page."""
        given = await self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(given["data"]))


@asynccontextmanager
async def browsing() -> AsyncIterator[Page]:
    """A page in a Chromium of its own, whose files are gone afterwards."""
    program = await trio.to_thread.run_sync(chromium)  # it may have to be installed
    # the test's own folder has too long a name for the browser's socket
    home = Path(tempfile.mkdtemp(prefix="jsbox-"))
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220  # it starts at once
            [program, *FLAGS, f"--user-data-dir={home}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env=os.environ | {"HOME": str(home), "TMPDIR": str(home)},
        )  # fmt: skip
    try:
        port = await _port(process, home / "log")
        async with _page(port) as page:
            yield page
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(home, ignore_errors=True)


async def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    with trio.fail_after(PATIENCE):
        while True:
            if found := re.search(r"listening on ws://127\.0\.0\.1:(\d+)/", log.read_text()):
                return int(found[1])
            assert process.poll() is None, log.read_text()
            await trio.sleep(0.05)


@asynccontextmanager
async def _page(port: int) -> AsyncIterator[Page]:
    import httpx2 as httpx

    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        targets = (await client.get(f"http://127.0.0.1:{port}/json/list")).json()
    (url,) = [one["webSocketDebuggerUrl"] for one in targets if one["type"] == "page"]
    async with open_websocket_url(url, max_message_size=MESSAGE_MAX) as socket:
        page = Page(socket)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(page.listen)
            for name in ("Page", "Runtime", "Log", "Network"):
                await page.send(f"{name}.enable")
            yield page
            nursery.cancel_scope.cancel()
