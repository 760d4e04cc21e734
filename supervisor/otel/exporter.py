"""Traces for an OpenTelemetry collector, as the supervisor sees them: a bounded queue of runs, and
the process that sends them.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import msgspec
import trio
from attrs import define, field

from resources.fence import note
from resources.forever import keep_running

from .. import __version__
from ..config.model import App
from ..errors import ProtocolViolation, SandboxGone
from ..host.lines import LineReader
from ..host.pipes import Wire
from ..host.process import Process, SpawnFailed, open_process
from ..runs.traces import Trace, without_userinfo
from .exported import run_of
from .words import (
    NO_REASON,
    SECONDS,
    Begin,
    Done,
    Encoded,
    batch,
    done_of,
    encoded,
    in_a_line,
    line,
)

ARGV = (sys.executable, "-m", "supervisor.otel.process")
QUEUE_BYTES = 4 << 20  # of runs that wait; beyond, the newest are dropped
BATCH_BYTES, BATCH_SPANS = 256 << 10, 2000  # of one batch: the first run that exceeds them ends it
DELAY = 1.0  # seconds from a run's end to its batch, unless that is full before
START_SECONDS = 20.0  # until the process is ready
# For a batch. The process gives up after 10 s; it is killed if the collector keeps it longer.
BATCH_SECONDS = 15.0
ASK_SECONDS = 3.0  # for a request without spans
FLUSH_SECONDS = 2.0  # at the end of the service
BACKOFF = (1.0, 60.0)  # seconds until the process is started again: first, most
LOGGED_EVERY = 60.0  # seconds between two lines of the log about the same collector
MEMORY = 512 << 20  # bytes of the process: a collector's answer may be endless
LINE_MAX = 64 << 10  # bytes of an answer
STDERR_READ, STDERR_LINES = 4096, 5  # bytes at a time; lines kept
# What the SDK and its HTTP client read, and where Python finds them.
PASSED = ("PYTHONPATH", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
PASSED_KINDS = ("OTEL_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")

DISABLED = "OTEL_SDK_DISABLED"

log = logging.getLogger(__name__)


def is_disabled() -> bool:
    """Whether the environment says that nothing is exported."""
    return os.environ.get(DISABLED, "").strip().lower() == "true"


class Lost(Exception):
    """The process has ended, or was killed; the text says why."""


class Died(Lost):
    """It has ended by itself, or somebody else killed it: no collector need be at fault."""


class PutBack(Died):
    """And its batch waits again, for another process."""


@define(eq=False)
class Exporter:
    """Sends runs to the collector at `endpoint`; does nothing while that is empty.

    Attributes:
        exported: Spans that the collector took.
        dropped: Spans that it did not get, by reason: `queue` (too many waited), `failed` (they
            could not be sent), `rejected` (it refused them), `off` (they waited when a reload
            took the endpoint away).
        problem: Why the newest batch was not taken; empty if it was.
    """

    endpoint: str = ""
    exported: int = field(default=0, init=False)
    dropped: Counter[str] = field(factory=Counter, init=False)
    problem: str = field(default="", init=False)
    _argv: Sequence[str] = ARGV
    _queue: deque[Encoded] = field(factory=deque, init=False)
    _bytes: int = field(default=0, init=False)
    _sending: int = field(default=0, init=False)  # spans of the batch that is being sent
    _changed: trio.Event = field(factory=trio.Event, init=False)
    _settled: trio.Event = field(factory=trio.Event, init=False)  # the next batch is
    _is_hurried: bool = field(default=False, init=False)
    _is_running: bool = False  # or about to
    _is_second_try: bool = field(default=False, init=False)  # the process died over the first
    _is_disabled: bool = field(factory=is_disabled, init=False)
    _has_said_so: bool = field(default=False, init=False)
    _logged_at: float = field(default=float("-inf"), init=False)

    def __attrs_post_init__(self) -> None:
        self.endpoint = self._allowed(self.endpoint)

    def _allowed(self, endpoint: str) -> str:
        if endpoint and self._is_disabled:
            if not self._has_said_so:
                log.warning("%s is true: no traces are exported", DISABLED)
            self._has_said_so = True
            return ""
        return endpoint

    @property
    def is_on(self) -> bool:
        """Whether runs are exported."""
        return bool(self.endpoint)

    def follow(self, endpoint: str) -> None:
        """Use another endpoint, or none, from the next batch on. With none, what waits is dropped:
        whoever is named later gets only what is taken from then on.
        """
        endpoint = self._allowed(endpoint)
        if endpoint != self.endpoint:
            self.endpoint, self.problem = endpoint, ""
            if not endpoint:
                self.dropped["off"] += sum(run.spans for run in self._queue)
                self._queue.clear()
                self._bytes = 0
            self._wake()
            self._settle()

    def take(self, trace: Trace, app: App) -> None:
        """Export a run that has ended. Raises nothing: a run is worth more than its trace."""
        if not self.endpoint:
            return
        try:
            self._put(encoded(run_of(trace, app)))
        except Exception as error:  # noqa: BLE001  # a fence, without the cost of one for each run
            note("otel", error, f"app {app.name}")

    def _put(self, run: Encoded) -> None:
        if self._bytes + len(run.data) > QUEUE_BYTES:
            self.dropped["queue"] += run.spans
            return
        self._queue.append(run)
        self._bytes += len(run.data)
        if len(self._queue) == 1 or self._bytes > BATCH_BYTES:
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def run(self) -> None:
        """Send what comes, for ever. Cancellation: what waits is dropped."""
        pause = BACKOFF[0]
        self._is_running = True
        try:
            while True:
                endpoint = self.endpoint  # a reload may change it while the process begins
                if not (endpoint and self._queue):
                    await self._changed.wait()
                    continue
                try:
                    async with _open_process(self._argv, endpoint, self._wake) as child:
                        pause = BACKOFF[0]
                        await self._feed(child, endpoint)
                        continue
                except PutBack as error:
                    log.info("%s; another one sends its runs", error)
                    continue
                except (Lost, SpawnFailed) as error:
                    self._fail(str(error))
                await trio.sleep(pause)
                pause = min(2 * pause, BACKOFF[1])
        finally:
            self._is_running = False
            self._settle()

    async def _feed(self, child: _Child, endpoint: str) -> None:
        """Send batches until the endpoint changes, or the process ends while it has nothing to do.
        Raises Lost.
        """
        while self.endpoint == endpoint and not child.has_ended:
            if not self._queue:
                await self._changed.wait()
                continue
            with trio.move_on_after(DELAY):
                while not self._is_hurried and 0 < self._bytes < BATCH_BYTES:
                    await self._changed.wait()
            if self.endpoint == endpoint and not child.has_ended:
                await self._send(child, endpoint)

    async def _send(self, child: _Child, endpoint: str) -> None:
        runs = self._next_batch()
        self._sending = sum(run.spans for run in runs)
        try:
            self._count(await child.export(runs))
            self._is_second_try = False
        except Lost as error:
            again = isinstance(error, Died) and not self._is_second_try
            self._is_second_try = again and self.endpoint == endpoint
            if self._is_second_try:
                self._queue.extendleft(reversed(runs))
                self._bytes += sum(len(run.data) for run in runs)
                raise PutBack(str(error)) from None
            self.dropped["failed"] += self._sending
            raise
        finally:
            self._sending = 0
            self._settle()

    def _next_batch(self) -> list[Encoded]:
        runs: list[Encoded] = []
        size = spans = 0
        while self._queue and size < BATCH_BYTES and spans < BATCH_SPANS:
            run = self._queue.popleft()
            runs.append(run)
            size, spans = size + len(run.data), spans + run.spans
        self._bytes -= size
        return runs

    def _count(self, done: Done) -> None:
        self.exported += done.exported
        for reason, count in (("failed", done.failed), ("rejected", done.rejected)):
            if count:
                self.dropped[reason] += count
        if done.failed or done.rejected:
            self._fail(done.problem or NO_REASON)
        elif done.exported:
            if self.problem:
                log.info("traces are exported again to %s", without_userinfo(self.endpoint))
            self.problem = ""

    def _fail(self, reason: str) -> None:
        where = without_userinfo(self.endpoint)
        self.problem = f"traces are not taken by {where}: {without_userinfo(reason)}"
        if trio.current_time() - self._logged_at >= LOGGED_EVERY:
            self._logged_at = trio.current_time()
            log.warning("%s (jsbox_otel_dropped_spans_total)", self.problem)

    def _settle(self) -> None:
        self._settled.set()
        self._settled = trio.Event()

    async def flush(self) -> None:
        """Wait until everything that waits was sent, or cannot be."""
        self._is_hurried = True
        self._wake()
        while self._is_running and self.endpoint and (self._queue or self._sending):
            await self._settled.wait()


@define(eq=False)
class _Child:
    """The running process."""

    _process: Process
    _wire: Wire = field(init=False)
    _said: deque[str] = field(factory=lambda: deque(maxlen=STDERR_LINES), init=False)

    def __attrs_post_init__(self) -> None:
        self._wire = Wire(self._process, LineReader(LINE_MAX))

    async def begin(self, begin: Begin) -> None:
        """Wait until it is ready. Raises Lost."""
        await self._ask(line(begin), START_SECONDS, "it does not start")

    async def export(self, runs: list[Encoded]) -> Done:
        """Send a batch. Raises Lost."""
        return await self._ask(batch(runs), BATCH_SECONDS, "the collector's answer does not end")

    async def _ask(self, text: bytes, seconds: float, late: str) -> Done:
        try:
            with trio.fail_after(seconds):
                await self._wire.send(text)
                answers = await self._wire.receive()
            return done_of(answers[0])
        except trio.TooSlowError:
            raise Lost(f"{late} within {seconds:g} s") from None
        except (SandboxGone, ProtocolViolation, msgspec.DecodeError) as error:
            kind = Died if isinstance(error, SandboxGone) else Lost
            said = in_a_line(self._said[-1]) if self._said else str(error)
            raise kind(f"the exporting process ended: {said}") from None

    @property
    def has_ended(self) -> bool:
        """Whether it has ended; `watch` finds out."""
        return self._process.is_reaped

    async def watch(self, on_end: Callable[[], None]) -> None:
        """Reap it when it ends, also while it has nothing to do."""
        await self._process.wait()
        on_end()

    async def drain_stderr(self) -> None:
        """Keep the end of what it says."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await self._process.stderr.receive_some(STDERR_READ):
                self._said.extend(data.decode(errors="replace").splitlines())


