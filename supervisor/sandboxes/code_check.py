"""Compiles the apps' code without running it, before a config is taken: code that does not compile
must not replace code that works.

One process compiles what is new, of all apps. A service starts it in a jail like a sandbox's, since
it reads what tenants wrote; `jsbox check` has no jail.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio
from attrs import define, evolve, field

from resources.fence import fence

from ..config.document import one_line
from ..config.model import App, Breakage, Limits
from ..config.node import BUILTINS, MOST_STACK
from ..config.source_maps import source_file
from ..config.units import Size, show
from ..errors import CannotStart, ProtocolViolation, SandboxGone
from ..host.lines import LineReader
from ..host.pipes import Wire
from ..host.process import Process, SpawnFailed, open_process
from ..jail.argv import NODE_FLAGS, Jail
from ..jail.walls import Walls

PROGRAM = "check.js"
SECONDS = 60.0  # for everything; 150 apps take half a second
SILENCE = 20.0  # seconds without an answer: it hangs
ANSWER_MAX = 1 << 20  # bytes
TEXT_MAX = 500  # characters of an error
LIMITS = Limits(heap=Size(512 << 20), memory=Size(1 << 30), stack=Size(MOST_STACK))
PERMISSIONS = ("--permission", "--allow-fs-read")  # with them Node has no inspector

SENTENCES = {
    "link": "is a link that leads out of modules_dir, to {}, which a sandbox cannot read:"
    " npm install --install-links",
    "esm": "is an ES module ({}), which require() cannot load: install a version with a CommonJS"
    " build, or put it into the app with a bundler",
    "hidden": "is not given by its package ({})",
    "broken": "cannot be loaded: {}",
    "native": "has native code ({}), which a sandbox cannot load",
    "missing": "has no file that require() could load ({})",
}

log = logging.getLogger(__name__)

ENDS = (SandboxGone, ProtocolViolation, msgspec.DecodeError, trio.TooSlowError)
Answers = list[Any]
"""Of the first questions; there are fewer than questions if the process ended or hung."""
Ask = Callable[[Sequence[Mapping[str, str]]], Awaitable[Answers | None]]
"""Returns None if the process does not even answer PROBE."""
PROBE = {"source": ""}


@define(eq=False)
class CodeCheck:
    """Remembers what it compiled, so that only new code costs anything."""

    _ask: Ask
    _known: dict[tuple[str, str], Any] = field(factory=dict, init=False)  # answers by `_key`

    async def breakages(self, apps: Iterable[App]) -> list[Breakage]:
        """What does not compile, a Breakage for each app. Apps that could not be checked because
        of a failure on our side are logged, and treated as sound.
        """
        apps = list(apps)
        by_digest = await trio.to_thread.run_sync(lambda: {_key(app): app for app in apps})
        self._known = {key: self._known[key] for key in by_digest if key in self._known}
        new = [(key, app) for key, app in by_digest.items() if key not in self._known]
        new.sort(key=lambda one: len(one[1].source))  # so that huge apps cost others no time
        with trio.move_on_after(SECONDS):
            while new:
                answers = await self._ask([_question(app) for _, app in new])
                if answers is None:
                    break
                for (key, _), found in zip(new, answers, strict=False):
                    self._known[key] = found
                new = new[len(answers) + 1 :]  # without the one that it ended or hung at
        unknown = [app.name for app in apps if _key(app) not in self._known]
        if unknown:
            log.warning("the code of %s could not be checked", ", ".join(unknown))
        return [
            Breakage(
                app=app.name,
                file=_file(app, found),
                line=found["line"],
                column=found["column"],
                text=one_line(found["text"][:TEXT_MAX]),
            )
            for app in apps
            if (found := self._known.get(_key(app))) is not None
        ]


def _key(app: App) -> tuple[str, str]:
    """What an answer belongs to: with another map, an error is at another place."""
    return app.digest, app.source_map


def _question(app: App) -> dict[str, str]:
    return {"source": app.source} | ({"map": app.source_map} if app.source_map else {})


def _file(app: App, found: Mapping[str, Any]) -> Path:
    name = found.get("file")
    return source_file(app.javascript, name) if name else app.javascript


@asynccontextmanager
async def open_first_check(
    check: CodeCheck, apps: Iterable[App]
) -> AsyncIterator[Callable[[], Awaitable[list[Breakage]]]]:
    """Compile the apps while the service starts. Yields a function that waits for the result."""
    found: list[Breakage] = []
    done = trio.Event()

    async def compile_all() -> None:
        with fence("code check"):
            found.extend(await check.breakages(apps))
        done.set()

    async def result() -> list[Breakage]:
        await done.wait()
        return found

    async with trio.open_nursery() as nursery:
        nursery.start_soon(compile_all)
        yield result
        nursery.cancel_scope.cancel()


async def package_warnings(ask: Ask, apps: Iterable[App]) -> list[str]:
    """A sentence for each package in the apps' modules that require() finds and cannot load."""
    asked = {
        (app.name, name): {"package": name, "modules": str(app.modules_dir)}
        for app in apps
        if app.modules_dir is not None
        for name in app.modules
        if name not in BUILTINS
    }
    answers = await ask(list(asked.values())) if asked else None
    return [
        f"apps.{app}.modules: {show(name)} {SENTENCES[found['kind']].format(found['text'])}"
        for (app, name), found in zip(asked, answers or (), strict=False)
        if found is not None
    ]


