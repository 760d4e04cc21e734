"""The WebSocket gateway: `ws://HOST:PORT/v1`, subprotocol `jsbox.v1`, one JSON object a text frame.

`server` is the port, `connection` one client, `frames` the protocol's frames. Messages from apps
leave through `outlet` (one channel) and `delivery` (all channels).
"""

from .delivery import Deliveries
from .server import Gateway, open_gateway

__all__ = ["Deliveries", "Gateway", "open_gateway"]
