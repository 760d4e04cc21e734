"""`jsbox load`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from ..config import Config, InvalidConfig
from ..config.urls import base_problem, gateway_problem, shown_url
from ..host.scratch import scratch_folder
from .client import trust
from .codes import EXIT_CONFIG, EXIT_FAILED, EXIT_UNREACHABLE
from .common import config_option, fail, load_or_exit, must_be_writable, run_or_exit

if TYPE_CHECKING:
    from ..load.campaign import Campaign
    from ..load.compare import Row
    from ..load.run import Target

EXIT_MISSED = 99


@click.command()
@click.argument("campaign_file", metavar="CAMPAIGN", type=click.Path(path_type=Path))
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
    help="The folder for summary.json, report.html, junit.xml, timeline.csv and hdr/.",
)
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    help="The --out of an earlier run, to compare with.",
)
@click.option("--check", "is_check", is_flag=True, help="Only check the campaign, and run nothing.")
@click.option("--no-tui", is_flag=True, help="Lines instead of a screen.")
def load(
    campaign_file: Path,
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

    Exit codes: 0 all thresholds held, 99 one was missed, 1 the generator was late, or nothing was
    measured, so that the run is void.
    """
    from ..load.compare import NoBaseline, read_summary
    from ..load.reading import load_campaign, parse_rate, too_many
    from ..load.schedule import schedule

    if serve and target:
        raise click.UsageError("expected --serve or --target, got both")
    try:
        campaign: Campaign = load_campaign(campaign_file)
        if rate is not None:
            campaign = campaign.at_rate(parse_rate(rate))
        # Only --rate can make it too many: the file was checked as it is.
        if problem := too_many(campaign.run.stages):
            raise click.UsageError(f"--rate: {problem}")
        before = None if baseline is None else read_summary(baseline)
    except InvalidConfig as error:
        click.echo(str(error), err=True)
        count = len(error.problems)
        fail(f"{count} error{'s' if count > 1 else ''} in {campaign_file}", EXIT_CONFIG)
    except (ValueError, NoBaseline) as error:
        raise click.UsageError(str(error)) from error
    where = _target(
        config_file, campaign.run.channel, serve=serve, target=target, admin=admin, app=app_name
    )
    _must_fit(campaign, serve=serve)
    seed = campaign.run.seed if seed is None else seed
    if is_check:
        count = len(schedule(campaign, seed))
        click.echo(f"{campaign_file}: ok; {count} conversations in {campaign.seconds:g} s")
        return

    if out is not None:
        _make_folder(out)

    hold = partial(_hold, campaign, where, seed, out, before, is_plain=no_tui)
    run_or_exit(hold, EXIT_UNREACHABLE)


async def _hold(
    campaign: Campaign,
    where: Target,
    seed: int,
    out: Path | None,
    before: Row | None,
    *,
    is_plain: bool,
) -> int:
    """Hold the conversations, then print and write the results; return the exit code."""
    from rich.console import Console

    from ..load.compare import compare
    from ..load.report import write
    from ..load.run import open_run
    from ..load.screen import conclude, show
    from ..load.summary import summarise

    console = Console(
        markup=False,
        force_terminal=False if is_plain else None,
        width=None if sys.stdout.isatty() else 160,
    )
    with scratch_folder("load") as folder:
        async with open_run(campaign, where, seed, folder) as running:
            stop = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_stop_on_signal, stop)
                nursery.start_soon(show, running, console)
                await running.go(stop)
                nursery.cancel_scope.cancel()
            summary = summarise(running)
    conclude(console, summary, [] if before is None else compare(before, summary))
    if out is not None:
        try:
            write(out, summary, before, running.measures)
        except OSError as error:
            fail(f"--out: {error.filename or out} cannot be written: {error.strerror}")
        console.print(f"report: {out / 'report.html'}", highlight=False, soft_wrap=True)
    return {"passed": 0, "missed": EXIT_MISSED, "void": EXIT_FAILED}[summary["verdict"]]


def _make_folder(out: Path) -> None:
    """Make the folder of the report, or exit: better now than after the run."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"--out: {out} cannot be made: {error.strerror}", 2)
    must_be_writable("--out", out / "summary.json")


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

    if admin is not None:
        _check_url("--admin", "http://HOST:PORT", admin, base_problem)
    if target is not None and target.startswith(("amqp:", "amqps:")):
        return _broker(config_file, channel, target, admin, app)
    if target is not None:
        _check_url("--target", "ws://HOST:PORT/v1 or amqp://HOST/VHOST", target, gateway_problem)
        if app is None and admin is not None and config_file.exists():
            app = _app_of(load_or_exit(config_file), channel)
        return Target(target, admin, app)
    config = load_or_exit(config_file)
    app = app or _app_of(config, channel)
    if serve:
        return Target(app=app, serve=config_file)
    listen_at = config.listen
    url = listen_at.gateway_url(listen_at.gateway.reachable)
    own = listen_at.admin_url(listen_at.admin.reachable)
    return Target(url, admin or own, app, context=trust(config))


def _check_url(option: str, expected: str, url: str, problem_of: Callable[[str], str]) -> None:
    if problem := problem_of(url):
        raise click.UsageError(f"{option}: expected {expected}, got {shown_url(url)}: {problem}")


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
