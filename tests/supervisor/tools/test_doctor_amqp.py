"""The doctor at the broker of a channel."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.config import load
from supervisor.tools.doctor_amqp import check_amqp
from supervisor.tools.finding import Finding

from ...service import HEAD
from ..gateway.amqp.broker import Broker, open_broker
from ..gateway.amqp.transport import open_transport


async def examined(folder: Path, *urls: str) -> list[Finding]:
    file = folder / "jsbox.toml"
    quoted = ", ".join(f'"{url}"' for url in urls)
    channel = f'[channels.bulk]\ntype = "amqp"\nname = "bulk"\nurl = [{quoted}]\n'
    file.write_text(HEAD + channel)
    return [one async for one in check_amqp(load(file))]


async def test_a_broker_whose_transport_reads_what_apps_send(tmp_path: Path) -> None:
    """It says what waits there, and takes none of it."""
    async with open_broker() as broker, open_transport(broker.url):
        broker.put("bulk.inbound", b"{}")
        (found,) = await examined(tmp_path, broker.url)
        assert (found.channel, found.status) == ("bulk", "ok")
        assert found.text.endswith("vhost / lets us in; 1 in bulk.inbound")
        assert len(broker.queues["bulk.inbound"]) == 1


async def test_nobody_reads_what_apps_send(tmp_path: Path) -> None:
    """Most likely the connector's name is wrong."""
    async with open_broker() as broker:
        (found,) = await examined(tmp_path, broker.url)
    assert found.status == "note"
    assert "nobody consumes bulk.outbound" in found.text
    assert "channels.bulk.name" in found.remedy


def wrong_password(broker: Broker) -> None:
    broker.password = b"another"


def other_queue(broker: Broker) -> None:
    broker.other_arguments.add("bulk.event")


@pytest.mark.parametrize(
    ("fault", "text", "remedy"),
    [(wrong_password, "password", "channels.bulk.url"), (other_queue, "406", "policy")],
)
async def test_a_broker_that_does_not_let_us(
    tmp_path: Path, fault: object, text: str, remedy: str
) -> None:
    """Each URL is a line of its own."""
    assert callable(fault)
    async with open_broker() as broker:
        fault(broker)
        closed, found = await examined(tmp_path, "amqp://u:s3cret@127.0.0.1:1/%2f", broker.url)
    assert (closed.status, found.status) == ("failed", "failed")
    assert "refused" in closed.text
    assert "s3cret" not in closed.text
    assert text in found.text
    assert remedy in found.remedy


def test_other_commands_leave_brokers_alone(tmp_path: Path) -> None:
    """`jsbox dev` and `jsbox load --serve` must not take real users' messages."""
    file = tmp_path / "jsbox.toml"
    file.write_text(
        HEAD + '[channels.bulk]\ntype = "amqp"\nname = "bulk"\n'
        '[channels.partner]\ntype = "http"\nurl = "http://127.0.0.1:1/channels/x"\n'
    )
    config = load(file)
    for made in (
        config.with_listen(config.listen.gateway, config.listen.admin),
        config.with_local_channels(),
    ):
        assert [one.type for one in made.channels.values()] == ["websocket", "websocket"]
        assert not any(one.amqp or one.http for one in made.channels.values())
