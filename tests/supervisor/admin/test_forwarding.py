"""Requests that name another server, or all: through two admin ports of almost nothing, over a real
store. test_elsewhere.py has two whole servers.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from attrs import define, field
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from resources.stores.inbox import open_inbox
from resources.stores.lease import Holder
from resources.stores.peers import Peers, Record, channel_of
from resources.stores.redis import Redis
from supervisor.admin import elsewhere
from supervisor.admin.audit import Auditing, AuditLog, Deed, read
from supervisor.admin.elsewhere import Elsewhere, replies_of, reply_of
from supervisor.admin.forwarding import Forwarding
from supervisor.admin.guard import Guard
from supervisor.cluster.asking import Asking
from supervisor.config.tokens import AdminToken
from supervisor.ports.http import KNOWN

TOKENS = tuple(
    AdminToken(sha256(name.encode()).hexdigest(), name, scopes)
    for name, scopes in (("grafana", ("read",)), ("thandi", ("read", "operate")))
)


@define(eq=False)
class _Server:
    """An admin port that only says which server it is, and what it was asked."""

    record: Record
    asking: Asking
    alive: dict[str, Record]
    folder: Path
    app: Starlette = field(init=False)
    is_frozen: bool = False

    def __attrs_post_init__(self) -> None:
        async def echo(request: Request) -> Response:
            if self.is_frozen:
                await trio.sleep_forever()
            said = {"here": self.record.name, "query": dict(request.query_params)}
            return JSONResponse(said, 202)

        async def ready(_: Request) -> Response:
            return PlainTextResponse("not ready: it is a test\n", 503)

        methods = ["GET", "POST", "DELETE"]
        self.app = Starlette(
            routes=[
                Route("/readyz", ready),
                Route("/v1/{path:path}", echo, methods=methods),
            ],
            middleware=[
                Middleware(Guard, tokens=lambda: TOKENS),
                Middleware(Auditing, audit=AuditLog(self.folder)),
                Middleware(Forwarding, elsewhere=Elsewhere(self)),
            ],
        )
        self.asking.serve = replies_of(self.app)

    async def __call__(self, method: str, target: str, token: str = "thandi") -> tuple[int, Any]:
        """The status and the answer (JSON, or text) to a request."""
        path, _, query = target.partition("?")
        reply = await reply_of(
            self.app,
            {
                "type": "http", "http_version": "1.1", "method": method, "scheme": "http",
                "path": path, "raw_path": path.encode(), "query_string": query.encode(),
                "root_path": "", "client": ("127.0.0.1", 0), "server": None, KNOWN: lambda: None,
                "headers": [(b"authorization", f"Bearer {token}".encode())],
            },
        )  # fmt: skip
        is_json = reply.kind.startswith("application/json")
        return reply.status, json.loads(reply.body) if is_json else reply.body.decode()

    def deeds(self) -> list[tuple[str, str, str, int]]:
        found = [one for one in read(self.folder, 9) if isinstance(one, Deed)]
        return [(one.who, one.source, one.what, one.status) for one in found]


@asynccontextmanager
async def _two(redis: Redis, url: str, tmp_path: Path) -> AsyncIterator[tuple[_Server, _Server]]:
    alive, servers = dict[str, Record](), list[_Server]()
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        for id_, name in (("a1", "web1 (process 1)"), ("a2", "web2 (process 2)")):
            alive[id_] = Record(id=id_, process="p", name=name)
            asking = Asking(Peers(redis, Holder()), id_, lambda: alive)
            server, up = _Server(alive[id_], asking, alive, tmp_path / id_), trio.Event()
            servers.append(server)

            def heard(text: bytes, asking: Asking = asking) -> None:
                asking.heard(msgspec.json.decode(text))

            await stack.enter_async_context(open_inbox(url, channel_of(id_), heard, up.set))
            nursery.start_soon(asking.run)
            with trio.fail_after(30):
                await up.wait()
        yield servers[0], servers[1]
        nursery.cancel_scope.cancel()


async def test_one_answers_for_the_other(
    redis: Redis, valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named in any way, with the rest of the query, by whoever may; both write down what was done;
    one that is silent is named.
    """
    async with _two(redis, valkey, tmp_path) as (one, two):
        there = {"here": "web2 (process 2)", "query": {"x": "a b", "y": ""}}
        for name in ("a2", "web2", "web2%20(process+2)"):
            assert await one("GET", f"/v1/apps/x%2f/limits?x=a+b&host={name}&y=") == (202, there)
        here = {"here": "web1 (process 1)", "query": {}}
        assert await one("GET", "/v1/traces/a/b?host=a1") == (202, here)
        _, rows = await two("GET", "/v1/host?host=all", "grafana")
        assert [(row["name"], row["is_this"], row["answer"]["here"]) for row in rows["hosts"]] == [
            ("web1 (process 1)", False, "web1 (process 1)"),
            ("web2 (process 2)", True, "web2 (process 2)"),
        ]
        _, rows = await one("GET", "/readyz?host=all")
        assert {(row["status"], row["answer"]) for row in rows["hosts"]} == {
            (503, "not ready: it is a test\n")
        }
        assert (await one("GET", "/readyz?host=web2"))[0] == 503

        kill = "/v1/sandboxes/7/kill"
        assert (await one("POST", f"{kill}?host=web2", "grafana"))[0] == 403
        assert (await one("GET", "/readyz?host=web2", "nobody"))[0] == 401
        assert await one("POST", f"{kill}?host=web2") == (202, there | {"query": {}})
        assert one.deeds() == [("thandi", "127.0.0.1", f"POST {kill}?host=web2", 202)]
        assert two.deeds() == [("thandi", "host web1 (process 1)", f"POST {kill}", 202)]

        for method, target, status in (
            ("GET", "/v1/host?host=web", 404), ("GET", "/v1/host?host=a", 400),
            ("GET", "/v1/host?host=", 404), ("GET", "/v1/deadletters?host=a2", 400),
            ("POST", "/v1/reload?host=all", 400), ("DELETE", "/v1/audit?host=a2", 404),
            ("GET", "/v1/apps/x/logs?host=a2", 202),  # which is the same on all
            ("HEAD", "/v1/host?host=a2", 202), ("HEAD", "/v1/host?host=all", 200),
        ):  # fmt: skip
            assert (await one(method, target))[0] == status, target

        monkeypatch.setattr(elsewhere, "SECONDS", 0.2)
        two.is_frozen = True
        why = "host web2 (process 2) did not answer within 0.2 s"
        assert await one("GET", "/v1/host?host=a2") == (504, {"error": why})
        _, rows = await one("GET", "/v1/host?host=all")
        assert [row.get("error") for row in rows["hosts"]] == [None, why]
