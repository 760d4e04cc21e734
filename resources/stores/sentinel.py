"""The blocking side of the Redis client for a master that Sentinel names: whichever server is the
master when a connection is made.

    redis+sentinel://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT]/SERVICE[/DATABASE][?OPTIONS]

User and password are the server's; Sentinel's own are the options sentinel_username and
sentinel_password. `rediss+sentinel://` speaks TLS to both. After a failover the connection breaks
or the server refuses as a replica; either way the client connects again, and asks again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import redis
from attrs import define, field, frozen
from redis.backoff import NoBackoff
from redis.retry import Retry

from .link import SOCKET_SECONDS, NodeLink, Place, words_of
from .resp import Command, ErrorAnswer, NotSent

if TYPE_CHECKING:
    from .direct import Direct

PORT = 26379
MALFORMED = "a host or port is malformed"  # Python's own text has what may be a password
ASK_SECONDS = 2.0  # to connect to one Sentinel, and for its answer: the next may be well
DOWN = frozenset({"s_down", "o_down", "disconnected"})  # flags of a master that does not answer
OWN = ("sentinel_username", "sentinel_password")  # options


@frozen
class SentinelUrl:
    """A URL in its parts.

    Attributes:
        hosts: Of the Sentinels, with their ports.
        service: What they call the master.
        login: The server's user and password as they are in the URL, with "@"; or empty.
    """

    is_tls: bool
    hosts: tuple[tuple[str, int], ...]
    service: str
    login: str
    database: str
    options: Mapping[str, str]

    def master(self, host: str, port: int) -> str:
        """The URL of the master at an address."""
        options = {name: text for name, text in self.options.items() if name not in OWN}
        shown = f"[{host}]" if ":" in host else host
        query = f"?{urlencode(options, quote_via=quote)}" if options else ""
        scheme = "rediss" if self.is_tls else "redis"
        return f"{scheme}://{self.login}{shown}:{port}/{self.database}{query}"


def parse(url: str) -> SentinelUrl:
    """Split a URL into its parts.

    Raises:
        ValueError: It is not of this form; the text says why, and has nothing of the URL.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(MALFORMED) from None
    if parts.scheme not in ("redis+sentinel", "rediss+sentinel"):
        raise ValueError("it is not a URL of Sentinel")
    login, at, hosts = parts.netloc.rpartition("@")
    service, _, database = parts.path[1:].partition("/")
    if not service:
        raise ValueError("the name of the service is missing: expected /SERVICE after the hosts")
    if database and not database.isdecimal():
        raise ValueError("expected /DATABASE, a number, after the service")
    return SentinelUrl(
        parts.scheme == "rediss+sentinel",
        tuple(_host(each) for each in hosts.split(",")),
        unquote(service),
        login + at,
        database or "0",
        dict(parse_qsl(parts.query)),
    )


def _host(text: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port
    except ValueError:
        raise ValueError(MALFORMED) from None
    if not parts.hostname:
        raise ValueError("a host is missing: expected HOST[:PORT],HOST[:PORT] ...")
    if port == 0:
        raise ValueError("a port is 0")
    return parts.hostname, port or PORT


def master_url(url: str, seconds: float) -> str:
    """The URL of the server that is the master now.

    Raises:
        redis.RedisError, OSError: No Sentinel knows one.
        ValueError: The URL is malformed.
    """
    parts = parse(url)
    return parts.master(*SentinelLink(url, seconds).ask(parts))


@define
class SentinelLink:
    """One connection, to the master."""

    url: str
    seconds: float = SOCKET_SECONDS
    _node: NodeLink | None = field(default=None, init=False)
    _abandoned: bool = field(default=False, init=False)

    def connect(self) -> None:
        """Ask which server is the master, and connect to it.

        Raises:
            redis.RedisError, OSError: No Sentinel knows one, or it is none (any more).
            ValueError: The URL is malformed.
        """
        if self._node is not None and self._node.is_connected:
            return
        parts = parse(self.url)
        host, port = self.ask(parts)
        last = Place() if self._node is None else self._node.last
        node = self._node = NodeLink(parts.master(host, port), self.seconds, last=last)
        if self._abandoned:
            raise redis.ConnectionError("the client is closed")
        node.connect()
        try:
            (role,) = node.exchange([("ROLE",)])
        except BaseException:
            node.close()
            raise
        if not isinstance(role, ErrorAnswer) and role[0] != b"master":
            node.close()
            raise redis.ConnectionError(
                f"{host}:{port} is not the master of {parts.service} (yet): a failover is under way"
            )

    def ask(self, parts: SentinelUrl) -> tuple[str, int]:
        """Ask one Sentinel after the other for the address of the master."""
        reasons = []
        for host, port in parts.hosts:
            try:
                return self._ask_one(parts, host, port)
            except (redis.RedisError, OSError) as error:
                reasons.append(f"{_shown(host)}:{port}: {words_of(error)}")
        raise redis.ConnectionError(
            f"no Sentinel names a master of {parts.service}: {'; '.join(reasons)}"
        )

    def _ask_one(self, parts: SentinelUrl, host: str, port: int) -> tuple[str, int]:
        seconds = min(self.seconds, ASK_SECONDS)
        tls = {name: text for name, text in parts.options.items() if name.startswith("ssl_")}
        url = f"{'rediss' if parts.is_tls else 'redis'}://{_shown(host)}:{port}"
        sentinel = redis.Redis.from_url(
            url + (f"?{urlencode(tls, quote_via=quote)}" if tls else ""),
            username=parts.options.get("sentinel_username"),
            password=parts.options.get("sentinel_password"),
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            told = sentinel.execute_command("SENTINEL", "MASTER", parts.service)
        finally:
            sentinel.close()
        return _address(told)

    def exchange(self, commands: Sequence[Command], packed: bytes | None = None) -> list[Any]:
        """See `NodeLink.exchange`."""
        if self._node is None:
            raise NotSent("there is no connection")
        return self._node.exchange(commands, packed)

    def direct(self) -> Direct | None:
        """The socket itself."""
        return None if self._node is None else self._node.direct()

    def can_write(self, key: str) -> None:  # Link's
        """None: there is one master."""

    def close(self) -> None:
        """Close the connection."""
        if self._node is not None:
            self._node.close()

    def abandon(self) -> None:
        """Shut the connection down: a thread that waits for it gets an error. One that asks a
        Sentinel waits for `ASK_SECONDS` at most.
        """
        self._abandoned = True
        if self._node is not None:
            self._node.abandon()


def _address(told: Any) -> tuple[str, int]:
    """The address in what SENTINEL MASTER answers.

    Raises:
        redis.RedisError: It is not of a master that is up.
    """
    try:
        words = [each.decode() if isinstance(each, bytes) else str(each) for each in told]
        state = dict(zip(words[::2], words[1::2], strict=True))
        flags, host, port = state["flags"].split(","), state["ip"], int(state["port"])
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise redis.InvalidResponse(f"its answer cannot be read: {error!r}") from error
    if "master" not in flags or not DOWN.isdisjoint(flags):
        raise redis.ConnectionError(f"{_shown(host)}:{port} is {', '.join(flags)}")
    return host, port


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
