"""The way out to HTTP: connections to allowed addresses only, redirects, bounded bodies.

What an app may reach is decided on the address that a connection is really made to: the host is looked up here, each answer is
checked, and the socket is opened to a checked address. A redirect is a new request and goes through the same gate.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpcore2
import httpx2
import trio
from attrs import define, field, frozen

from .allow import AllowList, IPAddress

CONNECTIONS = 128  # of one app at a time; more requests wait
KEEP_ALIVE = 5.0  # seconds that an idle connection is kept
CONNECT_SECONDS = 5.0  # for one address of a host that has several
POOL_IDLE = 60.0  # seconds after which a pool that is not used is closed
DROPPED = frozenset({"connection", "content-length", "transfer-encoding", "host"})  # ours to set
CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})  # not sent on to another origin
REDIRECTS = frozenset({301, 302, 303, 307, 308})
DECODERS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class EgressError(Exception):
    """No answer was had; the text says why, for the app's developer."""


class Forbidden(EgressError):
    """The operator does not let this app reach that host or address."""


class TooLarge(EgressError):
    """The body is larger than the app may receive."""


class _ForbiddenAddress(httpcore2.ConnectError):
    """Raised inside the connection pool, which knows how to clean up after its own errors only."""


@frozen
class Policy:
    """What one app may reach, and how."""

    allow: AllowList
    connect_to: Mapping[str, str]  # host or host:port to the URL contacted instead
    proxy: str
    redirects: int
    response_max: int  # bytes of a decoded body


@frozen
class Answer:
    """The response to a request, after redirects."""

    code: int
    body: str


@frozen
class _Route:
    """Where a request really goes: the pool to use, and the URL to connect to."""

    url: httpx2.URL
    mapped: bool


@define(eq=False)
class _Pool:
    connections: httpcore2.AsyncConnectionPool
    in_use: int = 0
    last_used: float = 0.0


