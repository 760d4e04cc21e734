"""What the server under test reports of itself: processes, memory, where its runs spent time."""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import trio
from attrs import define, field

from ..client.token import own_token
from ..observe import PHASES

SECONDS = 1.0  # between two looks
RETRY = 0.1  # seconds between two attempts at a fault
TIMEOUT = 5.0  # seconds
FAULT_TIMEOUT = 60.0  # seconds for a fault to be carried out, however busy the server is

_SAMPLE = re.compile(r"^(jsbox_[a-z_]+?)(?:\{(.*)\})? ([0-9.eE+-]+|NaN)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

log = logging.getLogger(__name__)


@define
class Totals:
    """The server's counters for one app: seconds by phase, runs, processes started."""

    seconds: dict[str, float] = field(factory=dict)
    runs: float = 0.0
    starts: float = 0.0


@define
class Sight:
    """The latest look at the app's processes, and the largest memory seen."""

    busy: int = 0
    idle: int = 0
    queue: float = 0.0
    rss: int = 0
    rss_max: int = 0
    failures: int = 0  # looks that failed


@define(eq=False)
class Watch:
    """Looks at one app through the admin port. Made by `open_watch`."""

    app: str
    _client: httpx2.AsyncClient
    sight: Sight = field(factory=Sight, init=False)
    before: Totals = field(factory=Totals, init=False)
    after: Totals = field(factory=Totals, init=False)

    async def totals(self) -> Totals:
        """Read the counters."""
        totals = Totals()
        for name, labels, value in _samples((await self._client.get("/metrics")).text):
            if labels.get("app", self.app) != self.app:
                continue
            match name:
                case "jsbox_message_duration_seconds_sum":
                    totals.seconds[labels["phase"]] = value
                case "jsbox_message_duration_seconds_count" if labels["phase"] == "total":
                    totals.runs = value
                case "jsbox_sandbox_starts_total":
                    totals.starts = value
                case "jsbox_queue_depth":
                    self.sight.queue = value
        return totals

    async def begin(self) -> None:
        """Note the counters at the start of the measured part."""
        self.before = await self._try_totals(self.before)

    async def end(self) -> None:
        """Note the counters at its end."""
        self.after = await self._try_totals(self.after)

    async def _try_totals(self, otherwise: Totals) -> Totals:
        try:
            return await self.totals()
        except httpx2.HTTPError as error:
            log.warning("the server's metrics cannot be read: %s", error)
            return otherwise

    def phases(self) -> dict[str, float]:
        """Mean seconds of a run by phase, between begin and end; empty if there were no runs."""
        runs = self.after.runs - self.before.runs
        if runs <= 0:
            return {}
        return {
            name: (self.after.seconds.get(name, 0.0) - self.before.seconds.get(name, 0.0)) / runs
            for name in PHASES
        }

    @property
    def starts(self) -> int:
        """Processes started in the measured part."""
        return int(self.after.starts - self.before.starts)

    async def kill_one(self) -> str:
        """Kill a process of the app, preferably a busy one; return what was done.

        Waits up to FAULT_TIMEOUT for a process to kill: the one chosen may just have ended.
        """
        text = "no process to kill"
        with trio.move_on_after(FAULT_TIMEOUT):
            while True:
                found = await self._own_sandboxes()
                if found:
                    victim = min(found, key=lambda one: one["state"] != "busy")
                    url = f"/v1/sandboxes/{victim['pid']}/kill"
                    response = await self._client.post(url, timeout=FAULT_TIMEOUT)
                    if response.is_success:
                        return f"killed {victim['state']} process {victim['pid']}"
                    text = f"not killed: {response.text}"
                await trio.sleep(RETRY)
        return text

    async def reload(self) -> str:
        """Reload the server's config; return what came of it."""
        body = (await self._client.post("/v1/reload", timeout=FAULT_TIMEOUT)).json()
        return "the config was read again" if body.get("ok") else f"the config was refused: {body}"

    async def _own_sandboxes(self) -> list[dict[str, object]]:
        body = (await self._client.get("/v1/sandboxes")).json()
        return [one for one in body["sandboxes"] if one["app"] == self.app]

    async def run(self) -> None:
        """Look again and again; a look that fails is counted."""
        while True:
            try:
                await self.totals()
                own = await self._own_sandboxes()
            except (httpx2.HTTPError, KeyError, ValueError):
                self.sight.failures += 1
            else:
                sight = self.sight
                sight.busy = sum(one["state"] == "busy" for one in own)
                sight.idle = len(own) - sight.busy
                sight.rss = max((int(str(one["rss"])) for one in own), default=0)
                sight.rss_max = max(sight.rss_max, sight.rss)
            await trio.sleep(SECONDS)


def _samples(text: str) -> list[tuple[str, dict[str, str], float]]:
    return [
        (name, dict(_LABEL.findall(labels or "")), float(value))
        for name, labels, value in _SAMPLE.findall(text)
    ]


@asynccontextmanager
async def open_watch(
    admin: str, app: str, context: ssl.SSLContext | None = None
) -> AsyncIterator[Watch]:
    """Watch an app through the admin port at URL `admin`; its token is taken from $JSBOX_TOKEN.
    `context`: which certificates are trusted; None: those of this host's authorities. Raises
    CannotStart.
    """
    token = own_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx2.AsyncClient(
        base_url=admin,
        headers=headers,
        timeout=TIMEOUT,
        trust_env=False,
        verify=context or True,
    ) as client:
        watch = Watch(app, client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            yield watch
            nursery.cancel_scope.cancel()
