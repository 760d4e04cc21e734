"""The links of channels follow the config: of one channel, never two run at a time."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from attrs import define, evolve

from supervisor.config.model import AmqpSide, Channel
from supervisor.gateway import channels
from supervisor.gateway.channels import open_channels

OLD = Channel("bulk", type="amqp", app="phone", amqp=AmqpSide("bulk"))


@define
class _Slow:
    """A link that says goodbye for as long as the test wants."""

    name: str
    running: list[str]
    goodbye: trio.Event

    async def run(self) -> None:
        self.running.append(self.name)
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await self.goodbye.wait()
            self.running.remove(self.name)


@pytest.mark.parametrize("between", [[], [{}], [{}, {}], [{}, {"bulk": evolve(OLD, app="x")}, {}]])
async def test_a_link_waits_for_the_one_before_it(
    between: list[dict[str, Channel]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the channel was changed, or removed and configured again by later reloads."""
    running: list[str] = []
    goodbye = trio.Event()
    monkeypatch.setattr(
        channels, "make_link", lambda _, channel: _Slow(channel.app, running, goodbye)
    )

    @define
    class Services:
        def channels(self) -> dict[str, Channel]:
            return {"bulk": OLD}

    services: Any = Services()
    async with open_channels(services, lambda _: 0) as opened:
        try:
            await trio.testing.wait_all_tasks_blocked()
            assert running == ["phone"]
            for config in (*between, {"bulk": evolve(OLD, app="new")}):
                opened.follow(config)
                await trio.testing.wait_all_tasks_blocked()
                assert running == ["phone"]
        finally:
            goodbye.set()
        await trio.testing.wait_all_tasks_blocked()
        assert running == ["new"]
        opened.follow({})
        await trio.testing.wait_all_tasks_blocked()
        assert running == []
