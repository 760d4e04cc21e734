"""TLS contexts for the two ports and for clients on the same host, from the files in [listen]."""

from __future__ import annotations

import errno
import ssl
from pathlib import Path

from .files import Unreadable, read_text

PEM_MAX = 1 << 20  # bytes


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
