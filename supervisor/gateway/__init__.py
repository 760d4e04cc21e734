"""The WebSocket gateway: `ws://HOST:PORT/v1`, subprotocol `jsbox.v1`, one JSON object a text frame.

`frames` has the words of the protocol, `delivery` what goes out, `connection` one client, `server`
the port.
"""

from .delivery import Deliveries
from .server import Gateway, open_gateway

__all__ = ["Deliveries", "Gateway", "open_gateway"]
