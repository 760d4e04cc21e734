"""TLS of the two ports: from the files in [listen] to what a server, and a client on the same host,
work with.
"""

from __future__ import annotations

import errno
import ssl
from pathlib import Path

from .files import Unreadable, read_text

PEM_MAX = 1 << 20  # bytes


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """For a server.

    Raises:
        OSError: The files cannot be read, or (ssl.SSLError) are no certificate with its key, or the
            key has a password.
    """
    for file in (certificate, key):
        try:
            read_text(file, PEM_MAX)
        except Unreadable as error:
            raise OSError(errno.EINVAL, str(error), str(file)) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key, password=lambda: "")  # else it asks at the terminal
    return context


def pinned_context(certificate: Path) -> ssl.SSLContext:
    """For a client that has the server's own certificate at hand: it must be that one, whatever
    name is in it and whoever signed it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(certificate)
    return context
