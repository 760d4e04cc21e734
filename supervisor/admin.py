"""The admin port: HTTP for operators and for the command line."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
from attrs import asdict, frozen
from attrs import fields as attrs_fields
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from resources.contract import Refused
from resources.stores.logbook import Logbook
from resources.stores.redis import StoreError
from resources.stores.search import SearchError

from .console_admin import FILES, ConsoleAdmin
from .contacts_admin import ContactsAdmin
from .dead_letters_admin import DeadLettersAdmin
from .dispatcher import Dispatcher, Program
from .health import Check, Health
from .pool import Pool, SandboxStatus
from .push import AppGone, NoSuchGroup, Pushed, PushStopped
from .runs_admin import RunsAdmin
from .usage import parse_what_if

LOGS_MAX = 10_000
PUSH_MAX = 100_000  # addresses in one request
OPEN = ("/livez", "/readyz", *FILES)  # whoever can reach the port may see these
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


@frozen
class AdminServices:
    """What the admin port shows and does."""

    programs: Callable[[], Mapping[str, Program]]
    dispatcher: Dispatcher
    pool: Pool
    logbook: Logbook
    contacts: ContactsAdmin
    runs: RunsAdmin
    dead_letters: DeadLettersAdmin
    console: ConsoleAdmin
    reload: Callable[[], Awaitable[dict[str, Any]]]
    push: Callable[[str, list[str] | None, str | None], Awaitable[Pushed]]
    metrics: Callable[[], bytes]
    health: Health
    connections: Callable[[str], int]


class _Guard:
    """Lets in: with tokens configured, whoever has one; without, programs on this host, and no web pages."""

    def __init__(self, app: ASGIApp, tokens: tuple[str, ...]) -> None:
        self.app = app
        self.tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN:
            headers = {key.lower(): value.decode("latin-1") for key, value in scope["headers"]}
            problem = self._problem(headers)
            if problem is not None:
                await JSONResponse({"error": problem[1]}, problem[0])(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _problem(self, headers: Mapping[bytes, str]) -> tuple[int, str] | None:
        if self.tokens:
            kind, _, token = headers.get(b"authorization", "").partition(" ")
            digest = hashlib.sha256(token.strip().encode()).hexdigest()
            known = any([hmac.compare_digest(digest, one) for one in self.tokens])  # noqa: C419  # all, whichever fits
            return None if kind.lower() == "bearer" and known else (401, "a bearer token is needed")
        # A name that a web page's author chose may resolve to this host; what the browser asked for gives it away.
        if urlsplit(f"//{headers.get(b'host', '')}").hostname not in LOCAL_NAMES:
            return 403, "without tokens the admin port answers to localhost, 127.0.0.1 and [::1] only"
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin).hostname not in LOCAL_NAMES:
            return 403, f"the web page {origin} may not use the admin port"
        return None


@frozen
class Admin:
    """The handlers."""

    services: AdminServices

    async def livez(self, _: Request) -> Response:
        """The process runs and its loop turns."""
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        """Messages can be taken and answered: 200, or 503 where something stands in the way of all of them, or of those for `app`.

        What is wrong is told in either case, a line each; with `verbose` also what is well.
        """
        asked = request.query_params
        checks = await self.services.health.checks()
        app = asked.get("app")
        if app is not None:
            if app not in self.services.programs():
                return _unknown(app)
            checks = [check for check in checks if check.app in {None, app}]
        bad = [check for check in checks if check.problem]
        is_ready = not any(check.is_fatal or (check.app == app is not None and not check.is_note) for check in bad)
        lines = [_told(check) for check in (checks if "verbose" in asked else bad)]
        first = "ok" if not bad else "ready, but:" if is_ready else "not ready:"
        return PlainTextResponse("\n".join([first, *lines]) + "\n", 200 if is_ready else 503)

    async def metrics(self, _: Request) -> Response:
        """Prometheus."""
        return Response(self.services.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def apps(self, _: Request) -> Response:
        """Every app and how it is doing."""
        apps = []
        for name, program in self.services.programs().items():
            app = program.app
            apps.append(
                {
                    "name": name,
                    "account": app.account,
                    "javascript": str(app.javascript),
                    "generation": app.generation,
                    "endpoints": dict(app.endpoints),
                    **asdict(self.services.pool.crashes.state(app)),
                    "queue": self.services.dispatcher.waiting(name),
                    "processes": asdict(self.services.pool.statistics(name)),
                    "connections": {
                        channel: self.services.connections(channel) for channel in set(app.endpoints.values())
                    },
                }
            )
        return JSONResponse({"apps": apps})

    async def limits(self, request: Request) -> Response:
        """The limits of an app, and what its newest runs have used of them."""
        program = self._program(request)
        if program is None:
            return _unknown_app(request)
        usage = self.services.pool.usage
        limits, seen = program.app.limits, usage.seen(program.app.name)
        rows = [
            {
                "name": a.name,
                "value": _plain(getattr(limits, a.name)),
                "seen": asdict(seen[a.name]) if a.name in seen else None,
            }
            for a in attrs_fields(type(limits))
        ]
        answer: dict[str, Any] = {"app": program.app.name, "limits": rows}
        asked = request.query_params.getlist("what_if")
        if asked:
            try:
                wanted = dict(parse_what_if(text) for text in asked)
            except ValueError as error:
                return JSONResponse({"error": f"what_if: {error}"}, 400)
            each, together = usage.what_if(program.app.name, wanted)
            answer["what_if"] = {
                "limits": {name: {"value": wanted[name], "over": over, "of": of} for name, (over, of) in each.items()},
                "runs": {"over": together[0], "of": together[1]},
            }
        return JSONResponse(answer)

    async def logs(self, request: Request) -> Response:
        """The newest entries of an app's log, newest first; with `follow=1` the live ones, a JSON object a line."""
        program = self._program(request)
        if program is None:
            return _unknown_app(request)
        app = program.app
        try:
            limit = int(request.query_params.get("limit", "100"))
        except ValueError:
            limit = 0
        if not 1 <= limit <= LOGS_MAX:
            return JSONResponse({"error": f"limit: expected 1 to {LOGS_MAX}"}, 400)
        limit = min(limit, app.log.kept)
        if request.query_params.get("follow") in ("1", "true"):
            return StreamingResponse(self._follow(app.account, app.name, limit), media_type="application/x-ndjson")
        entries = await self.services.logbook.newest(app.account, app.name, limit)
        return JSONResponse({"entries": msgspec.to_builtins(entries)})

    async def _follow(self, account: str, app: str, limit: int) -> AsyncIterator[bytes]:
        with self.services.logbook.follow(account, app) as follower:
            # What comes from here on is followed; of it, what was stored before the list is read is in both.
            entries = await self.services.logbook.newest(account, app, limit)
            for entry in reversed(entries):
                yield msgspec.json.encode(entry) + b"\n"
            read = {(entry.time, entry.message) for entry in entries}
            async for entry in follower:
                if (entry.time, entry.message) not in read:
                    yield msgspec.json.encode(entry) + b"\n"

    async def sandboxes(self, _: Request) -> Response:
        """Every live process; those that have no app yet apart."""
        pool = self.services.pool
        rows, spares = ([_row(one) for one in found] for found in (pool.sandboxes(), pool.spare_processes()))
        return JSONResponse({"sandboxes": rows, "spares": spares})

    async def kill(self, request: Request) -> Response:
        """End a process; the run that it has in hand ends as killed_by_operator."""
        pid = request.path_params["pid"]
        if self.services.pool.kill(pid):
            return JSONResponse({"killed": pid})
        return JSONResponse({"error": f"there is no sandbox process {pid}"}, 404)

    async def reload(self, _: Request) -> Response:
        """Read the config again and apply it as a whole, or keep the old one."""
        result = await self.services.reload()
        return JSONResponse(result, 200 if result["ok"] else 422)

    async def push(self, request: Request) -> Response:
        """Make an app start a conversation with each address."""
        program = self._program(request)
        if program is None:
            return _unknown_app(request)
        try:
            body = await request.json()
        except (json.JSONDecodeError, UnicodeDecodeError):
            body = None
        body = body if isinstance(body, dict) else {}
        addresses, group = body.get("addrs"), body.get("group")
        problem = _push_problem(program, addresses, group)
        if problem is not None:
            return JSONResponse({"error": problem[1]}, problem[0])
        try:
            return JSONResponse(asdict(await self.services.push(program.app.name, addresses, group)))
        except NoSuchGroup as error:
            return JSONResponse({"error": str(error)}, 404)
        except Refused as error:
            return JSONResponse({"error": str(error)}, 409)
        except PushStopped as stopped:
            return _push_stopped(stopped)

    def _program(self, request: Request) -> Program | None:
        return self.services.programs().get(request.path_params["app"])


