"""A store that fails, reached plainly or over TLS, and a client that notices quickly."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest
import trustme

from resources.stores import reconnecting
from resources.stores import redis as module
from resources.stores.link import NodeLink

from ..store_proxy import StoreProxy, store_proxy


def tls_context() -> ssl.SSLContext:
    """A server's, with a certificate that nobody knows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(params=["plain", "tls"])
def plain_or_tls(request: pytest.FixtureRequest, valkey: str) -> Iterator[StoreProxy]:
    """A proxy for each way of the client: over the plain socket, and, with TLS, in a thread."""
    with store_proxy(valkey, tls_context() if request.param == "tls" else None) as made:
        if request.param == "tls":
            made.url += "?ssl_cert_reqs=none"
        made.go_back()
        yield made


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent server counts as gone after 0.3 s; the client checks every 0.05 s."""
    monkeypatch.setattr(module, "link_to", lambda url: NodeLink(url, 0.3))
    monkeypatch.setattr(module, "TICK", 0.05)
    monkeypatch.setattr(reconnecting, "AGAIN", (0.05, 0.2))
