"""`jsbox migrate`: from the old engine to this one."""

from __future__ import annotations

from pathlib import Path

import attrs
import click

from ..config.units import show
from ..config.urls import redis_problem, shown_url
from .codes import EXIT_CONFIG
from .common import config_option, fail, json_option, load_or_exit, print_json, run_or_exit

KINDS = ("redis://", "rediss://", "unix://")  # of the old server's URL


@click.group()
def migrate() -> None:
    """Bring an app, and its data, from vxsandbox (or Vumi Go's jsbox)."""


@migrate.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", help="The name of the app (default: that of the file).")
@click.option(
    "--env-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The container's environment, whose VUMI_OPT_... are options.",
)
@click.option(
    "--map",
    "maps",
    multiple=True,
    metavar="OLD=NEW",
    help="A path of the container, and where it is here: /config=./config. May be repeated.",
)
@click.option(
    "--modules-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The app's node_modules (default: the folder of that name beside the app).",
)
@click.option("--transport-type", help="Of messages that the app sends: ussd, sms, ...")
@click.option("--amqp", "broker", metavar="URL", help="RabbitMQ, if not as in the environment.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the config there, and check it.",
)
def vxsandbox(
    *,
    file: Path,
    name: str | None,
    env_file: Path | None,
    maps: tuple[str, ...],
    modules_dir: Path | None,
    transport_type: str | None,
    broker: str | None,
    output: Path | None,
) -> None:
    """Convert the YAML of a worker to a jsbox.toml, and report every decision.

    Relative paths of the worker are taken from the folder of the output, then from that of FILE.
    An unknown key is an error: the exit code is then 3, and nothing is written.
    """
    from ..tools.vxsandbox import CannotMigrate, Options, Places, read_env, valid_name
    from ..tools.vxsandbox import migrate as convert

    folder = Path() if output is None else output.parent
    pairs = [_pair(one) for one in maps]
    try:
        environment = read_env(env_file.read_text("utf-8-sig")) if env_file is not None else {}
        options = Options(
            name=name or valid_name(file.stem),
            environment=environment,
            places=Places(folder, file.parent, tuple(pairs)),
            modules_dir=modules_dir,
            transport_type=transport_type,
            broker=broker,
        )
        migrated = convert(file.read_text("utf-8-sig"), options)
    except CannotMigrate as error:
        for line in str(error).splitlines():
            click.echo(f"{file}: {line}", err=True)
        fail(f"{file} cannot be converted; nothing was written", EXIT_CONFIG)
    except (OSError, UnicodeDecodeError) as error:
        fail(f"cannot be read: {error}")
    if output is None:
        click.echo(migrated.text, nl=False)
        return
    for decision in migrated.decisions:
        click.echo(decision)
    output.write_text(migrated.text, "utf-8")
    click.echo(f"written: {output}")
    load_or_exit(output)


def _pair(text: str) -> tuple[str, Path]:
    old, sign, new = text.partition("=")
    if not sign or not old or not new:
        raise click.BadParameter(f"expected OLD=NEW, got {text!r}", param_hint="--map")
    return old, Path(new)


@migrate.command()
@click.argument("account")
@click.option("--redis", "url", required=True, metavar="URL", help="The old server.")
@click.option("--prefix", default="", help="The old redis_manager.key_prefix.")
@click.option("--sandbox-id", required=True, help="The old sandbox_id.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@config_option
@json_option
def kv(
    *,
    account: str,
    url: str,
    prefix: str,
    sandbox_id: str,
    dry_run: bool,
    config_file: Path,
    as_json: bool,
) -> None:
    """Copy the key-value data of an old sandbox to an account, with the lifetimes.

    Keys that exist already are kept, so that it can be repeated. The server may be running; the old
    one is only read.
    """
    import redis as client

    from ..tools.migrate_kv import copy_kv

    problem = redis_problem(url)
    if problem or not url.startswith(KINDS):
        expected = f"expected {', '.join(KINDS)}, got {show(shown_url(url))}"
        raise click.BadParameter(
            f"{expected}: {problem}" if problem else expected, param_hint="--redis"
        )
    config = load_or_exit(config_file)
    if account not in config.account_names:
        names = ", ".join(config.account_names) or "none"
        fail(f"the config has no account {account!r}; it has {names}")

    async def main() -> int:
        try:
            done = await copy_kv(
                config,
                account,
                url,
                prefix,
                sandbox_id,
                dry_run=dry_run,
                report=lambda text: click.echo(text, err=True),
            )
        except* client.RedisError as errors:
            fail(f"the old server: {errors.exceptions[0]}")
        if as_json:
            print_json(attrs.asdict(done))
        else:
            word = "would be copied" if dry_run else "copied"
            click.echo(
                f"{done.copied} keys {word}, {done.kept} exist already,"
                f" {done.wrong} do not hold JSON, {done.full} are over the quota"
            )
        return 1 if done.wrong or done.full else 0

    run_or_exit(main)
