"""What the servers of a store ask each other for their operators.

A question goes into the inbox of another server (resources/stores/inbox.py), the answer comes back
into ours if it is small. A larger one waits in the store, in pieces, until we fetch it: what the
servers tell each other of messages must not wait behind it. Whoever does not hear a question does
not answer: the asker waits for a bounded time, and no longer than the other lives. A question that
is heard too late, by a server that was frozen, is not obeyed: its deadline is in the time of the
store, which both of them ask for.
"""

from __future__ import annotations

import logging
import math
import os
import zlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial

import msgspec
import trio
from attrs import define, field, frozen

from resources.fence import fence
from resources.stores.peers import Peers, Record
from resources.stores.redis import StoreError, StoreRefused

ANSWER_MAX = 6 << 20  # bytes of an answer's body
INLINE_MAX = 32 << 10  # bytes of one that is told at once, compressed
PIECE = 64 << 10  # bytes of a piece that waits in the store
KEPT_SECONDS = 30  # that it waits there
SECONDS_MAX = 150.0  # that a question is worked on, whatever the asker says
LOOK = 0.2  # seconds between two looks at whether the other lives
# Questions that are open at a time: those that only read must not keep off those that act.
ASKED_MAX, DEEDS_MAX = 24, 8  # of ours
SERVED_MAX, SERVED_DEEDS_MAX = 8, 4  # of others

_PACKERS = trio.CapacityLimiter(1)  # threads that compress

log = logging.getLogger(__name__)


@frozen
class Question:
    """A request to the admin port of another server, without a body.

    Attributes:
        path: As the request has it, decoded.
        query: As it came, without its question mark.
        who: The operator, as the audit log names them.
        asker: The name of the server that asks for them.
    """

    method: str
    path: str
    query: str
    who: str
    asker: str


@frozen
class Reply:
    """The answer to a request: its HTTP status, its media type, its body."""

    status: int
    kind: str
    body: bytes


class NoAnswer(Exception):
    """A server has not answered; the text names it."""


class _Ask(msgspec.Struct, frozen=True, array_like=True, tag="ask"):
    """A question on its way. `until`: seconds since 1970, by the store's clock."""

    number: str
    asker: str
    until: float
    question: tuple[str, str, str, str, str]

    @property
    def is_deed(self) -> bool:
        """Whether it is to change something."""
        return self.question[0] != "GET"


class _Told(msgspec.Struct, frozen=True, array_like=True, tag="answer"):
    """An answer on its way.

    Attributes:
        size: Bytes of its body.
        pieces: How many wait in the store; 0: `data` is all of it.
        data: The body, compressed.
    """

    number: str
    status: int
    kind: str
    size: int
    pieces: int
    data: bytes


@define(eq=False)
class _Open:
    """A question of ours."""

    is_deed: bool
    told: _Told | None = None
    news: trio.Event = field(factory=trio.Event)


@define(eq=False)
class Budget:
    """What several answers may have together. `left`: bytes."""

    left: int

    def take(self, size: int) -> bool:
        """Take `size` bytes; return False, taking none, if fewer are left."""
        if not 0 <= size <= self.left:
            return False
        self.left -= size
        return True


