"""One request and its answer on one connection, by httpcore2's engine; its errors as the app's
developer may read them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import httpcore2
from attrs import define, field

from .errors import EgressError, Unanswered, excerpt, not_http
from .head import Head
from .http11 import CHUNK_LINE_MAX, Engine, EngineStream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .connection import Connection
    from .pace import Work

# the connection stands: the engine need not know where it leads
_SOMEWHERE = httpcore2.Origin(b"http", b"server", 80)
_TOO_LONG = "Receive buffer too long"  # of h11
ERRORS = (httpcore2.NetworkError, httpcore2.ProtocolError)


@define(eq=False)
class Exchanges:
    """The requests on one connection, one after the other."""

    connection: Connection
    _stream: EngineStream = field(init=False)
    _engine: Engine = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._stream = EngineStream(self.connection)
        self._engine = Engine(_SOMEWHERE, self._stream)

    @property
    def stream(self) -> EngineStream:
        """What the engine reads from."""
        return self._stream

    def is_free(self) -> bool:
        """Whether the last exchange is complete, and the server accepts another."""
        return self._engine.is_idle() and not self._engine.has_more() and self.connection.is_clean()

    @asynccontextmanager
    async def ask(
        self,
        method: str,
        target: str,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
        work: Work,
    ) -> AsyncIterator[tuple[Head, AsyncIterator[bytes]]]:
        """Send a request; gives the head of the answer and the pieces of its body. `work` is
        entered.

        Raises:
            Unanswered: The connection ended before any byte of the answer came.
            EgressError: The request cannot be sent, or the answer is not valid or was cut off.
        """
        request = httpcore2.Request(
            method,
            httpcore2.URL(scheme="http", host="server", port=80, target=target.encode("ascii")),
            headers=list(headers),
            content=body,
        )
        self._stream.begin(work)
        with self._explained():
            response = await self._engine.handle_async_request(request)
            try:
                head = _head_of(response)
                if not self._stream.received:  # what followed the last answer was taken for one
                    raise Unanswered("the server sent an answer before it was asked")
                self._stream.begin_body(is_chunked=head.is_chunked)
                async with aclosing(response.aiter_stream()) as pieces:
                    yield head, pieces
            finally:
                await response.aclose()  # ends at once: nothing in it waits

    @asynccontextmanager
    async def tunnel(
        self, name: str, headers: Sequence[tuple[bytes, bytes]], work: Work
    ) -> AsyncIterator[int]:
        """Ask a proxy for a tunnel; gives the status of its answer. The connection stays open.
        Raises as `ask` does.
        """
        url = httpcore2.URL(scheme="http", host="server", port=80, target=name.encode("ascii"))
        self._stream.begin(work)
        with self._explained():
            response = await self._engine.handle_async_request(
                httpcore2.Request("CONNECT", url, headers=list(headers))
            )
        # not closed: that would close the connection, which is the tunnel now
        yield response.status

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except httpcore2.LocalProtocolError as error:
            raise EgressError(f"the request cannot be sent: {excerpt(str(error))}") from error
        except ERRORS as error:
            if self._stream.is_over:
                raise EgressError(f"the answer was cut off: {excerpt(str(error))}") from error
            if not self._stream.received:
                raise Unanswered(excerpt(str(error))) from error
            if str(error) == _TOO_LONG:
                raise EgressError(
                    f"the answer has a line of more than {CHUNK_LINE_MAX} bytes about a chunk"
                ) from error
            raise not_http(excerpt(str(error))) from error


def _head_of(response: httpcore2.Response) -> Head:
    version = response.extensions["http_version"].removeprefix(b"HTTP/")
    return Head(
        version, response.status, [(name.lower(), value) for name, value in response.headers]
    )
