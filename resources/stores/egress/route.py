"""Where a request goes: to its host, to the place configured instead, or to the proxy; or that it
is forbidden.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import unquote_to_bytes, urlsplit

import httpx2
import idna
from attrs import frozen

from ..allow import AllowList
from ..hosts import IPAddress, as_address, canonical
from .errors import EgressError, Forbidden, excerpt

PORTS = {"http": 80, "https": 443}
PORT_MAX = 65535


@frozen
class Policy:
    """What one app may reach, and how."""

    allow: AllowList
    connect_to: Mapping[str, str]  # host or host:port to the URL contacted instead
    proxy: str
    redirects: int
    response_max: int  # bytes of a decoded body


@frozen
class Place:
    """A host, in its canonical spelling, that connections are made to."""

    host: str
    port: int
    is_tls: bool


@frozen
class Route:
    """The route of one request. Requests with equal routes may share connections."""

    place: Place
    tunnel: Place | None  # beyond a proxy, for https
    server_name: str  # that a certificate must be for
    is_guarded: bool  # the app chose the place: its addresses are checked
    is_forwarded: bool  # the proxy gets the whole URL


@frozen
class Target:
    """A request's URL in the form in which it is sent."""

    route: Route
    host: str  # the Host header
    path: str  # the request target
    proxy_authorization: str | None


def target_of(url: httpx2.URL, policy: Policy) -> Target:
    """Return where a URL is reached.

    Raises:
        Forbidden: The app may not go there.
        EgressError: It is no URL of something on HTTP.
    """
    if url.scheme not in PORTS or not url.raw_host:
        raise EgressError(
            "expected a URL of the form http://host/path or https://host/path, got "
            f"'{excerpt(str(url))}'"
        )
    port = PORTS[url.scheme] if url.port is None else url.port
    if not 0 < port <= PORT_MAX:
        raise EgressError(f"{port} is not a port")
    try:
        host = canonical(url.raw_host.decode("ascii"))
    except ValueError as error:
        raise EgressError(f"'{excerpt(url.raw_host)}' is not a host name") from error
    shown = f"[{host}]" if ":" in host else host
    netloc = shown if url.port is None else f"{shown}:{port}"
    path = url.raw_path.decode("ascii")
    wanted = Place(host, port, url.scheme == "https")
    name = host.rstrip(".")
    instead = _mapped(name, port, policy.connect_to)
    if instead is not None:
        route = Route(instead, None, name, is_guarded=False, is_forwarded=False)
        return Target(route, netloc, path, None)
    if not policy.allow.allows_name(host, port):
        raise Forbidden(f"{host}:{port} is not in this app's http.allow")
    if not policy.proxy:
        return Target(
            Route(wanted, None, name, is_guarded=True, is_forwarded=False), netloc, path, None
        )
    _check_behind_proxy(host, port, policy.allow)
    proxy, authorization = _proxy(policy.proxy)
    if wanted.is_tls:
        return Target(
            Route(proxy, wanted, name, is_guarded=False, is_forwarded=False),
            netloc,
            path,
            authorization,
        )
    route = Route(proxy, None, proxy.host, is_guarded=False, is_forwarded=True)
    return Target(route, netloc, f"http://{netloc}{path}", authorization)


def forbidden(host: str, addresses: list[IPAddress], allow: AllowList) -> Forbidden:
    """Make the error for a host of which no address may be reached."""
    found = ", ".join(map(str, addresses))
    of = found if found == host else f"{host} ({found})"
    if allow.rules:
        return Forbidden(f"{of} is not in this app's http.allow")
    return Forbidden(f"{of} is not a public address, and http.allow does not name it")


def _mapped(host: str, port: int, connect_to: Mapping[str, str]) -> Place | None:
    """Return the place that the operator configured for a host, also in its own script."""
    if not connect_to:
        return None
    names = [host]
    if "xn--" in host:
        with suppress(UnicodeError):  # then it has no other form
            names.append(idna.decode(host))
    for name in names:
        url = connect_to.get(f"{name}:{port}") or connect_to.get(name)
        if url is not None:
            return _place(url, "http.connect_to")
    return None


def _place(url: str, setting: str) -> Place:
    """The place of a URL in the config."""
    try:
        parts = urlsplit(url)
        return Place(
            canonical(parts.hostname or ""),
            parts.port or PORTS[parts.scheme],
            parts.scheme == "https",
        )
    except (ValueError, KeyError) as error:
        raise EgressError(f"{setting} has a URL that cannot be reached: {error}") from error


def _proxy(url: str) -> tuple[Place, str | None]:
    """A proxy, and the operator's credentials for it if its URL has any."""
    place = _place(url, "http.proxy")
    userinfo, has_some, _ = urlsplit(url).netloc.rpartition("@")
    if not has_some:
        return place, None
    return place, "Basic " + base64.b64encode(unquote_to_bytes(userinfo)).decode()


def _check_behind_proxy(host: str, port: int, allow: AllowList) -> None:
    """Check an address; of a name only the name itself, since the proxy looks it up."""
    address = as_address(host)
    if address is not None:
        if not allow.allows_address(host, address, port):
            raise forbidden(host, [address], allow)
    elif not allow.allows_unresolved(host, port):
        if allow.rules:
            raise Forbidden(
                f"{host}:{port} is not in this app's http.allow, and behind a proxy has no address"
            )
        raise Forbidden(f"{host} is not a public address, and http.allow does not name it")
