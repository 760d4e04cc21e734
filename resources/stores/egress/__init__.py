"""The way out to HTTP: connections to allowed addresses only, redirects, bounded bodies.

What an app may reach is decided on the address that a connection is really made to: the host is
looked up here, each answer is checked, and the socket is opened to a checked address. A redirect
is a new request and goes through the same gate. Whatever a server sends, the work on it is
bounded and cut into short slices (`pace`), and what is wrong with it is an `EgressError` that
says so.
"""

from .client import DROPPED, Answer, Egress, Reply, open_egress
from .errors import EgressError, Forbidden, TooLarge, excerpt
from .route import Policy
from .urls import url_of

__all__ = [
    "DROPPED",
    "Answer",
    "Egress",
    "EgressError",
    "Forbidden",
    "Policy",
    "Reply",
    "TooLarge",
    "excerpt",
    "open_egress",
    "url_of",
]
