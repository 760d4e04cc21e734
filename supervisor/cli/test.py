"""`jsbox test`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio
from attrs import evolve, field, frozen

from resources.fence import leaves
from resources.stores.recordings import Recording, decode
from resources.text import visible

from ..config import Config, InvalidConfig, load
from ..host.scratch import scratch_folder
from .codes import EXIT_CONFIG, EXIT_FAILED
from .common import config_option, fail, must_be_writable, run_or_exit, start_logging

if TYPE_CHECKING:  # it imports everything, which `--help` need not wait for
    from ..chats.chat import Chat
    from ..chats.play import Result
    from ..chats.report import Case
    from ..chats.session import Benches

SUFFIX, RECORDED = ".chat.toml", ".recording.json"
WATCH = 0.3  # seconds between two looks at the files
WATCHED = {".js", ".json", ".toml", ".csv", ".txt", ".xml", ".html"}  # kinds of files
WATCHED_MAX = 5000  # files; of a larger folder only these are watched
LEFT_OUT = {"node_modules", "jsbox-data"}  # folders in which there are no tests


class Wrong(Exception):
    """The config or some test files cannot be used. The text has every error, with its line."""


@frozen
class Options:
    """The options of the command line."""

    paths: Sequence[Path]
    config: Path
    junit: Path | None
    update: bool


@frozen
class Plan:
    """What is to be tested."""

    config: Config
    chats: Sequence[Chat]
    recordings: Sequence[tuple[Path, Recording]] = field(factory=list)

    def __len__(self) -> int:
        return len(self.chats) + len(self.recordings)


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path, exists=True))
@config_option
@click.option(
    "--junit",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write the results to this file, as JUnit XML.",
)
@click.option("--watch", is_flag=True, help="Test again whenever a file changes, until Ctrl-C.")
@click.option(
    "--update",
    is_flag=True,
    help="Write what the app says into the tests, where `expect` is empty or something else.",
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="error"
)
def test(
    paths: tuple[Path, ...],
    config_file: Path,
    junit: Path | None,
    watch: bool,
    update: bool,
    log_level: str,
) -> None:
    """Hold the conversations of test files with an app, in the real sandbox, and compare.

    PATHS are files *.chat.toml, or folders of them (default: the folder of the config file); also
    recordings that `jsbox replay --save` wrote (*.recording.json in a folder). docs/testing.md has
    the format. Nothing outside is reached: back ends are stubs, and the store is a new one.

    Exit codes: 0 all passed, 1 some did not, 3 errors in the config or in a test file.
    """
    start_logging(log_level)
    if junit is not None:
        must_be_writable("--junit", junit)
    options = Options(paths or (config_file.parent,), config_file, junit, update)
    try:
        plan = read(options)
    except Wrong as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_CONFIG)
    if not len(plan) and not watch:
        fail(f"no *{SUFFIX} in {', '.join(map(str, options.paths))}", 2)
    with scratch_folder("test") as folder:
        run_or_exit(partial(_main, options, plan, folder, watch=watch))


def read(options: Options) -> Plan:
    """Read the config and all tests. Raises Wrong."""
    from ..chats.reading import load_chat

    wrong: list[str] = []
    chats: list[Chat] = []
    recordings: list[tuple[Path, Recording]] = []
    config = Config()
    try:
        config = load(options.config)
    except InvalidConfig as error:
        wrong.append(str(error))
    for file in _files(options.paths):
        if file.suffix not in (".toml", ".json"):
            wrong.append(f"{file}: expected a test, *{SUFFIX}, or a recording, *{RECORDED}")
            continue
        try:
            if file.suffix == ".json":
                recordings.append((file, decode(file.read_bytes())))
            else:
                chats.append(load_chat(file))
        except InvalidConfig as error:
            wrong.append(str(error))
        except (OSError, ValueError) as error:
            wrong.append(f"{file}: expected a recording of `jsbox replay --save`: {error}")
    if wrong:
        count = sum(text.count("\n") + 1 for text in wrong)
        raise Wrong("\n".join([*wrong, f"jsbox: {count} error{'s' if count > 1 else ''}"]))
    return Plan(config, chats, recordings)


def _files(paths: Sequence[Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            found[path] = None
            continue
        for file in sorted(_within(path)):
            if file.name.endswith((SUFFIX, RECORDED)):
                found[file] = None
    return list(found)


def _within(folder: Path) -> Iterator[Path]:
    """The files in a folder, at any depth."""
    try:
        children = sorted(folder.iterdir())
    except OSError:
        return
    for child in children:
        if child.name.startswith(".") or child.name in LEFT_OUT:
            continue
        if child.is_dir() and not child.is_symlink():
            yield from _within(child)
        elif child.is_file():
            yield child


async def _main(options: Options, plan: Plan, folder: Path, *, watch: bool) -> int:
    from ..chats.session import benches_for, open_benches

    async with AsyncExitStack() as stack:
        opening = open_benches(plan.config, folder, benches_for(len(plan)))
        benches = await stack.enter_async_context(opening)
        if not watch:
            return await _round(options, plan, benches)
        files = _Files(options)
        while True:
            try:
                plan = read(options)
            except Wrong as error:
                click.echo(str(error), err=True)
            else:
                await _round(options, plan, benches)
            click.echo(click.style("waiting for a change; Ctrl-C ends", dim=True))
            await files.changed()


async def _round(options: Options, plan: Plan, benches: Benches) -> int:
    """Play all tests once; return the exit code."""
    from ..chats.report import case_of, junit

    began = trio.current_time()
    broken = await benches.use(plan.config)
    if broken:
        for one in broken:
            click.echo(str(one), err=True)
        return EXIT_CONFIG
    results = await benches.play(plan.chats, _tell, learn=options.update)
    cases = [_updated(result, case_of(result)) for result in results]
    for file, recording in plan.recordings:
        cases.append(await _replayed(file, recording, plan.config, benches))
    seconds = trio.current_time() - began
    unwritten = "" if options.junit is None else _written(options.junit, junit(cases, seconds))
    failed = sum(bool(one.message) for one in cases)
    text = f"{len(cases) - failed} passed" + (f", {failed} failed" if failed else "")
    click.echo(click.style(f"{text} in {seconds:.1f} s", fg="red" if failed else "green"))
    if unwritten:
        click.echo(f"jsbox: {unwritten}", err=True)
    return EXIT_FAILED if failed or unwritten else 0


def _written(file: Path, data: bytes) -> str:
    """Write a file; return why it could not be."""
    try:
        file.write_bytes(data)
    except OSError as error:
        return f"{file} cannot be written: {error.strerror}"
    return ""


def _tell(result: Result) -> None:
    """Show a conversation that went another way."""
    from ..chats.report import lines_of, shown

    if not result.passed:
        click.echo(f"{click.style('FAILED', fg='red')} {shown(result.chat.file)}")
        for line in lines_of(result):
            click.echo(_coloured(visible(line)))


def _updated(result: Result, case: Case) -> Case:
    """Write what the app said into a test; return its case, which has failed if that failed."""
    from ..chats.report import shown
    from ..chats.update import update

    if not result.words:
        return case
    file = shown(result.chat.file)
    if why := update(result.chat, result.words):
        click.echo(f"{click.style('NOT UPDATED', fg='red')} {file}: {why}")
        return evolve(case, message=case.message or f"not updated: {why}")
    count = len(result.words)
    click.echo(f"updated {file}: {count} value{'s' if count > 1 else ''}")
    return case


async def _replayed(file: Path, recording: Recording, config: Config, benches: Benches) -> Case:
    """Play a recording again, and show what the app does otherwise."""
    from ..chats.report import Case, shown

    began = trio.current_time()
    message, lines = await _compared(recording, config, benches)
    if message:
        click.echo(f"{click.style('FAILED', fg='red')} {shown(file)}\n  {visible(message)}")
        for line in lines:
            click.echo(f"    {visible(line)}")
    return Case(file, trio.current_time() - began, message, lines)


async def _compared(
    recording: Recording, config: Config, benches: Benches
) -> tuple[str, Sequence[str]]:
    """What is wrong with a recording played again (empty: nothing), and what is different."""
    from ..errors import BootFailed
    from ..tools.replay import replay
    from .replay import lines_of

    app = config.apps.get(recording.app)
    if app is None:
        return f"the config has no app {recording.app!r}", ()
    try:
        compared = await replay(recording, app, benches.first.service.walls)
    except BaseExceptionGroup as group:
        failed, rest = group.split(BootFailed)
        if failed is None or rest is not None:
            raise
        reason = "; ".join(map(str, leaves(failed)))
        return f"app {app.name} could not be started: {reason}", ()
    if compared.is_same:
        return "", ()
    changed = [line for line in compared.lines if line.kind not in {"same", "varies"}]
    lines = [text for line in changed for text in lines_of(line)]
    then, now = (": ".join(filter(None, one)) for one in (compared.then, compared.now))
    return "the app does something else", [*lines, f"then {then}", f"now  {now}"]


def _coloured(line: str) -> str:
    if not sys.stdout.isatty():
        return line
    colour = {"-": "red", "+": "green"}.get(line.strip()[:1])
    return click.style(line, fg=colour) if line.startswith("    ") and colour else line


class _Files:
    """The files that tests are made of: those named, and those in the config's folder."""

    def __init__(self, options: Options) -> None:
        self._folders = {options.config.parent, *(one for one in options.paths if one.is_dir())}
        self._single = {options.config, *(one for one in options.paths if not one.is_dir())}
        self._seen = self._look()

    def _look(self) -> dict[Path, tuple[int, ...]]:
        found: dict[Path, tuple[int, ...]] = {}
        for file in self._all():
            if len(found) >= WATCHED_MAX:
                break
            try:
                stat = file.stat()
            except OSError:
                continue
            found[file] = (stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size)
        return found

    def _all(self) -> Iterator[Path]:
        yield from self._single
        for folder in self._folders:
            yield from (file for file in _within(folder) if file.suffix in WATCHED)

    async def changed(self) -> None:
        """Wait until one of them has changed since the last look."""
        while True:
            await trio.sleep(WATCH)
            now = await trio.to_thread.run_sync(self._look)
            before, self._seen = self._seen, now
            if now != before:
                return
