"""A client of the admin port, for the commands that ask a running server."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import httpx2
from attrs import frozen

from ..client.token import own_token
from ..config import Config
from ..config.tls import pinned_context
from ..errors import CannotStart
from ..ports.accepting import REFUSAL
from .codes import EXIT_UNREACHABLE
from .common import fail

SECONDS = 10.0
FULL = REFUSAL.partition(b"\r\n\r\n")[2]  # what a port answers that has no room for a connection
FULL_TRIES, FULL_SECONDS = 5, 1.0


def trust(config: Config) -> ssl.SSLContext | None:
    """What a client of the config's own ports trusts: their certificate; None if they have none."""
    certificate = config.listen.certificate
    try:
        return None if certificate is None else pinned_context(certificate)
    except OSError as error:
        fail(f"listen.certificate: {certificate}: {getattr(error, 'reason', None) or error}")


@frozen
class _Patient(httpx2.BaseTransport):
    """Asks again if the port was full: it has turned the connection away, and read no request."""

    _inner: httpx2.BaseTransport

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """See BaseTransport."""
        for _ in range(FULL_TRIES - 1):
            response = self._inner.handle_request(request)
            if response.status_code != httpx2.codes.SERVICE_UNAVAILABLE:
                return response
            if response.read() != FULL:
                return response
            response.close()
            time.sleep(FULL_SECONDS)
        return self._inner.handle_request(request)

    def close(self) -> None:
        """See BaseTransport."""
        self._inner.close()


class Unreachable(Exception):
    """The admin port does not answer; the text says so."""


@contextmanager
def admin_client(config: Config, seconds: float = SECONDS) -> Iterator[httpx2.Client]:
    """Open a client of the admin port, which waits `seconds` for each answer; exit with code 4 if
    the port cannot be reached.
    """
    try:
        with reaching(config, seconds) as client:
            yield client
    except Unreachable as error:
        fail(f"{error}; is `jsbox serve` running?", EXIT_UNREACHABLE)


@contextmanager
def reaching(config: Config, seconds: float = SECONDS) -> Iterator[httpx2.Client]:
    """Open a client of the admin port, which waits `seconds` for each answer.

    Raises:
        Unreachable: The port does not answer, now or within the block.
    """
    try:
        token = own_token()
    except CannotStart as error:
        fail(str(error), 2)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = config.listen.admin_url(config.listen.admin.reachable)
    verify = trust(config) or True
    try:
        with httpx2.Client(
            base_url=url,
            headers=headers,
            timeout=seconds,
            trust_env=False,
            transport=_Patient(httpx2.HTTPTransport(verify=verify, trust_env=False)),
        ) as client:
            yield client
    except httpx2.TransportError as error:
        raise Unreachable(f"the server at {url} cannot be reached: {error}") from error


def path_of(*parts: str) -> str:
    """A path of the admin port; each part is one, whatever is in it."""
    return "/" + "/".join(map(_segment, parts))


def _segment(part: str) -> str:
    # A client takes these two out of a path, and what is before the second.
    return part.replace(".", "%2E") if part in (".", "..") else quote(part, safe="")


def json_of(response: httpx2.Response) -> Any:
    """The JSON of an answer; prints the error in it and exits with code 1 if it has one."""
    try:
        body = response.json()
    except ValueError:  # not JSON, or not text
        fail(f"the server answered {response.status_code}: {response.text[:200]}")
    if response.is_error and not (isinstance(body, dict) and "errors" in body):
        fail(error_of(response))
    return body


def error_of(response: httpx2.Response) -> str:
    """The error in an answer."""
    try:
        body = response.json()
    except ValueError:
        return f"the server answered {response.status_code}: {response.text[:200]}"
    return str(body.get("error", body) if isinstance(body, dict) else body)
