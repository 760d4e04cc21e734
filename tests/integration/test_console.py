"""The console in a real browser, against a service in trouble: every page, for everybody."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2 as httpx
import pytest
import redis
from attrs import frozen

from supervisor.service import Service

from ..browser import Page, browsing
from ..programs import axe
from ..service import Folder, running
from .dead_letters import listed
from .troubles import troubled

pytestmark = pytest.mark.slow

SHOTS = os.environ.get("JSBOX_SHOTS")  # a folder for screenshots, to be looked at
FIRST_BYTES = 200 << 10
LINES = 10_000  # of the log
SERIOUS = ("serious", "critical")
OVERVIEW = (
    "document.querySelectorAll('.cards canvas').length === 8 &&"
    " document.querySelector('.troubles') && document.querySelectorAll('tbody tr').length === 5"
)
OUTBOX = "document.querySelectorAll('tbody tr').length === 3 && document.querySelector('aside pre')"
CONTACT = (
    "[...document.querySelectorAll('.facts')].length === 2 &&"
    " [...document.querySelectorAll('section .facts dd')].some((one) => one.innerText === 'Durban')"
)
LIMITS = "document.querySelector('.use') && document.querySelector('.problem li')"
TRIPPED = (
    "document.querySelector('.state.bad')?.textContent === 'tripped' &&"
    " document.querySelector('.problem.bad')?.innerText.includes('exited with code 3') &&"
    " document.querySelectorAll('tbody tr').length >= 3"
)
NAMES = (  # every page, and what it shows when it is complete
    ("overview", "/", OVERVIEW),
    ("app", "/ui/apps/good", "document.querySelectorAll('tbody tr').length === 50"),
    ("failing app", "/ui/apps/throws?outcome=failed", "document.querySelector('td .bad')"),
    ("tripped app", "/ui/apps/ends", TRIPPED),
    ("run", "/ui/apps/good?run={run}", "document.querySelectorAll('.timeline li').length >= 6"),
    ("log", "/ui/apps/good/log", "document.querySelectorAll('.log .entry').length > 5"),
    ("limits", "/ui/apps/good/limits?what=wall%3D1ms",
     LIMITS),
    ("phone", "/ui/apps/good/phone", "document.querySelector('.handset')"),
    ("channels", "/ui/channels", "document.querySelectorAll('tbody tr').length === 6"),
    ("outbox", "/ui/channels/unread?message=1", OUTBOX),
    ("dead letters", "/ui/deadletters", "document.querySelectorAll('tbody tr').length === 2"),
    ("dead letter", "/ui/deadletters/{letter}", "document.querySelector('pre')"),
    ("contacts", "/ui/contacts?account=acct",
     "document.querySelectorAll('tbody tr').length === 50"),
    ("contact", "/ui/contacts/acct/{contact}", CONTACT),
    ("groups", "/ui/groups?account=acct", "document.querySelector('tbody tr')"),
    ("opt-outs", "/ui/optouts?account=acct", "document.querySelector('tbody tr')"),
    ("hosts", "/ui/hosts", "document.querySelectorAll('tbody button').length >= 2"),
    ("config", "/ui/config", "document.querySelector('ins')"),
    ("audit", "/ui/audit", "document.querySelector('tbody time')"),
    ("no page", "/ui/nothing", "document.querySelector('h1').textContent === 'No such page'"),
)  # fmt: skip


@frozen
class Rig:
    """A page in a browser, and the service that it shows."""

    page: Page
    service: Service
    admin: httpx.AsyncClient
    folder: Folder

    async def open(self, path: str, complete: str = "true") -> None:
        await self.page.open(self.service.admin_url + path)
        await self.page.until(complete)


@asynccontextmanager
async def rigged(folder: Folder, store: redis.Redis) -> AsyncIterator[Rig]:
    async with (
        troubled(folder, store) as (service, admin),
        browsing() as page,
    ):
        yield Rig(page, service, admin, folder)


async def names_in(rig: Rig) -> dict[str, str]:
    """What the paths name: of what there is now."""
    (run, *_) = (await rig.admin.get("/v1/traces?app=good")).json()["traces"]
    (letter, *_) = await listed(rig.admin)
    contacts = (await rig.admin.get("/v1/accounts/acct/contacts?query=surname:0")).json()
    return {"run": run["message"], "letter": letter["id"], "contact": contacts["keys"][0]}


async def check(rig: Rig, name: str, script: str) -> list[str]:
    """What is wrong with the page that is shown: what axe finds, and what is too wide."""
    await rig.page.do(script)
    found = await rig.page.do(
        "axe.run({resultTypes: ['violations']}).then((found) => found.violations.map((one) =>"
        " [one.impact, one.id, one.nodes.map((node) => node.html).slice(0, 3)]))"
    )
    bad = [f"{name}: {one}" for one in found if one[0] in SERIOUS]
    width = await rig.page.do("document.documentElement.scrollWidth - innerWidth")
    if width > 0:
        bad.append(f"{name}: it is {width} px too wide")
    bad += [f"{name}: {text}" for text in rig.page.problems]
    rig.page.problems.clear()
    return bad


@pytest.mark.timeout(900)
async def test_every_page_in_a_service_in_trouble(
    folder: Folder, store: redis.Redis, tmp_path: Path
) -> None:
    """Each without an error in the browser's console, or a serious finding of axe; wide and narrow,
    dark and light.
    """
    script, wrong = axe(tmp_path / "npm"), list[str]()
    async with rigged(folder, store) as rig:
        folder.text = folder.text.replace("trip_after = 3", "trip_after = 4")
        assert folder.config
        given = await names_in(rig)
        for name, path, complete in NAMES:
            for width, dark in ((1280, False), (1280, True), (390, False), (390, True)):
                await rig.page.shape(width, dark=dark)
                await rig.open(path.format(**given), complete)
                wrong += await check(rig, f"{name}, {width}, {'dark' if dark else 'light'}", script)
                if SHOTS is not None:
                    shade = "dark" if dark else "light"
                    await rig.page.picture(Path(SHOTS, f"{name}-{width}-{shade}.png"))
    assert not wrong, "\n".join(wrong)


@pytest.mark.timeout(900)
async def test_it_is_small_and_used_with_the_keyboard(folder: Folder, store: redis.Redis) -> None:
    """The first view is small; what is refreshed keeps the focus; arrow keys move between tabs; the
    phone talks; texts of apps are text; 10,000 lines of a log follow, or say that they do not.
    """
    async with rigged(folder, store) as rig:
        page = rig.page
        await page.shape(1280)
        await rig.open("/", OVERVIEW)
        assert page.bytes < FIRST_BYTES
        await _keeps_the_focus(rig)
        await page.do(
            "[...document.querySelectorAll('th a')].find((a) => a.text === 'good').click()"
        )
        await page.until("location.pathname === '/ui/apps/good'")
        await page.until("document.querySelector('[role=tab]')")
        for number in range(LINES):
            await _log(rig, f"line {number}")
        await page.do("document.querySelector('[aria-selected=true]').focus()")
        await page.press("ArrowRight", 39)
        await page.until("location.pathname === '/ui/apps/good/log'")
        await page.until("document.activeElement.text === 'Log'")
        await _follows(rig)
        await _quotes(rig)
        await _talks(rig)
        assert await page.do("document.querySelector('#evil, img, iframe') === null")
        assert page.problems == []


async def test_an_app_in_trouble_is_found_from_the_overview(
    folder: Folder, store: redis.Redis
) -> None:
    """Named with its reason; a click leads to the app, and another to the run that shows why."""
    link = "[...document.querySelectorAll('.troubles a')].find((one) => one.text === 'App {}')"
    async with rigged(folder, store) as rig:
        page = rig.page
        await page.shape(1280)
        # what keeps throwing also keeps ending its process
        for app, why in (("ends", "it is tripped: "), ("throws", "it is backing off: Error: the")):
            await rig.open("/", OVERVIEW)
            said = await page.do(link.format(app) + ".closest('li').innerText")
            assert why in said
            await page.do(link.format(app) + ".click()")
            await page.until(f"location.pathname.startsWith('/ui/apps/{app}')")
            await page.until("document.querySelector('td.id a')")
            await page.do("document.querySelector('td.id a').click()")
            await page.until("document.querySelectorAll('.timeline li').length >= 1")
        await page.until("document.querySelector('aside').innerText.includes('database is')")
        assert page.problems == []


async def _keeps_the_focus(rig: Rig) -> None:
    """Through several refreshes of the page."""
    asked = "performance.getEntriesByType('resource').filter((one) => one.name.endsWith('/apps'))"
    await rig.page.do("document.querySelector('tbody a').focus()")
    chosen = await rig.page.do("document.activeElement.text")
    before = await rig.page.do(f"{asked}.length")
    await rig.page.until(f"{asked}.length >= {before + 3}")
    assert await rig.page.do("document.activeElement.text") == chosen


async def _log(rig: Rig, text: str) -> None:
    await rig.service.stores.logbook.write("acct", "good", logging.INFO, text, LINES)


async def _follows(rig: Rig) -> None:
    page = rig.page
    await page.until(f"document.querySelector('.log').innerText.includes('line {LINES - 1}')")
    assert await page.do("document.querySelectorAll('.log .entry').length") < 200
    assert "Following." in await page.do("document.body.innerText")
    await page.do("document.querySelector('.log').focus()")
    await page.press("Home", 36)
    await page.until("document.body.innerText.includes('Not following')")
    await _log(rig, "one more")
    await page.until("document.body.innerText.includes('1 new lines below')")
    await page.do(
        "[...document.querySelectorAll('button')].find((one) =>"
        " one.textContent.startsWith('Jump')).click()"
    )
    await page.until("document.querySelector('.log').innerText.includes('one more')")
    await page.until("document.body.innerText.includes('Following.')")


async def _quotes(rig: Rig) -> None:
    """A command that is shown to be copied has what a link or a client wrote as a word."""
    shown = "[...document.querySelectorAll('code')].some((one) => one.textContent === {})"
    command = "jsbox logs good -f --grep 'a; b '\\\\''c'"
    await rig.open("/ui/apps/good/log?grep=a;%20b%20%27c", shown.format(f'"{command}"'))


async def _talks(rig: Rig) -> None:
    await rig.open("/ui/apps/good/phone", "document.querySelector('.handset button.main')")
    await rig.page.do("document.querySelector('.handset button.main').click()")
    await rig.page.until("document.querySelector('.screen').innerText.includes('2. No')")
    await rig.page.until("document.querySelector('.handset').innerText.includes('states:menu')")


async def test_what_a_page_cannot_show_ends_that_page(folder: Folder) -> None:
    """A server of another version may answer otherwise: the other pages, and the choice of another
    server, are still there.
    """
    folder.app("phone", "api.done();")
    odd = (
        "window.fetch = ((real) => (path, ...more) => (path.startsWith('/v1/channels')"
        " ? Promise.resolve(new Response('{\"channels\": 7}'))"
        " : real(path, ...more)))(window.fetch)"
    )
    click = "[...document.querySelectorAll('nav a')].find((one) => one.text === '{}').click()"
    title = "document.querySelector('h1').textContent === '{}'"
    async with running(folder) as service, browsing() as page:
        await page.open(service.admin_url)
        await page.until("document.querySelector('tbody')")
        await page.do(odd)
        await page.do(click.format("Channels"))
        await page.until(title.format("This page cannot be shown"))
        await page.do(click.format("Audit"))
        await page.until(title.format("Audit"))
        # a time in the URL that is none
        await page.open(f"{service.admin_url}/ui/apps/phone?since=2026-99-99")
        await page.until("document.querySelector('.problem.bad')?.innerText.includes('since: ')")


async def test_it_asks_for_a_token_until_it_is_right(folder: Folder) -> None:
    """And says so if one is wrong."""
    digest = hashlib.sha256(b"secret").hexdigest()
    folder.text = folder.text.replace("[listen]\n", f'[listen]\nadmin_tokens = ["{digest}"]\n')
    folder.app("phone", "api.done();")
    give = (
        "document.querySelector('#token').value = '{}';"
        " document.querySelector('dialog[open] form').requestSubmit()"
    )
    async with running(folder) as service, browsing() as page:
        await page.open(service.admin_url)
        await page.until("document.querySelector('dialog[open] #token')")
        await page.do(give.format("wrong"))
        await page.until("document.querySelector('dialog[open] .bad')")
        await page.do(give.format("secret"))
        await page.until("document.querySelector('.cards') && !document.querySelector('[open]')")
