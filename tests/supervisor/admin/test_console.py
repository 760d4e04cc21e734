"""The console: its files, who may have them, and what they hold. A real browser looks at it in
tests/integration/test_console.py.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import httpx2 as httpx
import pytest

from supervisor.admin import console
from supervisor.admin.console import FILES, FOLDER

from ...gateway_client import PATIENCE
from ...service import ECHO, Folder, running

SOURCES = Path(__file__).parents[3] / "console"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.app("phone", ECHO)
    return folder


async def test_its_files_are_served_to_whoever_reaches_the_port(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a token, since they hold nothing; what the page asks for needs it. Nothing else may
    run on it, and nobody frame it. Each page's path is the page.
    """
    digest = hashlib.sha256(b"secret").hexdigest()
    folder.text = folder.text.replace("[listen]\n", f'[listen]\nadmin_tokens = ["{digest}"]\n')
    async with (
        running(folder) as service,
        httpx.AsyncClient(base_url=service.admin_url, timeout=PATIENCE) as admin,
    ):
        for path, (name, kind) in {**FILES, "/ui/apps/phone/log": FILES["/"]}.items():
            answer = await admin.get(path)
            assert (answer.status_code, answer.content) == (200, (FOLDER / name).read_bytes())
            assert answer.headers["content-type"].startswith(kind)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
        for path in ("/v1/info", "/v1/overview", "/v1/host", "/v1/reload", "/ui", "/uix/"):
            assert (await admin.get(path)).status_code == 401, path
        assert (await admin.post("/ui/apps")).status_code == 405
        told = (await admin.get("/v1/info", headers={"Authorization": "Bearer secret"})).json()
        assert told["gateway"] == service.gateway_url
        assert told["version"]
        monkeypatch.setattr(console, "FOLDER", tmp_path / "nothing")
        answer = await admin.get("/")
        assert (answer.status_code, "was not built" in answer.text) == (404, True)


def test_it_puts_nothing_on_the_page_but_text() -> None:
    """No way by which what an app logs could become HTML or code; nothing from elsewhere; and the
    page is what a browser loads in a moment.
    """
    sources = {file: file.read_text("utf-8") for file in (SOURCES / "src").iterdir()}
    assert len(sources) > 20
    for file, text in sources.items():
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", text
        ), file
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), file
    page = (FOLDER / "index.html").read_text()
    assert not re.search(r"<script(?! type=\"module\" src=\"/console.js\")|<style|\son\w+=", page)
    assert sum((FOLDER / name).stat().st_size for name, _ in FILES.values()) < 190 << 10


def test_all_that_is_in_it_is_in_the_list_of_licences() -> None:
    """With its licence's text; the lock file names no registry."""
    lock = json.loads((SOURCES / "package-lock.json").read_text())
    assert "resolved" not in json.dumps(lock)
    text = (FOLDER / "licences.txt").read_text("utf-8")
    for path, package in lock["packages"].items():
        name = path.removeprefix("node_modules/")
        if name and "esbuild" not in name:  # which builds it, and leaves nothing in it
            head = f"{name} {package['version']}: {package['license']}\n\n"
            assert head in text
            body = text.partition(head)[2].partition("-" * 72)[0]
            assert len(body) > 400 or package["license"] == "Unlicense", name  # which needs none