def jailed(walls: Walls) -> Ask:
    """Ask in a jail of these walls."""

    async def ask(questions: Sequence[Mapping[str, str]]) -> Answers | None:
        walls_of_check = evolve(walls, place=evolve(walls.place, harness=PROGRAM))
        try:
            jail = walls_of_check.blank(App("jsbox check", "", Path("/check"), limits=LIMITS))
        except CannotStart as error:
            log.warning("code cannot be checked: %s", error)
            return None
        argv = tuple(word for word in jail.argv if not word.startswith(PERMISSIONS))
        return await _ask_process(evolve(jail, argv=argv), questions)

    return ask


def unjailed(node: Path, folder: Path) -> Ask:
    """Ask in a plain process; `folder` is that of the harness."""
    flags = (
        f"--max-old-space-size={LIMITS.heap >> 20}",
        f"--stack-size={LIMITS.stack >> 10}",
        *NODE_FLAGS,
    )
    jail = Jail((str(node), *flags, str(folder / PROGRAM)), {})

    async def ask(questions: Sequence[Mapping[str, str]]) -> Answers | None:
        return await _ask_process(jail, questions)

    return ask


async def _ask_process(jail: Jail, questions: Sequence[Mapping[str, str]]) -> Answers | None:
    questions = [PROBE, *questions]
    answers: Answers = []
    try:
        async with (
            open_process(
                jail.argv, jail.env, {}, user=jail.user, is_wrapped=jail.is_wrapped
            ) as process,
            trio.open_nursery() as nursery,
        ):
            wire = Wire(process, LineReader(ANSWER_MAX))
            nursery.start_soon(_send, process, questions)
            try:
                while len(answers) < len(questions):
                    with trio.fail_after(SILENCE):
                        answers += map(msgspec.json.decode, await wire.receive())
            except ENDS as error:
                done = max(len(answers) - 1, 0)
                log.warning("checking code: %s after %d answers", error or "silence", done)
            nursery.cancel_scope.cancel()
    except SpawnFailed as error:
        log.warning("code cannot be checked: %s", error)
    return answers[1:] if answers else None


async def _send(process: Process, questions: Sequence[Mapping[str, str]]) -> None:
    try:
        for question in questions:
            line = await trio.to_thread.run_sync(msgspec.json.encode, question)
            await process.stdin.send_all(line + b"\n")
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # it has ended; whoever receives finds out
