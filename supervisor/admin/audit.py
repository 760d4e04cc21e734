"""The audit log: what operators did, who, when, and what came of it.

It is a file in data_dir, so that it can be read when nothing runs, with older ones beside it. What
is asked for is on disk before it is done; how it ended is a second line. A line that cannot be
written goes to the service's own log and is counted; /readyz and the next line that can be written
report the gap.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import trio
from attrs import define, field, frozen
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resources.text import clean

from .bodies import bad, encoded, list_answer, number_in, off_loop
from .guard import OPERATOR, READING
from .logs import moment

NAME = "audit.jsonl"
FILE_BYTES = 8 << 20  # then a new file is begun
OLDER = 4  # files that are kept besides
WHAT_MAX = 500  # characters of a request's path with its query
RESULT_MAX = 2000  # characters of what came of it
ANSWER_MAX = 16 << 10  # bytes of an answer that are looked at
WRITE_SECONDS = 5.0  # for one line; then it counts as lost
ROWS_MAX = 1000  # of one answer

_WRITERS = trio.CapacityLimiter(2)  # threads; one that hangs must not hold up other work

log = logging.getLogger(__name__)


class Deed(msgspec.Struct, frozen=True, tag="did", tag_field="line"):
    """What an operator did.

    Attributes:
        time: UTC, ISO with its Z.
        who: The name of the token; `local` if the admin port has none; `SIGHUP`.
        source: The address that it came from.
        what: Method and path.
        status: Of the answer; 0: no answer is known.
        result: What the answer says, shortened; no texts of users.
    """

    time: str
    id: str
    who: str
    source: str
    what: str
    status: int = 0
    result: str = ""


class _End(msgspec.Struct, frozen=True, tag="ended", tag_field="line"):
    """The second line of a deed."""

    end_of: str
    status: int
    result: str


class _Lost(msgspec.Struct, frozen=True, tag="lost", tag_field="line"):
    """In the place of lines that could not be written."""

    time: str
    lost: int


@define(eq=False)
class AuditLog:
    """Writes it. `problem`: why the newest line could not be written; empty if it was."""

    folder: Path
    problem: str = field(default="", init=False)
    lost: int = field(default=0, init=False)  # lines, since one could be written
    _lock: trio.Lock = field(factory=trio.Lock, init=False)

    async def begin(self, who: str, source: str, what: str) -> Deed:
        """Write down what is about to be done."""
        deed = Deed(_now(), uuid4().hex, who, source, clean(what)[:WHAT_MAX])
        await self._write(deed)
        return deed

    async def end(self, deed: Deed, status: int, result: str) -> None:
        """Write down what came of it; not cut off by a cancellation."""
        with trio.CancelScope(shield=True):
            await self._write(_End(deed.id, status, clean(result)[:RESULT_MAX]))

    async def _write(self, line: Deed | _End) -> None:
        text = msgspec.json.encode(line)
        problem = f"{self.folder} did not take a line within {WRITE_SECONDS:g} s"
        with trio.move_on_after(WRITE_SECONDS):
            async with self._lock:
                lost = msgspec.json.encode(_Lost(_now(), self.lost)) + b"\n" if self.lost else b""
                try:
                    await trio.to_thread.run_sync(
                        _append, self.folder, lost + text + b"\n", abandon_on_cancel=True,
                        limiter=_WRITERS,
                    )  # fmt: skip
                    problem = ""
                except OSError as error:
                    problem = f"{self.folder / NAME} cannot be written: {error.strerror}"
        if problem:
            self.lost += 1
            log.error("the audit log has lost a line (%s): %s", problem, text.decode())
        else:
            self.lost = 0
        self.problem = problem


def _append(folder: Path, data: bytes) -> None:
    """Append to the file, for good; begin a new one if it is full."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)  # all processes of a server write here
        _append_held(folder, data)
    finally:
        os.close(held)


def _append_held(folder: Path, data: bytes) -> None:
    path = folder / NAME
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        if size and not _ends_a_line(path, size):
            data = b"\n" + data  # a full disk, or a power cut, has left half a line
        if size + len(data) > FILE_BYTES:
            os.close(descriptor)
            descriptor = -1
            for number in range(OLDER - 1, 0, -1):
                if (older := _older(folder, number)).exists():
                    older.replace(_older(folder, number + 1))
            path.replace(_older(folder, 1))
            descriptor = os.open(path, flags, 0o600)
        while data:
            data = data[os.write(descriptor, data) :]
        os.fdatasync(descriptor)
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _ends_a_line(path: Path, size: int) -> bool:
    with path.open("rb") as file:
        file.seek(size - 1)
        return file.read(1) == b"\n"


def _older(folder: Path, number: int) -> Path:
    return folder / f"{NAME}.{number}"


@frozen
class Lost:
    """A gap: the number of lines that are missing here."""

    time: str
    count: int