@define(eq=False)
class _GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Opens sockets to allowed addresses only."""

    _allow: AllowList
    _open: httpcore2.TrioBackend = field(factory=httpcore2.TrioBackend)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # the library's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        addresses = await _look_up(host, port)
        allowed = [address for address in addresses if self._allow.allows_address(host, address, port)]
        if not allowed:
            raise _ForbiddenAddress(_forbidden(host, addresses, self._allow))
        for address in allowed[:-1]:
            try:
                return await self._open.connect_tcp(str(address), port, CONNECT_SECONDS, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return await self._open.connect_tcp(str(allowed[-1]), port, timeout, local_address, socket_options)

    async def connect_unix_socket(self, path: str, *_: object, **__: object) -> httpcore2.AsyncNetworkStream:
        raise _ForbiddenAddress(f"unix sockets cannot be reached, {path} neither")

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


async def _look_up(host: str, port: int) -> list[IPAddress]:
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore2.ConnectError(f"the host {host} is not known") from error
    addresses = dict.fromkeys(ipaddress.ip_address(str(info[4][0]).split("%")[0]) for info in found)
    return sorted(addresses, key=lambda address: address.version)


def _forbidden(host: str, addresses: list[IPAddress], allow: AllowList) -> str:
    shown = ", ".join(map(str, addresses))
    of = shown if shown == host else f"{host} ({shown})"
    if allow.rules:
        return f"{of} is not in this app's http.allow"
    return f"{of} is not a public address, and http.allow does not name it"


@define(eq=False)
class Egress:
    """The HTTP client of all apps: each app has connections of its own, under its own policy. Made by `open_egress`."""

    _pools: dict[tuple[object, ...], _Pool] = field(factory=dict, init=False)
    _contexts: dict[bool, ssl.SSLContext] = field(factory=dict, init=False)

    async def fetch(self, app: str, request: httpx2.Request, policy: Policy, *, verify: bool) -> Answer:
        """Send a request, follow its redirects (GET and HEAD only), and read the answer.

        Raises:
            EgressError: There is no answer that the app may have.
        """
        for _ in range(policy.redirects + 1):
            async with self._send(app, request, policy, verify=verify) as response:
                if response.status not in REDIRECTS:
                    return Answer(response.status, await _read(request.method, response, policy.response_max))
                request = _redirected(request, response)
        raise EgressError(f"more than {policy.redirects} redirects, the last to {request.url}")

    @asynccontextmanager
    async def _send(
        self, app: str, request: httpx2.Request, policy: Policy, *, verify: bool
    ) -> AsyncIterator[httpcore2.Response]:
        route = _route(request.url, policy)
        headers = [(name, value) for name, value in request.headers.raw if name.lower() != b"host"]
        extensions: dict[str, object] = {"sni_hostname": request.url.host} if route.mapped else {}
        wire = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(
                scheme=route.url.raw_scheme,
                host=route.url.raw_host,
                port=route.url.port,
                target=request.url.raw_path,
            ),
            headers=[(b"Host", request.url.netloc), *headers],
            content=request.stream,
            extensions=extensions,
        )
        pool = await self._pool(app, policy, mapped=route.mapped, verify=verify)
        pool.in_use += 1
        try:
            response = await pool.connections.handle_async_request(wire)
            try:
                yield response
            finally:
                with trio.CancelScope(shield=True):  # ends at once: it closes the socket or hands it back
                    await response.aclose()
        except _ForbiddenAddress as error:
            raise Forbidden(str(error)) from error
        except (
            httpcore2.NetworkError,
            httpcore2.ProtocolError,
            httpcore2.ProxyError,
            httpcore2.TimeoutException,
        ) as error:
            raise EgressError(_explain(error)) from error
        finally:
            pool.in_use -= 1
            pool.last_used = trio.current_time()

    async def _pool(self, app: str, policy: Policy, *, mapped: bool, verify: bool) -> _Pool:
        key = (app, policy.allow, policy.proxy, mapped, verify)
        pool = self._pools.get(key)
        if pool is None:
            await self._close_unused()
            pool = self._pools[key] = _Pool(self._connections(policy, mapped=mapped, verify=verify))
        return pool

    def _connections(self, policy: Policy, *, mapped: bool, verify: bool) -> httpcore2.AsyncConnectionPool:
        context = self._contexts.get(verify)
        if context is None:
            context = self._contexts[verify] = ssl.create_default_context()
            if not verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
        options: dict[str, Any] = {
            "ssl_context": context,
            "max_connections": CONNECTIONS,
            "keepalive_expiry": KEEP_ALIVE,
        }
        if mapped:  # the operator named the place
            return httpcore2.AsyncConnectionPool(network_backend=httpcore2.TrioBackend(), **options)
        if policy.proxy:  # the proxy connects; the operator named it
            return httpcore2.AsyncHTTPProxy(policy.proxy, network_backend=httpcore2.TrioBackend(), **options)
        return httpcore2.AsyncConnectionPool(network_backend=_GuardedBackend(policy.allow), **options)

    async def _close_unused(self) -> None:
        before = trio.current_time() - POOL_IDLE
        for key, pool in list(self._pools.items()):
            if not pool.in_use and pool.last_used < before:
                del self._pools[key]
                await pool.connections.aclose()

    async def _close(self) -> None:
        for pool in self._pools.values():
            await pool.connections.aclose()
        self._pools.clear()


@asynccontextmanager
async def open_egress() -> AsyncIterator[Egress]:
    """An HTTP client; its connections are closed at the end."""
    egress = Egress()
    try:
        yield egress
    finally:
        with trio.move_on_after(1, shield=True):
            await egress._close()  # noqa: SLF001


def _route(url: httpx2.URL, policy: Policy) -> _Route:
    """Where a URL is reached, or why it may not be."""
    if url.scheme not in ("http", "https") or not url.host:
        raise EgressError(f"expected a URL of the form http://host/path or https://host/path, got '{url}'")
    port = url.port or (443 if url.scheme == "https" else 80)
    target = policy.connect_to.get(f"{url.host}:{port}") or policy.connect_to.get(url.host)
    if target is not None:
        parts = urlsplit(target)
        return _Route(httpx2.URL(scheme=parts.scheme, host=parts.hostname or "", port=parts.port), mapped=True)
    if not policy.allow.allows_name(url.host, port):
        raise Forbidden(f"{url.host}:{port} is not in this app's http.allow")
    if policy.proxy:
        _check_behind_proxy(url.host, port, policy.allow)
    return _Route(url, mapped=False)


def _check_behind_proxy(host: str, port: int, allow: AllowList) -> None:
    """The proxy looks hosts up and connects; here only what is written as an address can be judged."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if not allow.rules and (host == "localhost" or host.endswith(".localhost")):
            raise Forbidden(f"{host} is not a public address, and http.allow does not name it") from None
        return
    if not allow.allows_address(host, address, port):
        raise Forbidden(_forbidden(host, [address], allow))


