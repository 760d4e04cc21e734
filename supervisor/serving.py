"""A service from its start to the signal that ends it."""

from __future__ import annotations

import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable

import trio
from attrs import define, field

from resources.fence import first_leaf
from resources.forever import keep_running
from resources.stores.lease import LeaseLost

from . import early
from .config import Config
from .errors import CannotStart
from .host.systemd import Systemd, from_environment
from .log_output import LogWriter, open_log_writer
from .processes.member import Member
from .service import Service, open_service
from .standby import Standby, open_standby

log = logging.getLogger(__name__)


async def run(
    config: Config,
    read_config: Callable[[], Config],
    ready: Callable[[Service], None],
    member: Member | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT: the first lets the runs in progress end, the second does not
    wait for them. SIGHUP reloads the config.

    During the start, SIGTERM or SIGINT ends it, and a SIGHUP is obeyed once it is done.

    With `member` this is one of several processes of a server, and obeys its parent as well.

    Raises:
        CannotStart: The text says why.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            orders = _Orders()
            for number in early.taken():
                orders.take(number)
            nursery.start_soon(orders.listen, signals)
            if member is not None:
                nursery.start_soon(keep_running, "parent", member.run)
            with orders.start:
                async with open_log_writer() as writer:
                    systemd = from_environment() if member is None else member.systemd
                    serving = _Serving(config, read_config, ready, systemd, orders, writer, member)
                    await _serve(serving)
            nursery.cancel_scope.cancel()


async def _serve(serving: _Serving) -> None:
    """Serve until an order ends it; in mode standby, again and again when it is our turn; in mode
    shared, anew whenever the others have taken us for dead.
    """
    mode = serving.config.cluster.mode
    if mode == "shared":
        while not serving.orders.is_stopping:
            try:
                await serving.turn(None)
            except* LeaseLost as group:
                log.warning("%s; it begins anew", first_leaf(group))
        return
    if mode == "single":
        try:
            await serving.turn(None)
        except* LeaseLost as group:
            raise CannotStart(str(first_leaf(group))) from group
        return
    async with open_standby(serving.config, serving.systemd) as standby:
        while not serving.orders.is_stopping:
            try:
                await serving.turn(standby)
            except* LeaseLost as group:
                log.warning("%s; this one stands by", first_leaf(group))
                standby.show()


@define(eq=False)
class _Serving:
    """What each turn of a server begins with."""

    config: Config
    read_config: Callable[[], Config]
    ready: Callable[[Service], None]
    systemd: Systemd
    orders: _Orders
    log_writer: LogWriter
    member: Member | None

    async def turn(self, standby: Standby | None) -> None:
        """Serve until an order ends it.

        Raises:
            LeaseLost: In a group: another server has taken the store.
        """
        try:
            async with (
                open_service(
                    self.config,
                    self.read_config,
                    self.systemd,
                    standby,
                    self.log_writer,
                    self.member,
                ) as service,
                trio.open_nursery() as work,
            ):
                gc.collect()
                # what exists by now stays: the collector need not look at it every time
                gc.freeze()
                self.ready(service)
                self.orders.obey(service, work)
                try:
                    await self.orders.over.wait()
                except trio.Cancelled:
                    self.orders.release()
                    self.config = service.config
                    raise
                work.cancel_scope.cancel()
        finally:
            gc.unfreeze()


@define(eq=False)
class _Orders:
    """What signals ask for.

    Attributes:
        start: Cancelled to end the start of the service.
        over: Set when the service is to end now.
    """

    start: trio.CancelScope = field(factory=trio.CancelScope, init=False)
    over: trio.Event = field(factory=trio.Event, init=False)
    _service: Service | None = field(default=None, init=False)
    _work: trio.Nursery | None = field(default=None, init=False)
    _is_stopping: bool = field(default=False, init=False)
    _is_to_reload: bool = field(default=False, init=False)

    async def listen(self, signals: AsyncIterator[int]) -> None:
        """Take signals until cancelled."""
        async for number in signals:
            self.take(number)

    def take(self, number: int) -> None:
        """Obey a signal, or keep it until the service has started. One that comes while the service
        ends changes nothing any more.
        """
        if self.over.is_set():
            return
        if self._service is None or self._work is None:
            if number == signal.SIGHUP:
                self._is_to_reload = True
            elif not self.start.cancel_called:
                log.info("the start is given up")
                self.start.cancel()
        elif number == signal.SIGHUP:
            self._work.start_soon(self._reload, self._service)
        elif self._is_stopping:
            self.over.set()
        else:
            self._is_stopping = True
            self._work.start_soon(self._drain_and_stop, self._service)

    @property
    def is_stopping(self) -> bool:
        """Whether the server is to end."""
        return self._is_stopping

    def release(self) -> None:
        """Obey as during a start: the service is about to end."""
        self._service = self._work = None

    def obey(self, service: Service, work: trio.Nursery) -> None:
        """Obey signals from here on, since the service has started; first a SIGHUP that has come
        meanwhile.
        """
        self._service, self._work = service, work
        if self._is_to_reload:
            self._is_to_reload = False
            self.take(signal.SIGHUP)

    async def _reload(self, service: Service) -> None:
        try:
            await service.reload_by_signal()
        except trio.Cancelled:
            self._is_to_reload = True  # the service may begin anew
            raise

    async def _drain_and_stop(self, service: Service) -> None:
        log.info("stopping: the runs in progress may end")
        await service.drain()
        self.over.set()
