"""Checks of the other side of channels of type http: is that a Junebug, does it know the channel,
and where does it post what comes in.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx2

from resources.stores.egress.errors import explain
from resources.text import read_json

from ..config import Config
from ..config.model import Channel
from ..config.urls import without_login
from .finding import Finding

SECONDS = 5.0
ANSWER_MAX = 256 << 10  # bytes
SHOWN_MAX = 200  # characters


def check_junebug(config: Config) -> Iterator[Finding]:
    """Ask the Junebug of every channel of type http about that channel; nothing is sent."""
    for channel in config.channels.values():
        if channel.http is not None:
            yield _check(channel, config)


def _check(channel: Channel, config: Config) -> Finding:
    assert channel.http is not None
    name = channel.name
    shown, auth = without_login(channel.http.url.rstrip("/"))
    try:
        status, body = _get(shown, auth)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        remedy = f"is Junebug running there? channels.{name}.url"
        return Finding(name, "failed", f"{shown} cannot be reached: {explain(error)}", remedy)
    if status in (401, 403):
        remedy = f"channels.{name}.url needs USER:PASSWORD@ before the host, or other ones"
        return Finding(name, "failed", f"{shown} answered {status}", remedy)
    result = body.get("result") if isinstance(body, dict) else None
    if status != 200 or not isinstance(result, dict):  # noqa: PLR2004  # HTTP's
        remedy = "expected a channel of Junebug: its URL ends in /channels/ID"
        return Finding(name, "failed", f"{shown} answered {status}, not a channel", remedy)
    return _compare(name, shown, result, channel, config)


def _get(url: str, auth: tuple[str, str] | None) -> tuple[int, Any]:
    context = ssl.create_default_context()
    with (
        httpx2.Client(auth=auth, verify=context, trust_env=False, timeout=SECONDS) as client,
        client.stream("GET", url, headers={"accept-encoding": "identity"}) as response,
    ):
        text = b""
        for part in response.iter_raw():
            text += part
            if len(text) > ANSWER_MAX:
                raise ValueError(f"its answer has more than {ANSWER_MAX} bytes")
        try:
            return response.status_code, read_json(text)
        except ValueError:
            return response.status_code, None


def _compare(
    name: str, url: str, theirs: dict[str, Any], channel: Channel, config: Config
) -> Finding:
    """Compare where Junebug posts what comes in with where this channel takes it."""
    mo_url, queue = theirs.get("mo_url"), theirs.get("amqp_queue")
    path = f"/channels/{name}/messages"
    host = config.listen.gateway
    if not isinstance(mo_url, str) or not mo_url:
        text = f"{url} is there, but has no mo_url: nothing that users write comes here"
        if queue:
            text = f"{url} has the amqp_queue {str(queue)[:SHOWN_MAX]!r} and no mo_url"
        return Finding(name, "note", text, f"set its mo_url to http://{host}{path}")
    if urlsplit(mo_url).path.rstrip("/") != path:
        text = f"{url} posts to {mo_url[:SHOWN_MAX]!r}, which is not this channel"
        return Finding(name, "note", text, f"set its mo_url to http://{host}{path}")
    if channel.tokens and not theirs.get("mo_url_auth_token"):
        text = f"{url} has no mo_url_auth_token, and this channel has tokens: its posts are refused"
        return Finding(name, "failed", text, "set its mo_url_auth_token to one of them")
    return Finding(name, "ok", f"{url} posts to {mo_url[:SHOWN_MAX]}")
