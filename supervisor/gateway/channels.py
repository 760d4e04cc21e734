"""The channels that jsbox itself keeps connected to another program, such as a broker.

A channel of such a type is a `Link`: a task, a way to say how it is doing, and nothing else that
the rest of the supervisor knows of. What it receives it offers to an `Intake`; what goes out it
takes from the channel's `Outlet` as a `Receiver`. Its module is imported when the first channel of
its type is configured.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import trio
from attrs import define, field

from resources.forever import keep_running

from ..channel_state import ChannelState
from ..config.model import Channel
from .intake import Services

CLOSE_SECONDS = 5.0  # for a link to say goodbye

log = logging.getLogger(__name__)


class Link(Protocol):
    """A channel that is kept connected."""

    async def run(self) -> None:
        """Serve until cancelled. If it raises or returns, it is run again after a pause. When
        cancelled it may take `CLOSE_SECONDS`, shielded, to say goodbye.
        """

    @property
    def state(self) -> ChannelState:
        """How it is doing."""


def make_link(services: Services, channel: Channel) -> Link:
    """Make the link of a channel whose type has one; each type is imported here, when needed."""
    if channel.amqp is not None:
        from .amqp import AmqpLink

        return AmqpLink(services, channel, channel.amqp)
    from .junebug.link import JunebugLink

    return JunebugLink(channel, services)


@define(eq=False)
class _Running:
    """A link and what ends it."""

    channel: Channel
    link: Link
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    ended: trio.Event = field(factory=trio.Event)


@define(eq=False)
class Channels:
    """All channels, as their states. Made by `open_channels`."""

    services: Services
    clients: Callable[[str], int]
    """How many clients a WebSocket channel has."""
    _nursery: trio.Nursery
    _running: dict[str, _Running] = field(factory=dict, init=False)
    _ending: dict[str, _Running] = field(factory=dict, init=False)

    def follow(self, channels: Mapping[str, Channel]) -> None:
        """Start and end links so that they are those of these channels; one whose settings have
        changed is replaced. Never waits.
        """
        wanted = {name: one for name, one in channels.items() if one.type != "websocket"}
        self._ending = {name: one for name, one in self._ending.items() if not one.ended.is_set()}
        for name in {*self._running, *wanted}:
            running, channel = self._running.get(name), wanted.get(name)
            if running is not None and running.channel != channel:
                running.scope.cancel()
                self._ending[name] = self._running.pop(name)
            if channel is not None and name not in self._running:
                self._start(channel)

    def link(self, channel: str) -> Link | None:
        """The link of a channel; None if its type has none."""
        running = self._running.get(channel)
        return None if running is None else running.link

    def state(self, channel: str) -> ChannelState:
        """How a channel is doing."""
        link = self.link(channel)
        if link is not None:
            return link.state
        count = self.clients(channel)
        return ChannelState("up" if count else "waiting", count)

    def connections(self, channel: str) -> int:
        """How many connections a channel has."""
        return self.state(channel).connections

    def _start(self, channel: Channel) -> None:
        running = _Running(channel, make_link(self.services, channel))
        self._running[channel.name] = running
        self._nursery.start_soon(_run, running, self._ending.get(channel.name))


async def _run(running: _Running, before: _Running | None) -> None:
    """Run a link behind its fence, once the one that it replaces has ended."""
    try:
        if before is not None:  # it ends in bounded time
            with trio.CancelScope(shield=True):
                await before.ended.wait()
        with running.scope:
            await keep_running(f"gateway.{running.channel.type}", running.link.run)
    finally:
        running.ended.set()


@asynccontextmanager
async def open_channels(
    services: Services, clients: Callable[[str], int]
) -> AsyncIterator[Channels]:
    """Keep the channels connected that the config has now; at the end they have said goodbye, in
    bounded time.
    """
    async with trio.open_nursery() as nursery:
        channels = Channels(services, clients, nursery)
        channels.follow(services.channels())
        try:
            yield channels
        finally:
            nursery.cancel_scope.cancel()
