"""The admin port's part on the servers that share the work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .bodies import encoded, list_answer


@frozen
class HostsAdmin:
    """GET /v1/hosts."""

    hosts: Callable[[], Sequence[Mapping[str, Any]]]

    def routes(self) -> list[Route]:
        """The requests that it answers."""
        return [Route("/v1/hosts", self.list)]

    async def list(self, _: Request) -> Response:
        """Every server that lives; none if the store is not shared."""
        return list_answer("hosts", await encoded(list(self.hosts())))
