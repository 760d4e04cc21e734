"""Traces: what each run did and when, for the newest runs of every app, in bounded memory. They are
lost when the supervisor ends.

Runs that failed or were slow are kept apart, and longer: they are what people look for.
"""

from __future__ import annotations

import heapq
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from itertools import dropwhile
from operator import itemgetter
from sys import getsizeof
from typing import Any

import msgspec
from attrs import define, field

from resources.clock import clock
from resources.fence import note

from ..config.observing import Trace as Settings
from ..outcomes import Outcome
from ..sandboxes.protocol import ConsoleLine, Request

STEPS_MAX = 250  # of a run that is not recorded
CONSOLE = "console"  # the name of a step that is a console line
NOTE_MAX = 200  # characters
DETAIL_MAX = 4000  # characters
USER_MAX = 200  # characters of an address
WEIGHT_MAX = 64 << 20  # bytes, of all apps together
STEP_BYTES, TRACE_BYTES = 200, 800  # without their texts
VALUES_MAX = 2 << 20  # bytes of requests and replies that one run may keep for its recording

Answer = dict[str, Any] | Coroutine[Any, Any, dict[str, Any]]


class Step(msgspec.Struct, eq=False, gc=False):
    """One command, or a line that the app wrote to its console.

    Attributes:
        at: Seconds after the app got the message.
        seconds: Until its reply; None if it has none, or the run ended before.
        outcome: `ok`, or the reason why it was refused.
        asked: The request; kept only if runs are recorded.
        got: The fields of the reply; kept only if runs are recorded.

    There are thousands of them: `gc=False` spares the garbage collector looking at each. They are
    in no cycle.
    """

    name: str
    at: float
    note: str
    seconds: float | None = None
    outcome: str = ""
    asked: dict[str, Any] | None = None
    got: dict[str, Any] | None = None


