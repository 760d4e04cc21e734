"""Pushes on the admin port."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from attrs import asdict, frozen
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from resources.contract import Refused
from resources.stores.redis import StoreError
from resources.stores.search import SearchError

from ..runs.dispatcher import Program
from ..runs.push import AppGone, NoSuchGroup, Pushed, PushStopped
from .bodies import answer, bad, off_loop, read_object
from .strict_json import problem_in

ADDRESSES_MAX = 100_000  # in one request
ADDRESS_MAX = 1000  # characters
KEY_MAX = 1000
EXPECTED = 'expected {"addrs": ["+27...", ...]} or {"group": KEY}'


@frozen
class PushAdmin:
    """POST /v1/apps/{app}/push."""

    programs: Callable[[], Mapping[str, Program]]
    start: Callable[[str, list[str] | None, str | None], Awaitable[Pushed]]

    def routes(self) -> list[Route]:
        """The requests that it answers."""
        return [Route("/v1/apps/{app}/push", self.push, methods=["POST"])]

    async def push(self, request: Request) -> Response:
        """Make an app start a conversation with each address."""
        name = request.path_params["app"]
        if name not in self.programs():
            raise bad(f"there is no app {name!r}", 404)
        body = await read_object(request, EXPECTED)
        problem = await off_loop(_problem, body)
        if problem:
            raise bad(problem)
        program = self.programs().get(name)
        if program is None:
            raise bad(f"there is no app {name!r} any more", 404)
        if "default" not in program.app.endpoints:
            raise bad(f"app {name} has no endpoint 'default' to push over", 409)
        try:
            return answer(asdict(await self.start(name, body.get("addrs"), body.get("group"))))
        except NoSuchGroup as error:
            raise bad(str(error), 404) from error
        except Refused as error:
            raise bad(str(error), 409) from error
        except PushStopped as stopped:
            return _stopped(stopped)


def _problem(body: dict[str, Any]) -> str:
    """What is wrong with a push, which names either addresses or a group; empty if it is right."""
    addresses, group = body.get("addrs"), body.get("group")
    if problem := problem_in(body):
        return f"{problem}; {EXPECTED}"
    if addresses is None:
        is_right = isinstance(group, str) and 0 < len(group) <= KEY_MAX
        return "" if is_right else EXPECTED
    if group is not None or not isinstance(addresses, list):
        return EXPECTED
    if len(addresses) > ADDRESSES_MAX:
        return f"expected at most {ADDRESSES_MAX} addresses, got {len(addresses)}"
    for index, one in enumerate(addresses):
        if not isinstance(one, str) or not 0 < len(one) <= ADDRESS_MAX:
            return f"addrs[{index}]: expected a text of 1 to {ADDRESS_MAX} characters; {EXPECTED}"
    return ""


def _stopped(stopped: PushStopped) -> Response:
    cause = stopped.cause
    if not stopped.pushed.queued and isinstance(cause, SearchError):
        return answer({"error": str(cause)}, 409)
    status = 500
    if isinstance(cause, StoreError):
        status = 503
    elif isinstance(cause, SearchError | AppGone):
        status = 409
    return answer({"error": str(stopped), **asdict(stopped.pushed)}, status)
