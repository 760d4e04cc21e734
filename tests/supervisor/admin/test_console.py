"""The console: its files, who may have them, and that it works in a real browser."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

import httpx2 as httpx
import pytest
import trio

from supervisor.admin.console import FILES, FOLDER

from ...gateway_client import PATIENCE, connect
from ...programs import chromium
from ...service import ECHO, Folder, running


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.app("phone", "api.log_info('<b id=evil>x</b>', function () { " + ECHO + " });")
    return folder


async def test_its_files_are_served_to_whoever_reaches_the_port(folder: Folder) -> None:
    """Without a token, since they hold nothing; what the page asks for needs it. Nothing else may
    run on it, and nobody frame it.
    """
    digest = hashlib.sha256(b"secret").hexdigest()
    folder.text = folder.text.replace("[listen]\n", f'[listen]\nadmin_tokens = ["{digest}"]\n')
    async with (
        running(folder) as service,
        httpx.AsyncClient(base_url=service.admin_url, timeout=PATIENCE) as admin,
    ):
        for path, (name, kind) in FILES.items():
            answer = await admin.get(path)
            assert (answer.status_code, answer.text) == (200, (FOLDER / name).read_text())
            assert answer.headers["content-type"].startswith(kind)
            assert (
                "default-src 'none'; script-src 'self'" in answer.headers["content-security-policy"]
            )
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert (await admin.get("/v1/info")).status_code == 401
        told = (await admin.get("/v1/info", headers={"Authorization": "Bearer secret"})).json()
        assert told["gateway"] == service.gateway_url
        assert told["version"]


def test_it_puts_nothing_on_the_page_but_text() -> None:
    """No way by which what an app logs could become HTML or code; nothing from elsewhere."""
    script, page = (FOLDER / "console.js").read_text(), (FOLDER / "index.html").read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", script
    )
    assert not re.search(r"https?://|<script(?! type=\"module\" src=\"console.js\")|\son\w+=", page)


@pytest.mark.slow
async def test_a_browser_shows_the_apps(folder: Folder) -> None:
    """Chromium fills the page from the running server."""
    program = chromium()
    async with running(folder) as service, connect(service.gateway_url) as client:
        await client.say("hi", "new")
        flags = (
            "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-sync"
            " --no-first-run --virtual-time-budget=3000 --dump-dom"
        )
        done = await trio.to_thread.run_sync(
            lambda: subprocess.run(
                [
                    program,
                    *flags.split(),
                    f"--user-data-dir={folder.path}/browser",
                    service.admin_url,
                ],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        )
    apps = done.stdout.split('<section id="apps">')[1].split("</section>")[0]
    assert ">phone<" in apps
    assert ">running<" in apps
    channels = done.stdout.split('<section id="channels">')[1].split("</section>")[0]
    assert ">websocket<" in channels
    assert 'class="good">up<' in channels
    assert 'class="good">ready<' in done.stdout