def _row(status: SandboxStatus) -> dict[str, Any]:
    return {
        "app": status.app,
        "pid": status.pid,
        "state": status.state,
        "rss": status.rss_bytes,
        "cpu": round(status.cpu_seconds, 3),
        "runs": status.runs,
        "age": round(status.age_seconds, 1),
    }


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _push_problem(program: Program, addresses: Any, group: Any) -> tuple[int, str] | None:
    """What is wrong with a push: it names addresses or a group, and not both."""
    if addresses is None:
        right = isinstance(group, str) and group != ""
    else:
        right = group is None and isinstance(addresses, list) and all(isinstance(one, str) and one for one in addresses)
    if not right:
        return 400, 'expected {"addrs": ["+27...", ...]} or {"group": KEY}'
    if addresses is not None and len(addresses) > PUSH_MAX:
        return 400, f"expected at most {PUSH_MAX} addresses, got {len(addresses)}"
    if "default" not in program.app.endpoints:
        return 409, f"app {program.app.name} has no endpoint 'default' to push over"
    return None


def _push_stopped(stopped: PushStopped) -> Response:
    cause = stopped.cause
    if not stopped.pushed.queued and isinstance(cause, SearchError):
        return JSONResponse({"error": str(cause)}, 409)
    status = 503 if isinstance(cause, StoreError) else 409 if isinstance(cause, SearchError | AppGone) else 500
    return JSONResponse({"error": str(stopped), **asdict(stopped.pushed)}, status)


