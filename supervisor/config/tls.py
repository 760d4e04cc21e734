"""TLS contexts for the two ports and for clients on the same host, from the files in [listen]."""

from __future__ import annotations

import errno
import math
import ssl
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from attrs import frozen

from .files import Unreadable, read_text

PEM_MAX = 1 << 20  # bytes
SOON = 14 * 86400.0  # seconds before a certificate expires; at most a tenth of its life
NO_CHECK_TIME = 0x200000  # OpenSSL's X509_V_FLAG_NO_CHECK_TIME, for which Python has no name


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Make a server's context, for TLS 1.2 and later.

    Raises:
        OSError: The files cannot be read, or (ssl.SSLError) are not a certificate and its key, or
            the key has a password.
    """
    for file in (certificate, key):
        try:
            read_text(file, PEM_MAX)
        except Unreadable as error:
            raise OSError(errno.EINVAL, str(error), str(file)) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key, password=lambda: "")  # else it prompts
    return context


def pinned_context(certificate: Path) -> ssl.SSLContext:
    """Make a client's context that accepts only this certificate, whatever its name and issuer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(certificate)
    return context


@frozen
class Lifetime:
    """When a certificate is valid, in seconds since 1970."""

    since: float
    until: float

    def problem(self) -> str:
        """What clients mind, now or soon; empty if nothing."""
        now = time.time()
        if now < self.since:
            return f"it is not valid before {_moment(self.since)}: clients refuse it"
        if now >= self.until:
            return f"it expired at {_moment(self.until)}: clients refuse it"
        if self.until - now < min(SOON, (self.until - self.since) / 10):
            return f"it expires at {_moment(self.until)}"
        return ""


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def lifetime_of(certificate: Path | None, key: Path | None) -> Lifetime:
    """When a certificate is valid: always, if there is none that can be used."""
    if certificate is not None and key is not None:
        with suppress(OSError, ValueError, KeyError):
            return _lifetime(certificate, key)
    return Lifetime(0.0, math.inf)


def _lifetime(certificate: Path, key: Path) -> Lifetime:
    """`ssl` reads it from no file, only from a server: here one in memory."""
    context = pinned_context(certificate)
    context.verify_flags = ssl.VerifyFlags(context.verify_flags | NO_CHECK_TIME)
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context(certificate, key).wrap_bio(ours, theirs, server_side=True)
    client = context.wrap_bio(theirs, ours)
    for side in (client, server) * 3:
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    found = client.getpeercert() or {}
    since, until = (
        ssl.cert_time_to_seconds(str(found[name])) for name in ("notBefore", "notAfter")
    )
    return Lifetime(since, until)
