"""The admin port's part on channels: how each is doing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..channel_state import ChannelState
from ..config.model import Channel
from ..gateway.refused import Refused
from .bodies import encoded, list_answer


@frozen
class ChannelsAdmin:
    """GET /v1/channels."""

    channels: Callable[[], Mapping[str, Channel]]
    state: Callable[[str], ChannelState]
    unacked: Callable[[str], int]
    refused: Callable[[], Refused]

    def routes(self) -> list[Route]:
        """The requests that it answers."""
        return [Route("/v1/channels", self.list)]

    async def list(self, _: Request) -> Response:
        """Every channel and how it is doing."""
        found = list(self.channels().values())
        return list_answer("channels", await encoded(self._row(one) for one in found))

    def _row(self, channel: Channel) -> dict[str, Any]:
        state = self.state(channel.name)
        return {
            "name": channel.name,
            "type": channel.type,
            "app": channel.app,
            "state": state.state,
            "problem": state.problem,
            "connections": state.connections,
            "unacked": self.unacked(channel.name),
            "refused": self.refused().problem(channel.name),
        }
