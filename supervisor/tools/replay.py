"""A recorded run, played again: the same message to the same app, or to a changed one, in a fresh
sandbox of the same kind, and the recorded replies to whatever it asks. No resource is touched.

What an app asks is matched with what it asked then: a command with the same name and the same
fields first, else one with the same name. Replies come in the order in which they came then, as far
as the app still asks for them in an order that allows it. The app's clock begins when the recorded
run began. A run is played twice: where the two differ by themselves (random numbers, times) a
difference from the recording says nothing, and is shown as one that varies.
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
# outcomes of runs that came to their own end
WHOLE = {Outcome.OK, Outcome.NO_REPLY, Outcome.APP_ERROR}
TURN_SECONDS = 0.5  # that a reply waits for others that came before it then
# commands that were not recorded and to which success is the answer
HARMLESS = ("log.", "metrics.", "outbound.")
NOT_RECORDED = {"success": False, "reason": "replay: nothing was recorded for this command"}


@frozen
class Asked:
    """What the app asked in a replay; `match` is the place of the recorded exchange that answered
    it.
    """

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
        kind: `same`, `varies`, `changed`, `missing` (asked then, not now), `new` (asked now, not
            then).
        fields: Of `varies` and `changed`: path to then and now.
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
        """Whether the app did what it did then."""
        return self.then[0] == self.now[0] and all(
            line.kind in {"same", "varies"} for line in self.lines
        )


async def replay(recording: Recording, app: App, walls: Walls) -> Compared:
    """Play it twice, and compare.

    Raises:
        ExceptionGroup: Of BootFailed: no process could be had.
    """
    first = await play(recording, app, walls)
    return compare(recording, first, await play(recording, app, walls))


async def play(recording: Recording, app: App, walls: Walls) -> Played:
    """Play it once. Raises as `replay` does."""
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
    """Gives the recorded replies."""

    _recorded: Sequence[Exchange]
    _app: App
    asked: list[Asked] = field(factory=list, init=False)
    _used: set[int] = field(factory=set, init=False)
    _given: set[int] = field(factory=set, init=False)
    _news: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)

    def answer(self, asked: Request | ConsoleLine) -> Reply | Coroutine[Any, Any, Reply]:
        """For `Sandbox.deliver`."""
        if isinstance(asked, ConsoleLine):
            self._note(CONSOLE, {"msg": asked.text})
            return None
        match = self._note(asked.name, asked.fields)
        return self._without(asked) if match is None else self._in_turn(match)

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

    async def _in_turn(self, match: int) -> Reply:
        """The recorded reply, when those have been given that came before it; one that never came
        does not come.
        """
        one = self._recorded[match]
        if one.reply is None:
            await trio.sleep_forever()
        moment = _moment(one)
        earlier = {
            at
            for at, other in enumerate(self._recorded)
            if other.reply is not None and _moment(other) < moment
        }
        with trio.move_on_after(TURN_SECONDS):
            while not earlier <= self._given:
                await self._news.park()
        self._given.add(match)
        self._news.unpark_all()
        return one.reply


def _moment(one: Exchange) -> float:
    return one.at + (one.seconds or 0.0)


def compare(recording: Recording, first: Played, second: Played) -> Compared:
    """The recorded run beside a replay; `second` is another replay, that shows what varies by
    itself.
    """
    other = {one.match: one for one in second.asked if one.match is not None}
    lines: list[Difference] = []
    shown: set[int] = set()
    matched = {one.match for one in first.asked}
    for one in first.asked:
        if one.match is None:
            lines.append(Difference("new", one.name, None, one.request))
            continue
        # What was asked before this one and is not asked now, at its old place.
        lines += _missing(recording, matched, shown, one.match)
        then = recording.exchanges[one.match].request
        changes = differences(then, one.request)
        beside = other.get(one.match)
        varying = differences(one.request, beside.request) if beside is not None else {}
        kind = (
            "same" if not changes else "varies" if changes.keys() <= varying.keys() else "changed"
        )
        lines.append(Difference(kind, one.name, then, one.request, changes))
    lines += _missing(recording, matched, shown, len(recording.exchanges))
    if recording.outcome == first.outcome and first.outcome not in WHOLE:
        lines = _without_the_end(lines)
    return Compared(lines, (recording.outcome, recording.detail), (first.outcome, first.detail))


def _without_the_end(lines: list[Difference]) -> list[Difference]:
    """A run that was cut off was cut off at some moment: what came last says nothing where it is
    there in one and not in the other.
    """
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
    """Where two JSON values differ: path, as `msg.to_addr` or `groups.0`, to the one and the other
    (None: not there).
    """
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
