"""The apps' logs on the admin port: the newest entries, and live ones as they are written."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from resources.stores.logbook import Logbook, LogEntry

from ..host.slices import in_slices
from ..runs.dispatcher import Program
from .bodies import Allowance, Stream, bad, encode, list_answer, number_in

LOGS_MAX = 10_000


@frozen
class LogsAdmin:
    """GET /v1/apps/{app}/logs."""

    logbook: Logbook
    programs: Callable[[], Mapping[str, Program]]

    def routes(self) -> list[Route]:
        """The requests that it answers."""
        return [Route("/v1/apps/{app}/logs", self.logs)]

    async def logs(self, request: Request) -> Response:
        """The newest entries of an app's log, newest first, as far as they fit into
        `bodies.PAGE_BYTES`. With `follow=1` they are oldest first, and live ones follow: a JSON
        object per line.
        """
        name = request.path_params["app"]
        program = self.programs().get(name)
        if program is None:
            raise bad(f"there is no app {name!r}", 404)
        app = program.app
        limit = min(number_in(request, "limit", 100, 1, LOGS_MAX), app.log.kept)
        if request.query_params.get("follow") in ("1", "true"):
            return Stream(self._follow(app.account, app.name, limit), "application/x-ndjson")
        rows = [row async for _, row in self._newest(app.account, app.name, limit)]
        return list_answer("entries", rows)

    async def _newest(
        self, account: str, app: str, limit: int
    ) -> AsyncIterator[tuple[LogEntry, bytes]]:
        """The newest entries, each with its JSON, newest first. They are fetched in steps, while
        new ones are written.
        """
        left, start = Allowance(limit), 0
        before = set[tuple[str, str]]()
        while size := left.size:
            entries = await self.logbook.newest(account, app, size, start)
            start += len(entries)
            fresh = [entry for entry in entries if (entry.time, entry.message) not in before]
            rows = [row async for row in in_slices(map(encode, fresh))]
            left.take(rows)
            for found in zip(fresh, rows, strict=True):
                yield found
            if len(entries) < size:
                break
            # New entries may have pushed these along, into the next step.
            before = {(entry.time, entry.message) for entry in entries}

    async def _follow(self, account: str, app: str, limit: int) -> AsyncGenerator[bytes, None]:
        with self.logbook.follow(account, app) as follower:
            # Entries written from here on are followed. Some of them may be in the list, too.
            newest = [found async for found in self._newest(account, app, limit)]
            read = {(entry.time, entry.message) for entry, _ in newest}
            while newest:
                yield newest.pop()[1] + b"\n"
            async for entry in follower:
                if (entry.time, entry.message) not in read:
                    yield encode(entry) + b"\n"
