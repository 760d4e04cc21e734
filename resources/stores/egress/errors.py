"""Why an app gets no answer."""

from __future__ import annotations

import os
import re
import socket
import ssl

from ...text import clean

SHOWN_MAX = 200  # characters of what a server sent, in a reason
_BYTES = re.compile(r"bytearray\(b(['\"])(.*?)(?:\1\)|$)", re.DOTALL)
_STATUS = re.compile(r"\w+ status_code should be in range .*, not (\d+)")


class EgressError(Exception):
    """There is no answer; the text says why, for the app's developer."""


class Forbidden(EgressError):
    """The operator does not allow this app to reach that host or address."""


class TooLarge(EgressError):
    """The body is larger than the app may receive."""

    def __init__(self, size: int, most: int) -> None:
        super().__init__(f"Received {size} bytes, maximum of {most} bytes allowed.")


class Unanswered(EgressError):
    """The connection ended before any byte of the answer came."""


def excerpt(given: str | bytes | bytearray) -> str:
    """Text from outside, made fit for a reason: valid Unicode, and short."""
    text = given if isinstance(given, str) else bytes(given[: SHOWN_MAX + 1]).decode("latin-1")
    text = clean(text[: SHOWN_MAX + 1])
    return text if len(text) <= SHOWN_MAX else text[:SHOWN_MAX] + "..."


def explain(error: BaseException) -> str:
    """Say what went wrong, in the words of the deepest cause that has any."""
    cause: BaseException | None = error
    text = ""
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate is not trusted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {cause.reason or cause}"
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno)
        text = str(cause) or text
        cause = cause.__cause__ or cause.__context__
    return excerpt(text) or type(error).__name__


def explain_lookup(host: str, error: Exception) -> str:
    """Say why a host has no address: it is unknown, or no name server answered."""
    if isinstance(error, socket.gaierror) and error.errno in (
        socket.EAI_AGAIN,
        socket.EAI_SYSTEM,
        socket.EAI_MEMORY,
    ):
        return f"the host {host} cannot be looked up at the moment: {error.strerror}"
    return f"the host {host} is not known"


def not_http(what: str) -> EgressError:
    """Make the error for an answer that is not HTTP. `what` may be in the words of h11, which shows
    bytes as Python writes them, and has one sentence about its own classes.
    """
    what = _BYTES.sub(r"'\2'", what).replace("\\'", "'")
    what = _STATUS.sub(r"the status is \1", what)
    return EgressError(f"the answer is not valid HTTP: {what}")
