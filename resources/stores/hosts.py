"""Host names and addresses in one canonical spelling, by which everything is decided.

An address has many spellings: 127.0.0.1 is also 127.1, 2130706433, 0x7f.0.0.1, 0177.0.0.1,
127%2e0.0.1 and 127.0.0.1. with a full stop of another script. Which of them lead there depends on
who resolves them (the C library, a proxy, a browser). So all of them are turned into the plain
spelling first, and only that one is looked up or sent to a proxy.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

import idna

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

HOST_MAX = 253  # characters of a name, as DNS has it
WRITTEN_MAX = 1024  # characters of a host as it was written, with its escapes
# Names that lead to private addresses, whoever looks them up. A name without a dot is completed by
# whoever does: "metadata" is metadata.google.internal on Google's machines.
PRIVATE_DOMAINS = (
    "localhost",
    "localdomain",
    "localdomain4",
    "localdomain6",
    "internal",  # kept for private use by ICANN: metadata.google.internal, *.ec2.internal
    "local",  # multicast DNS; Kubernetes' cluster.local
    "home.arpa",
)
# Where clouds tell a machine its secrets; those below .internal, too.
METADATA_NAMES = frozenset(
    {
        "metadata",
        "metadata.goog",
        "instance-data",
        "metadata.tencentyun.com",
    }
)
METADATA_LABELS = ("metadata", "instance-data")

NEITHER = "neither a name nor an address"

_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+")
_PARTS_MAX = 4  # of an IPv4 address


def canonical(written: str) -> str:
    """Return the one spelling of a host: a lower-case name in ASCII, or an address.

    Raises:
        ValueError: It is neither a name nor an address.
    """
    try:
        if len(written) <= WRITTEN_MAX:
            return _canonical(written)
    except ValueError as error:
        raise ValueError(NEITHER) from error
    raise ValueError(NEITHER)


def as_address(host: str) -> IPAddress | None:
    """Return the address that a canonical host is, or None if it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_private_name(host: str) -> bool:
    """Whether a canonical host is a name that stands for a private address: of the machine that
    looks it up, of its network, or of its cloud's metadata.
    """
    host = host.rstrip(".")
    return "." not in host or _is_below(host, PRIVATE_DOMAINS) or is_metadata_name(host)


def is_metadata_name(host: str) -> bool:
    """Whether a canonical host is a usual name of the service that tells a cloud's machines what
    they are, credentials included.
    """
    host = host.rstrip(".")
    is_internal = _is_below(host, ("internal",)) and host.startswith(
        tuple(f"{label}." for label in METADATA_LABELS)
    )
    return is_internal or _is_below(host, METADATA_NAMES)


def _is_below(host: str, domains: Iterable[str]) -> bool:
    """Whether a name is one of these domains, or lies in one."""
    return any(host == domain or host.endswith(f".{domain}") for domain in domains)


def _canonical(written: str) -> str:
    host = written[1:-1] if written[:1] == "[" and written[-1:] == "]" else written
    if ":" in host:
        return str(ipaddress.IPv6Address(host.partition("%")[0]))
    if "%" in host:
        host = unquote_to_bytes(host).decode("utf-8")
    if not host.isascii():
        # maps other scripts' digits and full stops
        host = idna.encode(host, uts46=True).decode("ascii")
    host = host.lower()
    address = _ipv4(host)
    if address is not None:
        return str(address)
    if len(host.rstrip(".")) > HOST_MAX or _NAME.fullmatch(host) is None:
        raise ValueError(NEITHER)
    return host


def _ipv4(host: str) -> ipaddress.IPv4Address | None:
    """An IPv4 address in any spelling that inet_aton takes, or None for a name.

    Raises:
        ValueError: It ends in a number, which no name does, and is not an address.
    """
    parts = host.removesuffix(".").split(".")
    if _NUMBER.fullmatch(parts[-1]) is None:
        return None
    if len(parts) > _PARTS_MAX or not all(_NUMBER.fullmatch(part) for part in parts):
        raise ValueError(NEITHER)
    *first, last = [_number(part) for part in parts]
    is_byte = all(number <= 255 for number in first)  # noqa: PLR2004  # of a byte
    if not is_byte or last >= 256 ** (_PARTS_MAX - len(first)):
        raise ValueError(NEITHER)
    return ipaddress.IPv4Address(
        last + sum(number << (24 - 8 * place) for place, number in enumerate(first))
    )


def _number(part: str) -> int:
    """Decimal, octal with a 0 in front, or hexadecimal with 0x."""
    if part[:2] in ("0x", "0X"):
        return int(part[2:] or "0", 16)
    return int(part, 8 if part.startswith("0") else 10)
