"""What http.allow lets through."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.stores.allow import AllowList, is_public


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.0.1", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
        "169.254.169.254", "0.0.0.0",
        "100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
        "224.0.0.1", "239.1.1.1", "240.0.0.1",
        "255.255.255.255", "::", "::1", "fe80::1", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2002:a00:1::",
        "::ffff:169.254.169.254",
        "fec0::1", "feff::1", "168.63.129.16", "::ffff:168.63.129.16", "64:ff9b::a83f:8110",
        "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808",
        "100.100.100.200", "100.127.255.255", "192.0.0.192", "192.88.99.1", "2002:a9fe:a9fe::1",
        "::7f00:1", "::808:808",
        "::ffff:0:808:808", "fd00:ec2::254", "fd20:ce::254", "2001::1", "3fff::1", "5f00::1",
        "100::1", "4000::1", "ff0e::1",
        "2001:0:808:808:0:0:80ff:fffe",
    ],
)  # fmt: skip
def test_what_is_not_public(address: str) -> None:
    """Private, loopback, link-local, shared, documentation, multicast and reserved addresses, and
    IPv6 forms of them.
    """
    assert not is_public(ipaddress.ip_address(address))
    assert not AllowList().allows_address("host", ipaddress.ip_address(address), 80)


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "196.25.1.1",
        "100.63.255.255",
        "100.128.0.0",
        "168.63.129.15",
        "2002:808:808::1",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
    ],
)
def test_what_is_public(address: str) -> None:
    """Everything else."""
    assert is_public(ipaddress.ip_address(address))
    assert AllowList().allows_address("host", ipaddress.ip_address(address), 80)


@given(st.ip_addresses(v=4))
def test_a_mapped_address_is_as_public_as_its_own(address: ipaddress.IPv4Address) -> None:
    """IPv6 spellings change nothing."""
    for spelling in (f"::ffff:{address}", f"64:ff9b::{address}"):
        assert is_public(ipaddress.ip_address(spelling)) == is_public(address)


@pytest.mark.parametrize(
    ("entry", "host", "address", "port", "allowed"),
    [
        ("hub", "hub", "10.0.0.5", 8000, True),  # an exact name, wherever it leads
        ("hub", "HUB.", "10.0.0.5", 8000, True),
        ("hub", "other", "8.8.8.8", 80, False),
        ("hub:8000", "hub", "10.0.0.5", 8000, True),
        ("hub:8000", "hub", "10.0.0.5", 8001, False),
        ("*.example.org", "a.example.org", "8.8.8.8", 80, True),
        ("*.example.org", "a.b.example.org", "8.8.8.8", 80, True),
        ("*.example.org", "example.org", "8.8.8.8", 80, False),
        # a name below a pattern may lead anywhere
        ("*.example.org", "a.example.org", "127.0.0.1", 80, False),
        ("*.example.org", "evilexample.org", "8.8.8.8", 80, False),
        ("10.0.0.0/8", "anything", "10.1.2.3", 80, True),
        ("10.0.0.0/8", "anything", "::ffff:10.1.2.3", 80, True),
        ("10.0.0.0/8", "anything", "8.8.8.8", 80, False),
        ("10.0.0.0/8:443", "anything", "10.1.2.3", 80, False),
        ("127.0.0.1:9000", "127.0.0.1", "127.0.0.1", 9000, True),
        ("[::1]:9000", "::1", "::1", 9000, True),
        ("::1", "::1", "::1", 9000, True),
        ("fd00::/8", "x", "fd12::1", 80, True),
        ("8.8.8.8", "dns.google", "8.8.8.8", 80, True),
        ("168.63.129.16", "168.63.129.16", "168.63.129.16", 80, True),
        # an address in another spelling is the address
        ("127.1:9000", "127.0.0.1", "127.0.0.1", 9000, True),
        ("0x7f000001", "127.0.0.1", "127.0.0.1", 80, True),
        ("*.Example.org.", "a.example.org", "8.8.8.8", 80, True),
    ],
)  # fmt: skip
def test_rules(entry: str, host: str, address: str, port: int, allowed: bool) -> None:
    """Names, patterns, addresses and networks, with and without a port."""
    rules = AllowList.parse([entry])
    passes = rules.allows_name(host, port) and rules.allows_address(
        host, ipaddress.ip_address(address), port
    )
    assert passes is allowed


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "http://x",
        "a b",
        "x:0",
        "x:99999",
        "*.",
        "*",
        "a*.org",
        "-x",
        "10.0.0.0/99",
        "[::1",
        "x/y",
        "é.org",
        "256.1.1.1",
        "1.2.3.4.5",
        "*.1.2.3.4",
        "[::1]x",
        "[::1]:",
        "hub:",
        "a" * 64,
        ":" * 50_000 + "[",
        "a" * 50_000 + "-",
    ],
)
def test_what_is_no_entry(entry: str) -> None:
    """Refused with what was expected."""
    with pytest.raises(ValueError, match="expected a host"):
        AllowList.parse([entry])