@asynccontextmanager
async def _open_process(
    argv: Sequence[str],
    endpoint: str,
    on_end: Callable[[], None],
    seconds: float = SECONDS,
) -> AsyncIterator[_Child]:
    """Start the process; at the end it is dead and reaped. `on_end` is called if it ends before.
    Raises Lost, SpawnFailed.
    """
    rlimits = {resource.RLIMIT_CORE: (0, 0), resource.RLIMIT_DATA: (MEMORY, MEMORY)}
    env = {
        name: value
        for name, value in os.environ.items()
        if name in PASSED or name.upper().startswith(PASSED_KINDS)
    }
    lost: Lost | None = None
    async with open_process(argv, env, rlimits) as process, trio.open_nursery() as nursery:
        child = _Child(process)
        nursery.start_soon(child.drain_stderr)
        nursery.start_soon(child.watch, on_end)
        try:
            await child.begin(Begin(endpoint, __version__, seconds))
            yield child
        except Lost as error:  # raised outside, so that it comes in no group
            lost = error
        nursery.cancel_scope.cancel()
    if lost is not None:
        raise lost


@asynccontextmanager
async def open_exporter(endpoint: str) -> AsyncIterator[Exporter]:
    """Yields the exporter; at the end it sends what it has, for `FLUSH_SECONDS` at most."""
    exporter = Exporter(endpoint, is_running=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_running, "otel", exporter.run)
        try:
            yield exporter
        finally:
            with trio.move_on_after(FLUSH_SECONDS, shield=True):
                await exporter.flush()
            nursery.cancel_scope.cancel()


async def ask(endpoint: str) -> str:
    """Send a request without spans to a collector, as a batch is sent.

    Returns: Why it does not take it; empty if it does. After at most `START_SECONDS` and
        `BATCH_SECONDS`; a collector that is gone is given up after `ASK_SECONDS`.

    Raises:
        Lost: The process or the answer does not come to an end.
        SpawnFailed: There is no process.
    """
    async with _open_process(ARGV, endpoint, lambda: None, ASK_SECONDS) as child:
        return (await child.export([])).problem
