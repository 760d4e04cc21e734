"""Bodies of requests to the admin port and of its answers: bounded, and read and written without
holding up the event loop.
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec
import trio
from attrs import define
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Send

from resources.text import clean

from ..config.units import parse_duration
from ..host.slices import in_slices
from .strict_json import Wrong, parse

BODY_MAX = 16 << 20  # bytes of a request
PAGE_BYTES = 4 << 20  # bytes of the rows of one answer; a page of large rows has fewer of them
INLINE_MAX = 32 << 10  # bytes that are parsed on the event loop; more, in a thread
STEP = 32  # rows fetched at a time: each may be large
TIME = "%Y-%m-%dT%H:%M:%S.%fZ"  # of the moments in answers
DIGITS_MAX = 18  # of a number in a request

THREADS = trio.CapacityLimiter(2)  # threads that work for the admin port

T = TypeVar("T")


def bad(text: str, status: int = 400) -> HTTPException:
    """Make an error answer to be raised; `text` says what was expected."""
    return HTTPException(status, clean(text))


async def read_object(request: Request, expected: str) -> dict[str, Any]:
    """Read a request's body as a JSON object (`strict_json.parse`); `expected` says what it should
    look like.

    Raises:
        HTTPException: It is not one, or is too large.
    """
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > BODY_MAX:
            raise bad(f"the body has more than {BODY_MAX} bytes", 413)
    try:
        found = await off_loop(parse, bytes(data)) if len(data) > INLINE_MAX else parse(bytes(data))
    except ValueError as error:
        raise bad(f"the body: {error}; {expected}") from error
    if isinstance(found, Wrong):
        raise bad(f"the body: {found.text}; {expected}")
    if not isinstance(found, dict):
        raise bad(expected)
    return found


async def read_rows(request: Request, name: str, most: int, expected: str) -> list[Any]:
    """Read a body `{name: [...]}` with 1 to `most` rows. May have `Wrong` in it.

    Raises:
        HTTPException: It is none; says what was `expected`.
    """
    given = await read_object(request, expected)
    rows = given.get(name)
    if not isinstance(rows, list) or set(given) != {name} or not 1 <= len(rows) <= most:
        raise bad(expected)
    return rows


async def off_loop(work: Callable[..., T], *args: Any) -> T:
    """Run it in one of a few threads."""
    return await trio.to_thread.run_sync(work, *args, limiter=THREADS)


def number_in(request: Request, name: str, default: int, least: int, most: int) -> int:
    """An integer in the query string.

    Raises:
        HTTPException: It is not one, or is out of bounds.
    """
    text = request.query_params.get(name)
    if text is None:
        return default
    if not is_number(text) or not least <= int(text) <= most:
        raise bad(f"{name}: expected {least} to {most}")
    return int(text)


def is_dry_run(request: Request) -> bool:
    """Whether a request asks only what would be done: `dry_run=1`.

    Raises:
        HTTPException: `dry_run` is something else.
    """
    text = request.query_params.get("dry_run", "0")
    if text not in ("0", "1"):
        raise bad("dry_run: expected 1 or 0")
    return text == "1"


def is_number(text: str) -> bool:
    """Whether a text from a request is a number without sign, of no more digits than we take."""
    return text.isascii() and text.isdecimal() and len(text) <= DIGITS_MAX


def parse_time(text: str, name: str) -> datetime:
    """A time in the query string, or how long ago it was, in UTC.

    Raises:
        HTTPException: It is neither; `name` is the parameter's.
    """
    expected = f'{name}: expected a time with its zone, such as "2026-02-03T04:05Z", or "10m"'
    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        pass
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            raise bad(expected)
        return found.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise bad(expected) from error


def encode(value: Any) -> bytes:
    """Encode as JSON; half of a surrogate pair becomes U+FFFD."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_cleaned(value))


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {_cleaned(key): _cleaned(item) for key, item in value.items()}
    return [_cleaned(item) for item in value] if isinstance(value, list | tuple) else value


def answer(value: Any, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(encode(value), status, media_type="application/json")


def text_answer(text: str, status: int = 200) -> Response:
    """A plain text answer."""
    return PlainTextResponse(clean(text), status)


async def encoded(rows: Iterable[Any]) -> list[bytes]:
    """Encode each row as JSON. Other tasks run meanwhile and may change what the rows are made
    from: pass a copy.
    """
    return [encode(row) async for row in in_slices(rows)]


def list_answer(name: str, rows: Iterable[bytes], **more: Any) -> Response:
    """The JSON answer `{name: [rows], **more}`."""
    rest = encode(more)[1:-1]
    text = b'{"%s":[%s]%s}' % (name.encode(), b",".join(rows), b"," + rest if rest else b"")
    return Response(text, media_type="application/json")


class Stream(StreamingResponse):
    """An answer that is made while it is sent. When the client leaves, its generator is closed at
    once.
    """

    def __init__(self, content: AsyncGenerator[bytes, None], media_type: str) -> None:
        super().__init__(content, media_type=media_type)
        self._content = content

    async def stream_response(self, send: Send) -> None:
        """See StreamingResponse."""
        async with aclosing(self._content):
            await super().stream_response(send)


@define
class Allowance:
    """The rows and bytes that an answer may still have. Fetch `size` rows until that is 0."""

    rows: int
    bytes: int = PAGE_BYTES

    @property
    def size(self) -> int:
        """How many rows to fetch next; 0 at the end."""
        return min(STEP, self.rows) if self.bytes > 0 else 0

    def take(self, rows: Sequence[builtins.bytes]) -> None:
        """Subtract rows that were fetched."""
        self.rows -= len(rows)
        self.bytes -= sum(map(len, rows))
