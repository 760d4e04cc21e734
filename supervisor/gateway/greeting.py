"""A client's first frame, and whether the client is let in."""

from __future__ import annotations

from ..config.model import Channel
from . import frames
from .connection import Connection, Refusal
from .intake import Services
from .refused import UNKNOWN
from .rights import is_known, local_problem, token_in
from .socket import Request, ServerSocket, TooBig, Violation

HELLO_SECONDS = 5.0  # from accept to hello
HELLO_MAX = 16 << 10  # bytes of a hello
HELLO_BUDGET = 48 << 10  # bytes of everything up to and with it, the opening handshake included


async def greet(
    socket: ServerSocket, request: Request, services: Services, name: str, address: str
) -> Connection:
    """Wait for the client's hello and check its rights.

    Raises:
        Refusal: The hello was wrong.
        Closed: The client left.
    """
    hello = await _hello(socket, min(services.settings.max_frame, HELLO_MAX))
    channel = services.channels().get(hello.channel)
    if channel is None:
        detail = f"there is no channel {hello.channel!r}"
        services.refuse(UNKNOWN, "channel", address, detail)
        raise Refusal(frames.CODE_CHANNEL, "channel", detail)
    if channel.type != "websocket":
        detail = f"channel {channel.name} is of type {channel.type}, so no client may use it"
        services.refuse(channel.name, "channel", address, detail)
        raise Refusal(frames.CODE_CHANNEL, "channel", detail)
    if channel.tokens:
        token = token_in(request.headers, (b"bearer",)) or hello.token
        if problem := _token_problem(token, channel):
            services.refuse(channel.name, "token", address, problem)
            raise Refusal(frames.CODE_TOKEN, "token", problem)
    elif problem := local_problem(address, request.headers):
        services.refuse(channel.name, "local", address, f"channel {channel.name}: {problem}")
        raise Refusal(frames.CODE_TOKEN, "token", problem)
    services.refused.let_in(channel.name, address)
    if not 1 <= hello.window <= frames.WINDOW_MAX:
        detail = f"expected a window of 1 to {frames.WINDOW_MAX}, got {hello.window}"
        raise Refusal(frames.CODE_PROTOCOL, "protocol", detail)
    return Connection(name, socket, services, channel, hello.window, hello.outcomes, hello.only_own)


async def _hello(socket: ServerSocket, most: int) -> frames.Hello:
    try:
        frame = frames.decode(await socket.receive(most, HELLO_BUDGET))
    except TooBig:
        detail = f"expected a hello of at most {most} bytes"
        raise Refusal(frames.CODE_FRAME, "frame_too_big", detail) from None
    except Violation as bad:
        raise Refusal(bad.code, "protocol", str(bad)) from None
    except frames.BadFrame as bad:
        raise Refusal(frames.CODE_PROTOCOL, "protocol", str(bad)) from None
    if not isinstance(frame, frames.Hello):
        raise Refusal(frames.CODE_PROTOCOL, "protocol", "expected hello first")
    return frame


def _token_problem(token: str | None, channel: Channel) -> str:
    """What is wrong with a client's token; empty if nothing is."""
    if token and is_known(token, channel.tokens):
        return ""
    reason = "a token is needed" if not token else "the token is not known"
    return f"channel {channel.name}: {reason}"