def read(
    folder: Path, limit: int, who: str = "", since: str = "", before: str = ""
) -> list[Deed | Lost]:
    """The newest deeds, newest first; also with no server.

    Args:
        folder: The data directory.
        limit: How many at most.
        who: Only of this one.
        since: Not older than this time, as deeds have it.
        before: Only what is older than this row, as `cursor_of` names it; nothing if it is no
            longer there.

    Raises:
        OSError: A file cannot be read.
    """
    found = list[Deed | Lost]()
    ends = dict[str, _End]()
    for line in _backwards(folder):
        one = _line(line)
        if isinstance(one, _End):
            ends[one.end_of] = one
        elif before:
            if one is not None and cursor_of(one) == before:
                before = ""
        elif isinstance(one, _Lost):
            found.append(Lost(one.time, one.lost))
        elif one is not None:
            if one.time < since:
                break
            if who in ("", one.who):
                end = ends.pop(one.id, None)
                found.append(
                    one if end is None
                    else msgspec.structs.replace(one, status=end.status, result=end.result)
                )  # fmt: skip
        if len(found) >= limit:
            break
    return found


def cursor_of(row: Deed | Lost | _Lost) -> str:
    """The name of a row, to go on after it."""
    return f"{row.time} {row.id if isinstance(row, Deed) else ''}"


def _backwards(folder: Path) -> Iterator[bytes]:
    """The lines of all files, the newest first."""
    for path in (folder / NAME, *(_older(folder, n) for n in range(1, OLDER + 1))):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue
        yield from reversed(data.splitlines())


def _line(text: bytes) -> Deed | _End | _Lost | None:
    """Read a line; None if it cannot be read, as after a power cut."""
    try:
        return msgspec.json.decode(text, type=Deed | _End | _Lost)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Auditing:
    """Writes down each request that is to change something, before and after. Behind the Guard."""

    def __init__(self, app: ASGIApp, audit: AuditLog) -> None:
        self.app = app
        self.audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on (ASGI)."""
        if scope["type"] != "http" or scope["method"] in READING:
            await self.app(scope, receive, send)
            return
        query = scope["query_string"].decode("latin-1")
        what = f"{scope['method']} {scope['path']}{'?' if query else ''}{query}"
        source = (scope.get("client") or ("", 0))[0]
        deed = await self.audit.begin(scope[OPERATOR], source, what)
        answer = _Answer(send)
        try:
            await self.app(scope, receive, answer)
        finally:
            await self.audit.end(deed, answer.status, answer.result())


@define(eq=False)
class _Answer:
    """Passes an answer on, and keeps its beginning."""

    send: Send
    status: int = 0
    body: bytearray = field(factory=bytearray)

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif len(self.body) <= ANSWER_MAX:
            self.body += message.get("body", b"")
        await self.send(message)

    def result(self) -> str:
        """What the answer says in numbers, names of settings, and its error."""
        if not self.status:
            return "no answer"
        try:
            found = json.loads(self.body) if len(self.body) <= ANSWER_MAX else {}
        except ValueError:
            return ""
        return _shown(found) if isinstance(found, Mapping) else ""


def _shown(answer: Mapping[str, Any]) -> str:
    """The parts of an answer that hold no texts of users: of lists by rows, how many there are."""
    parts = []
    for name, value in answer.items():
        if isinstance(value, Mapping):
            if value:
                parts.append(f"{name} {len(value)}")
        elif isinstance(value, list):
            if value:
                parts.append(f"{name} {', '.join(map(str, value))}")
        elif value not in (None, ""):
            parts.append(f"{name} {str(value).lower() if isinstance(value, bool) else value}")
    return "; ".join(parts)


@frozen
class AuditAdmin:
    """GET /v1/audit."""

    audit: AuditLog

    def routes(self) -> list[Route]:
        """The requests that it answers."""
        return [Route("/v1/audit", self.list, methods=["GET"])]

    async def list(self, request: Request) -> Response:
        """The newest deeds, newest first, `limit` at most; only of `who`, and not older than
        `since`. A row `{"time", "lost"}` stands for lines that could not be written. `cursor` goes
        on where the last answer ended; null: there are no more.
        """
        limit = number_in(request, "limit", 100, 1, ROWS_MAX)
        asked = request.query_params
        since = asked.get("since", "")
        try:
            found = await off_loop(
                read,
                self.audit.folder,
                limit + 1,
                asked.get("who", ""),
                moment(since) if since else "",
                asked.get("cursor", ""),
            )
        except OSError as error:
            raise bad(f"the audit log cannot be read: {error.strerror}", 503) from error
        page = found[:limit]
        cursor = cursor_of(page[-1]) if len(found) > limit else None
        return list_answer("deeds", await encoded(map(row, page)), cursor=cursor)


def row(one: Deed | Lost) -> dict[str, Any]:
    """A deed as JSON."""
    if isinstance(one, Lost):
        return {"time": one.time, "lost": one.count}
    return msgspec.structs.asdict(one)
