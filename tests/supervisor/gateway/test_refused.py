"""Clients that keep being refused are seen: in the log, bounded, in /readyz, per channel, and in
the metrics.
"""

from __future__ import annotations

import logging

import pytest
import trio

from supervisor.config.model import Channel
from supervisor.gateway import refused
from supervisor.gateway.refused import UNKNOWN, Refused
from supervisor.service import Service

from ...gateway_client import connect
from ..admin.admin_client import ask

CHANNELS = {name: Channel(name=name) for name in ("phone", "bulk")}


async def test_few_are_a_mistake_and_many_a_problem_until_they_are_old(
    autojump_clock: trio.testing.MockClock,
) -> None:
    seen = Refused()
    for number in range(refused.MANY):
        assert list(seen.problems(CHANNELS)) == []
        seen.note("phone", f"10.0.0.{number}", "channel phone: the token is not known")
    text = (
        "clients were refused 3 times in 10 minutes, the last at 10.0.0.2: channel phone: the token"
        " is not known"
    )
    assert list(seen.problems(CHANNELS)) == [("phone", text)]
    assert (seen.problem("phone"), seen.problem("bulk")) == (text, "")
    await trio.sleep(refused.WITHIN + 1)
    assert list(seen.problems(CHANNELS)) == []


async def test_who_gets_in_at_last_is_no_problem_any_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    seen = Refused()
    for address in ("10.0.0.1",) * 5 + ("10.0.0.2",) * 3:
        seen.note("phone", address, "why")
    seen.let_in("bulk", "10.0.0.1")
    seen.let_in("phone", "10.0.0.1")
    assert "refused 3 times" in seen.problem("phone"), "the other one still tries"
    seen.let_in("phone", "10.0.0.2")
    assert seen.problem("phone") == ""


async def test_a_channel_that_a_reload_removes_is_forgotten(
    autojump_clock: trio.testing.MockClock,
) -> None:
    seen = Refused()
    for name in ("phone", UNKNOWN):
        for _ in range(3):
            seen.note(name, "::1", "why")
    assert [name for name, _ in seen.problems({})] == [UNKNOWN]
    assert [name for name, _ in seen.problems(CHANNELS)] == [UNKNOWN]


async def test_what_is_kept_and_logged_is_bounded(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """However fast somebody guesses; texts of clients are harmless."""
    caplog.set_level(logging.WARNING, logger="supervisor.gateway.refused")
    seen = Refused()
    for _ in range(5000):
        seen.note(UNKNOWN, "10.0.0.1", "there is no channel \x1b[2J" + "x" * 9999)
    assert len(caplog.messages) == 1
    assert "1000 or more times" in seen.problem(UNKNOWN)
    await trio.sleep(refused.LOGGED_EVERY)
    seen.note(UNKNOWN, "10.0.0.1", "again")
    assert "(5000 times since the last such line)" in caplog.messages[1]
    assert "\x1b" not in caplog.text + seen.problem(UNKNOWN)
    assert len(caplog.messages[0]) < 500


async def test_operators_see_which_channel_and_why(service: Service) -> None:
    for hello, channel in ((None, "secret"), ("wrong", "secret"), ("wrong", "phon")):
        for _ in range(3):
            async with connect(service.gateway_url, None) as client:
                await client.send({"type": "hello", "channel": channel, "token": hello})
                assert await client.expect_close() == (4403 if channel == "phon" else 4401)
    _, ready = await ask(service, "GET", "/readyz")
    assert "clients secret: clients were refused 6 times in 10 minutes" in ready
    assert "the last at 127.0.0.1: channel secret: the token is not known" in ready
    assert "there is no channel 'phon'" in ready
    _, found = await ask(service, "GET", "/v1/channels")
    (secret,) = [one for one in found["channels"] if one["name"] == "secret"]
    assert "refused 6 times" in secret["refused"]
    _, overview = await ask(service, "GET", "/v1/overview")
    troubles = {(one["what"], one["channel"]) for one in overview["troubles"]}
    assert {("clients", "secret"), ("clients", None)} <= troubles
    _, metrics = await ask(service, "GET", "/metrics")
    assert 'jsbox_gateway_refused_total{channel="secret",reason="token"} 6.0' in metrics
    assert 'jsbox_gateway_refused_total{channel="",reason="channel"} 3.0' in metrics
    async with connect(service.gateway_url, "secret", token="tok-1"):
        pass
    _, ready = await ask(service, "GET", "/readyz")
    assert "clients secret" not in ready
