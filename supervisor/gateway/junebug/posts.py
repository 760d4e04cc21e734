"""What Junebug posts to the gateway's port: messages and events of channels of type http.

    POST /channels/NAME/messages
    POST /channels/NAME/events
    POST /channels/NAME/events/MESSAGE_ID       of a message that we sent

A 2xx answer comes after the journal has it. Answers are JSON, as those of Junebug's own API.
"""

from __future__ import annotations

import hmac
import math
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from attrs import frozen
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from resources.messages import ID_MAX, BadMessage
from resources.stores.redis import StoreError
from resources.text import DEPTH_MAX, TooDeep, read_json

from ...config.model import Channel
from ...ports.http import KNOWN
from ..intake import Accepted, Answer, Services
from ..rights import is_known, local_problem, token_in
from ..socket import CHANNELS
from . import words
from .link import JunebugLink

SCHEMES = (b"token", b"bearer")
# Only the first request of a connection is known to be below CHANNELS.
PATH = re.compile(CHANNELS.decode() + r"([^/]+)/(?:(messages)|events(?:/([^/]+))?)/?")


class _Wrong(Exception):
    """The request is not answered as it asks."""

    def __init__(
        self, status: int, kind: str, text: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(text)
        self.status, self.kind, self.headers = status, kind, dict(headers or {})


@frozen
class Posts:
    """The ASGI application behind /channels/."""

    services: Services
    link: Callable[[str], Any]  # of a channel

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        headers: dict[str, str] = {}
        try:
            status, body = await self._answer(scope, receive)
        except _Wrong as wrong:
            status, headers = wrong.status, wrong.headers
            description = HTTPStatus(status).phrase.lower()
            body = words.error(status, description, wrong.kind, str(wrong))
        except HTTPException as error:  # the body is not what its head says
            status, headers = error.status_code, {"connection": "close"}
            body = words.error(status, "bad request", "BadRequest", str(error.detail))
        except StoreError as error:
            status, headers = 503, {"retry-after": str(math.ceil(error.retry_after))}
            body = words.error(status, "unavailable", "Unavailable", str(error))
        fields = {"content-type": "application/json", "content-length": str(len(body))} | headers
        raw = [(key.encode(), value.encode()) for key, value in fields.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        path = PATH.fullmatch(scope["path"])
        if path is None:
            raise _Wrong(404, "NotFound", "expected /channels/NAME/messages or .../events")
        name, what, ours = path[1], path[2] or "events", path[3]
        channel = self.services.channels().get(name)
        if channel is None or channel.type != "http":
            raise _Wrong(404, "ChannelNotFound", f"there is no channel {name[:100]!r} here")
        if scope["method"] != "POST":
            raise _Wrong(405, "MethodNotAllowed", "expected POST", {"allow": "POST"})
        self._check_rights(scope, channel, is_event=what == "events")
        link = self.link(channel.name)
        if not isinstance(link, JunebugLink):
            raise _Wrong(503, "Unavailable", "the channel is starting", {"retry-after": "1"})
        scope[KNOWN]()
        data = await self._body(scope, receive)
        try:
            body = read_json(data)
        except TooDeep:
            raise _Wrong(400, "BadRequest", f"expected at most {DEPTH_MAX} levels") from None
        except ValueError as error:
            raise _Wrong(400, "BadRequest", f"the body is not JSON: {error}") from None
        try:
            if what == "messages":
                payload = words.message_from(body)
                return _said(await link.take_in("message", payload, len(data)))
            payload = words.event_from(body)
        except BadMessage as bad:
            raise _Wrong(400, "BadMessage", str(bad)) from None
        ours = ours or await link.message_of(payload["user_message_id"][:ID_MAX])
        payload["user_message_id"] = ours or payload["user_message_id"]
        return _said(await link.take_in("event", payload, len(data)))

    def _check_rights(self, scope: Scope, channel: Channel, *, is_event: bool) -> None:
        """Let in who has a token of the channel, or, with an event, the token that the message was
        sent with.
        """
        name, address = channel.name, scope["client"][0]
        token = token_in(scope["headers"], SCHEMES)
        own = self.services.ids.token_of(channel.name)
        if is_event and token and hmac.compare_digest(token.encode(), own.encode()):
            return
        if not channel.tokens:
            if problem := local_problem(address, scope["headers"]):
                self.services.refuse(name, "local", address, f"channel {name}: {problem}")
                raise _Wrong(403, "Forbidden", problem)
        elif not token or not is_known(token, channel.tokens):
            reason = "the token is not known" if token else "a token is needed"
            self.services.refuse(name, "token", address, f"channel {name}: {reason}")
            raise _Wrong(401, "Unauthorized", reason, {"www-authenticate": "Token"})
        self.services.refused.let_in(name, address)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        most = self.services.settings.max_frame
        text = f"expected a body of at most {most} bytes (gateway.max_frame)"
        body = bytearray()
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        if lengths and int(lengths[0]) > most:
            raise _Wrong(413, "TooLarge", text, {"connection": "close"})
        while True:
            part = await receive()
            if part["type"] != "http.request":
                raise _Wrong(400, "BadRequest", "the client has gone")
            body += part.get("body", b"")
            if len(body) > most:
                raise _Wrong(413, "TooLarge", text, {"connection": "close"})
            if not part.get("more_body"):
                return bytes(body)


def _said(answer: Answer) -> tuple[int, bytes]:
    """The HTTP answer for what became of a message or event."""
    if isinstance(answer, Accepted):
        result = {"message_id": answer.id, "duplicate": answer.duplicate}
        return 200, words.answer(200, f"{answer.kind} accepted", result)
    if answer.code == "bad_message":
        name = words.vumi_to_junebug(answer.path or "")
        raise _Wrong(400, "BadMessage", f"{name}: {answer.detail}")
    if answer.retry_after is None:
        raise _Wrong(404, "NoApp", answer.detail)
    headers = {"retry-after": str(math.ceil(answer.retry_after))}
    raise _Wrong(503, answer.code.capitalize(), answer.detail, headers)
