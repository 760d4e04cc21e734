"""`jsbox dev`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio
from attrs import evolve, frozen

from ..client.phone import Hung, Rejected, open_phone
from ..config import (
    Account,
    Address,
    App,
    Channel,
    Config,
    Http,
    InvalidConfig,
    Problem,
)
from ..config.checks import check
from ..config.json_values import not_json
from ..config.model import Isolation, Level
from ..config.node import BUILTINS, TOOLKITS
from ..config.requires import required
from ..host.scratch import scratch_folder
from .check import look_at_apps
from .common import (
    EXIT_CONFIG,
    fail,
    isolation_option,
    run_or_exit,
    start_logging,
)
from .screen import Screen
from .talk import Talk

if TYPE_CHECKING:  # it imports everything, which `--help` need not wait for
    from ..service import Service

WATCH = 0.3  # seconds between two looks at the app's files
NUMBER = "+27820000001"
SERVICE_CODE = "*120*1#"


@frozen
class Value:
    """A config value given with --set: the text, or the file that has it."""

    key: str
    text: str
    file: Path | None = None

    def read(self) -> str:
        """Return the text. Raises OSError and UnicodeDecodeError."""
        return self.text if self.file is None else self.file.read_text("utf-8-sig")


@frozen
class Options:
    """The options of the command line."""

    app: Path
    config: Path | None
    values: tuple[Value, ...]
    modules_dir: Path | None
    state: Path
    allow: tuple[str, ...]
    isolation: Level


@click.command()
@click.argument("app", type=click.Path(path_type=Path, exists=True, dir_okay=False))
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
@isolation_option
@click.option("--sms", is_flag=True, help="Lines are text messages, not a USSD session.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="warning"
)
def dev(
    app: Path,
    config_json: Path | None,
    pairs: tuple[str, ...],
    modules_dir: Path | None,
    state: Path | None,
    allow: tuple[str, ...],
    isolation: Level,
    sms: bool,
    log_level: str,
) -> None:
    """Talk to your own app: a phone in the terminal, or one message per line of standard input.

    The sandbox and limits are those of production. The app is reloaded when its file changes; the
    conversation goes on.
    """
    start_logging(log_level)
    values = tuple(map(_value, pairs))
    if modules_dir is None:
        modules_dir = next(
            (p / "node_modules" for p in app.absolute().parents if (p / "node_modules").is_dir()),
            None,
        )
    with scratch_folder("dev") as folder:
        where = (state or folder).absolute()
        options = Options(app.absolute(), config_json, values, modules_dir, where, allow, isolation)
        try:
            warnings = _check(make_config(options))
        except InvalidConfig as error:
            fail(str(error), EXIT_CONFIG)
        for warning in warnings:
            click.echo(f"jsbox: warning: {warning}", err=True)
        run_or_exit(partial(_dev, options, sms=sms))


def _check(config: Config) -> list[str]:
    """Look at the app's files before anything is started; return the warnings, and exit if one is
    broken.
    """
    (app,) = config.apps.values()
    called = {name.removeprefix("node:") for name in required(app.source)}
    app = evolve(app, modules=tuple(name for name in app.modules if name in called))
    breakages, warnings = look_at_apps(evolve(config, apps={app.name: app}))
    if breakages:
        fail("\n".join(map(str, breakages)), EXIT_CONFIG)
    return warnings


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


def make_config(options: Options) -> Config:
    """Make the config for one app on one channel. Raises InvalidConfig."""
    files = {one.key: one.file for one in options.values}
    if options.config is not None:
        files.setdefault("config", options.config)
    try:
        source = options.app.read_text("utf-8-sig")
        default = json.dumps({"name": options.app.stem})
        values = {"config": options.config.read_text("utf-8-sig") if options.config else default}
        values |= {one.key: one.read() for one in options.values}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(options.app, [Problem(1, f"cannot be read: {error}")]) from error
    own = _packages(options.modules_dir) if options.modules_dir else ()
    app = App(
        name="app",
        account="dev",
        javascript=options.app,
        source=source,
        modules=(*dict.fromkeys(("vumigo_v01", *TOOLKITS, *BUILTINS, *own)),),
        modules_dir=options.modules_dir,
        config=values,
        endpoints=_endpoints(values["config"]),
        http=Http(allow=options.allow),
    )
    made = Config(
        data_dir=options.state,
        isolation=Isolation(options.isolation),
        accounts={"dev": Account(can_manage_optouts=True)},
        apps={"app": app},
        channels={"phone": Channel("phone", app="app", transport_type="ussd")},
        breakages=tuple(not_json(app, lambda key: (files.get(key) or Path(f"--set {key}"), 1))),
    ).with_listen(Address("127.0.0.1", 0), Address("127.0.0.1", 0))
    made, problems, _ = check(made, {"apps": frozenset({"app"}), "channels": frozenset({"phone"})})
    if problems:
        raise InvalidConfig(
            options.app,
            [Problem(1, f"{'.'.join(map(str, path))}: {text}") for path, text in problems],
        )
    return made


def _packages(modules_dir: Path) -> list[str]:
    """The names of the packages in a node_modules, scoped ones (@scope/name) too."""
    names = sorted(
        folder.name for folder in modules_dir.iterdir() if not folder.name.startswith(".")
    )
    plain = [name for name in names if not name.startswith("@")]
    scopes = [name for name in names if name.startswith("@")]
    return plain + [
        f"{scope}/{folder.name}"
        for scope in scopes
        for folder in sorted((modules_dir / scope).iterdir())
    ]


def _endpoints(config: str) -> dict[str, str]:
    """Connect the app's endpoints to the phone: "default", "sms" and those in its JSON config."""
    try:
        parsed = json.loads(config)
    except json.JSONDecodeError:
        parsed = None
    named = parsed.get("endpoints") if isinstance(parsed, dict) else None
    tag = parsed.get("sms_tag") if isinstance(parsed, dict) else None
    names = ["default", "sms", *(named if isinstance(named, dict) else ())]
    if isinstance(tag, list):
        names.append(":".join(map(str, tag)))
    return dict.fromkeys(names, "phone")