def _redirected(request: httpx2.Request, response: httpcore2.Response) -> httpx2.Request:
    """The request that a redirect asks for."""
    location = next((value for name, value in response.headers if name.lower() == b"location"), None)
    if location is None:
        raise EgressError(f"a redirect ({response.status}) that does not say where to")
    text = location.decode("latin-1")
    method = request.method
    if method not in ("GET", "HEAD"):
        if response.status != 303:  # noqa: PLR2004  # See Other: the one that means "GET this"
            raise EgressError(
                f"{method} was redirected ({response.status}) to {text}; only GET and HEAD follow redirects"
            )
        method = "GET"
    try:
        url = request.url.join(text)
    except httpx2.InvalidURL as error:
        raise EgressError(f"a redirect ({response.status}) to '{text}', which is no URL") from error
    body = {b"content-type", b"content-length"} if method != request.method else set()
    same_origin = (url.scheme, url.host, url.port) == (request.url.scheme, request.url.host, request.url.port)
    headers = [
        (name, value)
        for name, value in request.headers.raw
        if name.lower() not in body
        and name.lower() != b"host"
        and (same_origin or name.lower().decode() not in CREDENTIALS)
    ]
    return httpx2.Request(method, url, headers=headers)


async def _read(method: str, response: httpcore2.Response, most: int) -> str:
    """The body as text, or `TooLarge` as soon as it is known to be."""
    if method == "HEAD":
        return ""
    headers = {name.lower(): value for name, value in response.headers}
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > most:
        raise _too_large(int(declared), most)
    decoder = _decoder(headers.get(b"content-encoding", b"").decode("latin-1").strip().lower())
    body = bytearray()
    async with aclosing(response.aiter_stream()) as chunks:
        async for chunk in chunks:
            try:
                # One byte more than is allowed shows that it is too much; a bomb is never unpacked beyond that.
                body += chunk if decoder is None else decoder.decompress(chunk, most + 1 - len(body))
            except zlib.error as error:
                encoding = headers[b"content-encoding"].decode("latin-1")
                raise EgressError(f"the body is not the {encoding} it says it is") from error
            if len(body) > most:
                raise _too_large(len(body), most)
    return _decoded(bytes(body), headers.get(b"content-type", b"").decode("latin-1"))


def _too_large(size: int, most: int) -> TooLarge:
    return TooLarge(f"Received {size} bytes, maximum of {most} bytes allowed.")


class _Deflate:
    """`Content-Encoding: deflate`, in its zlib form or, as some servers send it, raw."""

    def __init__(self) -> None:
        self._inner: zlib._Decompress | None = None

    def decompress(self, chunk: bytes, most: int) -> bytes:
        if self._inner is None:
            self._inner = zlib.decompressobj()
            try:
                return self._inner.decompress(chunk, most)
            except zlib.error:
                self._inner = zlib.decompressobj(-zlib.MAX_WBITS)
        return self._inner.decompress(chunk, most)


def _decoder(encoding: str) -> _Deflate | zlib._Decompress | None:
    if encoding == "deflate":
        return _Deflate()
    return zlib.decompressobj(DECODERS[encoding]) if encoding in DECODERS else None


def _decoded(body: bytes, content_type: str) -> str:
    """Text by the declared charset, else UTF-8; what does not fit becomes U+FFFD, so that there always is a reply."""
    parameters = dict(part.strip().lower().partition("=")[::2] for part in content_type.split(";")[1:])
    charset = parameters.get("charset", "utf-8").strip("\"'")
    try:
        return body.decode(charset, errors="replace")
    except (LookupError, ValueError):
        return body.decode("utf-8", errors="replace")


def _explain(error: BaseException) -> str:
    """What went wrong, in the words of the deepest cause that has any."""
    cause: BaseException | None = error
    text = ""
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):  # one for each address that was tried
            cause = cause.exceptions[0]
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate is not trusted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {cause.reason or cause}"
        if isinstance(cause, OSError) and cause.errno and not isinstance(cause, socket.gaierror):
            return os.strerror(cause.errno)
        text = text if isinstance(cause, socket.gaierror) else str(cause) or text
        cause = cause.__cause__ or cause.__context__
    return text or type(error).__name__