@define(eq=False)
class Trace:
    """A run: the seconds it waited for its turn (`queue`), was held back after crashes (`held`) and
    waited for a process (`boot`), then its steps, then how it ended.

    Attributes:
        room: Steps that it keeps; of the others only their number is kept.
        records: Requests and replies are kept with the steps.
        payload: What the app was given.
        user: The address of the user that it is for; empty if it is for none.
        is_too_large: It is too large to be recorded.
        total: Seconds of the whole run, with its waiting.
        weight: Bytes that it takes, when it is kept.
        number: Its place among all that were kept; newer ones have higher numbers.
    """

    app: str
    channel: str
    kind: str
    id: str
    room: int
    records: bool
    user: str = ""
    began: float = field(factory=time.time, init=False)  # seconds since 1970
    queue: float = field(default=0.0, init=False)
    held: float = field(default=0.0, init=False)
    boot: float = field(default=0.0, init=False)
    total: float = field(default=0.0, init=False)
    pid: int = field(default=0, init=False)
    payload: dict[str, Any] = field(factory=dict, init=False)
    is_too_large: bool = field(default=False, init=False)
    outcome: Outcome | None = field(default=None, init=False)
    detail: str = field(default="", init=False)
    steps: list[Step] = field(factory=list, init=False)
    left_out: int = field(default=0, init=False)
    weight: int = field(default=0, init=False)
    number: int = field(default=0, init=False)
    _values: int = field(default=0, init=False)  # bytes that are kept for its recording
    _now: Callable[[], float] = field(factory=clock, init=False)
    _zero: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._zero = self._now()

    def start(self, pid: int) -> None:
        """Note that the app gets the message now, in this process."""
        self.pid = pid
        self._zero = self._now()

    def begin(self, asked: Request | ConsoleLine) -> Step | None:
        """Begin a step: the app asks for something. Return None if the trace is full. Raises
        nothing, as `end`.
        """
        try:
            return self._begin(asked)
        except Exception as error:  # noqa: BLE001  # likewise
            note("trace", error, f"app {self.app}")
            return None

    def _begin(self, asked: Request | ConsoleLine) -> Step | None:
        if len(self.steps) >= self.room:
            self.left_out += 1
            return None
        at = self._now() - self._zero
        if isinstance(asked, ConsoleLine):
            step = Step(
                CONSOLE,
                at,
                asked.text[:NOTE_MAX],
                asked={"msg": asked.text} if self.records else None,
            )
        else:
            step = Step(
                asked.name,
                at,
                note_of(asked.name, asked.fields),
                asked=asked.fields if self.records else None,
            )
        self.steps.append(step)
        return step

    def end(self, step: Step, reply: dict[str, Any]) -> None:
        """Note the reply to a step. Raises nothing: a reply is worth more than its trace."""
        try:
            self._end(step, reply)
        except Exception as error:  # noqa: BLE001  # a fence that costs a command nothing
            note("trace", error, f"app {self.app}, {step.name}")

    def _end(self, step: Step, reply: dict[str, Any]) -> None:
        step.seconds = self._now() - self._zero - step.at
        reason = "ok" if reply.get("success") else str(reply.get("reason", "refused"))
        step.outcome = without_userinfo(reason[: 10 * NOTE_MAX])[:NOTE_MAX]
        if self.records:
            step.got = reply
            self._values += _size(reply) + _size(step.asked)
            if self._values > VALUES_MAX:
                self.is_too_large = True
                self._drop_values()

    def answered(self, step: Step, reply: Answer) -> Answer:
        """Return the same reply, and note it, now or when it arrives."""
        if isinstance(reply, Coroutine):
            return self._follow(step, reply)
        self.end(step, reply)
        return reply

    def was_known(self, step: Step | None, reply: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Return the same reply, and note it: it took that long to get it, before it was asked
        for.
        """
        if step is not None:
            self.end(step, reply)
            step.seconds = seconds
        return reply

    async def _follow(
        self, step: Step, coming: Coroutine[Any, Any, dict[str, Any]]
    ) -> dict[str, Any]:
        reply = await coming
        self.end(step, reply)
        return reply

    def forget_values(self) -> None:
        """Drop what is not shown: contents of messages, requests and replies."""
        self.left_out += max(len(self.steps) - STEPS_MAX, 0)
        del self.steps[STEPS_MAX:]
        self.payload = {}
        self.detail = without_userinfo(self.detail[: 10 * DETAIL_MAX])[:DETAIL_MAX]
        self._drop_values()
        texts = (text for step in self.steps for text in (step.name, step.note, step.outcome))
        self.weight = (
            TRACE_BYTES
            + STEP_BYTES * len(self.steps)
            + sum(map(getsizeof, (self.detail, self.id, self.user, *texts)))
        )

    def _drop_values(self) -> None:
        if self.records:
            for step in self.steps:
                step.asked = step.got = None
            self.records = False


def _size(values: Mapping[str, Any] | None) -> int:
    """Return the bytes of a request or a reply, roughly: texts by their length, lists by their
    number of items.
    """
    if values is None:
        return 0
    return sum(len(v) if isinstance(v, str | bytes) else _length(v) for v in values.values())


def _length(value: Any) -> int:
    if isinstance(value, msgspec.Raw):
        return memoryview(value).nbytes
    return 100 * len(value) if isinstance(value, list | dict) else 8


_USERINFO = re.compile(r"//[^/?#\s\\]*@")  # of a URL, whatever is in it
_BEYOND, _BEHIND = re.compile(r"[/?#\\]"), re.compile(r"[?#]")  # the host; the path
_PORT = re.compile(r":\d+\Z|\]\Z")
_TELLING = ("msg", "key", "query", "to_addr", "metric", "addr", "conversation_key")


def without_userinfo(text: str) -> str:
    """A text, such as a URL or an error about one, without the names and passwords in its URLs."""
    return _USERINFO.sub("//", text) if "@" in text else text


def _shown_url(url: str) -> str:
    """A URL without user, password, query and fragment, which often hold a secret. Little is left
    of one whose password may be cut in two: by a / ? # or @ that is not escaped.
    """
    scheme, colon, rest = url.partition("://")
    host = _BEYOND.split(rest, maxsplit=1)[0]
    behind = rest[len(host) :]
    shown = _BEHIND.split(behind, maxsplit=1)[0]
    is_half = "@" in behind and ":" in host and "@" not in host and not _PORT.search(host)
    if is_half or ("@" in host and "@" in behind[len(shown) :]):
        return f"{scheme}{colon}..."
    return without_userinfo(_BEHIND.split(url, maxsplit=1)[0])


def note_of(name: str, fields: Mapping[str, Any]) -> str:
    """Describe a request in a few words: enough to tell it from its neighbours, and never a
    message's content or a header.
    """
    if name.startswith("http."):
        return f"{name[5:].upper()} {_shown_url(str(fields.get('url', '')))}"[:NOTE_MAX]
    for key in _TELLING:
        value = fields.get(key)
        if type(value) is str:
            return value if len(value) <= NOTE_MAX else value[:NOTE_MAX]
    content = fields.get("content")
    return f"{len(content)} characters" if isinstance(content, str) else ""


@define
class _Kept:
    """Traces in the order of their arrival, each with its number."""

    all: OrderedDict[int, Trace] = field(factory=OrderedDict)
    by_app: dict[str, deque[int]] = field(factory=dict)

    def newest(self, app: str | None, before: int | None = None) -> Iterator[tuple[int, Trace]]:
        """Return those of an app, or all, the newest first; only those with lower numbers than
        `before`.
        """
        numbers = self.all if app is None else self.by_app.get(app, deque())
        kept = reversed(numbers)
        if before is not None:
            kept = dropwhile(lambda number: number >= before, kept)
        return ((number, self.all[number]) for number in kept)


@define(eq=False)
class Traces:
    """The newest traces of every app."""

    weight_max: int = WEIGHT_MAX
    _ordinary: _Kept = field(factory=_Kept, init=False)
    _notable: _Kept = field(factory=_Kept, init=False)
    _by_message: dict[str, list[Trace]] = field(factory=dict, init=False)
    _weight: int = field(default=0, init=False)
    _numbers: int = field(default=0, init=False)

    def keep(self, trace: Trace, settings: Settings) -> None:
        """Keep the trace of a run that has ended; older ones make room."""
        is_notable = trace.outcome is not Outcome.OK or trace.total >= settings.slow
        kept, most = (
            (self._notable, settings.notable)
            if is_notable and settings.notable
            else (self._ordinary, settings.runs)
        )
        if not most:
            return
        app = trace.app
        numbers = kept.by_app.setdefault(app, deque())
        while len(numbers) >= most:
            self._drop(kept, numbers[0])
        self._numbers += 1
        trace.number = self._numbers
        kept.all[self._numbers] = trace
        kept.by_app.setdefault(app, numbers).append(self._numbers)
        self._by_message.setdefault(trace.id, []).append(trace)
        self._weight += trace.weight
        while self._weight > self.weight_max:
            full = self._ordinary if self._ordinary.all else self._notable
            self._drop(full, next(iter(full.all)))

    def _drop(self, kept: _Kept, number: int) -> None:
        trace = kept.all.pop(number)
        numbers = kept.by_app[trace.app]
        numbers.popleft()  # the oldest, as in kept.all
        if not numbers:
            del kept.by_app[trace.app]
        same = self._by_message[trace.id]
        same.remove(trace)
        if not same:
            del self._by_message[trace.id]
        self._weight -= trace.weight

    def find(self, message: str) -> Trace | None:
        """Return the trace of the last run of a message or event."""
        same = self._by_message.get(message)
        return same[-1] if same else None

    def newest(
        self, app: str | None, *, only_notable: bool, before: int | None = None
    ) -> Iterator[Trace]:
        """Return the traces of an app, or of all apps, the newest first; `before`: only those with
        a lower number.
        """
        sources = [self._notable] if only_notable else [self._notable, self._ordinary]
        newest = [kept.newest(app, before) for kept in sources]
        return (trace for _, trace in heapq.merge(*newest, key=itemgetter(0), reverse=True))
