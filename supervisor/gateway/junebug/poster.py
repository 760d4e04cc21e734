"""One post to Junebug, and what its answer means. Never raises but when cancelled."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec
import trio
from attrs import define, field, frozen

from resources.messages import ID_MAX
from resources.stores.allow import AllowList
from resources.stores.egress import Egress, EgressError, Policy, Reply
from resources.stores.hosts import canonical
from resources.text import read_json

from ...config.urls import without_login

SECONDS = 30.0  # for one post, from looking up the host to the end of the answer
CONNECTIONS = 16  # to one Junebug
NOT_FOUND = 404
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
    """

    problem: str
    retry_after: float | None = None
    is_answer: bool = False


Verdict = Taken | Refused | Failed


@define
class Poster:
    """Posts to one channel of a Junebug, on connections that the channel has to itself.

    Attributes:
        url: Of Junebug's channel, without user and password.
    """

    url: str
    _egress: Egress
    _key: str = field(init=False)
    _headers: dict[str, str] = field(init=False)
    _policy: Policy = field(init=False)
    _slash: str = field(default="/", init=False)  # of Junebug's URL; that of vumi2 has none

    @classmethod
    def of(cls, egress: Egress, channel: str, url: str) -> Poster:
        """The poster of a channel, by the URL in the config."""
        plain, login = without_login(url.rstrip("/"))
        poster = cls(plain, egress)
        parts = urlsplit(plain)
        poster._key = f"channel {channel}"
        poster._headers = {"content-type": "application/json", "user-agent": "jsbox"}
        if login is not None:
            credentials = b64encode(":".join(login).encode()).decode()
            poster._headers["authorization"] = f"Basic {credentials}"
        # The operator chose the host: wherever it is, it is reached.
        host = {canonical(parts.hostname or "").rstrip("."): f"{parts.scheme}://{parts.netloc}"}
        poster._policy = Policy(AllowList(), host, proxy="", redirects=0, response_max=ANSWER_MAX)
        return poster

    async def post(self, body: Mapping[str, Any]) -> Verdict:
        """Post a message. Never raises but when cancelled."""
        with trio.move_on_after(SECONDS):
            try:
                request = httpx2.Request(
                    "POST",
                    f"{self.url}/messages{self._slash}",
                    content=msgspec.json.encode(body),
                    headers=self._headers,
                )
                reply = await self._egress.ask(self._key, request, self._policy)
            except (EgressError, httpx2.InvalidURL) as error:
                return Failed(f"no answer: {error}")
            return self._verdict(reply)
        return Failed(f"no answer in {SECONDS:g} s")

    def _verdict(self, reply: Reply) -> Verdict:
        status, text = reply.head.status, reply.body
        if 200 <= status < 300:  # noqa: PLR2004  # HTTP's
            return Taken(_message_id(text))
        said = f"it answered {status}{_said(text)}"
        if 400 <= status < 500 and status not in _NOT_ABOUT_IT:  # noqa: PLR2004  # HTTP's
            return Refused(said)
        if status == NOT_FOUND:
            self._slash = "" if self._slash else "/"
        return Failed(said, _retry_after(reply.head.header(b"retry-after")), is_answer=True)


def _message_id(text: str) -> str | None:
    try:
        body = read_json(text.encode())
    except ValueError:
        return None
    result = body.get("result") if isinstance(body, dict) else None
    found = result.get("message_id") if isinstance(result, dict) else None
    return found if isinstance(found, str) and 0 < len(found) <= ID_MAX else None


def _said(text: str) -> str:
    """What an answer says, for a person: Junebug's own errors, or its first characters."""
    try:
        body = read_json(text.encode())
        errors = body["result"]["errors"]
        words = "; ".join(str(one["message"]) for one in errors[:3])
    except (ValueError, LookupError, TypeError):
        words = text
    plain = "".join(char if char.isprintable() else " " for char in words[: 4 * SHOWN_MAX])
    plain = " ".join(plain.split())[:SHOWN_MAX]
    return f": {plain}" if plain else ""


def _retry_after(header: bytes | None) -> float | None:
    """The seconds of a Retry-After header; dates are not read."""
    try:
        seconds = float(header or b"")
    except ValueError:
        return None
    return min(seconds, RETRY_AFTER_MAX) if math.isfinite(seconds) and seconds > 0 else None
