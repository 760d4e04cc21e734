"""Check whether messages can be taken and answered, and if not, why.

A problem of the whole host makes it not ready: a load balancer, or a person, should act. A problem
of one app does not: an app that crashes must not take its neighbours out of service. It is reported
anyway, and counts if that app is asked for by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime

import trio
from attrs import frozen

from resources.stores.outbox import Waiting
from resources.stores.redis import Redis

from ..channel_state import ChannelState
from ..config.model import App, Channel
from ..gateway.refused import Refused
from ..host.slices import in_slices
from ..ports.accepting import Door
from ..runs.dispatcher import Dispatcher
from ..sandboxes.pool import Pool
from ..store.disk import Disk
from .refusals import Refusals

DISK_LOW = 1 << 30  # bytes
QUEUE_FULL = 0.9  # of pool.queue
QUEUE_OLD = 30.0  # seconds that the oldest message has waited
LAG_LATE = 1.0  # seconds
KV_WITHIN = 600.0  # seconds for which an account whose writes were refused is named
OUTBOX_OLD = 300.0  # seconds since the oldest message of an outbox was made


@frozen
class Check:
    """The result of one check.

    Attributes:
        problem: Empty if it passed.
        is_fatal: A problem makes the whole host not ready.
        app: The app that it is about, if any.
        is_note: A person should look at it, but it stops no message.
    """

    name: str
    problem: str
    is_fatal: bool = True
    app: str | None = None
    is_note: bool = False


@frozen
class Health:
    """Makes all the checks."""

    apps: Callable[[], Mapping[str, App]]
    redis: Redis
    dispatcher: Dispatcher
    pool: Pool
    disk: Disk
    is_embedded: bool
    is_draining: Callable[[], bool]
    search_problem: Callable[[], str]
    lag: Callable[[], float]
    dead_letters: Callable[[], Mapping[str, int]]  # by app
    channels: Callable[[], Mapping[str, Channel]]
    channel_state: Callable[[str], ChannelState]
    outboxes: Callable[[], Mapping[str, Waiting]]
    audit_problem: Callable[[], str]
    reload_refused: Callable[[], str]  # why the last reload was refused
    refusals: Refusals
    doors: Callable[[], Iterable[Door]]  # of the ports
    kv_full: Mapping[str, tuple[float, str]]  # by account: when a write was refused, and why
    refused: Callable[[], Refused]  # clients of the gateway
    traces_problem: Callable[[], str] = str  # why a collector does not get them
    logs_problem: Callable[[], str] = str  # why standard output does not get them
    certificate_problem: Callable[[], str] = str  # it has expired, or will soon
    hosts_problem: Callable[[], str] = str  # of the servers that share the work
    # of the processes of this server; and whether too few of them serve
    processes_problem: Callable[[], tuple[str, bool]] = lambda: ("", False)

    async def checks(self) -> list[Check]:
        """Make all the checks."""
        every_app = in_slices(list(self.apps().values()))
        apps = [check async for app in every_app for check in self._app(app)]
        return [
            Check("server", "the server is about to restart" if self.is_draining() else ""),
            self._store(),
            self._disk(),
            Check("search", self.search_problem(), is_fatal=False),
            self._loop(),
            self._config(),
            Check("access", self.refusals.problem(), is_fatal=False, is_note=True),
            Check("audit", self.audit_problem(), is_fatal=False, is_note=True),
            *self._optional("connections", self._crowding()),
            *self._processes(),
            *self._optional("hosts", self.hosts_problem()),
            *self._optional("traces", self.traces_problem()),
            *self._optional("log.stdout", self.logs_problem()),
            *self._optional("listen.certificate", self.certificate_problem()),
            *apps,
            *self._channels(),
            *self._clients(),
            *self._kv(),
            *self._outboxes(),
            *self._dead_letters(),
        ]

    def _store(self) -> Check:
        found = self.redis.statistics()
        return Check("redis", found.problem, is_fatal=found.concerns_all)

    def _disk(self) -> Check:
        problem, free = self.disk.problem, self.disk.room.free
        if not problem and free is not None and free < DISK_LOW:
            return Check("disk", f"{free >> 20} MiB are free in {self.disk.folder}", is_fatal=False)
        return Check("disk", problem, is_fatal=self.is_embedded)

    def _config(self) -> Check:
        """The config that runs is not the one in the file: a restart would not start it."""
        refused = self.reload_refused()
        problem = f"the last reload was refused (jsbox check): {refused}" if refused else ""
        return Check("config", problem, is_fatal=False, is_note=True)

    def _crowding(self) -> str:
        """Which ports are full, or were a moment ago."""
        return "; ".join(door.problem for door in self.doors() if door.problem)

    def _processes(self) -> list[Check]:
        """The processes of this server, if it has several and one of them is away."""
        problem, is_fatal = self.processes_problem()
        return [Check("processes", problem, is_fatal=is_fatal)] if problem else []

    def _optional(self, name: str, problem: str) -> list[Check]:
        """A check of what not every server has: shown only if something is wrong with it."""
        return [Check(name, problem, is_fatal=False, is_note=True)] if problem else []

    def _loop(self) -> Check:
        lag = self.lag()
        problem = f"the supervisor's loop is {lag:.1f} s late" if lag > LAG_LATE else ""
        return Check("loop", problem, is_fatal=False)

    def _channels(self) -> list[Check]:
        """The channels that jsbox itself keeps connected: the others have no state of their own."""
        return [
            Check(
                f"channel {name}",
                self.channel_state(name).problem,
                is_fatal=False,
                app=channel.app or None,
            )
            for name, channel in self.channels().items()
            if channel.type != "websocket"
        ]

    def _clients(self) -> Iterator[Check]:
        """Clients of the gateway that keep being refused: their users get no answers."""
        channels = self.channels()
        for name, problem in self.refused().problems(channels):
            app = channels[name].app or None if name in channels else None
            yield Check(f"clients {name}".rstrip(), problem, is_fatal=False, app=app)

    def _kv(self) -> Iterator[Check]:
        """Accounts whose apps can store nothing more: they may go on, and forget what users say."""
        now = trio.current_time()
        for account, (at, why) in list(self.kv_full.items()):
            if now - at > KV_WITHIN:
                continue
            text = f"writes of account {account} were refused: {why} (accounts.{account}.kv)"
            yield Check(f"kv {account}", text, is_fatal=False, is_note=True)

    def _outboxes(self) -> Iterator[Check]:
        """Nothing is lost, but somebody waits for these: nobody has taken them for long."""
        channels, now = self.channels(), datetime.now(UTC)
        for name, one in self.outboxes().items():
            age = 0.0 if one.oldest is None else (now - one.oldest).total_seconds()
            if age > OUTBOX_OLD and name in channels:
                text = f"{one.count} messages wait, the oldest for {age / 60:.0f} minutes"
                where, app = f"outbox {name}", channels[name].app or None
                shown = f"{text} (jsbox outbox)"
                yield Check(where, shown, is_fatal=False, app=app, is_note=True)

    def _dead_letters(self) -> list[Check]:
        """A person should look at these; messages are still taken and answered."""
        found = [(app, f"{n} (jsbox deadletters)") for app, n in self.dead_letters().items()]
        return [
            Check("dead letters", text, is_fatal=False, app=app, is_note=True)
            for app, text in found
        ]

    def _app(self, app: App) -> list[Check]:
        state = self.dispatcher.state(app)
        waiting, oldest = self.dispatcher.waiting(app.name), self.dispatcher.oldest(app.name)
        busy, most = self.pool.statistics(app.name).busy, app.pool.max_processes
        bad_state = ""
        if state.state != "running":
            first_line = state.last.splitlines()[0] if state.last else ""
            bad_state = f"it is {state.state}: {first_line}"
        full = f"{waiting} messages wait, of {app.pool.queue} at most (pool.queue)"
        old = (
            f"a message has waited for {oldest:.0f} s;"
            f" {busy} of {most} processes (pool.max_processes) are busy"
        )
        problems = {
            "state": bad_state,
            "queue": full if waiting >= app.pool.queue * QUEUE_FULL else "",
            "age": old if oldest > QUEUE_OLD else "",
        }
        return [
            Check(name, problem, is_fatal=False, app=app.name) for name, problem in problems.items()
        ]
