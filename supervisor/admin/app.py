"""The admin port: HTTP for operators and for the command line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from attrs import asdict, frozen
from attrs import fields as attrs_fields
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from resources.stores.errors import StoreError, Unreadable
from resources.text import visible

from ..runs.dispatcher import Dispatcher, Program
from ..sandboxes.limit_usage import parse_what_if
from ..sandboxes.pool import Pool, SandboxStatus
from .audit import Auditing, AuditLog
from .bodies import DIGITS_MAX, answer, bad, encoded, is_number, list_answer, text_answer
from .elsewhere import Elsewhere
from .forwarding import Forwarding
from .guard import TRUSTED, Guard, Tokens
from .health import Check, Health
from .refusals import Refusals


class HasRoutes(Protocol):
    """A part of the admin port that has a file of its own."""

    def routes(self) -> list[Route]:
        """The requests that it answers."""


@frozen
class AdminServices:
    """What the admin port shows and does."""

    programs: Callable[[], Mapping[str, Program]]
    dispatcher: Dispatcher
    pool: Pool
    parts: Iterable[HasRoutes]
    reload: Callable[[], Awaitable[dict[str, Any]]]
    preview: Callable[[], Awaitable[dict[str, Any]]]
    metrics: Callable[[], Awaitable[bytes]]
    health: Health
    connections: Callable[[str], int]
    audit: AuditLog
    refusals: Refusals
    elsewhere: Elsewhere


@frozen
class Admin:
    """The handlers that belong to no part."""

    services: AdminServices

    async def livez(self, _: Request) -> Response:
        """Answer: the process and its event loop run."""
        return text_answer("ok\n")

    async def readyz(self, request: Request) -> Response:
        """Answer whether messages can be taken and answered: 200, or 503 if a problem affects all
        of them, or those for `app`.

        Either way each problem is a line; with `verbose`, so is each check that passed. A client
        without the token that is needed sees only the names of the checks, and no single app.
        """
        asked, is_trusted = request.query_params, request.scope[TRUSTED]
        app = asked.get("app")
        if app is not None and not is_trusted:
            raise bad("?app= needs a bearer token", 401)
        checks = await self.services.health.checks()
        if app is not None:
            if app not in self.services.programs():
                raise _no_app(app)
            checks = [check for check in checks if check.app in {None, app}]
        bad_ones = [check for check in checks if check.problem]
        is_ready = not any(
            check.is_fatal or (app is not None and check.app == app and not check.is_note)
            for check in bad_ones
        )
        shown = checks if "verbose" in asked else bad_ones
        lines = map(_line, shown) if is_trusted else _states(shown)
        first = "ok" if not bad_ones else "ready, but:" if is_ready else "not ready:"
        return text_answer("\n".join([first, *lines]) + "\n", 200 if is_ready else 503)

    async def metrics(self, _: Request) -> Response:
        """The metrics, in Prometheus's exposition format."""
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return Response(await self.services.metrics(), media_type=kind)

    async def apps(self, _: Request) -> Response:
        """Every app and how it is doing."""
        programs = list(self.services.programs().items())
        rows = await encoded(self._app(name, program) for name, program in programs)
        return list_answer("apps", rows)

    def _app(self, name: str, program: Program) -> dict[str, Any]:
        app, services = program.app, self.services
        return {
            "name": name,
            "account": app.account,
            "javascript": str(app.javascript),
            "generation": app.generation,
            "endpoints": dict(app.endpoints),
            **asdict(services.dispatcher.state(app)),
            "queue": services.dispatcher.waiting(name),
            "processes": asdict(services.pool.statistics(name)),
            "connections": {
                channel: services.connections(channel) for channel in set(app.endpoints.values())
            },
        }

    async def limits(self, request: Request) -> Response:
        """The limits of an app, and how much of them its newest runs used."""
        program = self.services.programs().get(request.path_params["app"])
        if program is None:
            raise _unknown(request)
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
        found: dict[str, Any] = {"app": program.app.name, "limits": rows}
        asked = request.query_params.getlist("what_if")
        if asked:
            try:
                wanted = dict(parse_what_if(text) for text in asked)
            except ValueError as error:
                raise bad(f"what_if: {error}") from error
            each, together = usage.what_if(program.app.name, wanted)
            found["what_if"] = {
                "limits": {
                    name: {"value": wanted[name], "over": over, "of": of}
                    for name, (over, of) in each.items()
                },
                "runs": {"over": together[0], "of": together[1]},
            }
        return answer(found)

    async def sandboxes(self, _: Request) -> Response:
        """Every live process; `spares` are those that have no app yet."""
        pool = self.services.pool
        rows = [_row(one) for one in pool.sandboxes()]
        spares = [_row(one) for one in pool.spare_processes()]
        return list_answer("sandboxes", await encoded(rows), spares=spares)

    async def kill(self, request: Request) -> Response:
        """Kill a process; the run in progress in it ends as killed_by_operator."""
        text = request.path_params["pid"]
        pid = int(text) if is_number(text) else None
        if pid is not None and self.services.pool.kill(pid):
            return answer({"killed": pid})
        raise bad(f"there is no sandbox process {text[:DIGITS_MAX]}", 404)

    async def reload(self, _: Request) -> Response:
        """Read the config again and apply all of it, or keep the old one."""
        result = await self.services.reload()
        return answer(result, 200 if result["ok"] else 422)

    async def preview(self, _: Request) -> Response:
        """What a reload would change, each setting with its values, or why it would be refused."""
        result = await self.services.preview()
        return answer(result, 200 if result["ok"] else 422)


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