def _told(check: Check) -> str:
    where = check.name if check.app is None else f"app {check.app}: {check.name}"
    return f"{where}: {check.problem or 'ok'}"


def _unknown_app(request: Request) -> Response:
    return _unknown(request.path_params["app"])


def _unknown(app: str) -> Response:
    return JSONResponse({"error": f"there is no app {app!r}"}, 404)


async def _unavailable(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"the store cannot be reached: {error}"}, 503)


def admin_app(services: AdminServices, tokens: tuple[str, ...]) -> Starlette:
    """The admin port as an ASGI app."""
    admin = Admin(services)
    routes = [
        Route("/livez", admin.livez),
        Route("/readyz", admin.readyz),
        Route("/metrics", admin.metrics),
        Route("/v1/apps", admin.apps),
        Route("/v1/apps/{app}/logs", admin.logs),
        Route("/v1/apps/{app}/limits", admin.limits),
        Route("/v1/apps/{app}/push", admin.push, methods=["POST"]),
        Route("/v1/sandboxes", admin.sandboxes),
        Route("/v1/sandboxes/{pid:int}/kill", admin.kill, methods=["POST"]),
        Route("/v1/reload", admin.reload, methods=["POST"]),
        *services.contacts.routes(),
        *services.runs.routes(),
        *services.dead_letters.routes(),
        *services.console.routes(),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(_Guard, tokens=tokens)],
        exception_handlers={StoreError: _unavailable},
    )
