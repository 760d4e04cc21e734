"""Replaying a recorded run: the same message, to the same app or a changed one, in a fresh sandbox,
with the recorded replies to its commands. No resource is touched.

A command is matched with a recorded one of the same name and fields, else of the same name. Replies
come in the recorded order, as far as the app still asks in an order that allows it. The app's clock
starts at the time of the recorded run. A run is replayed twice: where the two replays differ
(random numbers, times), a difference from the recording means nothing and is shown as varying.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import trio
from attrs import define, evolve, field, frozen

from resources.messages import is_session_start
from resources.stores.recordings import Exchange, Recording

from ..config.model import App
from ..errors import LimitHit, SandboxFault
from ..jail.walls import Walls
from ..outcomes import Outcome
from ..runs.traces import CONSOLE
from ..sandboxes.lifecycle import hold_sandbox
from ..sandboxes.protocol import ConsoleLine, Request
from ..sandboxes.run import Reply
from ..sandboxes.sandbox import Sandbox

TICK = 0.05  # seconds between two looks at the CPU time
WHOLE = {Outcome.OK, Outcome.NO_REPLY, Outcome.APP_ERROR}  # of runs that were not cut off
ORDER_SECONDS = 0.5  # that a reply waits for those recorded before it
HARMLESS = ("log.", "metrics.", "outbound.")  # answered with success if not recorded
NOT_RECORDED = {"success": False, "reason": "replay: nothing was recorded for this command"}


@frozen
class Asked:
    """A command of the app in a replay; `match` is the index of the exchange that answers it."""

    name: str
    request: Mapping[str, Any]
    match: int | None


@frozen
class Played:
    """One replay."""

    outcome: str
    detail: str
    asked: Sequence[Asked]


@frozen
class Difference:
    """One line of a comparison.

    Attributes:
        kind: `same`, `varies`, `changed`, `missing` (only in the recording) or `new` (only in the
            replay).
        fields: For `varies` and `changed`: by path, the values then and now.
    """

    kind: str
    name: str
    then: Mapping[str, Any] | None
    now: Mapping[str, Any] | None
    fields: Mapping[str, tuple[Any, Any]] = field(factory=dict)


@frozen
class Compared:
    """A recorded run and its replay."""

    lines: Sequence[Difference]
    then: tuple[str, str]
    now: tuple[str, str]

    @property
    def is_same(self) -> bool:
        """Whether the app did what was recorded."""
        return self.then[0] == self.now[0] and all(
            line.kind in {"same", "varies"} for line in self.lines
        )


async def replay(recording: Recording, app: App, walls: Walls) -> Compared:
    """Replay a recording twice and compare.

    Raises:
        ExceptionGroup: Of BootFailed: the app could not be started.
    """
    first = await play(recording, app, walls)
    return compare(recording, first, await play(recording, app, walls))


async def play(recording: Recording, app: App, walls: Walls) -> Played:
    """Replay a recording once. Raises as `replay` does."""
    limits = app.limits
    answers = _Answers(recording.exchanges, app)
    fault: SandboxFault | None = None
    async with trio.open_nursery() as nursery:
        sandbox: Sandbox = await nursery.start(_hold, app, walls, recording.began)
        nursery.start_soon(_watch_cpu, sandbox)
        try:
            with trio.move_on_after(limits.wall) as wall:
                await sandbox.deliver(
                    "r1", recording.kind, recording.payload, limits, answers.answer
                )
            if wall.cancelled_caught:
                fault = LimitHit(
                    Outcome.WALL, "wall", f"{limits.wall:g} s", "a run that was not done by then"
                )
        except SandboxFault as found:
            fault = found
        finally:
            sandbox.end()
        nursery.cancel_scope.cancel()
    if fault is not None:
        return Played(str(fault.outcome), fault.detail, answers.asked)
    waits = recording.kind == "message" and is_session_start(recording.payload)
    replied = any(_replies(one, recording.payload) for one in answers.asked)
    return Played(str(Outcome.NO_REPLY if waits and not replied else Outcome.OK), "", answers.asked)


async def _hold(
    app: App, walls: Walls, clock: float, *, task_status: trio.TaskStatus[Sandbox]
) -> None:
    await hold_sandbox(app, walls.jail(app), clock=clock, task_status=task_status)


async def _watch_cpu(sandbox: Sandbox) -> None:
    while True:
        await trio.sleep(TICK)
        sandbox.check_cpu()


def _replies(asked: Asked, message: Mapping[str, Any]) -> bool:
    return asked.name.startswith("outbound.reply_to") and asked.request.get(
        "in_reply_to"
    ) == message.get("message_id")


@define(eq=False)
class _Answers:
    """Answers the app's commands with the recorded replies."""

    _recorded: Sequence[Exchange]
    _app: App
    asked: list[Asked] = field(factory=list, init=False)
    _used: set[int] = field(factory=set, init=False)
    _given: set[int] = field(factory=set, init=False)
    _news: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)

    def answer(self, asked: Request | ConsoleLine) -> Reply | Coroutine[Any, Any, Reply]:
        """Answer one command, as `Sandbox.deliver` needs it."""
        if isinstance(asked, ConsoleLine):
            self._note(CONSOLE, {"msg": asked.text})
            return None
        match = self._note(asked.name, asked.fields)
        return self._without(asked) if match is None else self._in_order(match)

    def _note(self, name: str, request: Mapping[str, Any]) -> int | None:
        match = self._match(name, request)
        if match is not None:
            self._used.add(match)
            if name == CONSOLE:
                self._given.add(match)
        self.asked.append(Asked(name, request, match))
        return match

    def _match(self, name: str, request: Mapping[str, Any]) -> int | None:
        places = [
            at for at, one in enumerate(self._recorded) if one.name == name and at not in self._used
        ]
        return next(
            (at for at in places if self._recorded[at].request == request),
            places[0] if places else None,
        )

    def _without(self, asked: Request) -> dict[str, Any]:
        if asked.name == "config.get":
            return {"success": True, "value": self._app.config.get(str(asked.fields.get("key")))}
        return {"success": True} if asked.name.startswith(HARMLESS) else dict(NOT_RECORDED)

    async def _in_order(self, match: int) -> Reply:
        """Give the recorded reply after those recorded before it; never, if there was none."""
        one = self._recorded[match]
        if one.reply is None:
            await trio.sleep_forever()
        moment = _moment(one)
        earlier = {
            at
            for at, other in enumerate(self._recorded)
            if other.reply is not None and _moment(other) < moment
        }
        with trio.move_on_after(ORDER_SECONDS):
            while not earlier <= self._given:
                await self._news.park()
        self._given.add(match)
        self._news.unpark_all()
        return one.reply


