"""What a gateway keeps of its clients, seen from within, and whether it serves others."""

from __future__ import annotations

from supervisor.service import Service

from ...gateway_client import connect


async def assert_serves(service: Service) -> None:
    """Assert that another client is answered."""
    async with connect(service.gateway_url) as client:
        assert (await client.say("still there"))[0]["outcome"] == "ok"


def queued(service: Service) -> int:
    """Bytes of frames that wait for clients."""
    return sum(connection._socket.queued for connection in service.gateway._connections)


def is_empty(service: Service) -> bool:
    """Whether nothing is kept of clients that have left."""
    outlet = service.deliveries.outlet("phone")
    return (
        service.gateway.door.open == 0
        and not service.gateway.door._by_address
        and not service.gateway._connections
        and not service.gateway._greetings
        and not outlet._takers.all
        and not outlet._takers._origins
        and not any(item.had or item.holder for item in outlet._items.values())
    )
