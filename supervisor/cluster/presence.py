"""Which channels this server is connected to, as the others know it.

What goes out on a channel waits in the outbox of a server that is connected to it. A server that
loses its connection moves the messages that wait in its own outbox to the common one, from which
any connected server takes them. Those of a dead server are moved by the server that declares it
dead.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection

import trio
from attrs import define, field

from resources.forever import keep_running
from resources.stores.outbox import Outbox
from resources.stores.peers import Peers
from resources.stores.redis import StoreError, StoreRefused

from ..gateway import Deliveries

LINGER = 1.0  # seconds after the last connection of a channel; a client that comes back finds all
SETTLE = 1.0  # seconds that the last acknowledgements have to be struck
RETRY = (0.1, 2.0)  # seconds after the store failed: first, most

log = logging.getLogger(__name__)


@define(eq=False)
class _Channel:
    """A channel: what its connections take, and what the store knows of that."""

    name: str
    wanted: str = ""
    told: str = ""
    is_doubtful: bool = False  # there may be something to take over
    news: trio.Event = field(factory=trio.Event)

    def ring(self) -> None:
        self.news.set()
        self.news = trio.Event()


@define(eq=False)
class Presence:
    """The channels of this server. `run` does the work; what is called by others does not wait."""

    _outbox: Outbox
    _deliveries: Deliveries
    _peers: Peers
    _alive: Callable[[], Collection[str]]
    _channels: dict[str, _Channel] = field(factory=dict, init=False)
    _nursery: trio.Nursery | None = field(default=None, init=False)

    def changed(self, channel: str, kind: str) -> None:
        """Connections came or went: see `Outlet.on_takers`."""
        self._channel(channel).wanted = kind
        self._channel(channel).ring()

    def left_over(self, channel: str) -> None:
        """Another server may have left messages of a channel to the others."""
        one = self._channel(channel)
        one.is_doubtful = True
        one.ring()

    def missed(self) -> None:
        """We may not have been told of that."""
        for channel in self._channels:
            self.left_over(channel)

    async def inherit(self, channel: str, host: str) -> None:
        """A server is dead: what waits in its outbox goes into ours if we are connected to the
        channel, else to whoever is. Raises StoreError.
        """
        one = self._channels.get(channel)
        if one is None or one.told != "g" or one.wanted != "g":
            if await self._outbox.leave(channel, host):
                await tell_takers(self._outbox, self._peers, channel, self._alive())
                self.left_over(channel)
            return
        try:
            await self._outbox.leave(channel, host, self._outbox.host)
        finally:  # some may have been moved
            self._deliveries.outlet(channel).doubt()

    async def start(self, channels: Collection[str]) -> None:
        """Leave what an earlier process of this host had to whoever is connected; what the store
        refuses waits for our own clients. Raises StoreError.
        """
        for channel in channels:
            try:
                await self._outbox.leave(channel, self._outbox.host)
            except StoreRefused as error:
                log.warning("channel %s: %s", channel, error)

    async def run(self) -> None:
        """Keep the store informed, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for one in self._channels.values():
                nursery.start_soon(keep_running, "presence", self._keeper(one))
            await trio.sleep_forever()

    async def leave(self) -> None:
        """This server ends: leave everything to the others. Raises StoreError."""
        for one in self._channels.values():
            if one.told:
                await self._leave(one)

    def _channel(self, name: str) -> _Channel:
        one = self._channels.get(name)
        if one is None:
            one = self._channels[name] = _Channel(name)
            if self._nursery is not None:
                self._nursery.start_soon(keep_running, "presence", self._keeper(one))
        return one

    def _keeper(self, one: _Channel) -> Callable[[], Awaitable[None]]:
        async def keep() -> None:
            pause = RETRY[0]
            while True:
                news = one.news
                try:
                    is_done = await self._settle(one)
                except StoreError as error:
                    if pause == RETRY[0]:  # else it is logged already
                        log.warning("channel %s: %s", one.name, error)
                    await trio.sleep(pause)
                    pause = min(pause * 2, RETRY[1])
                else:
                    pause = RETRY[0]
                    if is_done:
                        await news.wait()

        return keep

    async def _settle(self, one: _Channel) -> bool:
        """Do one thing that is to be done; return False if there was one."""
        wanted = one.wanted
        if wanted == one.told:
            if one.is_doubtful and wanted == "g":
                await self._take_over(one)
                return False
            return True
        if not wanted:
            news = one.news
            with trio.move_on_after(LINGER):
                await news.wait()
                return False
            await self._leave(one)
            return False
        if not one.told:
            self._deliveries.outlet(one.name).open()
        await self._outbox.say_taker(one.name, wanted)
        one.told, one.is_doubtful = wanted, True
        return False

    async def _take_over(self, one: _Channel) -> None:
        one.is_doubtful = False
        try:
            for host in await self._outbox.all_takers(one.name):
                # Whoever buried it need not have had this channel.
                if host not in self._alive() and await self._peers.bury(host):
                    await self._outbox.leave(one.name, host)
            await self._outbox.remind(one.name, one.told)
            self._deliveries.outlet(one.name).doubt()
            count = await self._outbox.take_over(one.name)
        except BaseException:
            one.is_doubtful = True
            raise
        if count:
            log.info("channel %s: took over %d messages", one.name, count)
            self._deliveries.outlet(one.name).doubt()

    async def _leave(self, one: _Channel) -> None:
        outlet = self._deliveries.outlet(one.name)
        with trio.move_on_after(SETTLE):
            while not outlet.is_settled:
                outlet.wake()
                await outlet.settled.park()
        if one.wanted and self._nursery is not None:
            return
        outlet.close()
        count = await self._outbox.leave(one.name, self._outbox.host)
        one.told = ""
        if count:
            await tell_takers(self._outbox, self._peers, one.name, self._alive())


async def tell_takers(outbox: Outbox, peers: Peers, channel: str, alive: Collection[str]) -> None:
    """Tell those connected to a channel that messages wait there. Raises StoreError."""
    for host in await outbox.takers(channel):
        if host in alive:
            peers.tell_soon(host, ("left", channel))