async def _dev(options: Options, *, sms: bool) -> int:
    from ..service import open_service

    screen = Screen()
    read_config = partial(make_config, options)
    watched = _Watched(options)  # before they are read, so that no save is missed
    async with open_service(read_config(), read_config) as service, trio.open_nursery() as nursery:
        if options.config is None and not any(one.key == "config" for one in options.values):
            screen.note(f'note: no --config, so the config is {{"name": "{options.app.stem}"}}')
        screen.note(
            f"{options.app.name}: admin {service.admin_url};"
            f" modules_dir {options.modules_dir or 'none'}; /help for help"
        )
        nursery.start_soon(_watch, watched, service, screen)
        nursery.start_soon(_show_log, service, screen)
        try:
            async with open_phone(service.gateway_url, "phone", NUMBER, SERVICE_CODE) as phone:
                await Talk(phone, screen, sms).run()
        except (Hung, Rejected) as error:
            screen.note(f"the conversation ended: {error}")
            return 1
        finally:
            nursery.cancel_scope.cancel()
    return 0


class _Watched:
    """What the app's files look like, as of the last look."""

    def __init__(self, options: Options) -> None:
        given = (options.app, options.config, *(one.file for one in options.values))
        self._seen = {file: _stamp(file) for file in given if file is not None}

    def have_changed(self) -> bool:
        """Look again; return whether any file is new since then.

        A file that is missing may be about to be replaced: it counts once it is back.
        """
        now = {file: _stamp(file) or seen for file, seen in self._seen.items()}
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
    with service.stores.logbook.follow("dev", "app") as follower:
        async for entry in follower:
            screen.logged(entry.level, entry.message)
