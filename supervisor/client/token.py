"""The token of whoever runs a command."""

from __future__ import annotations

import os

from ..errors import CannotStart

VARIABLE = "JSBOX_TOKEN"


def own_token() -> str:
    """The token in the environment, without blanks around it; empty if there is none.

    Raises:
        CannotStart: It cannot be sent. The text does not show it, as that of a client would.
    """
    token = os.environ.get(VARIABLE, "").strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise CannotStart(
            f"{VARIABLE} is no token: expected printable ASCII characters without spaces"
        )
    return token
