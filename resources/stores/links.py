"""Which connection a URL asks for: to one server, by way of Sentinels, or to a cluster."""

from __future__ import annotations

from .cluster import ClusterLink
from .link import SOCKET_SECONDS, Link, NodeLink
from .sentinel import SentinelLink


def link_to(url: str, seconds: float = SOCKET_SECONDS) -> Link:
    """Make the blocking side for a URL; each answer may take `seconds`."""
    if url.startswith(("redis+sentinel://", "rediss+sentinel://")):
        return SentinelLink(url, seconds)
    if url.startswith("redis+cluster://"):
        return ClusterLink("redis://" + url.removeprefix("redis+cluster://"), seconds)
    return NodeLink(url, seconds)
