"""The apps' logs on the admin port: the newest entries, and live ones as they are written."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus

from attrs import evolve, frozen
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from resources.stores.log_tail import LogTail
from resources.stores.logbook import LEVELS, Logbook, LogEntry

from ..host.slices import in_slices
from ..runs.dispatcher import Program
from .bodies import (
    STEP,
    TIME,
    Allowance,
    Stream,
    bad,
    encode,
    is_number,
    list_answer,
    number_in,
    parse_time,
)
from .elsewhere import ALL, Elsewhere

LOGS_MAX = 10_000  # entries in one answer
NUMBERS = {name: number for number, name in LEVELS.items()}


@frozen
class Sieve:
    """Which entries are asked for.

    Attributes:
        level: Of this level, as a number, or above.
        since: Not older than this time, as entries have it.
        text: With this text in them, in small letters.
        host: Written by the server of this name, or by any of that machine.
    """

    level: int = 0
    since: str = ""
    text: str = ""
    host: str = ""

    def takes(self, entry: LogEntry) -> bool:
        """Whether an entry is asked for."""
        if entry.level == "MISSED":
            return True
        return (
            (not self.level or _number(entry.level) >= self.level)
            and not self.is_before(entry)
            and self.text in entry.message.lower()
            and (not self.host or self.host in (entry.host, entry.host.partition(" ")[0]))
        )

    def is_before(self, entry: LogEntry) -> bool:
        """Whether an entry is too old."""
        return bool(entry.time) and entry.time < self.since


def _number(level: str) -> int:
    """A level's number; that of an unnamed one is in its name."""
    last = level.rpartition(" ")[2]
    return NUMBERS.get(level, int(last) if is_number(last) else logging.CRITICAL)


def sieve_of(asked: Mapping[str, str]) -> Sieve:
    """The sieve of a request's `level`, `since`, `grep` and `host`.

    Raises:
        HTTPException: One of them is wrong.
    """
    level, since = asked.get("level", "debug").upper(), asked.get("since", "")
    if level not in NUMBERS:
        raise bad(f"level: expected {', '.join(NUMBERS).lower()}")
    number = NUMBERS[level] if "level" in asked else 0
    host = asked.get("host", ALL)
    return Sieve(
        level=number,
        since=moment(since) if since else "",
        text=asked.get("grep", "").lower(),
        host="" if host == ALL else host,
    )


def moment(since: str) -> str:
    """A time, or how long ago it was, as entries have it."""
    return parse_time(since, "since").strftime(TIME)


@frozen
class LogsAdmin:
    """GET /v1/apps/{app}/logs."""

    logbook: Logbook
    programs: Callable[[], Mapping[str, Program]]
    elsewhere: Elsewhere | None = None

    def routes(self) -> list[Route]:
        """The requests that it answers."""
        return [Route("/v1/apps/{app}/logs", self.logs)]

    async def logs(self, request: Request) -> Response:
        """The newest entries of an app's log, newest first, as far as they fit into
        `bodies.PAGE_BYTES`. With `follow=1` they are oldest first, and live ones follow: a JSON
        object per line. Of these entries only those of `level` or above, not older than `since`,
        with the text `grep` in them, and of the server `host`.
        """
        is_live = request.query_params.get("follow") in ("1", "true")
        sieve = self._of_host(sieve_of(request.query_params), is_live=is_live)
        name = request.path_params["app"]
        program = self.programs().get(name)
        if program is None:
            raise bad(f"there is no app {name!r}", 404)
        app = program.app
        limit = min(number_in(request, "limit", 100, 1, LOGS_MAX), app.log.kept)
        if is_live:
            return Stream(self._follow(app.account, app.name, limit, sieve), "application/x-ndjson")
        rows = [row async for _, row in self.newest(app.account, app.name, limit, sieve)]
        if sieve.host and not rows and self.elsewhere is not None:
            self.elsewhere.named(sieve.host)  # nothing of a host that nobody knows is a mistake
        return list_answer("entries", rows)

    def _of_host(self, sieve: Sieve, *, is_live: bool) -> Sieve:
        """The sieve, with the name of a server that is called by its id. Raises HTTPException: no
        server that lives is called so, and what it writes is to be followed.
        """
        if not sieve.host or self.elsewhere is None:
            return sieve
        try:
            found = self.elsewhere.named(sieve.host)
        except HTTPException as error:
            # several may share a machine's name; one that is gone has left its entries
            if is_live and error.status_code == HTTPStatus.NOT_FOUND:
                raise
            return sieve
        is_of_machine = found.name.partition(" ")[0] == sieve.host
        return sieve if is_of_machine else evolve(sieve, host=found.name)

    async def newest(
        self, account: str, app: str, limit: int, sieve: Sieve
    ) -> AsyncIterator[tuple[LogEntry, bytes]]:
        """The newest entries, each with its JSON, newest first. They are fetched in steps, while
        new ones are written.
        """
        left, start = Allowance(limit), 0
        before = set[tuple[str, str]]()
        is_over = False
        while left.size and not is_over:
            size = left.size if sieve == Sieve() else STEP
            entries = await self.logbook.newest(account, app, size, start)
            start += len(entries)
            fresh = [entry for entry in entries if (entry.time, entry.message) not in before]
            is_over = len(entries) < size or any(map(sieve.is_before, entries))
            fresh = list(filter(sieve.takes, fresh))[: left.rows]
            rows = [row async for row in in_slices(map(encode, fresh))]
            left.take(rows)
            for found in zip(fresh, rows, strict=True):
                yield found
            # New entries may have pushed these along, into the next step.
            before = {(entry.time, entry.message) for entry in entries}

    async def _follow(
        self, account: str, app: str, limit: int, sieve: Sieve
    ) -> AsyncGenerator[bytes, None]:
        async with self._live(account, app) as follower:
            # Entries written from here on are followed. Some of them may be in the list, too.
            newest = [found async for found in self.newest(account, app, limit, sieve)]
            read = {(entry.time, entry.message) for entry, _ in newest}
            while newest:
                yield newest.pop()[1] + b"\n"
            async for entry in follower:
                if sieve.takes(entry) and (entry.time, entry.message) not in read:
                    yield encode(entry) + b"\n"

    @asynccontextmanager
    async def _live(self, account: str, app: str) -> AsyncIterator[AsyncIterable[LogEntry]]:
        """What is written from now on, by all servers that share the work. Raises StoreError."""
        if self.logbook.host:
            tail = LogTail(self.logbook, account, app)
            await tail.start()
            yield tail
        else:
            with self.logbook.follow(account, app) as follower:
                yield follower
