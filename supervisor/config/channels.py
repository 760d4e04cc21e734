"""Checks of [channels.NAME]."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from urllib.parse import urlsplit

from .found import Found, look, token_problems
from .model import AmqpSide, Channel, Config, HttpSide
from .units import Address, show
from .urls import amqp_problem, base_problem, http_problem, shown_url

QUEUE_MAX = 200  # bytes of a connector's name; the names of its queues have up to 255
EXCHANGE_MAX = 127  # bytes
PREFETCH_MAX = 65_535  # what AMQP can say


def channel_problems(channel: Channel, declared: Mapping[str, frozenset[str]]) -> Found:
    """Yield what is wrong with a channel, at paths below its own."""
    if channel.app and channel.app not in declared["apps"]:
        yield ("app",), f"there is no [apps.{channel.app}]"
    yield from token_problems(channel.tokens, ("tokens",))
    if channel.amqp is not None:
        yield from _amqp(channel.amqp)
    if channel.http is not None:
        yield from _http(channel.http)


def _amqp(side: AmqpSide) -> Found:
    for index, url in enumerate(side.url):
        yield from look(("url", index), partial(_broker, url))
    names = (("name", side.name, QUEUE_MAX), ("exchange", side.exchange, EXCHANGE_MAX))
    for key, text, most in names:
        if not 0 < len(text.encode()) <= most or not text.isprintable():
            yield (
                (key,),
                f"expected 1 to {most} bytes without control characters, got {show(text)}",
            )
    if side.prefetch > PREFETCH_MAX:
        yield ("prefetch",), f"expected at most {PREFETCH_MAX}, got {side.prefetch}"


def _broker(url: str) -> str | None:
    problem = amqp_problem(url)
    form = "amqp://USER:PASSWORD@HOST/VHOST"
    return (
        f'expected a URL such as "{form}", got {show(shown_url(url))}: {problem}'
        if problem
        else None
    )


def _http(side: HttpSide) -> Found:
    yield from look(("url",), partial(_junebug, side.url))
    if side.event_url:
        yield from look(("event_url",), partial(_event_url, side.event_url))


def _junebug(url: str) -> str | None:
    problem = base_problem(url)
    form = "http://junebug:8080/channels/ID"
    return (
        f'expected a URL such as "{form}", got {show(shown_url(url))}: {problem}'
        if problem
        else None
    )


def _event_url(url: str) -> str | None:
    problem = http_problem(url)
    return f"expected a URL, got {show(shown_url(url))}: {problem}" if problem else None


def channel_warnings(config: Config) -> Iterator[str]:
    """Yield what an operator should know about the channels, although they are valid."""
    gateway = config.listen.gateway
    if not gateway.is_loopback and config.listen.certificate is None:
        yield (
            f"listen.gateway = {gateway} can be reached from other hosts, and messages and tokens"
            " go there in the clear: set listen.certificate and listen.key"
        )
    for channel in config.channels.values():
        yield from _events(channel, gateway)
        if not gateway.is_loopback and not channel.tokens and channel.type != "amqp":
            yield f"channels.{channel.name} has no tokens: only clients on this host may use it"


def _events(channel: Channel, gateway: Address) -> Iterator[str]:
    if channel.http is None or channel.http.event_url:
        return
    junebug = Address(urlsplit(channel.http.url).hostname or "", 0)
    if not junebug.is_loopback and gateway.reachable.is_loopback:  # where event_url is by default
        yield (
            f"channels.{channel.name}: Junebug at {junebug.host} cannot post events to"
            f" listen.gateway = {gateway}: set event_url"
        )
