"""What the doctor found."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

Status = Literal["ok", "note", "failed"]


@frozen
class Check:
    """One line of the doctor's report."""

    name: str
    status: Status
    text: str
    remedy: str = ""


@frozen
class Finding:
    """What was found of one channel."""

    channel: str
    status: Status
    text: str
    remedy: str = ""