def _line(check: Check) -> str:
    where = check.name if check.app is None else f"app {check.app}: {check.name}"
    return visible(f"{where}: {check.problem or 'ok'}")  # a terminal may show it


def _states(checks: list[Check]) -> Iterator[str]:
    """Only pass or fail of each check: clients without a token must not see names and paths."""
    hosts = [check for check in checks if check.app is None]
    for kind in dict.fromkeys(check.name.partition(" ")[0] for check in hosts):
        bad_ones = [one for one in hosts if one.problem and one.name.partition(" ")[0] == kind]
        yield f"{kind}: {'not ok' if bad_ones else 'ok'}"
    apps = {check.app: False for check in checks if check.app is not None}
    apps |= {check.app: True for check in checks if check.app is not None and check.problem}
    if apps:
        yield f"apps: {sum(apps.values())} not ok"


def _unknown(request: Request) -> HTTPException:
    return _no_app(request.path_params["app"])


def _no_app(app: str) -> HTTPException:
    return bad(f"there is no app {app!r}", 404)


async def _unavailable(_: Request, error: Exception) -> Response:
    return answer({"error": f"the store cannot be reached: {error}"}, 503)


async def _unreadable(_: Request, error: Exception) -> Response:
    return answer({"error": str(error)}, 409)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    found = answer({"error": error.detail}, error.status_code)
    found.headers.update(error.headers or {})
    return found


# the request's fence logs it
async def _internal(_: Request, error: Exception) -> Response:  # noqa: ARG001  # Starlette's
    return answer({"error": "internal error"}, 500)


def admin_app(services: AdminServices, tokens: Tokens) -> Starlette:
    """The admin port as an ASGI app."""
    admin = Admin(services)
    routes = [
        Route("/livez", admin.livez),
        Route("/readyz", admin.readyz),
        Route("/metrics", admin.metrics),
        Route("/v1/apps", admin.apps),
        Route("/v1/apps/{app}/limits", admin.limits),
        Route("/v1/sandboxes", admin.sandboxes),
        Route("/v1/sandboxes/{pid}/kill", admin.kill, methods=["POST"]),
        Route("/v1/reload", admin.preview, methods=["GET"]),
        Route("/v1/reload", admin.reload, methods=["POST"]),
        *(route for part in services.parts for route in part.routes()),
    ]
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(Guard, tokens=tokens, refusals=services.refusals),
            Middleware(Auditing, audit=services.audit),
            Middleware(Forwarding, elsewhere=services.elsewhere),
        ],
        exception_handlers={
            StoreError: _unavailable,
            Unreadable: _unreadable,
            HTTPException: _refused,
            Exception: _internal,
        },
    )
    app.router.redirect_slashes = False  # it would redirect to any host that the request names
    return app
