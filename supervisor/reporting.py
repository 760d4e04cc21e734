"""What Graphite is told of each conversation, once a bucket, without the app doing anything."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

import trio
from attrs import asdict, define, field

from resources.stores.graphite import Graphite, Target, TooManyMetrics
from resources.stores.identity import Sender
from resources.stores.redis import StoreError
from resources.stores.statistics import Statistics

from .config.model import App

TICK = 0.5  # seconds between two looks for buckets that have begun
BATCH = 200  # conversations asked for at once
NAMES = {
    "sent": "messages_sent", "received": "messages_received", "inbound_uniques": "inbound_unique_addresses",
    "outbound_uniques": "outbound_unique_addresses",
}  # fmt: skip

log = logging.getLogger(__name__)


@define
class ConversationReporter:
    """Fires `<prefix>.<account>.conversations.<app>.<name>.avg` for every app that has a Graphite."""

    _apps: Callable[[], Mapping[str, App]]
    _statistics: Statistics
    _graphite: Graphite
    _reported: dict[str, int] = field(factory=dict)  # app to the bucket that it was last reported in

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            due = [app for app in self._apps().values() if self._is_due(app)]
            for start in range(0, len(due), BATCH):
                try:
                    await self._report(due[start : start + BATCH])
                except StoreError as error:
                    log.warning("conversations are not reported to Graphite in this bucket: %s", error)
            await trio.sleep(TICK)

    def _is_due(self, app: App) -> bool:
        if app.metrics.graphite is None:
            return False
        bucket = int(time.time() // app.metrics.bucket)
        fresh = self._reported.get(app.name) != bucket
        self._reported[app.name] = bucket
        return fresh

    async def _report(self, apps: list[App]) -> None:
        totals = await self._statistics.totals([Sender(app.account, app.name) for app in apps])
        for app, found in zip(apps, totals, strict=True):
            address = app.metrics.graphite
            assert address is not None
            target = Target(address.host, address.port, app.metrics.bucket)
            for name, value in asdict(found).items():
                path = f"{app.metrics.prefix}.{app.account}.conversations.{app.name}.{NAMES[name]}"
                try:
                    self._graphite.fire(target, app.account, path, "avg", value)
                except TooManyMetrics as error:
                    log.warning("app %s: %s", app.name, error)
