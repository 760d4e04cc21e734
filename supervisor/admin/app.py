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

from resources.stores.redis import StoreError

from ..runs.dispatcher import Dispatcher, Program
from ..sandboxes.limit_usage import parse_what_if
from ..sandboxes.pool import Pool, SandboxStatus
from .bodies import DIGITS_MAX, answer, bad, encoded, list_answer, text_answer
from .guard import TRUSTED, Guard
from .health import Check, Health


class HasRoutes(Protocol):
    """A part of the admin port."""

    def routes(self) -> list[Route]:
        """What it answers."""


@frozen
class AdminServices:
    """What the admin port shows and does."""

    programs: Callable[[], Mapping[str, Program]]
    dispatcher: Dispatcher
    pool: Pool
    parts: Iterable[HasRoutes]
    reload: Callable[[], Awaitable[dict[str, Any]]]
    metrics: Callable[[], Awaitable[bytes]]
    health: Health
    connections: Callable[[str], int]


@frozen
class Admin:
    """The handlers that are not in a part of their own."""

    services: AdminServices

    async def livez(self, _: Request) -> Response:
        """The process runs and its loop turns."""
        return text_answer("ok\n")

    async def readyz(self, request: Request) -> Response:
        """Messages can be taken and answered: 200, or 503 where something stands in the way of all
        of them, or of those for `app`.

        What is wrong is said in either case, a line each; with `verbose` also what is well. Who has
        no token where one is needed hears the names of the checks only, and nothing of single apps.
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
        lines = map(_told, shown) if is_trusted else _states(shown)
        first = "ok" if not bad_ones else "ready, but:" if is_ready else "not ready:"
        return text_answer("\n".join([first, *lines]) + "\n", 200 if is_ready else 503)

    async def metrics(self, _: Request) -> Response:
        """Prometheus."""
        return Response(
            await self.services.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    async def apps(self, _: Request) -> Response:
        """Every app and how it is doing."""
        programs = list(self.services.programs().items())
        return list_answer(
            "apps", await encoded(self._app(name, program) for name, program in programs)
        )

    def _app(self, name: str, program: Program) -> dict[str, Any]:
        app, services = program.app, self.services
        return {
            "name": name,
            "account": app.account,
            "javascript": str(app.javascript),
            "generation": app.generation,
            "endpoints": dict(app.endpoints),
            **asdict(services.pool.crashes.state(app)),
            "queue": services.dispatcher.waiting(name),
            "processes": asdict(services.pool.statistics(name)),
            "connections": {
                channel: services.connections(channel) for channel in set(app.endpoints.values())
            },
        }

    async def limits(self, request: Request) -> Response:
        """The limits of an app, and what its newest runs have used of them."""
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
        """Every live process; those that have no app yet apart."""
        pool = self.services.pool
        rows, spares = (
            [_row(one) for one in found] for found in (pool.sandboxes(), pool.spare_processes())
        )
        return list_answer("sandboxes", await encoded(rows), spares=spares)

    async def kill(self, request: Request) -> Response:
        """End a process; the run that it has in hand ends as killed_by_operator."""
        text = request.path_params["pid"]
        if (
            text.isascii()
            and text.isdecimal()
            and len(text) <= DIGITS_MAX
            and self.services.pool.kill(int(text))
        ):
            return answer({"killed": int(text)})
        raise bad(f"there is no sandbox process {text[:DIGITS_MAX]}", 404)

    async def reload(self, _: Request) -> Response:
        """Read the config again and apply it as a whole, or keep the old one."""
        result = await self.services.reload()
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


def _told(check: Check) -> str:
    where = check.name if check.app is None else f"app {check.app}: {check.name}"
    return f"{where}: {check.problem or 'ok'}"


def _states(checks: list[Check]) -> Iterator[str]:
    """Checks without what they say: names and paths are nobody's business who has no token."""
    for check in checks:
        if check.app is None:
            yield f"{check.name}: {'not ok' if check.problem else 'ok'}"
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


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    found = answer({"error": error.detail}, error.status_code)
    found.headers.update(error.headers or {})
    return found


async def _internal(_: Request, error: Exception) -> Response:  # noqa: ARG001  # the fence of the request has it
    return answer({"error": "internal error"}, 500)


def admin_app(services: AdminServices, tokens: tuple[str, ...]) -> Starlette:
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
        Route("/v1/reload", admin.reload, methods=["POST"]),
        *(route for part in services.parts for route in part.routes()),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, tokens=tokens)],
        exception_handlers={
            StoreError: _unavailable,
            HTTPException: _refused,
            Exception: _internal,
        },
    )
    app.router.redirect_slashes = False  # it would lead to whatever host the request names
    return app
