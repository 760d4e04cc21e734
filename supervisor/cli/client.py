"""A client of the admin port, for the commands that ask a running server."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from ..config import Config
from ..config.tls import pinned_context
from ..config.units import Address
from .common import EXIT_UNREACHABLE, fail

SECONDS = 10.0


def reachable(address: Address) -> Address:
    """The address to connect to for what listens on `address`."""
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # compared, not bound
    return Address(loopback.get(address.host, address.host), address.port)


def trust(config: Config) -> ssl.SSLContext | None:
    """What a client of the config's own ports trusts: their certificate; None if they have none."""
    certificate = config.listen.certificate
    try:
        return None if certificate is None else pinned_context(certificate)
    except OSError as error:
        fail(f"listen.certificate: {certificate}: {getattr(error, 'reason', None) or error}")


class Unreachable(Exception):
    """The admin port does not answer; the text says so."""


@contextmanager
def admin_client(config: Config) -> Iterator[httpx2.Client]:
    """Open a client of the admin port; exit with code 4 if it cannot be reached."""
    try:
        with reaching(config) as client:
            yield client
    except Unreachable as error:
        fail(f"{error}; is `jsbox serve` running?", EXIT_UNREACHABLE)


@contextmanager
def reaching(config: Config) -> Iterator[httpx2.Client]:
    """Open a client of the admin port.

    Raises:
        Unreachable: The port does not answer, now or within the block.
    """
    token = os.environ.get("JSBOX_TOKEN", "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    certificate = config.listen.certificate
    url = f"{'http' if certificate is None else 'https'}://{reachable(config.listen.admin)}"
    verify = trust(config) or True
    try:
        with httpx2.Client(
            base_url=url, headers=headers, timeout=SECONDS, trust_env=False, verify=verify
        ) as client:
            yield client
    except httpx2.TransportError as error:
        raise Unreachable(f"the server at {url} cannot be reached: {error}") from error


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