def _moment(one: Exchange) -> float:
    return one.at + (one.seconds or 0.0)


def compare(recording: Recording, first: Played, second: Played) -> Compared:
    """Compare a recorded run with a replay; `second`, another replay, shows what varies."""
    other = {one.match: one for one in second.asked if one.match is not None}
    lines: list[Difference] = []
    shown: set[int] = set()
    matched = {one.match for one in first.asked}
    for one in first.asked:
        if one.match is None:
            lines.append(Difference("new", one.name, None, one.request))
            continue
        # Commands recorded before this one and missing now go to their old place.
        lines += _missing(recording, matched, shown, one.match)
        then = recording.exchanges[one.match].request
        changes = differences(then, one.request)
        beside = other.get(one.match)
        varying = differences(one.request, beside.request) if beside is not None else {}
        kind = "changed"
        if changes.keys() <= varying.keys():
            kind = "varies" if changes else "same"
        lines.append(Difference(kind, one.name, then, one.request, changes))
    lines += _missing(recording, matched, shown, len(recording.exchanges))
    if recording.outcome == first.outcome and first.outcome not in WHOLE:
        lines = _without_the_end(lines)
    return Compared(lines, (recording.outcome, recording.detail), (first.outcome, first.detail))


def _without_the_end(lines: list[Difference]) -> list[Difference]:
    """Mark as varying the last commands that only one of two runs has, if both were cut off."""
    last = max(
        (at for at, line in enumerate(lines) if line.kind not in {"new", "missing"}), default=-1
    )
    return lines[: last + 1] + [evolve(line, kind="varies") for line in lines[last + 1 :]]


def _missing(
    recording: Recording, matched: set[int | None], shown: set[int], before: int
) -> list[Difference]:
    found = [at for at in range(before) if at not in matched and at not in shown]
    shown.update(found)
    return [
        Difference("missing", recording.exchanges[at].name, recording.exchanges[at].request, None)
        for at in found
    ]


def differences(then: Any, now: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Find where two JSON values differ: by path (`msg.to_addr`), both values (None: absent)."""
    if type(then) is not type(now) or not isinstance(then, dict | list):
        return {} if then == now and type(then) is type(now) else {path or ".": (then, now)}
    pairs = (
        [(str(key), then.get(key), now.get(key)) for key in {**then, **now}]
        if isinstance(then, dict)
        else [(str(at), _at(then, at), _at(now, at)) for at in range(max(len(then), len(now)))]
    )
    return {
        name: pair
        for key, one, two in pairs
        for name, pair in differences(one, two, f"{path}.{key}" if path else key).items()
    }


def _at(values: list[Any], place: int) -> Any:
    return values[place] if place < len(values) else None
