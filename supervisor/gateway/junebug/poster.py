"""One post to Junebug, and what its answer means. Never raises but when cancelled."""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any

import httpx2
import msgspec
import trio
from attrs import frozen

from resources.fence import reason_of
from resources.messages import ID_MAX
from resources.text import read_json

SECONDS = 30.0  # for one post, from looking up the host to the end of the answer
CONNECTIONS = 16  # to one Junebug
IDLE_SECONDS = 4.0  # then an unused connection is closed, before Junebug does it under a post
READ_SECONDS = 5.0  # for the body of an answer
ANSWER_MAX = 64 << 10  # bytes of an answer that are read
RETRY_AFTER_MAX = 120.0  # seconds
SHOWN_MAX = 200  # characters of an answer
# Answers that say nothing about the message: the channel, its URL or the password is wrong, or
# Junebug is busy. All other 4xx are about this message.
_NOT_ABOUT_IT = frozenset({401, 403, 404, 405, 407, 408, 421, 425, 429})


@frozen
class Taken:
    """Junebug has the message. `message_id`: its own name for it; None if it did not say."""

    message_id: str | None


@frozen
class Refused:
    """Junebug refuses this message, and would again."""

    reason: str


@frozen
class Failed:
    """Whether Junebug has the message is not known, or it does not take it now.

    Attributes:
        problem: For a person.
        retry_after: Seconds for which Junebug asked not to be asked again.
        is_answer: Junebug answered, with an error of its own.
        is_not_found: That it has no such URL.
    """

    problem: str
    retry_after: float | None = None
    is_answer: bool = False
    is_not_found: bool = False


Verdict = Taken | Refused | Failed


def open_client(auth: tuple[str, str] | None) -> httpx2.AsyncClient:
    """The client of one channel. It never follows a redirect, and reads no environment."""
    # It logs every request, at a level that ours are logged at.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    return httpx2.AsyncClient(
        auth=auth,
        verify=_context(),
        trust_env=False,
        follow_redirects=False,
        timeout=None,  # `post` bounds the whole exchange
        limits=httpx2.Limits(
            max_connections=CONNECTIONS,
            max_keepalive_connections=CONNECTIONS,
            keepalive_expiry=IDLE_SECONDS,
        ),
        headers={"accept-encoding": "identity", "user-agent": "jsbox"},
    )


@cache
def _context() -> ssl.SSLContext:
    """Reading the host's certificates takes a while, so they are read once."""
    return ssl.create_default_context()


async def post(client: httpx2.AsyncClient, url: str, body: Mapping[str, Any]) -> Verdict:
    """Post a message to Junebug."""
    content = msgspec.json.encode(body)
    headers = {"content-type": "application/json"}
    with trio.move_on_after(SECONDS):
        try:
            async with client.stream("POST", url, content=content, headers=headers) as response:
                return _verdict(response, await _read(response))
        except httpx2.ConnectError as error:
            return Failed(f"cannot be reached: {reason_of(error)}")
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            return Failed(f"the connection was lost before an answer: {reason_of(error)}")
    return Failed(f"no answer in {SECONDS:g} s")


async def _read(response: httpx2.Response) -> bytes:
    """The body of an answer; empty if it is too long, too slow or broken, since the status alone
    says what became of the message.
    """
    text = bytearray()
    with trio.move_on_after(READ_SECONDS) as scope, suppress(httpx2.HTTPError):
        async for part in response.aiter_raw():
            text += part
            if len(text) > ANSWER_MAX:
                scope.cancel()  # ends the client's generators where they are, as a break would not
        return bytes(text)
    return b""


def _verdict(response: httpx2.Response, text: bytes) -> Verdict:
    status = response.status_code
    if response.is_success:
        return Taken(_message_id(text))
    said = f"it answered {status}{_said(text)}"
    if response.is_client_error and status not in _NOT_ABOUT_IT:
        return Refused(said)
    return Failed(
        said,
        _retry_after(response.headers.get("retry-after")),
        is_answer=True,
        is_not_found=status == 404,  # noqa: PLR2004  # HTTP's
    )


def _message_id(text: bytes) -> str | None:
    try:
        body = read_json(text)
    except ValueError:
        return None
    result = body.get("result") if isinstance(body, dict) else None
    found = result.get("message_id") if isinstance(result, dict) else None
    return found if isinstance(found, str) and 0 < len(found) <= ID_MAX else None


def _said(text: bytes) -> str:
    """What an answer says, for a person: Junebug's own errors, or its first characters."""
    try:
        body = read_json(text)
        errors = body["result"]["errors"]
        words = "; ".join(str(one["message"]) for one in errors[:3])
    except (ValueError, LookupError, TypeError):
        words = text[: 4 * SHOWN_MAX].decode("utf-8", "replace")
    plain = "".join(char if char.isprintable() else " " for char in words[: 4 * SHOWN_MAX])
    plain = " ".join(plain.split())[:SHOWN_MAX]
    return f": {plain}" if plain else ""


def _retry_after(header: str | None) -> float | None:
    """The seconds of a Retry-After header; dates are not read."""
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return min(seconds, RETRY_AFTER_MAX) if math.isfinite(seconds) and seconds > 0 else None
