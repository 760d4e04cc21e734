"""TLS on a connection, with a bound on what a server sends without saying anything.

OpenSSL reads on for ever if a server keeps asking for renegotiation or sending session tickets. So
what arrives between two pieces of data is bounded here, and handed over in small pieces.
"""

from __future__ import annotations

import ssl

import trio
from attrs import define, field

from .connection import Connection
from .errors import EgressError, explain

READ = 16 * 1024  # bytes that OpenSSL works on at a time: a record
SILENT_MAX = 256 * 1024  # bytes without any data in them; certificates may have 100 KiB


@define(eq=False)
class Contexts:
    """How certificates are checked. Made when needed: reading the authorities takes long."""

    _made: dict[bool, ssl.SSLContext] = field(factory=dict, init=False)

    async def start_tls(self, connection: Connection, name: str, *, verify: bool) -> None:
        """Speak TLS on a connection from now on, with the server of this name.

        Raises:
            EgressError: The server does not speak TLS, or its certificate is not accepted.
        """
        context = self._made.get(verify)
        if context is None:
            context = await trio.to_thread.run_sync(_context, verify, abandon_on_cancel=True)
            self._made[verify] = context
        transport = _Transport(connection.stream)
        try:
            stream = trio.SSLStream(transport, context, server_hostname=name, https_compatible=True)
            await stream.do_handshake()
        except (
            OSError,
            ValueError,
            trio.BrokenResourceError,
        ) as error:  # ValueError: a name that TLS does not allow
            raise EgressError(explain(error)) from error
        transport.silent = 0
        connection.stream = stream
        connection.transports.append(transport)


@define(eq=False)
class _Transport(trio.abc.Stream):
    """What TLS is spoken on."""

    _inner: trio.abc.Stream
    silent: int = field(default=0, init=False)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive some bytes, at most what OpenSSL works on at a time."""
        data = await self._inner.receive_some(READ if max_bytes is None else min(max_bytes, READ))
        self.silent += len(data)
        if self.silent > SILENT_MAX:
            raise trio.BrokenResourceError(
                f"TLS failed: {SILENT_MAX} bytes came without any data in them"
            )
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._inner.aclose()


def _context(verify: bool) -> ssl.SSLContext:  # noqa: FBT001  # called by a thread
    if verify:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context
