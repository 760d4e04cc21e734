"""`jsbox dev`."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio
from attrs import evolve

from ..client.phone import Hung, Rejected, open_phone
from ..config import Config, InvalidConfig
from ..config.model import Level
from ..config.requires import required
from ..host.scratch import scratch_folder
from .check import look_at_apps
from .codes import EXIT_CONFIG, EXIT_FAILED
from .common import fail, isolation_option, run_or_exit, screen_option, start_logging
from .debugged import HOST, PAUSE, PORT, debugged
from .dev_config import (
    TOML,
    Options,
    Value,
    files_of,
    find_app,
    find_modules,
    make_config,
    no_config,
)
from .gruntfile import NAME as GRUNTFILE
from .gruntfile import Gruntfile, find_gruntfile
from .installing import folder_for, missing, specifications
from .installing import install as install_packages
from .peek import Peek
from .screen import Screen
from .sizes import SCREENS
from .talk import Talk

if TYPE_CHECKING:  # it imports everything, which `--help` need not wait for
    from ..service import Service

WATCH = 0.3  # seconds between two looks at the app's files
NUMBER = "+27820000001"
INSPECT = (
    "debugger: attach to {} (chrome://inspect), then /new; the app runs at isolation level none,"
    " with hardly any limits"
)
MODULE = (
    "An app is one script, and no module: it sets api.on_inbound_message (docs/first-app.md). A"
    " bundler such as esbuild makes a script of modules."
)
HINTS = {
    "ReferenceError: go is not defined": "This looks like one of the sources that a Gruntfile.js"
    " puts together: try `jsbox dev FOLDER`",
    "ReferenceError: exports is not defined": MODULE,
    "ReferenceError: module is not defined": MODULE,
    "SyntaxError: Cannot use import statement outside a module": MODULE,
    "SyntaxError: Unexpected token 'export'": MODULE,
}
"""What may help, by what an error says."""
SLACK = 5.0  # seconds beyond its limits that a run's end is waited for
SERVICE_CODE = "*120*1#"


@click.command()
@click.argument("app", type=click.Path(path_type=Path, exists=True), default=".")
@click.option("--app", "name", default="", help="Which app, if a jsbox.toml has several.")
@click.option(
    "--config",
    "config_json",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The app's config (key 'config').",
)
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="Another config key; VALUE may be @FILE.",
)
@click.option(
    "--modules-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The app's node_modules.",
)
@click.option(
    "--install",
    is_flag=True,
    help="Have npm install what the app requires and has not, into a folder of our own.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the data here; by default it is deleted.",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="HOST",
    help="A host or network that http may reach besides public ones.",
)
@click.option(
    "--connect-to",
    "instead",
    multiple=True,
    metavar="HOST=URL",
    help="Where requests to a host go instead, such as hub.example.org=http://127.0.0.1:9000.",
)
@click.option(
    "--stubs",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help='A file with back ends, [stub."URL"], as in a test or a campaign; --connect-to comes'
    " first.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="The port of the web console; by default any that is free.",
)
@click.option(
    "--inspect",
    is_flag=True,
    help="Let a debugger attach (Chrome: chrome://inspect; VS Code: attach), at isolation level"
    " none: for your own code.",
)
@click.option(
    "--inspect-port",
    type=click.IntRange(1, 65535),
    default=PORT,
    show_default=True,
    help="Where.",
)
@isolation_option
@screen_option
@click.option("--sms", is_flag=True, help="Lines are text messages, not a USSD session.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="warning"
)
def dev(
    app: Path,
    name: str,
    config_json: Path | None,
    pairs: tuple[str, ...],
    modules_dir: Path | None,
    install: bool,
    state: Path | None,
    allow: tuple[str, ...],
    instead: tuple[str, ...],
    stubs: Path | None,
    port: int | None,
    inspect: bool,
    inspect_port: int,
    isolation: Level,
    preset: str,
    sms: bool,
    log_level: str,
) -> None:
    """Talk to your own app: a phone in the terminal, or one message per line of standard input.

    APP is a JavaScript file, a jsbox.toml, or a folder (by default this one) that has a jsbox.toml,
    a Gruntfile.js whose concat task builds the app, a package.json with `main`, or an app.js. The
    app of a jsbox.toml gets the config that it has when it is served; all its endpoints lead to the
    phone. That of a Gruntfile.js is built from its sources, without grunt; nothing is written.

    The sandbox and limits are those of production. The app is reloaded when one of its files
    changes, and the conversation goes on.
    """
    start_logging(log_level)
    if inspect:
        isolation = _level_to_inspect(isolation)
    values = tuple(map(_value, pairs))
    found, gruntfile = _find(app)
    if install and (modules_dir is not None or found.suffix == ".toml"):
        text = "--install is for an app without a modules_dir: run npm install there"
        raise click.UsageError(text)
    if modules_dir is None and found.suffix != ".toml":
        modules_dir = find_modules(found)
    with scratch_folder("dev") as folder:
        options = Options(
            app=found.absolute(),
            config=config_json,
            values=values,
            modules_dir=modules_dir,
            state=(state or folder).absolute(),
            allow=allow,
            isolation=isolation,
            name=name,
            connect_to=dict(map(_instead, instead)),
            gruntfile=gruntfile,
            port=port or 0,
            stubs=stubs,
            inspect=inspect_port if inspect else None,
        )
        try:
            _check_stubs(stubs)
            if install:
                options = _installed(options)
            _check(make_config(options), may_install=not options.is_toml)
        except InvalidConfig as error:
            fail(str(error), EXIT_CONFIG)
        run_or_exit(partial(_dev, options, Screen(SCREENS[preset]), sms=sms))


def _find(app: Path) -> tuple[Path, Gruntfile | None]:
    """The file of the app that is meant, and the Gruntfile if that builds it; exit if there is
    none.
    """
    gruntfile = _gruntfile(app)
    found = gruntfile.file if gruntfile is not None else find_app(app)
    if found is None:
        expected = f"{TOML}, {GRUNTFILE}, a package.json with `main`, or app.js"
        fail(f"{app}: expected {expected} in it", 2)
    return found, gruntfile


def _level_to_inspect(asked: Level) -> Level:
    source = click.get_current_context().get_parameter_source("isolation")
    if asked != "none" and source is click.core.ParameterSource.COMMANDLINE:
        text = f"a debugger needs --isolation none, got {asked}: a jail would keep it out"
        raise click.UsageError(text)
    return "none"


def _installed(options: Options) -> Options:
    """Install what the app requires and has not; return the options to find it. Raises
    InvalidConfig.
    """
    from ..host.version import node_path

    (app,) = make_config(options).apps.values()
    if not missing(app):
        return options
    folder = folder_for(app)
    modules_dir = folder / "node_modules"
    if missing(evolve(app, modules_dir=modules_dir)):
        click.echo(f"npm install {' '.join(specifications(app))} into {folder}", err=True)
        modules_dir = install_packages(app, folder, node_path(Config()))
    return evolve(options, modules_dir=modules_dir)


def _check_stubs(file: Path | None) -> None:
    if file is not None:
        from .back_ends import read_stubs

        read_stubs(file)


def _gruntfile(given: Path) -> Gruntfile | None:
    """What builds the app of a folder, or of a Gruntfile.js that was named itself."""
    from ..host.version import node_path

    if given.is_dir():
        has_toml = (given / TOML).is_file()
        return None if has_toml else find_gruntfile(given, node_path(Config()))
    return Gruntfile(given.absolute(), node_path(Config())) if given.name == GRUNTFILE else None


def _check(config: Config, *, may_install: bool) -> None:
    """Look at the app's files before anything is started: print the warnings, and exit if one is
    broken.
    """
    (app,) = config.apps.values()
    called = {name.removeprefix("node:") for name in required(app.source)}
    app = evolve(app, modules=tuple(name for name in app.modules if name in called))
    breakages, warnings = look_at_apps(evolve(config, apps={app.name: app}))
    for warning in warnings:
        click.echo(f"jsbox: warning: {warning}", err=True)
    if may_install and missing(app):
        click.echo("jsbox: --install has npm install what is missing", err=True)
    if breakages:
        told = "\n".join(map(str, breakages))
        hints = dict.fromkeys(hint for said, hint in HINTS.items() if said in told)
        fail("\n".join([told, *hints]), EXIT_CONFIG)


def _value(text: str) -> Value:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"expected KEY=VALUE, got {text!r}", param_hint="--set")
    if not value.startswith("@"):
        return Value(key, value)
    found = Value(key, "", Path(value[1:]))
    try:
        found.read()
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"cannot read {value[1:]}: {error}", param_hint="--set") from error
    return found


def _instead(text: str) -> tuple[str, str]:
    host, equals, url = text.partition("=")
    if not host or not equals or "://" not in url:
        expected = f"expected HOST=URL, got {text!r}"
        raise click.BadParameter(expected, param_hint="--connect-to")
    return host, url


async def _dev(options: Options, screen: Screen, *, sms: bool) -> int:
    from ..service import open_service
    from .back_ends import open_back_ends

    watched = _Watched(options)  # before they are read, so that no save is missed
    async with AsyncExitStack() as stack:
        back_ends = await stack.enter_async_context(open_back_ends(options.stubs))

        def read_config() -> Config:
            config = back_ends.put_into(make_config(options))
            return config if options.inspect is None else debugged(config, options.inspect)

        service = await stack.enter_async_context(open_service(read_config(), read_config))
        nursery = await stack.enter_async_context(trio.open_nursery())
        (app,) = service.config.apps.values()
        has_config = options.is_toml or options.config is not None
        if not has_config and not any(one.key == "config" for one in options.values):
            screen.note(no_config(options, app.javascript.stem))
        screen.note(
            f"{app.javascript.name}: console {service.admin_url};"
            f" modules_dir {app.modules_dir or 'none'}; /help for help"
        )
        if options.gruntfile is not None and (gone := options.gruntfile.missing):
            screen.note(f"note: {options.app} names {', '.join(gone)}, which is not there")
        if options.inspect is not None:
            screen.note(INSPECT.format(f"{HOST}:{options.inspect}"))
        nursery.start_soon(_watch, watched, service, screen)
        nursery.start_soon(_show_log, service, screen)
        try:
            async with open_phone(service.gateway_url, "phone", NUMBER, SERVICE_CODE) as phone:
                longest = app.limits.boot + app.limits.wall + SLACK
                phone.patience = PAUSE if options.inspect is not None else longest
                is_well = await Talk(phone, screen, sms, Peek(service)).run()
                return 0 if is_well else EXIT_FAILED
        except (Hung, Rejected) as error:
            screen.note(f"the conversation ended: {error}")
            return 1
        finally:
            nursery.cancel_scope.cancel()


class _Watched:
    """What the app's files look like, as of the last look."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._seen = {file: _stamp(file) for file in files_of(options)}

    def have_changed(self) -> bool:
        """Look again; return whether any file is new since then.

        A file that is missing may be about to be replaced: it counts once it is back.
        """
        now = {file: _stamp(file) or self._seen.get(file) for file in files_of(self._options)}
        before, self._seen = self._seen, now
        return now != before


async def _watch(watched: _Watched, service: Service, screen: Screen) -> None:
    """Reload when one of the app's files changes."""
    while True:
        await trio.sleep(WATCH)
        if watched.have_changed():
            result = await service.reload()
            if result["ok"]:
                screen.note("the app was reloaded")
            else:
                screen.logged("ERROR", "\n".join(result["errors"]))
                screen.note("the app was not reloaded: it goes on as it was")


def _stamp(file: Path) -> tuple[int, ...] | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    # The inode and the time of the last change, too: `cp -p` and `mv` may leave a file of the same
    # size and time.
    return stat.st_ino, stat.st_ctime_ns, stat.st_mtime_ns, stat.st_size


async def _show_log(service: Service, screen: Screen) -> None:
    """Show the app's log as it is written."""
    (app,) = service.config.apps.values()
    with service.stores.logbook.follow(app.account, app.name) as follower:
        async for entry in follower:
            screen.logged(entry.level, entry.message)
