"""`jsbox dev`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio
from attrs import frozen

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
from ..config.model import Isolation, Level
from ..config.node import BUILTINS, TOOLKITS
from ..host.scratch import scratch_folder
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
class Options:
    """The options of the command line."""

    app: Path
    config: Path | None
    values: tuple[tuple[str, str], ...]
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
    values = tuple(_pair(text) for text in pairs)
    if modules_dir is None:
        modules_dir = next(
            (p / "node_modules" for p in app.absolute().parents if (p / "node_modules").is_dir()),
            None,
        )
    with scratch_folder("dev") as folder:
        where = (state or folder).absolute()
        options = Options(app.absolute(), config_json, values, modules_dir, where, allow, isolation)
        try:
            make_config(options)
        except InvalidConfig as error:
            fail(str(error), EXIT_CONFIG)
        run_or_exit(partial(_dev, options, sms=sms))


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"expected KEY=VALUE, got {text!r}", param_hint="--set")
    if value.startswith("@"):
        try:
            value = Path(value[1:]).read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise click.BadParameter(
                f"cannot read {value[1:]}: {error}", param_hint="--set"
            ) from error
    return key, value


def make_config(options: Options) -> Config:
    """Make the config for one app on one channel. Raises InvalidConfig."""
    try:
        source = options.app.read_text("utf-8-sig")
        default = json.dumps({"name": options.app.stem})
        config = {"config": options.config.read_text("utf-8-sig") if options.config else default}
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
        config=config | dict(options.values),
        endpoints=_endpoints((config | dict(options.values))["config"]),
        http=Http(allow=options.allow),
    )
    made = Config(
        data_dir=options.state,
        isolation=Isolation(options.isolation),
        accounts={"dev": Account()},
        apps={"app": app},
        channels={"phone": Channel("phone", app="app", transport_type="ussd")},
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
    async with open_service(read_config(), read_config) as service, trio.open_nursery() as nursery:
        if options.config is None and not any(key == "config" for key, _ in options.values):
            screen.note(f'note: no --config, so the config is {{"name": "{options.app.stem}"}}')
        screen.note(
            f"{options.app.name}: admin {service.admin_url};"
            f" modules_dir {options.modules_dir or 'none'}; /help for help"
        )
        nursery.start_soon(_watch, options, service, screen)
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


async def _watch(options: Options, service: Service, screen: Screen) -> None:
    """Reload when one of the app's files changes."""
    files = [file for file in (options.app, options.config) if file is not None]
    before = [_stamp(file) for file in files]
    while True:
        await trio.sleep(WATCH)
        now = [_stamp(file) for file in files]
        if now != before and None not in now:
            before = now
            result = await service.reload()
            screen.note("the app was reloaded" if result["ok"] else "; ".join(result["errors"]))


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        stat = file.stat()
    except OSError:
        return None  # an editor is replacing it
    return stat.st_mtime_ns, stat.st_size


async def _show_log(service: Service, screen: Screen) -> None:
    """Show the app's log as it is written."""
    with service.stores.logbook.follow("dev", "app") as follower:
        async for entry in follower:
            screen.logged(entry.level, entry.message)