@define(eq=False)
class Asking:
    """Asks other servers, and answers them. `run` answers; `heard` is called with what comes.

    Attributes:
        serve: Answers a question of another server, once this one serves; may raise.
    """

    _peers: Peers
    _host: str  # ours
    _alive: Callable[[], Mapping[str, Record]]
    serve: Callable[[Question], Awaitable[Reply]] | None = field(default=None, init=False)
    _open: dict[str, _Open] = field(factory=dict, init=False)
    _served: dict[bool, int] = field(factory=lambda: {True: 0, False: 0}, init=False)  # deeds, not
    _nursery: trio.Nursery | None = field(default=None, init=False)

    async def ask(
        self, host: Record, question: Question, seconds: float, budget: Budget | None = None
    ) -> Reply:
        """Ask a server that lives, and wait for its answer; `budget`: its bytes are taken from it.

        Raises:
            NoAnswer: It counts as dead, did not answer in time, or answered what cannot be read.
            StoreError: The store failed.

        Cancellation: the other may still do what it was asked.
        """
        is_deed = question.method != "GET"
        most = DEEDS_MAX if is_deed else ASKED_MAX
        if sum(one.is_deed == is_deed for one in self._open.values()) >= most:
            raise NoAnswer(f"host {host.name} was not asked: {most} other questions wait")
        number, waiting = os.urandom(8).hex(), _Open(is_deed)
        self._open[number] = waiting
        told = None
        try:
            with trio.move_on_after(seconds):
                until = await self._peers.now() + seconds
                asked = (
                    question.method, question.path, question.query, question.who, question.asker,
                )  # fmt: skip
                await self._peers.tell(host.id, _Ask(number, self._host, until, asked))
                told = await self._told(host, waiting)
                if not (budget or Budget(ANSWER_MAX)).take(told.size):
                    raise NoAnswer(f"the answer of host {host.name} is too large, and left out")
                return await self._whole(host, told)
        finally:
            del self._open[number]
            if told is not None and told.pieces:
                self._peers.redis.post([("UNLINK", _key(number))], _not_deleted)
        raise NoAnswer(f"host {host.name} did not answer within {seconds:g} s")

    async def _told(self, host: Record, waiting: _Open) -> _Told:
        while waiting.told is None:
            now = self._alive().get(host.id)
            if now is None or now.process != host.process:
                raise NoAnswer(f"host {host.name} did not answer: it counts as dead")
            with trio.move_on_after(LOOK):
                await waiting.news.wait()
        return waiting.told

    async def _whole(self, host: Record, told: _Told) -> Reply:
        """The answer with its body, fetched piece by piece."""
        places = range(min(told.pieces, ANSWER_MAX // PIECE + 1))
        fetch = partial(self._peers.redis.execute, "LPOP", _key(told.number))
        packed = [told.data, *[await fetch() or b"" for _ in places]]
        try:
            body = await trio.to_thread.run_sync(
                _unpacked, b"".join(packed), told.size, limiter=_PACKERS
            )
        except ValueError as error:
            raise NoAnswer(f"the answer of host {host.name} cannot be read: {error}") from error
        return Reply(told.status, told.kind, body)

    def heard(self, words: object) -> None:
        """Take a question or an answer; what is neither is logged.

        A question that comes while too many others are answered is refused at once.
        """
        try:
            said = msgspec.convert(words, _Ask | _Told)
        except msgspec.ValidationError as error:
            log.warning("another server asks what this one does not know: %s", error)
            return
        if isinstance(said, _Told):
            waiting = self._open.get(said.number)
            if waiting is not None and waiting.told is None:
                waiting.told = said
                waiting.news.set()
            return
        most = SERVED_DEEDS_MAX if said.is_deed else SERVED_MAX
        if self._nursery is None or self.serve is None or self._served[said.is_deed] >= most:
            why = b'{"error":"it starts, stops, or answers too many others"}'
            data = zlib.compress(why)
            told = _Told(said.number, 503, "application/json", len(why), 0, data)
            self._peers.tell_soon(said.asker, told)
            return
        self._served[said.is_deed] += 1
        self._nursery.start_soon(self._answer, said)

    async def run(self) -> None:
        """Answer other servers, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def _answer(self, asked: _Ask) -> None:
        question = Question(*asked.question)
        what = f"{question.method} {question.path} for {question.asker}"
        try:
            with fence("asking", what), suppress(StoreError):
                left = min(asked.until - await self._peers.now(), SECONDS_MAX)
                if left <= 0:
                    log.warning("%s: it was asked for too long ago, and is not done", what)
                    return
                # What changes something is not left half-done because nobody waits any more.
                with trio.move_on_after(math.inf if asked.is_deed else left):
                    await self._send(asked, await self._reply(question, what))
        finally:
            self._served[asked.is_deed] -= 1

    async def _reply(self, question: Question, what: str) -> Reply:
        assert self.serve is not None
        with fence("asking", what):
            return await self.serve(question)
        return Reply(500, "application/json", b'{"error":"internal error"}')

    async def _send(self, asked: _Ask, reply: Reply) -> None:
        if len(reply.body) > ANSWER_MAX:
            text = f'{{"error":"the answer has more than {ANSWER_MAX} bytes: ask for less"}}'
            reply = Reply(502, "application/json", text.encode())
        packed = await trio.to_thread.run_sync(zlib.compress, reply.body, 1, limiter=_PACKERS)
        pieces = 0
        if len(packed) > INLINE_MAX:
            try:
                pieces = await self._keep(_key(asked.number), packed)
                packed = b""
            except StoreRefused as error:
                text = f"the answer has to wait in the store, which refuses it: {error.plain}"
                reply = Reply(503, "application/json", msgspec.json.encode({"error": text}))
                packed = zlib.compress(reply.body)
        size = len(reply.body)
        told = _Told(asked.number, reply.status, reply.kind, size, pieces, packed)
        await self._peers.tell(asked.asker, told)

    async def _keep(self, key: str, packed: bytes) -> int:
        """Have an answer wait in the store; return in how many pieces. Raises StoreError."""
        starts = range(0, len(packed), PIECE)
        for start in starts:
            piece = packed[start : start + PIECE]
            await self._peers.redis.execute_many(
                [("RPUSH", key, piece), ("EXPIRE", key, KEPT_SECONDS)]
            )
        return len(starts)


def _key(number: str) -> str:
    """Where an answer waits."""
    return f"jsbox:answer:{number}"


def _unpacked(packed: bytes, size: int) -> bytes:
    """The body of an answer. Raises ValueError if no server of ours has packed it."""
    unpacking = zlib.decompressobj()
    try:
        body = unpacking.decompress(packed, size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(body) != size or not unpacking.eof:
        raise ValueError("it is cut off, or larger than it says")
    return body


def _not_deleted(_: Exception) -> None:
    """Do nothing: it expires by itself."""
