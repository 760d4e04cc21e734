"""The apps' logs on the admin port: the newest entries, and the live ones."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from resources.stores.logbook import Logbook, LogEntry

from ..host.slices import in_slices
from ..runs.dispatcher import Program
from .bodies import Room, Stream, bad, encode, list_answer, number_in

LOGS_MAX = 10_000


@frozen
class LogsAdmin:
    """GET /v1/apps/{app}/logs."""

    logbook: Logbook
    programs: Callable[[], Mapping[str, Program]]

    def routes(self) -> list[Route]:
        """For the admin port."""
        return [Route("/v1/apps/{app}/logs", self.logs)]

    async def logs(self, request: Request) -> Response:
        """The newest entries of an app's log, newest first; with `follow=1` the live ones, a JSON
        object a line.

        As many as fit into `admin_io.PAGE_BYTES`.
        """
        name = request.path_params["app"]
        program = self.programs().get(name)
        if program is None:
            raise bad(f"there is no app {name!r}", 404)
        app = program.app
        limit = min(number_in(request, "limit", 100, 1, LOGS_MAX), app.log.kept)
        if request.query_params.get("follow") in ("1", "true"):
            return Stream(self._follow(app.account, app.name, limit), "application/x-ndjson")
        return list_answer(
            "entries", [row async for _, row in self._newest(app.account, app.name, limit)]
        )

    async def _newest(
        self, account: str, app: str, limit: int
    ) -> AsyncIterator[tuple[LogEntry, bytes]]:
        """The newest entries, as such and as JSON, newest first; fetched in steps, while others are
        written.
        """
        room, start = Room(limit), 0
        before = set[tuple[str, str]]()
        while size := room.size:
            entries = await self.logbook.newest(account, app, size, start)
            start += len(entries)
            fresh = [entry for entry in entries if (entry.time, entry.message) not in before]
            rows = [row async for row in in_slices(map(encode, fresh))]
            room.take(rows)
            for found in zip(fresh, rows, strict=True):
                yield found
            if len(entries) < size:
                break
            before = {(entry.time, entry.message) for entry in entries}  # new ones push these along

    async def _follow(self, account: str, app: str, limit: int) -> AsyncGenerator[bytes, None]:
        with self.logbook.follow(account, app) as follower:
            # What comes from here on is followed; of it, what was stored before the list is read is
            # in both.
            newest = [found async for found in self._newest(account, app, limit)]
            read = {(entry.time, entry.message) for entry, _ in newest}
            while newest:
                yield newest.pop()[1] + b"\n"
            async for entry in follower:
                if (entry.time, entry.message) not in read:
                    yield encode(entry) + b"\n"
