"""Opening connections: to checked addresses only, with TLS, and through a proxy's tunnel."""

from __future__ import annotations

import trio
from attrs import define, field

from ..allow import AllowList
from ..hosts import IPAddress
from .connection import Connection
from .errors import EgressError, excerpt, explain
from .exchange import Exchanges
from .lookup import Lookups
from .pace import Work
from .route import Place, Route, Target, forbidden
from .tls import Contexts

CONNECT_SECONDS = 5.0  # for one address of a host that has several


@define(eq=False)
class Connector:
    """Opens connections for all apps."""

    _lookups: Lookups = field(factory=Lookups, init=False)
    _contexts: Contexts = field(factory=Contexts, init=False)

    async def open(
        self, app: str, target: Target, allow: AllowList, work: Work, *, verify: bool
    ) -> Connection:
        """Open a connection. Any failure, also a cancellation, leaves none open.

        Raises:
            EgressError: No connection can be made; Forbidden if none may be.
        """
        route = target.route
        connection = await self._connect(app, route, allow)
        try:
            if route.place.is_tls:
                # the app may not switch off the check of the proxy's certificate
                is_proxy = route.tunnel is not None or route.is_forwarded
                name = route.place.host if is_proxy else route.server_name
                await self._contexts.start_tls(connection, name, verify=verify or is_proxy)
            if route.tunnel is not None:
                await _open_tunnel(connection, route.tunnel, target.proxy_authorization, work)
                await self._contexts.start_tls(connection, route.server_name, verify=verify)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _connect(self, app: str, route: Route, allow: AllowList) -> Connection:
        host, port = route.place.host, route.place.port
        addresses = await self._lookups.addresses(app, host)
        allowed = addresses
        if route.is_guarded:
            allowed = [
                address for address in addresses if allow.allows_address(host, address, port)
            ]
            if not allowed:
                raise forbidden(host, addresses, allow)
        if not allowed:
            raise EgressError(f"the host {host} is not known")
        *others, last = allowed
        for address in others:
            try:
                with trio.fail_after(CONNECT_SECONDS):
                    return await _connect_to(address, port)
            except (OSError, trio.TooSlowError):
                continue
        try:
            return await _connect_to(last, port)
        except OSError as error:
            raise EgressError(explain(error)) from error


async def _connect_to(address: IPAddress, port: int) -> Connection:
    # IP's own numbers
    family = trio.socket.AF_INET if address.version == 4 else trio.socket.AF_INET6  # noqa: PLR2004
    socket = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        await socket.connect((str(address), port))
        return Connection(trio.SocketStream(socket), socket, address)
    except BaseException:
        socket.close()
        raise


async def _open_tunnel(
    connection: Connection, place: Place, authorization: str | None, work: Work
) -> None:
    host = f"[{place.host}]" if ":" in place.host else place.host
    name = f"{host}:{place.port}"
    headers = [(b"Host", name.encode("ascii")), (b"Accept", b"*/*")]
    if authorization is not None:
        headers.append((b"Proxy-Authorization", authorization.encode("ascii")))
    exchanges = Exchanges(connection)
    async with work, exchanges.tunnel(name, headers, work) as status:
        if not 200 <= status < 300:  # noqa: PLR2004  # successes
            raise EgressError(f"the proxy answers {status} to CONNECT {excerpt(name)}")
    if connection.buffer:
        raise EgressError("the proxy sent more than its answer to CONNECT")
