"""The other servers that share the work, as the admin port asks them (cluster/asking.py)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Protocol

import msgspec
import trio
from attrs import define, field, frozen
from starlette.types import ASGIApp, Message, Scope

from resources.stores.peers import Record
from resources.stores.redis import StoreError

from ..cluster.asking import ANSWER_MAX, Asking, Budget, NoAnswer, Question, Reply
from .bodies import bad
from .guard import FORWARDED, OPERATOR

ALL = "all"  # instead of a server's name
SECONDS = 5.0  # that another server has to answer
RELOAD = "/v1/reload"
RELOAD_SECONDS = 120.0  # that it has for a reload, or for what one would change: it loads every app
AT_ONCE = 8  # servers that are asked at the same time
NAMED_MAX = 20  # servers in an error
ALL_MAX = 16 << 20  # bytes of the answers of all servers together
ALL_AT_ONCE = 4  # requests for the answers of all; others wait
ONE_HOST = "jsbox.one_host"  # in the ASGI scope: the answer is to be of this server alone


class Others(Protocol):
    """The servers that share the work, as seen from this one.

    Attributes:
        alive: Those that live, by id; this one included.
        record: What this one says of itself.
    """

    alive: Mapping[str, Record]
    record: Record
    asking: Asking


@frozen
class Elsewhere:
    """What other servers answer. `others`: None: the store is not shared."""

    others: Others | None
    _together: trio.CapacityLimiter = field(
        factory=lambda: trio.CapacityLimiter(ALL_AT_ONCE), init=False
    )

    @property
    def name(self) -> str | None:
        """Of this server, among those that share the work."""
        return None if self.others is None else self.others.record.name

    @property
    def hosts(self) -> Collection[Record]:
        """The servers that live, by name; this one, if the store is not shared."""
        if self.others is None:
            return [Record(name="this server")]
        return sorted(self.others.alive.values(), key=lambda one: (one.name, one.id))

    def is_this(self, host: Record) -> bool:
        """Whether a server is this one."""
        return self.others is None or host.id == self.others.record.id

    def named(self, asked: str) -> Record:
        """The server that somebody names: by its id, or how that begins; by its name, or the part
        of it that is the machine's.

        Raises:
            HTTPException: There is none, or more than one.
        """
        if self.others is None:
            raise bad(f"host {asked!r}: this server shares the work with no other", 404)
        found = (
            [one for one in self.hosts if asked in (one.id, one.name)]
            or [one for one in self.hosts if one.name.partition(" ")[0] == asked]
            or [one for one in self.hosts if asked and one.id.startswith(asked)]
        )
        if len(found) == 1:
            return found[0]
        what = f"{len(found)} hosts are called {asked!r}" if found else f"no host is {asked!r}"
        known = ", ".join(f"{one.id} {one.name}" for one in [*(found or self.hosts)][:NAMED_MAX])
        raise bad(f"{what}: {known}", 400 if found else 404)

    async def ask(self, host: Record, scope: Scope, budget: Budget | None = None) -> Reply:
        """Ask another server what was asked here; `scope`: the request, as ASGI has it.

        Raises:
            NoAnswer: It did not answer in time, or died.
            StoreError: The store failed.
        """
        assert self.others is not None
        question = Question(
            # the answer to HEAD is cut by our own port
            method="GET" if scope["method"] == "HEAD" else scope["method"],
            path=scope["path"],
            query=scope["query_string"].decode("latin-1"),
            who=scope[OPERATOR],
            asker=self.others.record.name,
        )
        seconds = RELOAD_SECONDS if question.path == RELOAD else SECONDS
        return await self.others.asking.ask(host, question, seconds, budget)

    async def ask_others(
        self, scope: Scope, hosts: Collection[Record] | None = None
    ) -> Mapping[str, Reply | str]:
        """What every other server answers, by its id: or why it did not. `hosts`: of these."""
        async with self._together:
            return await self._ask_others(scope, self.hosts if hosts is None else hosts)

    async def _ask_others(
        self, scope: Scope, hosts: Collection[Record]
    ) -> Mapping[str, Reply | str]:
        found = dict[str, Reply | str]()
        limit, budget = trio.CapacityLimiter(AT_ONCE), Budget(ALL_MAX)

        async def ask(host: Record) -> None:
            async with limit:
                try:
                    found[host.id] = await self.ask(host, scope, budget)
                except NoAnswer as error:
                    found[host.id] = str(error)
                except StoreError as error:
                    found[host.id] = f"host {host.name} cannot be asked: {error}"

        async with trio.open_nursery() as nursery:
            for host in hosts:
                if not self.is_this(host):
                    nursery.start_soon(ask, host)
        return found


OF_ONE_HOST = re.compile(
    r"/readyz|/v1/(info|apps|overview|host|channels|sandboxes|reload|audit)|/v1/traces(/.*)?"
    r"|/v1/apps/[^/]+/(limits|figures)|/v1/sandboxes/[^/]+/kill",
    re.DOTALL,
)
"""Paths that each server answers for itself."""
DEEDS = re.compile(r"/v1/reload|/v1/sandboxes/[^/]+/kill", re.DOTALL)
METRICS = "/metrics"  # asked for by another process of the same server


def may_be_asked(method: str, path: str) -> bool:
    """Whether other servers may ask this one for it: it is bounded, and has no body."""
    if method == "POST":
        return DEEDS.fullmatch(path) is not None
    return method == "GET" and (path == METRICS or OF_ONE_HOST.fullmatch(path) is not None)


async def reload_at(others: Others, host: str) -> dict[str, Any]:
    """Have another process of our own server reload, which does it for all; give its result.
    Never raises an Exception of the store's.
    """
    record = others.alive.get(host)
    if record is None:
        return _refused("the first process of this server is away: try again")
    question = Question("POST", RELOAD, "", others.record.name, others.record.name)
    try:
        reply = await others.asking.ask(record, question, RELOAD_SECONDS)
        found = msgspec.json.decode(reply.body, type=dict[str, Any])
    except (NoAnswer, StoreError, msgspec.DecodeError) as error:
        return _refused(str(error))
    return found if "ok" in found else _refused(str(found.get("error", reply.status)))


def _refused(why: str) -> dict[str, Any]:
    return {"ok": False, "errors": [why]}


def replies_of(app: ASGIApp) -> Callable[[Question], Awaitable[Reply]]:
    """What answers the questions of other servers: the admin port, which takes their word for who
    asks.
    """

    async def serve(question: Question) -> Reply:
        if not may_be_asked(question.method, question.path):
            return Reply(404, "application/json", b'{"error":"it is not for other servers"}')
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": question.method,
            "scheme": "http",
            "path": question.path,
            "raw_path": question.path.encode("utf-8", "replace"),
            "query_string": question.query.encode("latin-1", "replace"),
            "root_path": "",
            "headers": [],
            "client": (f"host {question.asker}", 0),
            "server": None,
            FORWARDED: question.who,
            ONE_HOST: True,
        }
        return await reply_of(app, scope)

    return serve


async def reply_of(app: ASGIApp, scope: Scope) -> Reply:
    """What an ASGI application answers to a request without a body."""
    taking = _Taking()
    await app(scope, taking.receive, taking.send)
    if taking.size > ANSWER_MAX:
        text = f'{{"error":"the answer has more than {ANSWER_MAX} bytes: ask for fewer rows"}}'
        return Reply(502, "application/json", text.encode())
    return Reply(taking.status, taking.kind, b"".join(taking.parts))


@define(eq=False)
class _Taking:
    """The other side of an ASGI application: keeps its answer, if it is not too large."""

    status: int = 500
    kind: str = ""
    parts: list[bytes] = field(factory=list)
    size: int = 0
    _has_body: bool = False

    async def receive(self) -> Message:
        if self._has_body:
            await trio.sleep_forever()
        self._has_body = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.kind = dict(message["headers"]).get(b"content-type", b"").decode("latin-1")
            return
        body = message.get("body", b"")
        self.size += len(body)
        if self.size <= ANSWER_MAX:
            self.parts.append(body)
