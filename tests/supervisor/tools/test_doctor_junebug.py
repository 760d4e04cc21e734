"""`jsbox doctor` on channels of type http: what it says of the other side."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import trio

from supervisor.config import load
from supervisor.tools.doctor_junebug import Finding, check_junebug

from ...junebug import Reply, junebug
from ...programs import free_ports

DIGEST = hashlib.sha256(b"open sesame").hexdigest()
OURS = "http://127.0.0.1:8430/channels/menu/messages"


async def found(path: Path, url: str, more: str = "") -> Finding:
    file = path / "jsbox.toml"
    file.write_text(f'[channels.menu]\ntype = "http"\nurl = "{url}"\n{more}[channels.phone]\n')
    config = load(file)
    (one,) = await trio.to_thread.run_sync(lambda: list(check_junebug(config)))
    assert one.channel == "menu"
    return one


@pytest.mark.parametrize(
    ("body", "more", "status", "text"),
    [
        ({"mo_url": OURS}, "", "ok", f"posts to {OURS}"),
        (
            {"mo_url": OURS + "/", "mo_url_auth_token": "x"},
            f'tokens = ["{DIGEST}"]\n',
            "ok",
            "posts",
        ),
        ({"mo_url": OURS}, f'tokens = ["{DIGEST}"]\n', "failed", "its posts are refused"),
        ({"mo_url": "http://other/in"}, "", "note", "'http://other/in', which is not this channel"),
        ({"amqp_queue": "q"}, "", "note", "has the amqp_queue 'q' and no mo_url"),
        ({}, "", "note", "has no mo_url"),
        ({"mo_url": 5}, "", "note", "has no mo_url"),
    ],
)
async def test_a_channel_of_junebug(
    tmp_path: Path, body: dict[str, Any], more: str, status: str, text: str
) -> None:
    """Whether it posts here, with a token if this channel wants one."""
    async with junebug() as june:
        june.described = Reply(200, body={"result": body})
        one = await found(tmp_path, june.url.replace("//", "//user:secret@"), more)
    assert (one.status, text in one.text) == (status, True), one
    assert "secret" not in one.text + one.remedy
    assert bool(one.remedy) == (status != "ok")


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Reply(404), "answered 404, not a channel"),
        (Reply(200, body=b"<html>"), "answered 200, not a channel"),
        (Reply(200, body=b"[" * 1000), "answered 200, not a channel"),
        (Reply(200, body=[1]), "answered 200, not a channel"),
        (Reply(401), "answered 401"),
        (Reply(raw=b"nonsense\r\n\r\n"), "cannot be reached"),
        (Reply(200, body=b"x" * 300_000), "its answer has more than"),
    ],
)
async def test_what_is_no_channel(tmp_path: Path, reply: Reply, text: str) -> None:
    """Each is a failure with a remedy."""
    async with junebug() as june:
        june.described = reply
        one = await found(tmp_path, june.url)
    assert (one.status, text in one.text) == ("failed", True), one
    assert one.remedy


async def test_a_junebug_that_is_not_there(tmp_path: Path) -> None:
    """It names the URL."""
    (port,) = free_ports(1)
    one = await found(tmp_path, f"http://127.0.0.1:{port}/channels/x")
    assert one.status == "failed"
    assert one.text.startswith(f"http://127.0.0.1:{port}/channels/x cannot be reached: ")


def test_an_event_url_that_junebug_cannot_reach_is_a_warning(tmp_path: Path) -> None:
    """Of check: the gateway is on loopback or everywhere, and Junebug is elsewhere."""
    file = tmp_path / "jsbox.toml"
    text = '[listen]\ngateway = "%s:8430"\n[channels.c]\ntype = "http"\nurl = "http://%s/x"\n%s'
    for gateway, host, more, is_warned in (
        ("127.0.0.1", "junebug", "", True),
        ("0.0.0.0", "junebug", "", True),
        ("10.0.0.1", "junebug", "", False),
        ("127.0.0.1", "localhost", "", False),
        ("0.0.0.0", "127.0.0.1", "", False),
        ("0.0.0.0", "junebug", 'event_url = "http://jsbox/channels/c/events"', False),
    ):
        file.write_text(text % (gateway, host, more))
        warned = any("set event_url" in one for one in load(file).warnings)
        assert warned == is_warned, (gateway, host, more)
