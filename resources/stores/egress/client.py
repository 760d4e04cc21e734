"""The HTTP client of all apps: a request to its answer, over kept or new connections, and on where
redirects lead.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

import httpx2
import trio
from attrs import define, field, frozen

from .body import read_body
from .connect import Connector
from .errors import EgressError, Unanswered, excerpt
from .exchange import ERRORS, Exchanges
from .head import Head
from .http11 import EngineStream
from .kept import Kept
from .pace import Pace, Work
from .route import Policy, Target, target_of
from .urls import joined, location_text

T = TypeVar("T")

CONNECTIONS = 128  # of one app at a time; more requests wait
DROPPED = frozenset({"connection", "content-length", "transfer-encoding", "host"})  # ours to set
# not sent on to another origin
CREDENTIALS = frozenset({b"authorization", b"cookie", b"proxy-authorization"})
# the operator's to set, behind a proxy
FOR_PROXIES = frozenset({b"proxy-authorization", b"proxy-connection"})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
SKIPPED_MAX = 16 * 1024  # bytes of a redirect's body that are read, to keep the connection
BODY_SECONDS = 5.0  # of `ask`, for the body of an answer
SEE_OTHER = 303  # the redirect that means "GET this"


@frozen
class Answer:
    """The response to a request, after redirects."""

    code: int
    body: str


@frozen
class Reply:
    """The response to a request, whatever it is.

    Attributes:
        head: Its status and headers.
        body: As text; empty if it is too long, too slow or not what it says it is.
    """

    head: Head
    body: str


# Reads an answer, once its head is there; `Work` is entered.
Read = Callable[[Head, AsyncIterator[bytes], EngineStream, Work], Awaitable[T]]


@define(eq=False)
class _Places:
    """The connections that one app may have at once."""

    free: trio.Semaphore = field(factory=lambda: trio.Semaphore(CONNECTIONS), init=False)
    wanted: int = 0  # by requests that have a connection or wait for one


@define(eq=False)
class Egress:
    """The HTTP client of all apps: each app has connections of its own, under its own policy. Made
    by `open_egress`.
    """

    _connector: Connector = field(factory=Connector, init=False)
    _kept: Kept = field(factory=Kept, init=False)
    _pace: Pace = field(factory=Pace, init=False)
    _places: dict[str, _Places] = field(factory=dict, init=False)

    async def fetch(
        self, app: str, request: httpx2.Request, policy: Policy, *, verify: bool
    ) -> Answer:
        """Send a request, follow its redirects (GET and HEAD only), and read the answer.

        Raises:
            EgressError: There is no answer that the app may have.
        """
        for _ in range(policy.redirects + 1):
            async with self._place(app):
                read = partial(_answer, request.method, policy.response_max)
                answer = await self._exchange(app, request, policy, read, verify=verify)
            if isinstance(answer, Answer):
                return answer
            request = _redirected(request, answer)
        raise EgressError(
            f"more than {policy.redirects} redirects, the last to {excerpt(str(request.url))}"
        )

    async def ask(self, app: str, request: httpx2.Request, policy: Policy) -> Reply:
        """Send a request once, and return what comes: redirects are not followed, and a body that
        cannot be read takes nothing from the status.

        Raises:
            EgressError: There is no answer.
        """
        async with self._place(app):
            read = partial(_reply, request.method, policy.response_max)
            return await self._exchange(app, request, policy, read, verify=True)

    def close(self) -> None:
        """Close all kept connections."""
        self._kept.close_all()

    @asynccontextmanager
    async def _place(self, app: str) -> AsyncIterator[None]:
        places = self._places.setdefault(app, _Places())
        places.wanted += 1
        try:
            async with places.free:
                yield
        finally:
            places.wanted -= 1
            if not places.wanted:
                del self._places[app]

    async def _exchange(
        self, app: str, request: httpx2.Request, policy: Policy, read: Read[T], *, verify: bool
    ) -> T:
        """Send one request; return what is read of its answer.

        A request on a kept connection that ends before any byte of the answer is sent once more, on
        a new connection, whatever its method: as a rule the server had closed the connection before
        the request came.
        """
        target = target_of(request.url, policy)
        headers = _headers(request, target, policy)
        work = self._pace.work(app)
        key = (app, target.route, verify, target.proxy_authorization)
        kept = await self._take_kept(key, target, policy)
        if kept is not None:
            try:
                return await self._converse(kept, request, target, headers, read, work, key)
            except Unanswered:
                pass
        connection = await self._connector.open(app, target, policy.allow, work, verify=verify)
        return await self._converse(
            Exchanges(connection), request, target, headers, read, work, key
        )

    async def _take_kept(
        self, key: tuple[object, ...], target: Target, policy: Policy
    ) -> Exchanges | None:
        """A kept connection that is still open, and that the policy (maybe a newer one) allows."""
        place = target.route.place
        while (kept := self._kept.take(key)) is not None:
            connection = kept.connection
            try:
                allowed = not target.route.is_guarded or policy.allow.allows_address(
                    place.host, connection.address, place.port
                )
                if allowed and await connection.is_usable():
                    return kept
            except BaseException:
                connection.close()
                raise
            connection.close()
        return None

    async def _converse(
        self,
        exchanges: Exchanges,
        request: httpx2.Request,
        target: Target,
        headers: list[tuple[bytes, bytes]],
        read: Read[T],
        work: Work,
        key: tuple[object, ...],
    ) -> T:
        """Send a request on a connection and read the answer; keep the connection or close it,
        whatever happens.
        """
        is_free = False
        method = request.method
        try:
            async with (
                work,
                exchanges.ask(method, target.path, headers, request.read(), work) as (head, pieces),
            ):
                answer = await read(head, pieces, exchanges.stream, work)
            is_free = head.keeps_alive() and exchanges.is_free()
            return answer
        finally:
            if is_free:
                self._kept.put(key, exchanges)
            else:
                exchanges.connection.close()


async def _answer(
    method: str,
    most: int,
    head: Head,
    pieces: AsyncIterator[bytes],
    stream: EngineStream,
    work: Work,
) -> Answer | Head:
    """The answer to a request, or the head of a redirect."""
    if head.status in REDIRECTS:
        length = head.length(method)
        if length is not None and length <= SKIPPED_MAX:
            async for _ in pieces:
                pass
        return head
    return Answer(head.status, await read_body(pieces, head, method, most, stream, work))


async def _reply(
    method: str,
    most: int,
    head: Head,
    pieces: AsyncIterator[bytes],
    stream: EngineStream,
    work: Work,
) -> Reply:
    """The answer to a request, with its body if that can be read."""
    text = ""
    with trio.move_on_after(BODY_SECONDS), suppress(EgressError, *ERRORS):
        text = await read_body(pieces, head, method, most, stream, work)
    return Reply(head, text)


@asynccontextmanager
async def open_egress() -> AsyncIterator[Egress]:
    """An HTTP client; its connections are closed at the end."""
    egress = Egress()
    try:
        yield egress
    finally:
        egress.close()


def _headers(request: httpx2.Request, target: Target, policy: Policy) -> list[tuple[bytes, bytes]]:
    """The headers of a request. Values are sent in UTF-8, without the spaces round them, which HTTP
    does not count.
    """
    headers = [(b"Host", target.host.encode("ascii"))]
    if target.route.is_forwarded and target.proxy_authorization is not None:
        headers.append((b"Proxy-Authorization", target.proxy_authorization.encode("ascii")))
    left_out = {b"host"} | (FOR_PROXIES if policy.proxy else set())
    headers += [
        (name, value.strip(b" \t"))
        for name, value in request.headers.raw
        if name.lower() not in left_out
    ]
    for _, value in headers:
        if any(byte in value for byte in b"\r\n\0"):
            raise EgressError("a header has a line break or a NUL")
    return headers


def _redirected(request: httpx2.Request, head: Head) -> httpx2.Request:
    """The request that a redirect asks for."""
    location = head.header(b"location")
    if location is None:
        raise EgressError(f"a redirect ({head.status}) without a Location")
    text = location_text(location)
    method = request.method
    if method not in ("GET", "HEAD"):
        if head.status != SEE_OTHER:
            raise EgressError(
                f"{method} was redirected ({head.status}) to {excerpt(text)}; only GET and HEAD "
                "follow redirects"
            )
        method = "GET"
    try:
        url = joined(request.url, text)
    except httpx2.InvalidURL as error:
        raise EgressError(
            f"a redirect ({head.status}) to '{excerpt(text)}', which is not a URL: {error}"
        ) from error
    left_out = {
        b"host",
        b"content-length",
        *((b"content-type",) if method != request.method else ()),
    }
    if (url.scheme, url.raw_host, url.port) != (
        request.url.scheme,
        request.url.raw_host,
        request.url.port,
    ):
        left_out |= CREDENTIALS
    headers = [(name, value) for name, value in request.headers.raw if name.lower() not in left_out]
    headers.append((b"Host", url.netloc))
    return httpx2.Request(method, url, headers=headers)
