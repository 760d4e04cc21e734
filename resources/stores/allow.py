"""Which hosts and addresses an app may reach: the http.allow list."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

from attrs import field, frozen

from .hosts import (
    HOST_MAX,
    IPAddress,
    as_address,
    canonical,
    is_metadata_name,
    is_private_name,
)

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
_HOST = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*\.?")
_PORT = re.compile(r"[0-9]{1,5}")
_PORTS = 65535

# Written out, from IANA's registries of special-purpose addresses, because what `ipaddress` calls
# global changes with Python's patch releases.
_NOT_PUBLIC_4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            # shared by the customers of a provider; also some clouds' own services
            "100.64.0.0/10",
            "127.0.0.0/8",
            "168.63.129.16/32",  # Azure's host, from inside of it
            "169.254.0.0/16",  # link-local; most clouds' metadata
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",  # relays of 6to4, given up
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/3",  # multicast, reserved, broadcast
        ),
    )
)
# Of IPv6 only 2000::/3 is routed worldwide: not ::/8, local NAT64 (64:ff9b:1::/48), fc00::/7,
# fe80::/10, fec0::/10 or ff00::/8.
_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "3fff::/20")))
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: IPAddress) -> bool:
    """Whether an address is reachable from anywhere: not private, shared, multicast or reserved.

    An IPv6 address that stands for an IPv4 one (mapped, 6to4, NAT64, Teredo) is as public as that
    one.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    inner = (
        address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
    )
    if address in _NAT64:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None:
        return is_public(inner)
    return address in _PUBLIC_6 and not any(address in network for network in _NOT_PUBLIC_6)


@frozen
class _Rule:
    name: str | None = None  # exact host name, lower case
    suffix: str | None = None  # ".example.org" of "*.example.org"
    network: IPNetwork | None = None
    port: int | None = None

    def covers_name(self, host: str) -> bool:
        return host == self.name or (self.suffix is not None and host.endswith(self.suffix))


@frozen
class AllowList:
    """The rules of one app.

    Without rules, every public address is allowed. With rules, only what a rule names: a host, at
    whatever address its name has; the hosts below "*.example.org", at public addresses; an address
    or a network by CIDR. A rule with a port holds for that port only.
    """

    rules: Sequence[_Rule] = field(factory=tuple)

    @classmethod
    def parse(cls, entries: Iterable[str]) -> AllowList:
        """Parse entries. Raises ValueError for one that is not a host, pattern, address or CIDR,
        with an optional port.
        """
        return cls(tuple(_parse(entry) for entry in entries))

    def allows_name(self, host: str, port: int) -> bool:
        """Whether a request may be tried at all, before its host is looked up."""
        if not self.rules:
            return True
        host = host.rstrip(".").lower()
        return any(
            rule.port in (None, port) and (rule.network is not None or rule.covers_name(host))
            for rule in self.rules
        )

    def allows_unresolved(self, host: str, port: int) -> bool:
        """Whether a name that a proxy looks up is allowed: rules by network do not apply to it, and
        a cloud's metadata must be named by their whole name.
        """
        if not self.rules:
            return not is_private_name(host)
        host = host.rstrip(".").lower()
        names = (rule for rule in self.rules if rule.port in (None, port))
        if is_metadata_name(host):
            return any(rule.name == host for rule in names)
        return any(rule.covers_name(host) for rule in names)

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
    wrong = ValueError(
        f'expected a host, "*.host", an address or a CIDR, with an optional ":port", got "{entry}"'
    )
    host, port = _split(entry)
    if port is not None and not (_PORT.fullmatch(port) and 0 < int(port) <= _PORTS):
        raise wrong
    number = None if port is None else int(port)
    try:
        return _Rule(network=ipaddress.ip_network(host, strict=False), port=number)
    except ValueError:
        pass
    if len(host) > HOST_MAX or not _HOST.fullmatch(host):
        raise wrong
    pattern = host.startswith("*.")
    try:
        plain = canonical(host.removeprefix("*.")).rstrip(".")
    except ValueError as error:
        raise wrong from error
    if as_address(plain) is None:
        return _Rule(suffix=f".{plain}", port=number) if pattern else _Rule(name=plain, port=number)
    if pattern:
        raise wrong
    # an address in another spelling, 127.1
    return _Rule(network=ipaddress.ip_network(plain), port=number)


def _split(entry: str) -> tuple[str, str | None]:
    """The host and the port of an entry; an IPv6 address with a port stands in brackets."""
    if entry.startswith("["):
        host, bracket, rest = entry[1:].partition("]")
        if bracket and (not rest or rest.startswith(":")):
            return host, rest[1:] if rest else None
    if entry.count(":") > 1 or entry.startswith("["):
        return entry, None
    host, colon, port = entry.partition(":")
    return host, port if colon else None
