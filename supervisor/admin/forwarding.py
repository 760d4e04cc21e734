"""Requests that name another of the servers that share the work, or all of them: `?host=`.

What each server has of its own (processes, traces, limits ...) can be asked for at any of them: the
server that is named answers, and writes what it does into its own audit log. What is the same on
all is answered where it is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from resources.stores.redis import StoreError

from ..cluster.asking import NoAnswer, Reply
from .bodies import answer, bad
from .elsewhere import ALL, OF_ONE_HOST, ONE_HOST, Elsewhere, reply_of
from .guard import TRUSTED

LOGS = re.compile(r"/v1/apps/[^/]+/logs", re.DOTALL)
"""The same on all; `host` chooses entries (logs.py)."""


class Forwarding:
    """Answers requests with `host` in their query, and passes all others on. Innermost."""

    def __init__(self, app: ASGIApp, elsewhere: Elsewhere) -> None:
        self.app = app
        self.elsewhere = elsewhere

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on (ASGI)."""
        named, rest = _split(scope["query_string"]) if scope["type"] == "http" else ([], b"")
        if not named or LOGS.fullmatch(scope["path"]):
            await self.app(scope, receive, send)
            return
        inner = {**scope, "query_string": rest, ONE_HOST: True}
        try:
            found = await self._answer(named, inner)
        except HTTPException as error:
            found = answer({"error": error.detail}, error.status_code)
        except NoAnswer as error:
            found = answer({"error": str(error)}, 504)
        except StoreError as error:
            found = answer({"error": f"other hosts cannot be asked: {error}"}, 503)
        if found is None:
            await self.app(inner, receive, send)
        else:
            await found(scope, receive, send)

    async def _answer(self, named: Sequence[str], inner: Scope) -> Response | None:
        """The answer of other servers; None: this one is to answer.

        Raises:
            HTTPException: The request is wrong.
            NoAnswer: The other did not answer.
            StoreError: The store failed.
        """
        asked = _check(inner, named)
        if asked == ALL:
            return await self._all(inner)
        host = self.elsewhere.named(asked)
        if self.elsewhere.is_this(host):
            return None
        reply = await self.elsewhere.ask(host, inner)
        return Response(reply.body, reply.status, media_type=reply.kind)

    async def _all(self, inner: Scope) -> Response:
        """What every server answers, a row for each, by name."""
        hosts = self.elsewhere.hosts
        found = await self.elsewhere.ask_others(inner, hosts)
        rows = list[Mapping[str, Any]]()
        for host in hosts:
            is_this = self.elsewhere.is_this(host)
            reply = await reply_of(self.app, inner) if is_this else found[host.id]
            who = {"id": host.id, "name": host.name, "is_this": is_this}
            rows.append({**who, **_shown(reply)})
        return answer({"hosts": rows})


def _split(query: bytes) -> tuple[list[str], bytes]:
    """The values of `host` in a query, and the query without them."""
    if b"host=" not in query:
        return [], query
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    rest = [pair for pair in pairs if pair[0] != "host"]
    return [value for name, value in pairs if name == "host"], urlencode(rest).encode("latin-1")


def _check(inner: Scope, named: Sequence[str]) -> str:
    """Return the host that a request is for. Raises HTTPException."""
    if not inner[TRUSTED]:
        raise bad("?host= needs a bearer token", 401)
    if OF_ONE_HOST.fullmatch(inner["path"]) is None:
        raise bad(f"?host=: {inner['path']} is the same on every host: leave it out")
    if len(named) > 1:
        raise bad("?host=: expected one host, or all")
    if named[0] == ALL and inner["method"] not in {"GET", "HEAD"}:
        raise bad("?host=all is for GET only: change one host after the other")
    return named[0]


def _shown(reply: Reply | str) -> Mapping[str, Any]:
    if isinstance(reply, str):
        return {"status": 0, "error": reply}
    if reply.kind.startswith("application/json"):
        return {"status": reply.status, "answer": msgspec.Raw(reply.body)}
    return {"status": reply.status, "answer": reply.body.decode("utf-8", "replace")}
