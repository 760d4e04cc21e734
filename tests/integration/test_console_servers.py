"""The console in a real browser where several servers are: those that share the work, and one that
stands by.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.config import Address, Config
from supervisor.config.model import Listen
from supervisor.host.systemd import Systemd
from supervisor.standby import open_standby

from ..browser import Page, browsing
from ..programs import axe
from ..service import Folder, running
from ..supervisor.admin.test_elsewhere import sharing
from .test_console import SERIOUS

pytestmark = pytest.mark.slow

GIVE = (
    "document.querySelector('#token').value = 'thandi';"
    " document.querySelector('dialog[open] form').requestSubmit()"
)


async def serious(page: Page, script: str) -> list[str]:
    await page.do(script)
    found = await page.do(
        "axe.run({resultTypes: ['violations']}).then((found) =>"
        " found.violations.map((one) => [one.impact, one.id, one.nodes.map((n) => n.html)]))"
    )
    return [str(one) for one in found if one[0] in SERIOUS]


@pytest.mark.timeout(600)
async def test_it_shows_each_of_the_servers(
    tmp_path: Path, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is chosen for all pages; the overview has what is wrong with the others."""
    script = axe(tmp_path / "npm")
    async with sharing(tmp_path, valkey, monkeypatch) as (one, two), browsing() as page:
        await page.shape(390)
        await page.open(one.admin_url + "/ui/hosts")
        await page.until("document.querySelector('dialog[open] #token')")
        await page.do(GIVE)
        await page.until("document.querySelectorAll('.server option').length === 2")
        table = "document.querySelector('[aria-label=\"Servers\"]')"
        await page.until(f"{table} && {table}.querySelectorAll('tbody tr').length === 2")
        assert await page.do(f"{table}.innerText.includes('two (process 7)')")
        assert await page.do("document.documentElement.scrollWidth <= innerWidth")
        assert await serious(page, script) == []
        page.problems.clear()  # a browser reports the 401 that asked for the token

        two.reloads.refused = "it would not start"
        await page.open(one.admin_url + "/")
        trouble = "document.querySelector('.troubles')?.innerText ?? ''"
        await page.until(f"({trouble}).includes('Server two (process 7)')")
        assert "it would not start" in await page.do(trouble)

        await page.open(one.admin_url + "/ui/config")
        await page.until("document.querySelectorAll('.server option').length === 2")
        asked = (
            "performance.getEntriesByType('resource').filter((one) =>"
            " one.name.includes('/v1/info?host=')).length > 0"
        )
        assert not await page.do(asked)
        await page.do(
            "{ const of = document.querySelector('.server select');"
            " of.value = [...of.options].find((one) => one.text.startsWith('two')).value;"
            " of.dispatchEvent(new Event('change', {bubbles: true})); }"
        )
        await page.until(asked)
        await page.until(
            "document.querySelector('.server select')?.selectedOptions[0].text.startsWith('two')"
        )
        assert page.problems == []


async def test_a_server_that_stands_by_says_so_until_it_serves(folder: Folder) -> None:
    """The page that was opened then is the console at once."""
    folder.app("phone", "api.done();")
    listen = Listen(admin=Address("127.0.0.1", 0))
    async with browsing() as page:
        async with open_standby(Config(listen=listen), Systemd()) as standby:
            standby.problem = "the store is held by alpha"
            port = standby.url.rpartition(":")[2]
            await page.open(standby.url)
            await page.until("document.body.innerText.includes('the store is held by alpha')")
            await page.until("document.querySelector('header').innerText.includes('stands by')")
        folder.text = folder.text.replace('admin = "127.0.0.1:0"', f'admin = "127.0.0.1:{port}"')
        async with running(folder):
            await page.until("document.querySelectorAll('.cards canvas').length === 8")
            await page.until("document.body.innerText.includes('Nothing is wrong.')")
            await page.until("!document.querySelector('header').innerText.includes('stands by')")
