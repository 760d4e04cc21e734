"""Which hosts and addresses an app may reach: the http.allow list."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

from attrs import field, frozen

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_ENTRY = re.compile(r"(?:\[([^\]]+)\]|([^:\[\]]+|[^\[\]]*:[^\[\]]*:[^\[\]]*))(?::([0-9]{1,5}))?")
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?")
_SIX_TO_FOUR = ipaddress.ip_network("64:ff9b::/96")
_PORTS = 65535


def is_public(address: IPAddress) -> bool:
    """Whether an address is reachable from anywhere: not private, loopback, link-local, shared, multicast or reserved.

    An IPv6 address that stands for an IPv4 one (mapped, 6to4, NAT64, Teredo) is as public as that one.
    """
    inner: ipaddress.IPv4Address | None = None
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _SIX_TO_FOUR:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None:
        return is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved and not address.is_unspecified


@frozen
class _Rule:
    name: str | None  # exact host name, lower case
    suffix: str | None  # ".example.org" of "*.example.org"
    network: IPNetwork | None
    port: int | None

    def covers_name(self, host: str) -> bool:
        return host == self.name or (self.suffix is not None and host.endswith(self.suffix))


@frozen
class AllowList:
    """The rules of one app.

    No rules: every public address. With rules, only what a rule names: a host by its name, and by whatever address that
    name has; the hosts below "*.example.org", at public addresses; an address or a network by CIDR. A rule with a port
    holds for that port alone.
    """

    rules: Sequence[_Rule] = field(factory=tuple)

    @classmethod
    def parse(cls, entries: Iterable[str]) -> AllowList:
        """Raises ValueError for an entry that is no host, pattern, address or CIDR with an optional port."""
        return cls(tuple(_parse(entry) for entry in entries))

    def allows_name(self, host: str, port: int) -> bool:
        """Whether a request may be tried at all, before its host is looked up."""
        if not self.rules:
            return True
        host = host.rstrip(".").lower()
        return any(
            rule.port in (None, port) and (rule.network is not None or rule.covers_name(host)) for rule in self.rules
        )

    def allows_address(self, host: str, address: IPAddress, port: int) -> bool:
        """Whether a connection to this address, found under this host name, may be made."""
        if not self.rules:
            return is_public(address)
        host = host.rstrip(".").lower()
        for rule in self.rules:
            if rule.port not in (None, port):
                continue
            if rule.network is not None and _plain(address) in rule.network:
                return True
            if rule.name == host or (rule.covers_name(host) and is_public(address)):
                return True
        return False


def _plain(address: IPAddress) -> IPAddress:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


def _parse(entry: str) -> _Rule:
    found = _ENTRY.fullmatch(entry)
    port = int(found[3]) if found and found[3] else None
    if found is None or (port is not None and not 0 < port <= _PORTS):
        raise ValueError(f'expected a host, "*.host", an address or a CIDR, with an optional ":port", got "{entry}"')
    host = found[1] or found[2]
    try:
        return _Rule(None, None, ipaddress.ip_network(host, strict=False), port)
    except ValueError:
        pass
    if not _HOST.fullmatch(host):
        raise ValueError(f'expected a host, "*.host", an address or a CIDR, with an optional ":port", got "{entry}"')
    host = host.rstrip(".").lower()
    return _Rule(None, host[1:], None, port) if host.startswith("*.") else _Rule(host, None, None, port)
