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
from ..runs.push import AppGone, Audience, NoSuchGroup, Pushed, PushStopped
from .bodies import answer, bad, is_dry_run, number_in, off_loop, read_object
from .strict_json import problem_in

ADDRESSES_MAX = 100_000  # in one request
ADDRESS_MAX = 1000  # characters
KEY_MAX = 1000  # characters, of a group's key
ID_MAX = 100  # characters
CURSOR_MAX = 10**18 - 1  # of a page of a group's addresses
KEYS = ("addrs", "group", "id", "dry_run")
EXPECTED = (
    'expected {"addrs": ["+27...", ...]} or {"group": KEY},'
    ' with "dry_run": true and "id": TEXT if wanted'
)


@frozen
class Wanted:
    """What a request asks for: addresses, or the key of a group. `id` and `is_dry` as in
    `runs.push.Push`.
    """

    addresses: list[str] | None
    group: str | None
    id: str
    is_dry: bool


@frozen
class PushAdmin:
    """The handlers.

    Attributes:
        start: Push from an app, by its name.
        audience: Give a page of the addresses of a group: the app's name, the group, the cursor.
    """

    programs: Callable[[], Mapping[str, Program]]
    start: Callable[[str, Wanted], Awaitable[Pushed]]
    audience: Callable[[str, str, int], Awaitable[Audience]]

    def routes(self) -> list[Route]:
        """The requests that it answers."""
        return [
            Route("/v1/apps/{app}/push", self.push, methods=["POST"]),
            Route("/v1/apps/{app}/audience", self.page, methods=["GET"]),
        ]

    async def push(self, request: Request) -> Response:
        """Make an app start a conversation with each address."""
        self._name(request)
        body = await read_object(request, EXPECTED)
        problem = await off_loop(_problem, body)
        if problem:
            raise bad(problem)
        is_dry = is_dry_run(request) or body.get("dry_run", False)
        name = self._name(request)  # a reload may have removed the app
        wanted = Wanted(body.get("addrs"), body.get("group"), body.get("id", ""), is_dry)
        try:
            return answer(asdict(await self.start(name, wanted)))
        except NoSuchGroup as error:
            raise bad(str(error), 404) from error
        except Refused as error:
            raise bad(str(error), 409) from error
        except PushStopped as stopped:
            return _stopped(stopped)

    async def page(self, request: Request) -> Response:
        """A page of the addresses that a push to `group` goes to. `addrs` has each address with a
        text that is the same for all of its spellings; the same person may be on several pages. The
        answer's `cursor` begins the next page.
        """
        name, group = self._name(request), request.query_params.get("group", "")
        cursor = number_in(request, "cursor", 0, 0, CURSOR_MAX)
        try:
            found = await self.audience(name, group, cursor)
        except NoSuchGroup as error:
            raise bad(str(error), 404) from error
        except (Refused, SearchError) as error:
            raise bad(str(error), 409) from error
        after = None if found.cursor is None else str(found.cursor)
        return answer({"addrs": found.addresses, "no_address": found.no_address, "cursor": after})

    def _name(self, request: Request) -> str:
        """The app that a request names, which can push."""
        name = str(request.path_params["app"])
        program = self.programs().get(name)
        if program is None:
            raise bad(f"there is no app {name!r}", 404)
        if "default" not in program.app.endpoints:
            raise bad(f"app {name} has no endpoint 'default' to push over", 409)
        return name


def _problem(body: dict[str, Any]) -> str:
    """What is wrong with a push, which names either addresses or a group; empty if it is right."""
    found = problem_in(body) or _option_problem(body) or _target_problem(body)
    return f"{found}; {EXPECTED}" if found else ""


def _option_problem(body: dict[str, Any]) -> str:
    if unknown := next((key for key in body if key not in KEYS), None):
        return f"there is no key {unknown!r}"  # a mistyped dry_run would send to everybody
    name = body.get("id", "")
    if not isinstance(name, str) or len(name) > ID_MAX:
        return f"id: expected a text of {ID_MAX} characters at most"
    is_right = isinstance(body.get("dry_run", False), bool)
    return "" if is_right else "dry_run: expected true or false"


def _target_problem(body: dict[str, Any]) -> str:
    addresses, group = body.get("addrs"), body.get("group")
    if (addresses is None) is (group is None):
        return "expected either addrs or group"
    if addresses is None:
        is_right = isinstance(group, str) and 0 < len(group) <= KEY_MAX
        return "" if is_right else f"group: expected a text of 1 to {KEY_MAX} characters"
    if not isinstance(addresses, list):
        return "addrs: expected a list"
    if len(addresses) > ADDRESSES_MAX:
        return f"expected at most {ADDRESSES_MAX} addresses, got {len(addresses)}"
    wrong = (
        n for n, one in enumerate(addresses)
        if not isinstance(one, str) or not 0 < len(one) <= ADDRESS_MAX
    )  # fmt: skip
    index = next(wrong, None)
    expected = f"expected a text of 1 to {ADDRESS_MAX} characters"
    return "" if index is None else f"addrs[{index}]: {expected}"


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
