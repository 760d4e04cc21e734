"""Keeps a channel connected to its broker."""

from __future__ import annotations

import logging
from urllib.parse import unquote, urlsplit

import trio
from attrs import define, field

from ...channel_state import ChannelState
from ...config.model import AmqpSide, Channel
from ..intake import Intake, Services
from .session import Session, open_session
from .wire import Lost, open_wire

AGAIN = (0.1, 5.0)  # seconds until all URLs are tried again: first, most
SETTLED_SECONDS = 10.0  # a connection that lived as long is followed by the first pause

log = logging.getLogger(__name__)


@define(eq=False)
class AmqpLink:
    """The link of a channel of type amqp."""

    _services: Services
    channel: Channel
    side: AmqpSide
    _session: Session | None = field(default=None, init=False)
    # By URL, why there is no connection.
    _problems: dict[str, str] = field(factory=dict, init=False)
    _made: int = field(default=0, init=False)
    _returned: int = field(default=0, init=False)  # of past connections

    @property
    def state(self) -> ChannelState:
        """How it is doing."""
        session = self._session
        if session is None:
            problem = "; ".join(self._problems.values()) or "not connected yet"
            return ChannelState("down", 0, problem, self._made, self._returned)
        returned = self._returned + session.publisher.returned
        if session.wire.blocked:
            problem = f"the broker takes no messages for now: {session.wire.blocked}"
            return ChannelState("blocked", 1, problem, self._made, returned)
        return ChannelState("up", 1, session.problem, self._made, returned)

    async def run(self) -> None:
        """Connect, serve, and connect again when the connection is lost; never returns."""
        pause = AGAIN[0]
        while True:
            for url in self.side.url:
                began, made = trio.current_time(), self._made
                try:
                    await self._serve(url)
                except Lost as lost:
                    self._say(url, str(lost))
                if self._made > made:  # begin with the first one again
                    break
            is_settled = self._made > made and trio.current_time() - began > SETTLED_SECONDS
            pause = AGAIN[0] if is_settled else pause
            await trio.sleep(pause)
            pause = min(pause * 2, AGAIN[1])

    async def _serve(self, url: str) -> None:
        """Serve one connection until it is lost.

        Raises:
            Lost: Always, unless it is cancelled.
        """
        intake = Intake(self.channel, self._services, None)
        async with open_wire(url, f"jsbox {self.channel.name}") as wire:
            session = await open_session(wire, self._services, self.channel, self.side, intake)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(session.publish)
                    nursery.start_soon(intake.run)
                    nursery.start_soon(session.inbound.retry)
                    self._session = session
                    self._made += 1
                    self._problems.clear()
                    log.info("channel %s is connected to %s", self.channel.name, shown(url))
                    async with self._services.turn(self.channel.name):
                        await session.consume(messages=bool(self.channel.app))
                        await trio.sleep_forever()
            finally:
                self._session = None
                self._returned += session.publisher.returned

    def _say(self, url: str, why: str) -> None:
        problem = f"{shown(url)}: {why}"
        if problem != self._problems.get(url):
            log.warning("channel %s: %s", self.channel.name, problem)
        self._problems[url] = problem


def shown(url: str) -> str:
    """A broker's URL without its user and password."""
    parts = urlsplit(url)
    port = "" if parts.port is None else f":{parts.port}"
    vhost = unquote(parts.path[1:]) or "/"
    return f"{parts.hostname}{port}, vhost {vhost}"
