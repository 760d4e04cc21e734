"""Hold one conversation with an app, and note where it goes another way than expected."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import trio
from attrs import define, field, frozen
from trio_websocket import ConnectionClosed, HandshakeError

from resources.messages import vumi_date
from resources.stores.logbook import LogEntry
from resources.stores.recordings import decode

from ..client.phone import Hung, Phone, Rejected, Turn, open_phone
from ..config.locate import Path
from .bench import LOG_KEPT, Bench, Place, Unplayable
from .chat import Chat, Expected, Move
from .looking import ABSENT, Done, contains, difference, lines_differ, values_differ

CONTACTS_MAX = 1000  # contacts of one test that are looked at
GRACE = 10.0  # seconds more than the app's own limit that an answer may take
NO_SESSION = "the app has ended the session: expected `dial` to begin another one"


@frozen
class Failure:
    """A place of a test's file, what went wrong there, and the difference, line by line."""

    path: Path
    text: str
    lines: Sequence[str] = ()


@frozen
class Result:
    """How a test went.

    Attributes:
        log: Of the app, from WARNING on.
        words: By the path of an `expect`, what the app said instead.
        said: What was written and shown, step by step.
    """

    chat: Chat
    failures: Sequence[Failure]
    seconds: float
    log: Sequence[LogEntry] = ()
    words: dict[Path, str | bool] = field(factory=dict)

    @property
    def passed(self) -> bool:
        """Whether all went as expected."""
        return not self.failures


async def play(bench: Bench, chat: Chat, *, learn: bool = False) -> Result:
    """Hold the conversation of a test. It ends at the first step that goes wrong.

    Args:
        bench: Where.
        chat: The test.
        learn: Go on after a reply that is not as expected: note what it is instead.
    """
    began = trio.current_time()
    playing = _Playing(bench, chat, learn)
    try:
        place = await bench.set_up(chat)
    except Unplayable as error:
        playing.fail((error.path,), str(error))
        return Result(chat, playing.failures, trio.current_time() - began)
    playing.place = place
    try:
        url = bench.service.gateway_url
        async with open_phone(url, place.channel.name, chat.number, chat.to) as phone:
            if chat.now is not None:
                phone.timestamp = _Clock(chat.now)
            await playing.hold(phone)
    except (Hung, Rejected, OSError, HandshakeError, ConnectionClosed) as error:
        playing.fail(playing.at, f"the conversation broke off: {error}")
    log = await playing.log()
    told = [one for one in log if one.level not in {"DEBUG", "INFO"}] if playing.failures else []
    seconds = trio.current_time() - began
    return Result(chat, playing.failures, seconds, told, playing.words)


class _Clock:
    """Timestamps of a clock that begins at a time."""

    def __init__(self, now: float) -> None:
        self._ahead = now - time.time()

    def __call__(self) -> str:
        return vumi_date(datetime.fromtimestamp(time.time() + self._ahead, UTC))


