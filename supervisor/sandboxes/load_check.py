"""Loads apps once, each in a real sandbox and without a message, before a config is taken: code
that compiles may still throw, loop or fill its heap when it is loaded, so that no message is
handled.

A service that starts does not wait for this: there it is done for an app whose first runs fail.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import trio
from attrs import define, evolve, field, frozen

from resources.fence import fence, leaves

from ..config.document import one_line
from ..config.model import App, Breakage
from ..config.node import TOOLKITS
from ..config.requires import line_of
from ..config.source_maps import source_file
from ..config.units import Duration
from ..errors import AppFailed, BootFailed, CannotStart, LimitHit, SandboxFault
from ..host.cpus import usable_cpus
from ..jail.argv import with_flag
from ..outcomes import Outcome
from .exits import out_of_memory
from .lifecycle import hold_sandbox
from .process_tasks import MakesJails
from .sandbox import Sandbox

SECONDS = 60.0  # for the apps of a check, together; one takes a tenth of a second
WALL = 20.0  # seconds for one app, if limits.wall is not less
AT_ONCE = min(usable_cpus(), 4)  # processes
TICK = 0.02  # seconds between two looks at a process
GRACE = 1.0  # of CPU and wall time, for Node to say what it was doing
TEXT_MAX = 500  # characters of an error
# as sandbox_js/harness.js has it
NO_HANDLER = "Error: the app sets no api.on_inbound_message, so nothing would handle a message"
SAYS_WHERE = "--trace-sigint"  # on SIGINT, Node writes the stack of the app and ends

# as sandbox_js/lib/stacks.js writes them: a frame of a source of the app; of a module
MAPPED = re.compile(
    r" +at (?:[^/\n]* \()?(?P<source>[^<>()\n]+?):(?P<line>\d{1,9}):(?P<column>\d{1,9})\)?$"
)
IN_MODULE = "node_modules/"

# How runs end whose app may be at fault before it has seen the message.
SUSPECT = {Outcome.CPU, Outcome.HEAP, Outcome.MEMORY, Outcome.WALL, Outcome.OUTPUT, Outcome.CRASHED}
FULL = {Outcome.HEAP, Outcome.MEMORY}


@frozen
class Problem:
    """Why an app cannot be loaded.

    Attributes:
        line: 0 if it is not known, as `column`.
        source: The file's name in the app's source map; empty: it is the app's text.
    """

    text: str
    line: int = 0
    column: int = 0
    source: str = ""


class _Idle(Exception):
    """The app was loaded, and does nothing: no handler, no command. Older engines ran it, too."""


class Unknown(Exception):
    """It could not be determined whether an app loads; the text says why."""


def is_suspect(fault: SandboxFault) -> bool:
    """Whether a run that ended so may have ended while its app was loaded."""
    return fault.is_load if isinstance(fault, AppFailed) else fault.outcome in SUSPECT


@define(eq=False)
class LoadCheck:
    """Remembers what it loaded, so that only new apps cost anything.

    Attributes:
        notes: What the last call of `breakages` did not find out, and why; apps that do nothing.
    """

    _walls: MakesJails
    notes: Sequence[str] = field(default=(), init=False)
    _good: set[str] = field(factory=set, init=False)  # generations that were loaded
    _trusted: set[str] = field(factory=set, init=False)  # that the service runs
    _doubted: set[str] = field(factory=set, init=False)  # that `doubt` was called for
    _doubts: dict[str, App] = field(factory=dict, init=False)  # those that wait for their probe
    _bell: trio.Event = field(factory=trio.Event, init=False)

    async def breakages(self, apps: Iterable[App]) -> list[Breakage]:
        """What cannot be loaded, a Breakage for each app. Apps that could not be tried are in
        `notes`, and count as whole.
        """
        apps = [one for one in apps if one.generation not in self._good | self._trusted]
        found = dict[str, Problem | None]()
        unknown = dict[str, list[str]]()  # the apps by the reason
        idle = list[App]()
        limiter = trio.CapacityLimiter(AT_ONCE)

        async def look(app: App) -> None:
            async with limiter:
                try:
                    found[app.name] = await self._look(app)
                except _Idle:
                    found[app.name] = None
                    idle.append(app)
                except Unknown as error:
                    found[app.name] = None
                    unknown.setdefault(str(error), []).append(app.name)

        with trio.move_on_after(SECONDS):
            async with trio.open_nursery() as nursery:
                # in this order, so that slow ones cost others no time
                for app in sorted(apps, key=lambda app: app.limits.cpu):
                    nursery.start_soon(look, app)
        if late := [app.name for app in apps if app.name not in found]:
            unknown[f"{SECONDS:g} s were not enough"] = late
        self.notes = [
            f"compiled, but not loaded for a check: {', '.join(sorted(names))}: {one_line(why)}"
            for why, names in unknown.items()
        ]
        self.notes += [f"apps.{app.name}: {NO_HANDLER.partition(': ')[2]}" for app in idle]
        return [_breakage(app, one) for app in apps if (one := found.get(app.name)) is not None]

    def trust(self, apps: Iterable[App]) -> None:
        """The service runs these apps, and no others: a reload need not load them again."""
        self._trusted = {app.generation for app in apps}
        self._good &= self._trusted
        self._doubted &= self._trusted

    def doubt(self, app: App, fault: SandboxFault) -> None:
        """A run has failed. If it may be that the app cannot be loaded at all, have `run` look,
        once.
        """
        known = self._good | self._doubted
        if is_suspect(fault) and app.generation not in known:
            self._doubted.add(app.generation)
            self._doubts[app.generation] = app
            self._bell.set()

    async def run(self, broken: Callable[[App, Breakage], None]) -> None:
        """Load the apps that were doubted, and report those that cannot be; for ever."""
        while True:
            await self._bell.wait()
            self._bell = trio.Event()
            while self._doubts:
                _, app = self._doubts.popitem()
                with fence("load check", f"app {app.name}"), suppress(Unknown, _Idle):
                    if (problem := await self._look(app)) is not None:
                        self._trusted.discard(app.generation)
                        broken(app, _breakage(app, problem))

    async def _look(self, app: App) -> Problem | None:
        """Load an app. Raises Unknown, _Idle."""
        problem = await _load(app, self._walls)
        if problem is not None and problem.text == NO_HANDLER:
            raise _Idle
        if problem is None:
            self._good.add(app.generation)
        return problem


def _breakage(app: App, problem: Problem) -> Breakage:
    return Breakage(
        app=app.name,
        file=source_file(app.javascript, problem.source) if problem.source else app.javascript,
        line=problem.line or 1,
        column=problem.column,
        text=f"it cannot be loaded: {one_line(problem.text[:TEXT_MAX])}",
    )


async def _load(app: App, walls: MakesJails) -> Problem | None:
    """Load an app in a process of its own; return what goes wrong. Raises Unknown."""
    try:
        fault, said = await _probe(app, walls)
        if fault is not None and fault.outcome in FULL:
            # V8 ends without a stack: again, to see what fills it.
            _, said = await _probe(app, walls, is_full=True)
    except BootFailed as error:
        return await _problem_of_modules(app, walls, error)
    if fault is None:
        return None
    detail = fault.detail.removeprefix("the app cannot be loaded: ")
    place = _place(app, detail if isinstance(fault, AppFailed) else said)
    text = _headline(detail) if isinstance(fault, AppFailed) else detail
    return evolve(place, text=text)


async def _problem_of_modules(app: App, walls: MakesJails, error: BootFailed) -> Problem:
    """A process did not start: return what is wrong if that is for the app's own modules, which are
    loaded with it. Raises Unknown.
    """
    own = [name for name in app.modules if name not in TOOLKITS]
    bare = evolve(app, modules=tuple(set(app.modules) & set(TOOLKITS)), source="", modules_dir=None)
    try:
        await _probe(bare, walls)
    except BootFailed as other:
        raise Unknown(str(other)) from other
    if hit := out_of_memory(error.detail, app.limits):
        text = hit.detail
    else:
        text = error.detail.partition("; it last wrote: ")[0]
    # Without modules of its own it is its code, which is compiled there too.
    return Problem(f"its modules: {text}" if own else text, line_of(app.source, own))


async def _probe(
    app: App, walls: MakesJails, *, is_full: bool = False
) -> tuple[SandboxFault | None, str]:
    """Load an app in a process of its own; return how that ended, and what Node wrote.

    Args:
        app: The app.
        walls: They make its jail.
        is_full: Interrupt it when it has filled a quarter of its heap.

    Raises:
        BootFailed: The process did not get as far as the app.
        Unknown: There is no jail for it.
    """
    try:
        jail = with_flag(walls.jail(app), SAYS_WHERE)
    except CannotStart as error:
        raise Unknown(str(error)) from error
    limits = evolve(app.limits, cpu=Duration(app.limits.cpu + GRACE))
    failure: BootFailed | None = None
    fault: SandboxFault | None = None
    try:
        async with trio.open_nursery() as nursery:
            sandbox: Sandbox = await nursery.start(hold_sandbox, app, jail)
            watch = _Watch(sandbox, app.limits.heap // 4 if is_full else 0)
            nursery.start_soon(watch.run)
            try:
                with trio.move_on_after(watch.wall + GRACE):
                    await sandbox.deliver("probe", "probe", {}, limits, lambda _: None, {})
            except SandboxFault as found:
                fault = found
            finally:
                sandbox.end()
                nursery.cancel_scope.cancel()
    except* BootFailed as group:
        failure = next(one for one in leaves(group) if isinstance(one, BootFailed))
    if failure is not None:
        raise failure
    return watch.hit or fault, fault.detail if fault is not None else ""


@define(eq=False)
class _Watch:
    """Interrupts a process that uses too much. `hit` is the limit, once it was reached."""

    _sandbox: Sandbox
    _fill: int  # bytes; 0: do not care
    hit: LimitHit | None = field(default=None, init=False)

    @property
    def wall(self) -> float:
        """Seconds that the app may take."""
        return min(self._sandbox.app.limits.wall, WALL)

    async def run(self) -> None:
        process, limits = self._sandbox.process, self._sandbox.app.limits
        end, cpu, memory = trio.current_time() + self.wall, process.cpu_seconds(), None
        while self.hit is None:
            used = process.cpu_seconds() - cpu
            if used > limits.cpu:
                self.hit = LimitHit(Outcome.CPU, "cpu", f"{limits.cpu:g} s", f"{used:.2f} s")
            elif trio.current_time() > end:
                self.hit = LimitHit(Outcome.WALL, "wall", f"{self.wall:g} s", "more than that")
            elif self._fill:
                memory = memory or process.rss_bytes()
                if process.rss_bytes() - memory > self._fill:
                    self.hit = LimitHit(Outcome.HEAP, "heap", f"{limits.heap} bytes", "more")
            await trio.sleep(0 if self.hit else TICK)
        process.interrupt()
        await trio.sleep(GRACE)
        self._sandbox.end()


def _place(app: App, stack: str) -> Problem:
    """Where in the app, or in one of its sources, it stood: a Problem without its text."""
    own = _frame_of(app)
    for line in stack.split("\n"):
        if found := own.search(line):
            return Problem("", int(found[1]), int(found[2] or 0))
        if (found := MAPPED.match(line)) and IN_MODULE not in found["source"]:
            return Problem("", int(found["line"]), int(found["column"]), found["source"])
    return Problem("")


def _headline(stack: str) -> str:
    """The message of an error, and where it was thrown if that was in a module."""
    message, at, frames = stack.partition("\n    at ")
    first = frames.partition("\n")[0]
    is_in_module = re.search(r":\d+:\d+\)?$", first) and IN_MODULE in first
    return f"{message} (at {first})" if at and is_in_module else message


def _frame_of(app: App) -> re.Pattern[str]:
    return re.compile(rf"(?<![/\w]){re.escape(app.javascript.name)}:(\d{{1,9}})(?::(\d{{1,9}}))?")
