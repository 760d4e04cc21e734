"""Conversation metrics: sent to Graphite once a bucket for each app, which does nothing for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

import trio
from attrs import asdict, define, field

from resources.fence import fence
from resources.stores.graphite import Graphite, Target, TooManyMetrics
from resources.stores.identity import Sender
from resources.stores.redis import StoreError, StoreRefused
from resources.stores.statistics import Statistics, Totals

from .config.model import App

TICK = 0.5  # seconds between two checks whether a bucket has begun
BATCH = 200  # conversations asked for at once
NAMES = {
    "sent": "messages_sent",
    "received": "messages_received",
    "inbound_uniques": "inbound_unique_addresses",
    "outbound_uniques": "outbound_unique_addresses",
}

log = logging.getLogger(__name__)


@define
class ConversationReporter:
    """Fires `<prefix>.<account>.conversations.<app>.<name>.avg` for every app with a Graphite."""

    _apps: Callable[[], Mapping[str, App]]
    _statistics: Statistics
    _graphite: Graphite
    _reported: dict[str, int] = field(factory=dict)  # app to the last bucket it was reported in
    _is_away: bool = field(default=False, init=False)  # the store, at the last attempt

    async def run(self) -> None:
        """Report until cancelled. What the store does not answer is asked again while its bucket
        lasts.
        """
        while True:
            due = [
                (app, bucket)
                for app in self._apps().values()
                if (bucket := self._due(app)) is not None
            ]
            for start in range(0, len(due), BATCH):
                some = due[start : start + BATCH]
                for app, bucket in some:
                    self._reported[app.name] = bucket
                with fence("conversation metrics"):
                    await self._report([app for app, _ in some])
            await trio.sleep(TICK)

    def _due(self, app: App) -> int | None:
        """Return the bucket that an app is to be reported in now, or None."""
        if app.metrics.graphite is None:
            return None
        bucket = int(time.time() // app.metrics.bucket)
        return None if self._reported.get(app.name) == bucket else bucket

    async def _report(self, apps: Sequence[App]) -> None:
        """Fire the totals that the store has; note the apps whose totals are to be asked again."""
        found: Sequence[Totals | StoreError]
        try:
            found = await self._statistics.totals([Sender(app.account, app.name) for app in apps])
        except StoreError as error:
            found = [error] * len(apps)
        worst: StoreError | None = None
        for app, totals in zip(apps, found, strict=True):
            if isinstance(totals, Totals):
                self._fire(app, totals)
            elif isinstance(totals, StoreRefused) and not totals.is_wide:
                log.warning(
                    "app %s: it is not reported to Graphite in this bucket: %s", app.name, totals
                )
            else:
                worst = totals
                del self._reported[app.name]
        if worst is not None and not self._is_away:
            log.warning("conversations are not reported to Graphite for now: %s", worst)
        self._is_away = worst is not None

    def _fire(self, app: App, found: Totals) -> None:
        address = app.metrics.graphite
        assert address is not None
        target = Target(address.host, address.port, app.metrics.bucket)
        for name, value in asdict(found).items():
            path = f"{app.metrics.prefix}.{app.account}.conversations.{app.name}.{NAMES[name]}"
            try:
                self._graphite.fire(target, app.account, path, "avg", value)
            except TooManyMetrics as error:
                log.warning("app %s: %s", app.name, error)
