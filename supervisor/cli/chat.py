"""`jsbox chat`."""

from __future__ import annotations

import ssl
from pathlib import Path

import click
from trio_websocket import HandshakeError

from ..client.phone import Hung, Rejected, open_phone
from ..client.token import own_token
from ..config import Config
from ..config.urls import gateway_problem, shown_url
from .client import trust
from .codes import EXIT_FAILED, EXIT_UNREACHABLE
from .common import config_option, fail, load_or_exit, run_or_exit, screen_option
from .screen import Screen
from .sizes import SCREENS
from .talk import Talk

NUMBER = "+27820000001"
SERVICE_CODE = "*120*1#"


@click.command()
@click.argument("channel", required=False)
@click.option("--as", "number", default=NUMBER, show_default=True, help="The number of this phone.")
@click.option(
    "--dials",
    default=SERVICE_CODE,
    show_default=True,
    help="What it dials, or sends its messages to.",
)
@screen_option
@click.option("--sms", is_flag=True, help="Lines are text messages, not a USSD session.")
@click.option("--url", help="The gateway, ws://HOST:PORT/v1 (default: that of the config).")
@config_option
def chat(
    *,
    channel: str | None,
    number: str,
    dials: str,
    preset: str,
    sms: bool,
    url: str | None,
    config_file: Path,
) -> None:
    """Talk to an app of a running server, as a user of one of its channels: a phone in the
    terminal, or one line a message from standard input.

    The channel's token, if it has one, is taken from $JSBOX_TOKEN. What the app sends to other
    numbers is left for the channel's own gateway.
    """
    context = None
    if url is not None and (problem := gateway_problem(url)):
        expected = "ws://HOST:PORT/v1"
        raise click.UsageError(f"--url: expected {expected}, got {shown_url(url)}: {problem}")
    if url is None or channel is None:
        config = load_or_exit(config_file)
        channel = channel or _only_channel(config)
        if channel not in config.channels:
            known = ", ".join(config.channels) or "none"
            fail(f"the config has no channel {channel!r}; it has {known}", 2)
        if url is None:
            url = config.listen.gateway_url(config.listen.gateway.reachable)
            context = trust(config)
    screen = Screen(SCREENS[preset])
    run_or_exit(lambda: _chat(url, context, channel, number, dials, screen, sms=sms))


def _only_channel(config: Config) -> str:
    names = [name for name, one in config.channels.items() if one.app]
    if len(names) == 1:
        return names[0]
    return fail(
        f"CHANNEL: expected one of {', '.join(names)}"
        if names
        else "the config has no channel that leads to an app",
        2,
    )


async def _chat(
    url: str,
    context: ssl.SSLContext | None,
    channel: str,
    number: str,
    dials: str,
    screen: Screen,
    *,
    sms: bool,
) -> int:
    token = own_token()
    try:
        async with open_phone(
            url, channel, number, dials, token, only_own=True, context=context
        ) as phone:
            screen.note(f"{channel} at {url}; /help for help")
            return 0 if await Talk(phone, screen, sms).run() else EXIT_FAILED
    except (Hung, Rejected) as error:
        screen.note(f"the conversation ended: {error}")
        return EXIT_FAILED
    except (OSError, HandshakeError) as error:
        fail(
            f"the gateway at {url} cannot be reached: {error}; is `jsbox serve` running?",
            EXIT_UNREACHABLE,
        )