@define(eq=False)
class _Playing:
    _bench: Bench
    _chat: Chat
    _learn: bool
    failures: list[Failure] = field(factory=list, init=False)
    words: dict[Path, str | bool] = field(factory=dict, init=False)
    at: Path = field(default=(), init=False)
    place: Place = field(init=False)
    _done: Done = field(factory=Done, init=False)  # from the beginning
    _lines: int = field(default=0, init=False)  # of the log, seen so far
    _is_session: bool = field(default=False, init=False)  # the user has dialled

    def fail(self, path: Path, text: str, lines: Sequence[str] = ()) -> None:
        """Note what went wrong."""
        self.failures.append(Failure(path, text, lines))

    async def hold(self, phone: Phone) -> None:
        """Take every step, then look at the end."""
        for move in self._chat.moves:
            self.at = move.path
            await self._take(move, phone)
            if self.failures:
                return
        self.at = ()
        await self._look(self._chat.expected, self._done)

    async def _take(self, move: Move, phone: Phone) -> None:
        turn = await self._act(move, phone)
        if turn is None:
            self.fail(move.path, NO_SESSION)
            return
        done = await self._seen(turn.id)
        if turn.outcome != move.step.expect_outcome:
            self._wrong_outcome(move, turn)
            return
        self._compare(move, turn)
        if not self.failures:
            await self._look(move.expected, done)

    async def _act(self, move: Move, phone: Phone) -> Turn | None:
        """Do what the user does; None: that is not possible any more."""
        step = move.step
        limits = self._bench.service.config.apps[self.place.app].limits
        seconds = limits.wall + limits.boot + GRACE
        if step.dial is not None:
            phone.dials, self._is_session = step.dial, True
            return await phone.dial(seconds)
        if step.hang_up:
            return await phone.hang_up(seconds)
        text = step.send or ""
        if not self._is_session:
            return await phone.send_sms(text, seconds)
        return await phone.answer(text, seconds) if phone.in_session else None

    def _wrong_outcome(self, move: Move, turn: Turn) -> None:
        path, wanted = (*move.path, "expect_outcome"), move.step.expect_outcome
        text = f"the run ended as {turn.outcome}"
        self.fail(path, text if wanted == "ok" else f"{text}, not as {wanted}")

    def _compare(self, move: Move, turn: Turn) -> None:
        step = move.step
        got = turn.text if turn.replies else None
        if step.expect is not None:
            path = (*move.path, "expect")
            if self._learn and got is not None and (step.expect == "" or step.expect not in got):
                if step.expect != got:
                    self.words[path] = got
            elif got is None or step.expect not in got:
                text = "the reply is not as expected" if got is not None else "there was no reply"
                self.fail(path, text, lines_differ(step.expect, got))
        if step.expect_end and not turn.closed:
            path = (*move.path, "expect_end")
            if self._learn:
                self.words[path] = False
            else:
                self.fail(path, "the session goes on, and should have ended")

    async def _seen(self, message: str) -> Done:
        """What the run of a message did."""
        service, done = self._bench.service, Done()
        key = (self._bench.account, self.place.app)
        found = await service.stores.recordings.find([key], message)
        if found is not None:
            done.add(decode(found))
        log = await self.log()
        new = log[self._lines :]
        self._lines = len(log)
        done.by_kind["log"].extend({"level": one.level, "message": one.message} for one in new)
        self._done.extend(done)
        return done

    async def log(self) -> list[LogEntry]:
        """The app's log, oldest first."""
        book = self._bench.service.stores.logbook
        newest = await book.newest(self._bench.account, self.place.app, LOG_KEPT)
        return newest[::-1]

    async def _look(self, expected: Sequence[Expected], done: Done) -> None:
        for one in expected:
            match one.kind:
                case "kv":
                    await self._look_at_kv(one)
                case "contact":
                    await self._look_at_contacts(one)
                case kind:
                    lines = difference(kind, one.what, done.by_kind[kind])
                    if lines:
                        self.fail(one.path, _sentence(kind), lines)

    async def _look_at_kv(self, one: Expected) -> None:
        keyspace, name, wanted = self._bench.service.stores.keyspace, one.what["key"], None
        text = await keyspace.get(self._bench.account, name)
        got = ABSENT if text is None else json.loads(text)
        wanted = one.what["value"]
        if wanted == {"absent": True}:
            if text is not None:
                self.fail(
                    one.path, f"there is a key {name!r}", [f"- {ABSENT}", f"+ {text.decode()}"]
                )
        elif text is None or not contains(wanted, got):
            self.fail(
                one.path,
                f"the value of key {name!r} is not as expected",
                values_differ(wanted, got),
            )

    async def _look_at_contacts(self, one: Expected) -> None:
        contacts = self._bench.service.stores.contacts
        page = await contacts.page(self._bench.account, 0, CONTACTS_MAX)
        lines = difference("contact", flat(one.what), page.contacts)
        if lines:
            self.fail(one.path, _sentence("contact"), lines)


def flat(contact: Mapping[str, Any]) -> dict[str, Any]:
    """A contact's fields, with each extra and subscription as a field of its own."""
    found = {key: value for key, value in contact.items() if key not in {"extra", "subscription"}}
    extra, subscription = contact.get("extra"), contact.get("subscription")
    for prefix, values in (("extras-", extra), ("subscription-", subscription)):
        if isinstance(values, dict):
            found |= {f"{prefix}{name}": value for name, value in values.items()}
    return found


def _sentence(kind: str) -> str:
    return {
        "http": "no request is as expected",
        "metric": "no metric is as expected",
        "sms": "no other message is as expected",
        "log": "no line of the log is as expected",
        "contact": "no contact is as expected",
    }[kind]
