"""`jsbox load`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from ..config import Config, InvalidConfig
from ..host.scratch import scratch_folder
from .client import reachable, trust
from .common import (
    EXIT_CONFIG,
    EXIT_FAILED,
    EXIT_UNREACHABLE,
    config_option,
    fail,
    load_or_exit,
    run_or_exit,
)

if TYPE_CHECKING:
    from ..load.campaign import Campaign
    from ..load.run import Target

EXIT_MISSED = 99


@click.command()
@click.argument("campaign", type=click.Path(path_type=Path))
@config_option
@click.option(
    "--serve",
    is_flag=True,
    help="Start a server for the config file, with its own data, and load it.",
)
@click.option(
    "--target",
    metavar="URL",
    help="The gateway to load, ws://HOST:PORT/v1 (default: that of the config), or the broker of a"
    " channel of type amqp, amqp://USER:PASSWORD@HOST/VHOST.",
)
@click.option(
    "--admin",
    metavar="URL",
    help="The admin port of --target, for the server's own figures.",
)
@click.option(
    "--app",
    "app_name",
    metavar="NAME",
    help="The app to watch there (default: that of the channel in the config).",
)
@click.option(
    "--rate", metavar="RATE", help='The highest rate, such as "80/s": all stages are scaled to it.'
)
@click.option(
    "--seed", type=int, help="The seed of everything random (default: that of the campaign)."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The folder for summary.json, report.html and junit.xml.",
)
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    help="The --out of an earlier run, to compare with.",
)
@click.option("--check", "is_check", is_flag=True, help="Only check the campaign, and run nothing.")
@click.option("--no-tui", is_flag=True, help="Lines instead of a screen.")
def load(
    campaign: Path,
    config_file: Path,
    serve: bool,
    target: str | None,
    admin: str | None,
    app_name: str | None,
    rate: str | None,
    seed: int | None,
    out: Path | None,
    baseline: Path | None,
    is_check: bool,
    no_tui: bool,
) -> None:
    """Hold the conversations of a campaign at its rate, and check its thresholds.

    Exit codes: 0 all thresholds held, 99 one was missed, 1 the generator was late, so that the run
    is void.
    """
    from ..load.compare import NoBaseline, compare, read_summary
    from ..load.reading import load_campaign, parse_rate
    from ..load.schedule import schedule

    if serve and target:
        raise click.UsageError("expected --serve or --target, got both")
    try:
        one: Campaign = load_campaign(campaign)
        one = one if rate is None else one.at_rate(parse_rate(rate))
        before = None if baseline is None else read_summary(baseline)
    except InvalidConfig as error:
        click.echo(str(error), err=True)
        count = len(error.problems)
        fail(f"{count} error{'s' if count > 1 else ''} in {campaign}", EXIT_CONFIG)
    except (ValueError, NoBaseline) as error:
        raise click.UsageError(str(error)) from error
    where = _target(
        config_file, one.run.channel, serve=serve, target=target, admin=admin, app=app_name
    )
    _must_fit(one, serve=serve)
    if is_check:
        count = len(schedule(one, one.run.seed if seed is None else seed))
        click.echo(f"{campaign}: ok; {count} conversations in {one.seconds:g} s")
        return

    async def main() -> int:
        from rich.console import Console

        from ..load.report import write
        from ..load.run import open_run
        from ..load.screen import conclude, show
        from ..load.summary import summarise

        console = Console(
            markup=False,
            force_terminal=False if no_tui else None,
            width=None if sys.stdout.isatty() else 160,
        )
        with scratch_folder("load") as folder:
            async with open_run(
                one, where, one.run.seed if seed is None else seed, folder
            ) as running:
                stop = trio.Event()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_stop_on_signal, stop)
                    nursery.start_soon(show, running, console)
                    await running.go(stop)
                    nursery.cancel_scope.cancel()
                summary = summarise(running)
        if out is not None:
            write(out, summary, before)
        conclude(console, summary, [] if before is None else compare(before, summary))
        if out is not None:
            console.print(f"report: {out / 'report.html'}", highlight=False, soft_wrap=True)
        return {"passed": 0, "missed": EXIT_MISSED, "void": EXIT_FAILED}[summary["verdict"]]

    run_or_exit(main, EXIT_UNREACHABLE)


def _must_fit(one: Campaign, *, serve: bool) -> None:
    """Exit if a campaign needs what the command line does not give."""
    for fault in one.faults:
        if fault.kind == "drain" and not serve:
            fail("the fault `drain` restarts the server, which needs --serve", EXIT_CONFIG)
    if one.stubs and not serve and not one.run.stubs.port:
        fail(
            "the campaign has stubs: give them a port that the app's http.connect_to names"
            ' ([run] stubs = "127.0.0.1:9000"), or use --serve',
            EXIT_CONFIG,
        )


def _target(
    config_file: Path,
    channel: str,
    *,
    serve: bool,
    target: str | None,
    admin: str | None,
    app: str | None,
) -> Target:
    from ..load.run import Target

    if target is not None and target.startswith(("amqp:", "amqps:")):
        return _broker(config_file, channel, target, admin, app)
    if target is not None:
        if app is None and admin is not None and config_file.exists():
            app = _app_of(load_or_exit(config_file), channel)
        return Target(target, admin, app)
    config = load_or_exit(config_file)
    app = app or _app_of(config, channel)
    if serve:
        return Target(app=app, serve=config_file)
    gateway, own = reachable(config.listen.gateway), reachable(config.listen.admin)
    secure = "" if config.listen.certificate is None else "s"
    url, context = f"ws{secure}://{gateway}/v1", trust(config)
    return Target(url, admin or f"http{secure}://{own}", app, context=context)


def _broker(
    config_file: Path, channel: str, url: str, admin: str | None, app: str | None
) -> Target:
    """The broker at a URL; the connector is that of the channel in the config, if there is one,
    else it is called as the channel.
    """
    from ..config.model import AmqpSide
    from ..config.urls import amqp_problem
    from ..load.run import Target

    if problem := amqp_problem(url):
        raise click.UsageError(f"--target: {problem}")
    side, kind = AmqpSide(channel), "ussd"
    if config_file.exists():
        config = load_or_exit(config_file)
        app = app or _app_of(config, channel)
        known = config.channels[channel]
        side, kind = known.amqp or side, known.transport_type or kind
    return Target(url, admin, app, amqp=(side, kind))


def _app_of(config: Config, channel: str) -> str:
    known = config.channels.get(channel)
    if known is None:
        names = ", ".join(config.channels) or "none"
        fail(f"run.channel: the config has no channel {channel!r}; it has {names}", EXIT_CONFIG)
    return str(known.app)


async def _stop_on_signal(stop: trio.Event) -> None:
    """Stop the run, with its report, at the first Ctrl-C; the second ends the program."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            if stop.is_set():
                raise KeyboardInterrupt
            stop.set()
