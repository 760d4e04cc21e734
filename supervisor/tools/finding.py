"""What the doctor found of a channel."""

from __future__ import annotations

from typing import Literal

from attrs import frozen


@frozen
class Finding:
    """What was found of one channel."""

    channel: str
    status: Literal["ok", "note", "failed"]
    text: str
    remedy: str = ""
