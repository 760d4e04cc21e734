"""The ports of a service: opened last, closed first, so that clients are told."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Protocol

from .admin.app import admin_app
from .admin.elsewhere import replies_of
from .gateway import open_gateway
from .gateway.channels import open_channels
from .gateway.intake import Services
from .host.systemd import Systemd
from .operating import Operated, admin_services
from .ports.http import open_http
from .ports.listening import listen, tls_of
from .standby import Standby

ADMIN_STOP_SECONDS = 2.0


class HasPorts(Operated, Protocol):
    """The service, as far as its ports have to do with it."""

    systemd: Systemd
    admin_port: int

    def gateway_services(self) -> Services:
        """Return what the gateway works with."""


async def open_ports(stack: AsyncExitStack, service: HasPorts, standby: Standby | None) -> None:
    """Open the gateway's port, the channels and the admin port, in this order; closed in reverse.

    Args:
        stack: What closes them.
        service: Gets what was opened.
        standby: Has the admin port until now; None if the service did not have to wait.

    Raises:
        CannotStart: An address cannot be used, or the certificate.
    """
    listen_at, systemd, member = service.config.listen, service.systemd, service.member
    context = tls_of(listen_at)
    services = service.gateway_services()
    if member is None:
        found = await listen("listen.gateway", listen_at.gateway, systemd)
        opening = open_gateway(services, found, context)
    else:
        opening = open_gateway(services, member.gateway_listeners(), context)
    service.gateway = await stack.enter_async_context(opening)
    channels = open_channels(services, service.gateway.connections)
    service.channels = await stack.enter_async_context(channels)
    service.gateway.link = service.channels.link
    admin = admin_app(admin_services(service), lambda: service.config.listen.admin_tokens)
    if service.sharing is not None:
        service.sharing.asking.serve = replies_of(admin)
    if member is not None:
        service.admin_port, listeners = member.admin_port, member.admin_listeners()
        if not listeners:  # the first process has the admin port
            return
    elif standby is None:
        listeners = await listen("listen.admin", listen_at.admin, systemd)
    else:
        listeners = standby.listeners()
        await standby.hide()
    service.admin_port = await stack.enter_async_context(
        open_http(admin, listeners, "admin", ADMIN_STOP_SECONDS, context, door=service.admin_door)
    )
    systemd.close_rest()
