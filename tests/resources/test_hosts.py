"""The one spelling of a host."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.stores.hosts import canonical, is_metadata_name, is_private_name

METADATA = "169.254.169.254"
MAPPED = str(ipaddress.ip_address("::ffff:127.0.0.1"))  # which Python releases write differently


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("2852039166", METADATA), ("0xa9fea9fe", METADATA), ("0XA9.0xFE.43518", METADATA),
        ("0251.0376.0251.0376", METADATA),
        ("0251.254.0xa9fe", METADATA), ("169.16689662", METADATA), ("169.254.169.254.", METADATA),
        ("00000251.254.169.254", METADATA),
        ("169%2e254%2E169.254", METADATA), ("169。254．169｡254", METADATA),
        ("１６９.254.169.254", METADATA),
        ("%EF%BC%91%36%39.254.169.254", METADATA), ("127.1", "127.0.0.1"), ("127.0.1", "127.0.0.1"),
        ("0", "0.0.0.0"),
        ("0x", "0.0.0.0"), ("0x7f.1", "127.0.0.1"), ("017700000001", "127.0.0.1"),
        ("[::ffff:127.0.0.1]", MAPPED),
        ("0:0:0:0:0:0:0:1", "::1"), ("::1%lo", "::1"), ("[FE80::1%25eth0]", "fe80::1"),
        ("LocalHost.", "localhost."), ("localhost%2e", "localhost."),
        ("EXAMPLE.org", "example.org"), ("a_b.example", "a_b.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("b%C3%BCcher.example", "xn--bcher-kva.example"), ("-x-.example", "-x-.example"),
        ("xn--i-7iq.ws", "xn--i-7iq.ws"), ("ｅｘａｍｐｌｅ.org", "example.org"),
        ("1.2.3.4.example", "1.2.3.4.example"),
        ("0xa9fea9fe.example", "0xa9fea9fe.example"), ("1e3", "1e3"),
    ],
)  # fmt: skip
def test_every_spelling_becomes_the_plain_one(written: str, plain: str) -> None:
    """As the C library, browsers and proxies read it."""
    assert canonical(written) == plain
    assert canonical(canonical(written)) == canonical(written)


@pytest.mark.parametrize(
    "written",
    [
        "", ".", "a..b", "256.0.0.1", "1.2.3.4.5", "4294967296", "127.0.0.256", "1.2.65536",
        "0x100000000", "0178.1", "09", "a.123",
        "a.0x1f", "1..2", "127.0.0.1..", "%", "%zz", "%ff", "a%00b", "a%2fb", "a%40b", "a b", "a,b",
        "a@b", "a\\b", "a?b", "é" * 300,
        "a" * 64, ".".join(["a" * 63] * 5), "a" * 5000, "::1::", "[::1", "1:2:3", "%31" * 2000,
        "٣.1.1.1a|", "a\tb", "*.a",
    ],
)  # fmt: skip
def test_what_is_neither_a_name_nor_an_address(written: str) -> None:
    """Refused, so that nobody else gets to say what it means."""
    with pytest.raises(ValueError, match="neither a name nor an address"):
        canonical(written)


@given(st.text(alphabet="0123456789abcdefx.XF", min_size=1, max_size=24))
def test_addresses_are_those_of_the_c_library(written: str) -> None:
    """Whatever inet_aton takes is that address here, never a name."""
    try:
        address = socket.inet_ntoa(socket.inet_aton(written))
    except OSError:
        return
    try:
        assert canonical(written) == address
    except ValueError:
        # "0x" alone, which not all read as 0: refusing it is as good
        assert written.lower().endswith("x")


@given(st.text(max_size=40))
def test_any_text_is_a_host_or_refused(written: str) -> None:
    """A host comes out in ASCII, and is its own canonical spelling."""
    try:
        host = canonical(written)
    except ValueError:
        return
    assert host.isascii()
    assert canonical(host) == host


@pytest.mark.parametrize(
    "name",
    [
        *("localhost", "localhost.", "a.localhost", "localhost.localdomain", "ip6-localhost"),
        *("hub", "internal", "x.cluster.local"),
        *("metadata", "instance-data.ec2.internal", "metadata.goog."),
    ],
)
def test_names_of_private_addresses(name: str) -> None:
    """Known without asking anybody."""
    assert is_private_name(name)
    assert not is_private_name(f"x{name.rstrip('.')}.example")


@pytest.mark.parametrize(
    "name",
    ["metadata.example", "google.internal.example", "xmetadata.goog", "internal.org"],
)
def test_other_names_may_be_public(name: str) -> None:
    assert not is_private_name(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("metadata.google.internal", True),
        ("metadata.google.internal.", True),
        ("instance-data.ec2.internal", True),
        ("metadata", True),
        ("metadata.goog", True),
        ("hub.corp.internal", False),
        ("metadata.example.org", False),
        ("localhost", False),
    ],
)
def test_names_of_metadata(name: str, *, expected: bool) -> None:
    assert is_metadata_name(name) is expected
