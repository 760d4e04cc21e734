"""How a channel is doing: the channels say it, the admin port shows it."""

from __future__ import annotations

from typing import Literal

from attrs import frozen


@frozen
class ChannelState:
    """How a channel is doing.

    Attributes:
        state: up: messages come and go; blocked: the other side takes none for now; down: there is
            no connection; waiting: a channel that others connect to, and nobody does.
        connections: Open ones.
        problem: What is wrong, for a person; empty if nothing.
        made: Connections made so far.
        returned: Outbound messages that the other side did not take; they are sent again.
    """

    state: Literal["up", "blocked", "down", "waiting"]
    connections: int = 0
    problem: str = ""
    made: int = 0
    returned: int = 0
