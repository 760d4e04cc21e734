"""Checks of URLs and host names, so that whatever uses them later can parse them and connect."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

URL_MAX, HOST_MAX, LABEL_MAX = 2048, 253, 63  # characters
REDIS_URL = re.compile(
    r"(redis|rediss|redis\+cluster)://[^/\s]+(/\d{0,5})?(\?\S*)?|unix://\S+"
    r"|rediss?\+sentinel://\S+"
)
REDIS_KINDS = "embedded, redis://, rediss://, unix://, redis+cluster:// or redis+sentinel://"
# Other options of the Redis client would change what it returns or how long it waits.
REDIS_OPTIONS = re.compile(
    r"db|username|password|client_name|socket_keepalive|health_check_interval|ssl_\w+"
)
SENTINEL_OPTIONS = re.compile(rf"{REDIS_OPTIONS.pattern}|sentinel_username|sentinel_password")
MALFORMED = "its host or port is malformed"  # Python's own text has what may be a password
_PLAIN_HOST = re.compile(r"[A-Za-z0-9_.-]+")

Problem = str
"""What is wrong; empty if nothing is."""


def host_problem(host: str) -> Problem:
    """What is wrong with a host name or address, if it cannot be looked up."""
    if not host or len(host) > HOST_MAX:
        return f"a host name has 1 to {HOST_MAX} characters"
    if ":" in host:
        return _problem_of(lambda: ipaddress.IPv6Address(host))
    if not host.isprintable() or any(char.isspace() for char in host):
        return "a host name has no spaces or control characters"
    if host.isascii():
        is_fine = all(0 < len(label) <= LABEL_MAX for label in host.removesuffix(".").split("."))
        return "" if is_fine else f"each part of a host name has 1 to {LABEL_MAX} characters"
    return _problem_of(lambda: host.encode("idna"))


def _url_problem(url: str, plain: str, secure: str) -> Problem:
    """What is wrong with a URL of one of two schemes, except for its host and what follows that."""
    if len(url) > URL_MAX or not url.isprintable() or " " in url:
        return f"a URL has at most {URL_MAX} characters, none of them spaces or control characters"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return MALFORMED
    if parts.scheme not in (plain, secure):
        return f"it is neither {plain} nor {secure}"
    if port == 0:
        return "its port is 0"
    return ""


def http_problem(url: str) -> Problem:
    """What is wrong with an http or https URL, if it cannot be connected to."""
    if problem := _url_problem(url, "http", "https"):
        return problem
    host = urlsplit(url).hostname or ""
    return host_problem(host) or (
        "" if _PLAIN_HOST.fullmatch(host) or ":" in host else _client_problem(url)
    )


def _client_problem(url: str) -> Problem:
    import httpx2  # slower than the whole check, and few hosts are not ASCII

    return _problem_of(lambda: httpx2.URL(url))


def gateway_problem(url: str) -> Problem:
    """What is wrong with a ws or wss URL, if it cannot be connected to."""
    return _url_problem(url, "ws", "wss") or host_problem(urlsplit(url).hostname or "")


def origin_problem(url: str) -> Problem:
    """What is wrong with a URL that must be a scheme, a host and a port only."""
    if problem := http_problem(url):
        return problem
    parts: SplitResult = urlsplit(url)
    has_more = (
        parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None
    )
    return "it has more than a scheme, a host and a port" if has_more else ""


def proxy_problem(url: str) -> Problem:
    """What is wrong with the URL of a proxy, which may have a user and a password."""
    return http_problem(url) or (
        "" if url.isascii() else "the URL of a proxy has ASCII characters only"
    )


def base_problem(url: str) -> Problem:
    """What is wrong with a URL that paths are added to, and that may have a user and a password: of
    a Junebug channel, or of a collector.
    """
    if problem := http_problem(url):
        return problem
    if not url.isascii():
        return "it has characters other than ASCII"
    # Also an empty one: a path that is added would be behind it.
    return "it has a query or a fragment" if "?" in url or "#" in url else ""


def shown_url(url: str) -> str:
    """A URL for an error about it, whatever is wrong with it: without what may be its user and
    password, and without its query. Nothing of it is shown from an @ on that may be in either.
    """
    scheme, colon, rest = url.partition("://")
    if not colon:
        scheme, rest = "", url
    before, _, plain = rest.rpartition("@")
    if re.search(r"[?#]", before):
        return f"{scheme}{colon}..."
    return scheme + colon + re.split(r"[?#]", plain, maxsplit=1)[0]


def without_login(url: str) -> tuple[str, tuple[str, str] | None]:
    """A URL without its user and password, and these; None if it has neither."""
    parts = urlsplit(url)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return plain, (user, password) if user or password else None


def amqp_problem(url: str) -> Problem:
    """What is wrong with the URL of an AMQP broker."""
    if problem := _url_problem(url, "amqp", "amqps"):
        return problem
    parts = urlsplit(url)
    if parts.query or parts.fragment or "/" in parts.path[1:]:
        return "expected only a vhost after the host, with its slashes as %2f"
    return host_problem(parts.hostname or "")


def redis_problem(url: str) -> Problem:
    """What is wrong with a URL for the Redis client, which parses it without connecting."""
    if len(url) > URL_MAX or not url.isprintable() or not REDIS_URL.fullmatch(url):
        return "it has another form"
    return _sentinel_problem(url) if "+sentinel://" in url else _one_redis_problem(url)


def _one_redis_problem(url: str) -> Problem:
    try:
        parts = urlsplit(url)
        port = parts.port
        options = parse_qsl(parts.query)
    except ValueError:
        return MALFORMED
    if port == 0:
        return "its port is 0"
    unknown = [name for name, _ in options if not REDIS_OPTIONS.fullmatch(name)]
    if unknown:
        return f"it has the option {unknown[0]}, which cannot be changed here"
    if problem := "" if parts.scheme == "unix" else host_problem(parts.hostname or ""):
        return problem
    import redis  # takes 0.1 s, which most configs need not spend

    plain = url.replace("redis+cluster://", "redis://", 1)
    return _problem_of(lambda: redis.ConnectionPool.from_url(plain).make_connection())


def _sentinel_problem(url: str) -> Problem:
    from resources.stores.sentinel import parse  # imports redis

    try:
        found = parse(url)
    except ValueError as error:
        return str(error)
    unknown = [name for name in found.options if not SENTINEL_OPTIONS.fullmatch(name)]
    if unknown:
        return f"it has the option {unknown[0]}, which cannot be changed here"
    problems = (host_problem(host) for host, _ in found.hosts)
    return next(filter(None, problems), "") or redis_problem(found.master("localhost", 1))


def _problem_of(step: Callable[[], Any]) -> Problem:
    try:
        step()
    except Exception as error:  # noqa: BLE001  # any failure is a problem of the value
        return str(error)[:200] or type(error).__name__
    return ""
